"""A convolution over the frames of a video at each pixel (Ho et al. 2022, "Imagen Video", 2.2).

In place of attention over frames, whose cost grows with the square of their number, in the
super-resolvers of a cascade::

    x_t + (W_- h_(t-1) + W_0 h_t + W_+ h_(t+1)),        h = silu(GN(x))

with zeros beyond both ends and in place of frames of another segment (`frame_attention.FrameRows`).
W starts at zero: at first every frame is denoised as an image.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.convolutions import group_norm
from jaxgen.nn.dense import Dense, zeros
from jaxgen.unet.residual_blocks import BlockOptions


class FrameConvolution(nn.Module):
    """``x + convolution over three frames, at each pixel, after a group norm``.

    Attributes:
      options: those of all blocks.
      frames: T; the rows of the input are B videos of as many.
    """

    options: BlockOptions
    frames: int

    @nn.compact
    def __call__(
        self, x_NYXC: Float[Array, "N Y X C"], segment_BT: Int[Array, "B T"] | None = None
    ) -> Float[Array, "N Y X C"]:
        """[B T, Y, X, C] to the same shape in float32.

        Args:
          x_NYXC: features of frames.
          segment_BT: a frame sees those of its own segment; None: all of its video.
        """
        o = self.options
        *_, height, width, channels = x_NYXC.shape
        h = nn.silu(group_norm(o.groups, o.norm_epsilon, name="norm")(x_NYXC))
        h_BTYXC = h.reshape(-1, self.frames, height, width, channels)
        same_BT = jnp.ones((len(h_BTYXC), self.frames - 1), bool)  # as the next frame
        if segment_BT is not None:
            same_BT = segment_BT[:, 1:] == segment_BT[:, :-1]
        same = same_BT[:, :, None, None, None]
        nothing = jnp.zeros_like(h_BTYXC[:, :1])
        before = jnp.concatenate([nothing, jnp.where(same, h_BTYXC[:, :-1], 0)], axis=1)
        after = jnp.concatenate([jnp.where(same, h_BTYXC[:, 1:], 0), nothing], axis=1)
        taps = jnp.concatenate([before, h_BTYXC, after], axis=-1).reshape(
            *x_NYXC.shape[:-1], 3 * channels
        )
        h = Dense((channels,), ("embed", "hidden"), o.dtype, zeros, name="output")(taps)
        return x_NYXC.astype(jnp.float32) + h.astype(jnp.float32)
