"""Rotary positions of videos in the forms of published networks.

=========  ======================  ======  ====================================================
form       numbers (t, y, x)       theta   places
=========  ======================  ======  ====================================================
wan        44, 42, 42 of 128       10,000  tokens (Wan 2.1 and 2.2); y and x a third each
hunyuan    16, 56, 56 of 128       256     tokens (HunyuanVideo); Open-Sora 2 with theta 10,000
cogvideox  16, 24, 24 of 64        10,000  tokens, scaled to the grid of training
ltx        all heads together,     10,000  seconds and pixels, of 20, 2048 and 2048 (LTX-Video)
           a sixth of the width
           for each axis
=========  ======================  ======  ====================================================

The first three turn by ``p theta^(-2 i / d)`` (`jaxgen.nn.rotary`). LTX turns by ``pi / 2
theta^(i / (n - 1)) (2 r - 1)`` with r the share of 20 s or 2048 pixels, n = width / 6, the axes of
a frequency next to each other; numbers that are left over come first and are not turned.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from jaxgen.errors import InputError
from jaxgen.nn.positions import MAX_PERIOD, as_places
from jaxgen.nn.rotary import rotary_angles, rotary_split

RotaryForm = Literal["wan", "hunyuan", "cogvideox", "ltx"]

LTX_EXTENT = (20.0, 2048.0, 2048.0)
"""Seconds, rows and columns of pixels that LTX calls 1."""


def rotary_form(form: RotaryForm, head_size: int) -> tuple[tuple[int, ...], float]:
    """The split of a head over time, row and column, and theta; of all forms but "ltx".

    Raises:
      InputError: for another form, or a head that the form cannot split evenly.
    """
    if form == "wan":
        return rotary_split(head_size), MAX_PERIOD
    if form not in ("hunyuan", "cogvideox"):
        raise InputError(f"rotary is {form!r}, expected one of {', '.join(get_args(RotaryForm))}")
    whole, shares = (16, (2, 7, 7)) if form == "hunyuan" else (8, (2, 3, 3))
    split = tuple(head_size * share // whole for share in shares)
    if head_size % whole or any(size % 2 for size in split):
        raise InputError(
            f"head size is {head_size}, expected a multiple of {2 * whole} for the split of {form}"
        )
    return split, 256.0 if form == "hunyuan" else MAX_PERIOD


def video_angles(
    place: Real[Any, "*B L 3"], form: RotaryForm, heads: int, head_size: int
) -> Float[Any, "*B L K2"] | Float[Array, "B L H K2"]:
    """The angles of tokens in a published form.

    Args:
      place: frame, row and column; of "ltx" seconds and pixels.
      form: see the table above.
      heads: H.
      head_size: K.

    Returns:
      [..., L, K / 2]; of "ltx" [B, L, H, K / 2], B = 1 for places without a batch.

    Raises:
      InputError: as `rotary_form`.
    """
    if form != "ltx":
        return rotary_angles(place, *rotary_form(form, head_size))
    pairs = heads * head_size // 2
    if heads * head_size % 2 or pairs < 3:
        raise InputError(f"width is {heads * head_size}, expected an even number of 6 or more")
    place_BLA = jnp.asarray(place, jnp.float32)
    place_BLA = place_BLA if place_BLA.ndim == 3 else place_BLA[None]
    share_BLA = place_BLA / jnp.asarray(LTX_EXTENT, jnp.float32)
    w_F = np.float64(MAX_PERIOD) ** np.linspace(0, 1, pairs // 3) * math.pi / 2
    angle = (2 * share_BLA[..., None, :] - 1) * jnp.asarray(w_F, jnp.float32)[:, None]
    angle = angle.reshape(*share_BLA.shape[:2], -1)
    angle = jnp.pad(angle, ((0, 0), (0, 0), (pairs - angle.shape[-1], 0)))
    return angle.reshape(*share_BLA.shape[:2], heads, head_size // 2)


def clip_spacing(
    fps: Real[Any, "*B"] | float,
    reference_fps: float = 24.0,
    scale: Real[Any, "*B"] | float = 1.0,
    patch: Sequence[int] = (1, 1, 1),
) -> Float[Any, "*B 3"]:
    """What places in tokens are multiplied by, so that frame rates and sizes keep their meaning.

    Places become frames at the reference rate and pixels at the reference size, over the patch: a
    clip of the reference rate and size has its own token numbers, one of half the rate every other
    one. With ``reference_fps=1`` and the patch, places are seconds and pixels, as LTX's.

    Args:
      fps: frames per second.
      reference_fps: the rate at which a frame counts 1.
      scale: pixels of the reference size that a pixel of the clip stands for.
      patch: P_t, P_y, P_x, where places are to count frames and pixels, not patches.

    Raises:
      InputError: for a rate that is not positive.
    """
    fps, xp = as_places(fps if isinstance(fps, jax.Array) else np.asarray(fps))
    if xp is np and np.any(fps <= 0):
        raise InputError(f"fps is {fps}, expected a positive number")
    in_time = patch[0] * reference_fps / fps
    in_space = [xp.broadcast_to(side * xp.asarray(scale), in_time.shape) for side in patch[1:]]
    return xp.stack([in_time, *in_space], axis=-1)
