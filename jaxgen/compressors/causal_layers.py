"""Layers of causal video autoencoders: what a frame becomes depends on no later frame.

A causal convolution with kernel (k_t, k_y, k_x) sees a frame and the k_t - 1 before it. In front of
the first frame there are zeros (Wan), or that frame repeated (CogVideoX, HunyuanVideo, LTX-Video);
space is padded with zeros on all sides, symmetrically.

Changes of the frame rate by 2 leave the first frame alone, so that 1 + 2 k frames and 1 + k belong
to each other (Wan et al. 2025, section 4.1, and its code)::

    down    y_0 = x_0,   y_i = conv(x_{2i-2}, x_{2i-1}, x_{2i})
    up      y_0 = x_0,   (y_{2i-1}, y_{2i}) = conv(x_{i-2}, x_{i-1}, x_i), 2 C channels

where "up" has zeros (or x_0 again) for x_0 and what is before it.

**Chunks.** A layer that looks back keeps the last frames of its input in the collection `STREAM`
wherever that collection is mutable, and puts them in front of its next input wherever it is given.
A video in chunks is then computed as it is whole, see `jaxgen.compressors.streaming`.

**Speed.** XLA's 3-D convolutions on CPU are slow. The same sum as k_t convolutions of frames, each
with one slice of the kernel, is faster. For [2, 5, 16, 16, 192] and a 3x3x3 kernel with 192 outputs
in float32, on two cores, the least of twelve interleaved runs (value and gradients; value alone)::

    one 3-D convolution (about 150 ms; 40 ms)            1.00    1.00
    k_t convolutions of frames, added                    0.57    0.63
    the same, zeros in front of the clip left out        0.45    0.40
    one convolution of frames with k_t C channels        0.52    0.62
    27 matrix products of shifted arrays                 0.79    1.05
    one matrix product, 27 shifted arrays side by side   0.69    1.17
    one matrix product to 27 C outputs, then shifted     1.89    1.82

The third is used unless ``joint_kernels`` asks for 3-D convolutions, for devices that are made for
them.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.compressors.tubelets import Video, repeat_first
from jaxgen.nn.attention import attention
from jaxgen.nn.convolutions import conv, repeat_pixels, uniform
from jaxgen.nn.dense import Dense, Dtype, zeros

STREAM = "stream"
"""The collection of the last frames that layers have seen."""


def frames_before(
    module: nn.Module, x: Video, count: int, first: Float[Array, "B N Y X C"] | None
) -> Float[Array, "B N Y X C"] | None:
    """What stands in front of a layer's input: frames of the last chunk, or those of a beginning.

    Args:
      module: the layer, whose collection `STREAM` is read and written.
      x: its input, of which the last frames are kept for the next chunk.
      count: how many frames are looked back at.
      first: the frames in front of the beginning of a video; None: zeros.

    Returns:
      ``count`` frames; None for zeros.
    """
    before = first
    if module.has_variable(STREAM, "past"):
        before = module.get_variable(STREAM, "past")
    if module.is_mutable_collection(STREAM) and not module.is_initializing():
        known = jnp.zeros((len(x), count, *x.shape[2:]), x.dtype) if before is None else before
        tail = jnp.concatenate([known.astype(x.dtype), x], axis=1)
        module.put_variable(STREAM, "past", tail[:, tail.shape[1] - count :])
    return before


class CausalConv(nn.Module):
    """A convolution of videos that sees no later frame.

    Attributes:
      features: output channels.
      size: of the kernel, (k_t, k_y, k_x).
      axes: logical names of the input and the output channels.
      first_frame: whether the first frame is repeated in front of a video; False: zeros.
      stride: in time; k_t - stride frames are looked back at.
      dtype: compute dtype.
      joint_kernels: whether XLA is given a 3-D convolution rather than a sum of 2-D ones.
      kernel_init: initial kernel.
    """

    features: int
    size: tuple[int, int, int] = (3, 3, 3)
    axes: tuple[str | None, str | None] = ("embed", "mlp")
    first_frame: bool = False
    stride: int = 1
    dtype: Dtype = "float32"
    joint_kernels: bool = False
    kernel_init: nn.initializers.Initializer = uniform

    @nn.compact
    def __call__(
        self, x: Video, before: Float[Array, "B N Y X C"] | None = None, resume: bool = True
    ) -> Float[Array, "B T2 Y X F"]:
        """[B, T, Y, X, C] to [B, T / stride, Y, X, features], in float32.

        Args:
          x: frames; none of them give none.
          before: the frames in front of x, where the caller keeps them.
          resume: whether the layer keeps its own.
        """
        named = nn.with_logical_partitioning
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param(
            "kernel", named(self.kernel_init, (None, None, None, *self.axes)), shape
        )
        bias = self.param("bias", named(zeros, self.axes[1:]), (self.features,))
        history = self.size[0] - self.stride
        if resume and history > 0:
            first = repeat_first(x, history) if self.first_frame else None
            before = frames_before(self, x, history, first)
        if x.shape[1] == 0:
            return jnp.zeros((*x.shape[:4], self.features))
        kernel, x = jnp.asarray(kernel, self.dtype), jnp.asarray(x, self.dtype)
        if before is not None:
            x = jnp.concatenate([before.astype(self.dtype), x], axis=1)
            history = 0
        convolve = _volume if self.joint_kernels else _frame_sum
        return convolve(x, kernel, history, self.stride).astype(jnp.float32) + bias


def _volume(x: Array, kernel: Array, zeros_before: int, stride: int) -> Array:
    """One convolution in three dimensions."""
    sides = [((side - 1) // 2, side // 2) for side in kernel.shape[1:3]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, 1, 1),
        ((zeros_before, 0), *sides),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def _frame_sum(x: Array, kernel: Array, zeros_before: int, stride: int) -> Array:
    """A convolution of frames for each slice of the kernel; frames of zeros are passed over."""
    length = kernel.shape[0]
    count = (x.shape[1] + zeros_before - length) // stride + 1
    total = None
    for i in reversed(range(length)):
        skipped = -(-max(zeros_before - i, 0) // stride)  # outputs whose frame is one of zeros
        if skipped >= count:
            continue
        start = i - zeros_before + skipped * stride
        frames = x[:, start : start + (count - skipped - 1) * stride + 1 : stride]
        part = _convolve_frames(frames, kernel[i])
        part = jnp.pad(part, ((0, 0), (skipped, 0), (0, 0), (0, 0), (0, 0))) if skipped else part
        total = part if total is None else total + part
    assert total is not None  # the last slice is of a frame of x
    return total


def _convolve_frames(x: Array, kernel: Array) -> Array:
    """A convolution of every frame, with zeros around it."""
    if kernel.shape[:2] == (1, 1):
        return x @ kernel[0, 0]
    batch, frames = x.shape[:2]
    y = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[2:]),
        kernel,
        (1, 1),
        [((side - 1) // 2, side // 2) for side in kernel.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(batch, frames, *y.shape[1:])


class PixelNorm(nn.Module):
    """``x / sqrt(mean(x^2) + epsilon)`` over the channels of a pixel, times a learnt scale.

    With epsilon 0 it is Wan's, ``sqrt(C) x / max(|x|, 1e-12)``.

    Attributes:
      epsilon: added to the mean of squares.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Video) -> Video:
        """Normalises the last axis, in float32."""
        channels = x.shape[-1]
        named = nn.with_logical_partitioning
        scale_C = self.param("scale", named(nn.initializers.ones, ("embed",)), (channels,))
        x = x.astype(jnp.float32)
        square = jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon
        return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24 / channels)) * scale_C


