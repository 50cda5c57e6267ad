"""Attention over the frames of a video at each pixel (Ho et al. 2022, "Video diffusion models").

A 3-D U-Net is the 2-D one with the frames of all videos as its batch: a 1 x 3 x 3 convolution is a
3 x 3 one of every frame, with the same parameters, and group norms are those of a frame. Frames
meet in one layer alone, which follows each attention over pixels::

    x + attention over frames(GN(x)) W        logits + b[bucket(query frame - key frame)]

with a learnt number b for each bucket and head (`jaxgen.nn.relative`). W starts at zero: at first
every frame is denoised as an image.

**Joint training** (section 4.1 there). Independent images are appended to a clip as further frames:
the clip is segment 0, image i segment i, and a frame sees those of its own segment. An example may
also have each frame alone, which trains the layer's values and outputs on images.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxgen.errors import InputError
from jaxgen.nn.attention import attention, split_parts
from jaxgen.nn.convolutions import group_norm, uniform
from jaxgen.nn.dense import Dense, zeros
from jaxgen.nn.relative import BucketBias
from jaxgen.unet.residual_blocks import BlockOptions


class FrameRows(NamedTuple):
    """How the rows of a batch of frames belong to examples; images have one frame each.

    Attributes:
      frames: T, those of a clip and the images appended to it.
      images: how many of them, the last ones, are images.
      segment_BT: frames see those of their own segment; None: all of their example.
    """

    frames: int = 1
    images: int = 0
    segment_BT: Int[Any, "B T"] | None = None

    def spread(self, value_BP: Shaped[Array, "B P *D"]) -> Shaped[Array, "N *D"]:
        """What frames have, one row after the other, from what their examples have.

        Args:
          value_BP: one value of each frame (P = T), of the clip and of each image (P = 1 + images),
            or of the example (P = 1).
        """
        batch, parts, *rest = value_BP.shape
        clip = jnp.broadcast_to(value_BP[:, :1], (batch, self.frames - parts + 1, *rest))
        return jnp.concatenate([clip, value_BP[:, 1:]], axis=1).reshape(-1, *rest)


def rows_of_frames(
    shape: tuple[int, ...], image_frames: int = 0, alone_B: Bool[Array, "B"] | None = None
) -> FrameRows:
    """Which frames of videos see each other.

    Args:
      shape: [B, T, Y, X, C] of the videos.
      image_frames: how many of the T frames, the last ones, are independent images.
      alone_B: [B], whether each frame of an example sees itself alone.

    Raises:
      InputError: for clips without frames, or an ``alone_B`` that does not fit.
    """
    batch, frames = shape[:2]
    if not 0 <= image_frames < frames:
        raise InputError(
            f"image_frames is {image_frames} of {frames} frames, expected 0 to {frames - 1}"
        )
    if alone_B is not None and alone_B.shape != (batch,):
        raise InputError(f"alone_B has shape {alone_B.shape}, expected [{batch}]")
    segment_T = np.maximum(np.arange(frames) - (frames - image_frames - 1), 0)
    if alone_B is not None:
        segment_BT = jnp.where(alone_B[:, None], jnp.arange(frames), segment_T)
        return FrameRows(frames, image_frames, segment_BT)
    if not image_frames:
        return FrameRows(frames)
    return FrameRows(frames, image_frames, jnp.broadcast_to(segment_T, (batch, frames)))


class FrameAttention(nn.Module):
    """``x + attention of the frames to each other, at each pixel, after a group norm``.

    Attributes:
      options: those of all blocks.
      frames: T; the rows of the input are B videos of as many.
      buckets: of offsets in time.
      distance: from which on offsets share a bucket.
    """

    options: BlockOptions
    frames: int
    buckets: int
    distance: int

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
        heads = o.heads_at(channels)
        h = group_norm(o.groups, o.norm_epsilon, name="norm")(x_NYXC)
        h = h.reshape(-1, self.frames, height * width, channels).swapaxes(1, 2)
        h_LTC = h.reshape(-1, self.frames, channels)  # L: a pixel of a video
        shape, axes = (heads, 3, channels // heads), ("embed", "heads", None, "kv")
        q, k, v = split_parts(Dense(shape, axes, o.dtype, uniform, name="qkv")(h_LTC))
        segments = None
        if segment_BT is not None:
            segment_LT = jnp.repeat(segment_BT, height * width, axis=0)
            segments = segment_LT, segment_LT
        bias = BucketBias(heads, self.buckets, self.distance, name="bias")(self.frames)
        seen = attention(q, k, v, segments=segments, bias=bias, implementation=o.attention)
        axes_out = "heads", "kv", "embed"
        h = Dense((channels,), axes_out, o.dtype, zeros, name="output")(seen)
        h = h.reshape(-1, height * width, self.frames, channels).swapaxes(1, 2)
        return x_NYXC.astype(jnp.float32) + h.reshape(x_NYXC.shape).astype(jnp.float32)
