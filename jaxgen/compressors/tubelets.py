"""How videos are cut for causal compressors: 1 + r k frames, and blocks of pixels (tubelets).

The first frame stands alone, so that an image is the beginning of a video: with blocks of P_t
frames it is the last frame of a block of its own, whose other frames are zeros or the first frame
again, and are cut away after decoding.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import InputError

Video = Float[Array, "B T Y X C"]


def latent_frames(frames: int, ratio: int) -> int:
    """How many latent frames 1 + ratio k frames have, 1 + k.

    Raises:
      InputError: for other numbers of frames.
    """
    if frames < 1 or (frames - 1) % ratio:
        below = 1 + max(frames - 1, 0) // ratio * ratio
        near = f"{below} or {below + ratio}" if frames > 0 else "1"
        raise InputError(
            f"a video has {frames} frames, expected 1 + {ratio} k, such as {near} "
            "(pad_frames repeats the last frame)"
        )
    return 1 + (frames - 1) // ratio


def pad_frames(videos: Video, ratio: int) -> Float[Array, "B T2 Y X C"]:
    """Videos of 1 + ratio k frames: the last frame is repeated where some are missing.

    Args:
      videos: [B, T, Y, X, C].
      ratio: r, the first of `CausalAutoencoderConfig.strides`.

    Returns:
      [B, T', Y, X, C], T' the next such number; `trim_frames` gives T of them back.
    """
    missing = -(videos.shape[1] - 1) % ratio
    last = jnp.repeat(videos[:, -1:], missing, axis=1)
    return jnp.concatenate([videos, last], axis=1) if missing else videos


def trim_frames(videos: Video, frames: int) -> Float[Array, "B T2 Y X C"]:
    """The first frames of videos, without what `pad_frames` added.

    Args:
      videos: [B, T, Y, X, C].
      frames: how many are kept.

    Raises:
      InputError: where there are fewer.
    """
    if not 0 < frames <= videos.shape[1]:
        raise InputError(f"frames is {frames}, expected 1 to {videos.shape[1]}, those of the video")
    return videos[:, :frames]


def repeat_first(x: Video, count: int) -> Float[Array, "B N Y X C"]:
    """The first frame, ``count`` times."""
    return jnp.repeat(x[:, :1], count, axis=1)


def to_tubelets(
    x: Video, patch: tuple[int, int, int], first_frame: bool = False, begins: bool = True
) -> Float[Array, "B T2 Y2 X2 F"]:
    """Blocks of pixels as channels, in the order time, row, column, channel.

    Args:
      x: 1 + k P_t frames of a video, whose first is a block of its own; k P_t of a later chunk.
      patch: (P_t, P_y, P_x).
      first_frame: whether the block of the first frame is filled with repetitions of it; False:
        with zeros before it.
      begins: whether this is the beginning of a video.
    """
    steps, rows, columns = patch
    if begins and steps > 1:
        shape = (len(x), steps - 1, *x.shape[2:])
        before = repeat_first(x, steps - 1) if first_frame else jnp.zeros(shape, x.dtype)
        x = jnp.concatenate([before, x], axis=1)
    batch, frames, height, width, channels = x.shape
    grid = frames // steps, height // rows, width // columns
    x = x.reshape(batch, grid[0], steps, grid[1], rows, grid[2], columns, channels)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, *grid, math.prod(patch) * channels)


def from_tubelets(
    x: Video, patch: tuple[int, int, int], begins: bool = True
) -> Float[Array, "B T2 Y2 X2 F"]:
    """The inverse of `to_tubelets`: what was before the first frame is cut away."""
    steps, rows, columns = patch
    batch, *grid, features = x.shape
    x = x.reshape(batch, *grid, steps, rows, columns, features // math.prod(patch))
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    sides = (side * size for side, size in zip(grid, patch, strict=True))
    x = x.reshape(batch, *sides, x.shape[-1])
    return x[:, steps - 1 :] if begins else x