class CausalBlock(nn.Module):
    """``skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))``, convolutions causal.

    The second convolution starts at zero, so that at first a block hands on its input.

    Attributes:
      features: output channels; where they differ from the input's, skip is a 1x1x1 convolution.
      epsilon: of the norms.
      first_frame: see `CausalConv`, as are the others.
    """

    features: int
    epsilon: float = 1e-6
    first_frame: bool = False
    dtype: Dtype = "float32"
    joint_kernels: bool = False

    @nn.compact
    def __call__(self, x: Video) -> Float[Array, "B T Y X F"]:
        """[B, T, Y, X, C] to [B, T, Y, X, features] in float32."""
        options = {
            "first_frame": self.first_frame,
            "dtype": self.dtype,
            "joint_kernels": self.joint_kernels,
        }
        h = nn.silu(PixelNorm(self.epsilon, name="norm1")(x))
        h = CausalConv(self.features, name="conv1", **options)(h)
        h = nn.silu(PixelNorm(self.epsilon, name="norm2")(h))
        axes = "mlp", "embed"
        h = CausalConv(self.features, axes=axes, kernel_init=zeros, name="conv2", **options)(h)
        if x.shape[-1] != self.features:
            axes = "embed", "hidden"
            x = CausalConv(self.features, (1, 1, 1), axes, dtype=self.dtype, name="skip")(x)
        return x + h


