"""Videos longer than a denoiser takes, by windows of the length that it was trained on.

**One after the other** (autoregressive extension, Ho et al. 2022, section 3.1). Windows overlap;
each knows the frames that the ones before it have made, and those that were given. `plan_windows`
says which frames each window knows, `sample_windows` makes them.

**All at once** (MultiDiffusion, Bar-Tal et al. 2023; in time Wang et al. 2023, "Gen-L-Video"). In
every step the denoiser sees each window by itself, and where windows overlap its estimates are
averaged: ``x^_t = mean of x^_t over the windows that hold frame t``. This is a denoiser of the long
video (`overlapped`), for any sampler. It is an approximation: frames further apart than a window
agree through those between them alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key

from jaxgen.diffusion.conditioning.known_frames import KnownFrames
from jaxgen.diffusion.denoiser import Denoiser, Estimate
from jaxgen.diffusion.process.levels import Level
from jaxgen.errors import InputError, can_be_checked


class WindowPlan(NamedTuple):
    """Windows in the order in which they are made.

    Attributes:
      first_W: the first frame of each.
      known_WT: 1 for those of its frames that are known when it is made.
    """

    first_W: Int32[np.ndarray, "W"]
    known_WT: Float32[np.ndarray, "W T"]


def plan_windows(
    frames: int, window: int, overlap: int, known_T: Bool[np.ndarray, "T"] | None = None
) -> WindowPlan:
    """Which frames windows hold, and which of these each of them knows.

    Windows begin ``window - overlap`` frames apart, the last one so that it ends with the video; a
    window all of whose frames are known is left out.

    Args:
      frames: of the video.
      window: frames of a window.
      overlap: frames that a window has in common with the one before it.
      known_T: which frames of the video are given; None: none.

    Raises:
      InputError: unless 0 < window <= frames and 0 <= overlap < window; for another number of
        frames than known_T has.
    """
    first_W = _starts(frames, window, overlap)
    known_T = np.zeros(frames, bool) if known_T is None else np.array(known_T, bool)
    if known_T.shape != (frames,):
        raise InputError(f"known has shape {known_T.shape}, expected ({frames},), the frames")
    rows = []
    for first in first_W:
        inside = slice(first, first + window)
        if not known_T[inside].all():
            rows.append((first, known_T[inside].astype(np.float32)))
        known_T[inside] = True
    starts, known = zip(*rows, strict=True) if rows else ((), np.zeros((0, window)))
    return WindowPlan(np.array(starts, np.int32), np.array(known, np.float32))


def _starts(frames: int, window: int, overlap: int) -> list[int]:
    if not 0 < window <= frames:
        raise InputError(f"window is {window}, expected 1 to {frames}, the frames of the video")
    if not 0 <= overlap < window:
        raise InputError(f"overlap is {overlap}, expected 0 to {window - 1}, less than a window")
    return [*range(0, frames - window, window - overlap), frames - window]


def sample_windows(
    complete: Callable[[KnownFrames, Key[Array, ""]], Array],
    given: KnownFrames,
    window: int,
    overlap: int,
    key: Key[Array, ""],
) -> Float[Array, "B T ..."]:
    """A long video, one window after the other, in one scan.

    Args:
      complete: makes a window of which some frames are known, with a mask that may be traced; such
        as ``lambda given, key: complete_frames(sampler, denoiser, given, levels, key)``, or a
        sampler of a denoiser that was trained with known frames.
      given: the long video, [B, T, ...], and which of its frames are known already, [T, 1, ...].
      window: frames of a window.
      overlap: frames that a window knows of the one before it.
      key: randomness; window w has ``fold_in(key, w)``.

    Returns:
      The video, whose known frames are those given.

    Raises:
      InputError: as `plan_windows`, and for a mask that is traced, or not the same for all of a
        frame.
    """
    frames = given.x.shape[1]
    if not can_be_checked(given.known):
        raise InputError("known is traced, expected numbers: windows are planned by them")
    known_T = np.asarray(given.known)
    if known_T.size != frames:
        raise InputError(
            f"known has shape {known_T.shape}, expected one number for each of {frames} frames"
        )
    plan = plan_windows(frames, window, overlap, known_T.reshape(frames) > 0)
    tail = (1,) * (given.x.ndim - 2)

    def make(
        x: Float[Array, "B T ..."], row: tuple[Array, Array, Array]
    ) -> tuple[Float[Array, "B T ..."], None]:
        number, first, known_T = row
        here = jax.lax.dynamic_slice_in_dim(x, first, window, axis=1)
        part = KnownFrames(here, known_T.reshape(window, *tail))
        made = complete(part, jax.random.fold_in(key, number))
        made = jnp.where(part.known > 0, here, made)
        return jax.lax.dynamic_update_slice_in_dim(x, made.astype(x.dtype), first, axis=1), None

    start = jnp.where(given.known > 0, given.x, 0.0)
    rows = jnp.arange(len(plan.first_W)), jnp.asarray(plan[0]), jnp.asarray(plan[1])
    return jax.lax.scan(make, start, rows)[0]


def overlapped(denoiser: Denoiser, window: int, overlap: int) -> Denoiser:
    """A denoiser of videos of any length from one of windows, averaged where windows overlap.

    Args:
      denoiser: of videos [B, window, ...], its conditions those of all windows.
      window: its frames.
      overlap: frames that neighbouring windows have in common, at least.

    Returns:
      A denoiser of [B, T, ...] with T >= window, at levels of examples or of frames. Windows are
      evaluated one after the other, so that memory does not grow with the length.

    Raises:
      InputError: when called, as `plan_windows`.
    """

    def denoise(z: Float[Array, "B T ..."], level: Level) -> Estimate:
        frames = z.shape[1]
        first_W = jnp.array(_starts(frames, window, overlap))

        def cut(value: Array, first: Int[Array, ""]) -> Array:
            return jax.lax.dynamic_slice_in_dim(value, first, window, axis=1)

        def level_there(value: Array, first: Int[Array, ""]) -> Array:
            return cut(value, first) if jnp.ndim(value) > 1 else value

        def add(
            sums: tuple[Array, Array, Array], first: Int[Array, ""]
        ) -> tuple[tuple[Array, Array, Array], None]:
            here = Level(*(level_there(jnp.asarray(value), first) for value in level))
            estimate = denoiser(cut(z, first), here)

            def put(whole: Array, part: Array) -> Array:
                sum_there = cut(whole, first) + part
                return jax.lax.dynamic_update_slice_in_dim(whole, sum_there, first, axis=1)

            x, e, count_1T = sums
            return (put(x, estimate.x), put(e, estimate.e), put(count_1T, ones_1T)), None

        ones_1T = jnp.ones((1, window))
        zeros = jnp.zeros_like(z), jnp.zeros_like(z), jnp.zeros((1, frames))
        (x, e, count_1T), _ = jax.lax.scan(add, zeros, first_W)
        count = count_1T.reshape(1, frames, *(1,) * (z.ndim - 2))
        return Estimate(x / count, e / count)

    return denoise
