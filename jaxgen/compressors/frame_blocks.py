"""Blocks of image autoencoders: residual blocks, attention over pixels, convolutions in time.

A residual block of a frame maps x to ``skip(x) + h`` with (Rombach et al. 2022)::

    h = conv2(silu(GN(conv1(silu(GN(x))))))

``skip`` is a 1 x 1 convolution where the number of channels changes. In a decoder of videos a block
of the frames is followed by one in time, s and t their outputs (Blattmann et al. 2023, "Align your
latents"; in this form, "Stable Video Diffusion")::

    t = s + conv2(silu(GN(conv1(silu(GN(s))))))         kernels (3, 1, 1), norms over all frames
    y = (1 - sigmoid(m)) s + sigmoid(m) t               m learnt, 0 at the start

(The weights are exchanged with respect to those of Stable Video Diffusion's U-Net, where
sigmoid(m) belongs to s.) conv2 in time starts at zero, so that at first ``y = s`` whatever m is.
Group norms and sums are computed in float32.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.attention import Implementation, attention, split_parts
from jaxgen.nn.convolutions import conv, group_norm, uniform
from jaxgen.nn.dense import Dense, Dtype, zeros

EPSILON = 1e-6
"""Added to variances by norms of a frame."""

TIME_EPSILON = 1e-5
"""The same for norms over all frames."""

IN_TIME = (3, 1, 1)
"""Kernel of a convolution in time."""


class FrameBlock(nn.Module):
    """A residual block of a frame, see the equations above.

    Attributes:
      features: output channels.
      groups: channel groups of the norms.
      dtype: compute dtype of convolutions.
    """

    features: int
    groups: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x_BYXC: Float[Array, "B Y X C"]) -> Float[Array, "B Y X F"]:
        """[B, Y, X, C] to [B, Y, X, features] in float32."""
        h = nn.silu(group_norm(self.groups, EPSILON, name="norm1")(x_BYXC))
        h = conv(self.features, ("embed", "mlp"), self.dtype, name="conv1")(h)
        h = nn.silu(group_norm(self.groups, EPSILON, name="norm2", axis="mlp")(h))
        h = conv(self.features, ("mlp", "embed"), self.dtype, name="conv2")(h)
        x = x_BYXC
        if x.shape[-1] != self.features:
            x = conv(self.features, ("embed", "hidden"), self.dtype, name="skip", size=1)(x)
        return x.astype(jnp.float32) + h.astype(jnp.float32)


class TimeBlock(nn.Module):
    """A residual block along time, t of the equations above; it keeps the channels.

    Attributes: as those of `FrameBlock`.
    """

    groups: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, s_BTYXC: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X C"]:
        """[B, T, Y, X, C] to the same shape in float32."""
        features = s_BTYXC.shape[-1]
        h = nn.silu(group_norm(self.groups, TIME_EPSILON, name="norm1")(s_BTYXC))
        h = conv(features, ("embed", "mlp"), self.dtype, name="conv1", size=IN_TIME)(h)
        h = nn.silu(group_norm(self.groups, TIME_EPSILON, name="norm2", axis="mlp")(h))
        layer = conv(features, ("mlp", "embed"), self.dtype, name="conv2", size=IN_TIME, init=zeros)
        return s_BTYXC.astype(jnp.float32) + layer(h).astype(jnp.float32)


class MixedBlock(nn.Module):
    """A residual block of each frame, mixed with one in time.

    Attributes: as those of `FrameBlock`.
    """

    features: int
    groups: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x_NYXC: Float[Array, "N Y X C"], frames: int) -> Float[Array, "N Y X F"]:
        """Frames [B T, Y, X, C] to [B T, Y, X, features] in float32.

        Args:
          x_NYXC: the frames of all videos.
          frames: T, of each video.
        """
        s = FrameBlock(self.features, self.groups, self.dtype, name="frame")(x_NYXC)
        videos = s.reshape(-1, frames, *s.shape[1:])
        t = TimeBlock(self.groups, self.dtype, name="time")(videos).reshape(s.shape)
        named = nn.with_logical_partitioning
        weight = nn.sigmoid(self.param("mix", named(zeros, (None,)), (1,)))
        return (1 - weight) * s + weight * t


class WholeFrameAttention(nn.Module):
    """``x + attention of all pixels of a frame to each other``, one head, after a group norm.

    Attributes:
      groups: channel groups of the norm.
      dtype: compute dtype of products.
      implementation: of attention, see `jaxgen.nn.attention`.
    """

    groups: int
    dtype: Dtype = "float32"
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(self, x_BYXC: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        """[B, Y, X, C] to the same shape in float32."""
        batch, _, _, channels = x_BYXC.shape
        h_BLC = group_norm(self.groups, EPSILON, name="norm")(x_BYXC).reshape(batch, -1, channels)
        # One head, so that its axis must not be cut over the mesh: it has no logical name.
        axes, shape = ("embed", None, None, "kv"), (1, 3, channels)
        q, k, v = split_parts(Dense(shape, axes, self.dtype, uniform, name="qkv")(h_BLC))
        seen_BLHK = attention(q, k, v, implementation=self.implementation)
        layer = Dense((channels,), (None, "kv", "embed"), self.dtype, uniform, name="output")
        h = layer(seen_BLHK).reshape(x_BYXC.shape)
        return x_BYXC.astype(jnp.float32) + h.astype(jnp.float32)


def centre_tap(key: Array, shape: tuple[int, ...], dtype: type = jnp.float32) -> Array:
    """The kernel of a convolution that changes nothing, [sides..., C, C]: an initialiser."""
    del key
    centre = tuple(side // 2 for side in shape[:-2])
    return jnp.zeros(shape, dtype).at[centre].set(jnp.eye(shape[-2], shape[-1], dtype=dtype))


def along_time(features: int, dtype: Dtype, name: str) -> nn.Conv:
    """A convolution of [B, T, Y, X, C] over three frames, the identity at the start."""
    return conv(features, (None, None), dtype, name=name, size=IN_TIME, init=centre_tap)