class PerFrameAttention(nn.Module):
    """x plus attention of the pixels of each frame to each other, with one head.

    Attributes:
      epsilon: of the norm.
      dtype: compute dtype.
    """

    epsilon: float = 1e-6
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Video) -> Video:
        """[B, T, Y, X, C] to the same shape in float32."""
        batch, frames, height, width, channels = x.shape
        h = PixelNorm(self.epsilon, name="norm")(x)
        h_BLC = h.reshape(batch * frames, height * width, channels)
        shape, axes = (1, 3, channels), ("embed", "heads", None, "kv")
        qkv = Dense(shape, axes, self.dtype, uniform, name="qkv")(h_BLC)
        seen = attention(*(qkv[..., i, :] for i in range(3)))
        axes_out = "heads", "kv", "embed"
        h_BLC = Dense((channels,), axes_out, self.dtype, zeros, name="output")(seen)
        return x + h_BLC.reshape(x.shape).astype(jnp.float32)


class CausalDown(nn.Module):
    """Half the resolution, and half the frames but the first where asked for.

    Attributes:
      temporal: whether frames 1 + 2 k become 1 + k.
      dtype: compute dtype.
      joint_kernels: see `CausalConv`.
    """

    temporal: bool
    dtype: Dtype = "float32"
    joint_kernels: bool = False

    @nn.compact
    def __call__(self, x: Video) -> Float[Array, "B T2 Y//2 X//2 C"]:
        """[B, T, Y, X, C] to [B, T', Y / 2, X / 2, C] in float32."""
        axes, channels = ("embed", "hidden"), x.shape[-1]
        space = conv(channels, axes, self.dtype, name="space", stride=2, padding=(0, 1))
        x = space(x).astype(jnp.float32)
        if not self.temporal:
            return x
        first, rest = _first_and_rest(self, x)
        before = frames_before(self, x, 1, repeat_first(x, 1))
        time = CausalConv(
            channels, (3, 1, 1), axes, False, 2, self.dtype, self.joint_kernels, name="time"
        )
        return jnp.concatenate([first, time(rest, before, resume=False)], axis=1)


class CausalUp(nn.Module):
    """Twice the resolution with other channels, and twice the frames but the first.

    Attributes:
      features: output channels.
      temporal: whether frames 1 + k become 1 + 2 k.
      first_frame: whether the first frame stands for those before the second; False: zeros do.
      dtype: compute dtype.
      joint_kernels: see `CausalConv`.
    """

    features: int
    temporal: bool
    first_frame: bool = False
    dtype: Dtype = "float32"
    joint_kernels: bool = False

    @nn.compact
    def __call__(self, x: Video) -> Float[Array, "B T2 2*Y 2*X F"]:
        """[B, T, Y, X, C] to [B, T', 2 Y, 2 X, features] in float32."""
        axes = "embed", "hidden"
        if self.temporal:
            first, rest = _first_and_rest(self, x)
            before = repeat_first(x, 2) if self.first_frame else None
            before = frames_before(self, rest, 2, before)
            if before is None:
                before = jnp.zeros((len(x), 2, *x.shape[2:]), x.dtype)
            size, features = (3, 1, 1), 2 * x.shape[-1]
            time = CausalConv(
                features, size, axes, False, 1, self.dtype, self.joint_kernels, name="time"
            )
            pairs = time(rest, before, resume=False)
            x = jnp.concatenate([first, _unfold_pairs(pairs)], axis=1)
        batch, frames = x.shape[:2]
        x = repeat_pixels(x.reshape(batch * frames, *x.shape[2:]))
        x = conv(self.features, axes, self.dtype, name="space")(x).astype(jnp.float32)
        return x.reshape(batch, frames, *x.shape[1:])


def _first_and_rest(module: nn.Module, x: Array) -> tuple[Array, Array]:
    """The first frame of a video and the others; none and all in a later chunk."""
    begins = 0 if module.has_variable(STREAM, "past") else 1
    return x[:, :begins], x[:, begins:]


def _unfold_pairs(x: Array) -> Array:
    """[B, T, Y, X, 2 C] to [B, 2 T, Y, X, C]."""
    batch, frames, height, width, features = x.shape
    x = x.reshape(batch, frames, height, width, 2, features // 2)
    return jnp.moveaxis(x, 4, 2).reshape(batch, 2 * frames, height, width, features // 2)
