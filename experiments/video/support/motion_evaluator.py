"""Whether the digit of a clip moves as digits of the data do: straight on, reflected by borders.

The *centre* of a frame is the centre of mass of its brightness above a threshold, within the window
of a digit's size that holds most of it. `MovingDigits` moves the corner of the digit; its centre is
a constant o away. Along each axis, with room m (side of the frame less that of the digit)::

    c(t) = o + r(a + v t),    r the reflection at 0 and m

A window that moves over the digit's dark margin holds as much, so that o is known up to the margin:
of all frames the medians of the least and the largest o. All a and v of a fine grid are tried; the
best o for each is the mean of what is left, clipped to those two. Among pairs of velocities whose
speed occurs in the data, the best is taken::

    rms^2 = min over v_y, v_x of 1/T sum_t |c(t) - centre(t)|^2,    0.5 <= |v| <= 1.5 pixels a frame

The rms of clips of the data is 0.1 to 0.2, from the threshold of brightness and rounding to bytes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8

from jaxgen.data import ImageSet
from jaxgen.data.video.moving_digits import SPEED, reflected
from jaxgen.errors import InputError

MOTION = "clips that move as the data"
LARGEST_RMS = 0.5
"""Pixels: what is still taken for motion of the data."""

FEWEST_FRAMES = 8
"""Of fewer frames a digit that stands still is close to a motion of the data, too."""

THRESHOLD = 0.25
"""Of the brightest pixel of a clip; what is darker is taken for noise."""

MARGIN = 0.98
"""Windows with this share of the brightness of the best one may be the digit's."""

START_STEP = 0.1
"""Pixels between two starts of the grid; at the ends of a clip, speeds are twice as far apart."""

CLIPS_AT_ONCE = 32


class Centres(NamedTuple):
    """Where the digits of some clips are, in pixels: rows and columns.

    Attributes:
      centre_NT2: in each frame; not numbers for a frame without anything bright.
      least_N2: of each clip, the least distance from the digit's corner to its centre.
      largest_N2: the largest.
    """

    centre_NT2: Float64[np.ndarray, "N T 2"]
    least_N2: Float64[np.ndarray, "N 2"]
    largest_N2: Float64[np.ndarray, "N 2"]


class FittedMotion(NamedTuple):
    """The best straight, reflected motions of some clips.

    Attributes:
      rms_N: distance to the centres, in pixels; infinite where a frame is blank.
      speed_N: pixels a frame; not a number where a frame is blank.
    """

    rms_N: Float64[np.ndarray, "N"]
    speed_N: Float64[np.ndarray, "N"]


@dataclass(frozen=True)
class MotionEvaluator:
    """Compares the motion of clips with that of moving digits.

    Attributes:
      digit: height and width of a digit.
    """

    digit: tuple[int, int]

    def fit(self, videos: UInt8[np.ndarray, "N T Y X C"]) -> FittedMotion:
        """The best motion of each clip, and how far centres are from it.

        Args:
          videos: bytes.

        Raises:
          InputError: for too few frames, or frames smaller than a digit.
        """
        frames, height, width = videos.shape[1:4]
        if frames < FEWEST_FRAMES:
            raise InputError(f"clips have {frames} frames, expected {FEWEST_FRAMES} or more")
        centres = clip_centres(videos, self.digit)
        return fit_reflected_motion(centres, (height - self.digit[0], width - self.digit[1]))

    def figures(self, videos: UInt8[np.ndarray, "N T Y X C"]) -> dict[str, float]:
        """The share of clips that move as the data do; nothing for clips of too few frames.

        Args:
          videos: bytes.

        Raises:
          InputError: for frames smaller than a digit.
        """
        if videos.shape[1] < FEWEST_FRAMES:
            return {}
        return {MOTION: float((self.fit(videos).rms_N < LARGEST_RMS).mean())}


def make_motion_evaluator(digits: ImageSet) -> MotionEvaluator:
    """The evaluator for moving digits.

    Args:
      digits: those of the data.
    """
    height, width = digits.images.shape[1:3]
    return MotionEvaluator((height, width))


def clip_centres(videos: UInt8[np.ndarray, "N T Y X C"], window: tuple[int, int]) -> Centres:
    """The centre of what is bright in each frame, and how far it is from the digit's corner.

    Brightness counts above a quarter of the clip's largest, and within the window that holds most
    of it, so that noise and specks elsewhere do not move the centre.

    Args:
      videos: bytes.
      window: height and width of a digit.

    Raises:
      InputError: for frames smaller than the window.
    """
    height, width = videos.shape[2:4]
    if height < window[0] or width < window[1]:
        raise InputError(
            f"frames are {height} x {width}, expected {window[0]} x {window[1]} or more, to hold a "
            "digit"
        )
    light_NTYX = videos.astype(np.float64).mean(axis=-1)
    peak = light_NTYX.max(axis=(1, 2, 3), keepdims=True)
    light_NTYX = np.maximum(light_NTYX - THRESHOLD * peak, 0)
    windows = np.lib.stride_tricks.sliding_window_view(light_NTYX, window, axis=(2, 3))
    mass_NTYX = windows.sum(axis=(-2, -1))
    best_NT = mass_NTYX.reshape(*mass_NTYX.shape[:2], -1).argmax(axis=-1)
    corner_NT = np.unravel_index(best_NT, mass_NTYX.shape[2:])
    digit_NTYX = windows[(*np.indices(best_NT.shape), *corner_NT)]
    with np.errstate(invalid="ignore"):  # of a blank frame
        digit_NTYX = digit_NTYX / digit_NTYX.sum(axis=(2, 3), keepdims=True)
    centre_NT2 = np.stack(
        [
            corner_NT[0] + digit_NTYX.sum(axis=3) @ np.arange(window[0]),
            corner_NT[1] + digit_NTYX.sum(axis=2) @ np.arange(window[1]),
        ],
        axis=-1,
    )
    fits_NTYX = mass_NTYX >= MARGIN * mass_NTYX.max(axis=(2, 3), keepdims=True)
    first_NT2, last_NT2 = _ends(fits_NTYX)
    seen = np.isfinite(centre_NT2)
    least_N2, largest_N2 = (
        np.median(np.where(seen, centre_NT2 - corner, 0), axis=1)
        for corner in (last_NT2, first_NT2)
    )
    return Centres(centre_NT2, least_N2, largest_N2)


def distance_of_centres(
    made: UInt8[np.ndarray, "N T Y X C"],
    real: UInt8[np.ndarray, "N T Y X C"],
    open_T: Int[np.ndarray, "T2"],
    window: tuple[int, int],
) -> Float64[np.ndarray, "N"]:
    """How far centres are from those of the real clips, in pixels: rms over some frames.

    Args:
      made: bytes; the centre of a blank frame is its middle.
      real: as many clips of the same size.
      open_T: numbers of the frames.
      window: height and width of a digit.
    """
    middle_2 = (np.array(made.shape[2:4]) - 1) / 2
    first, second = (clip_centres(clips[:, open_T], window).centre_NT2 for clips in (made, real))
    first = np.where(np.isfinite(first), first, middle_2)
    return np.sqrt(np.square(first - second).sum(axis=-1).mean(axis=1))


def _ends(
    fits_NTYX: Bool[np.ndarray, "N T Y X"],
) -> tuple[Int[np.ndarray, "N T 2"], Int[np.ndarray, "N T 2"]]:
    """The first and the last row and column with a true entry."""
    lines = fits_NTYX.any(axis=3), fits_NTYX.any(axis=2)
    first_NT2 = np.stack([line.argmax(axis=2) for line in lines], axis=-1)
    last_NT2 = np.stack(
        [line.shape[2] - 1 - line[:, :, ::-1].argmax(axis=2) for line in lines], axis=-1
    )
    return first_NT2, last_NT2


def fit_reflected_motion(centres: Centres, room: tuple[int, int]) -> FittedMotion:
    """The best of all straight, reflected motions at speeds of the data, for each clip.

    Args:
      centres: of the clips.
      room: how far a digit can move along each axis, in pixels.
    """
    count, frames = centres.centre_NT2.shape[:2]
    seen_N = np.isfinite(centres.centre_NT2).all(axis=(1, 2))
    known_NT2 = np.where(seen_N[:, None, None], centres.centre_NT2, 0)
    speed_S = speed_grid(frames)
    row_NS, column_NS = (
        axis_errors(
            known_NT2[..., i], room[i], centres.least_N2[:, i], centres.largest_N2[:, i], speed_S
        )
        for i in range(2)
    )
    speed_SS = np.hypot(speed_S[:, None], speed_S)
    occurs_SS = (speed_SS >= SPEED[0]) & (speed_SS <= SPEED[1])
    best_N, speed_N = np.empty(count), np.empty(count)
    for clip in range(count):
        error_SS = np.where(occurs_SS, row_NS[clip, :, None] + column_NS[clip], np.inf)
        best = error_SS.argmin()
        best_N[clip], speed_N[clip] = error_SS.flat[best], speed_SS.flat[best]
    rms_N = np.sqrt(np.maximum(best_N, 0) / frames)
    return FittedMotion(np.where(seen_N, rms_N, np.inf), np.where(seen_N, speed_N, np.nan))


def speed_grid(frames: int) -> Float64[np.ndarray, "S"]:
    """Speeds along an axis, from 0 on; a negative one is a path that starts behind a reflection."""
    return np.arange(0, SPEED[1], 2 * START_STEP / max(frames - 1, 1))


def axis_errors(
    centre_NT: Float64[np.ndarray, "N T"],
    room: float,
    least_N: Float64[np.ndarray, "N"],
    largest_N: Float64[np.ndarray, "N"],
    speed_S: Float64[np.ndarray, "S"],
) -> Float64[np.ndarray, "N S"]:
    """Along one axis, the squared distance to the nearest path of each speed, summed over frames.

    Args:
      centre_NT: centres, finite.
      room: how far a digit can move, in pixels.
      least_N: the least distance from the digit's corner to its centre.
      largest_N: the largest, no smaller.
      speed_S: pixels a frame, 0 or more.
    """
    count, frames = centre_NT.shape
    start_J = np.arange(0, max(2 * room, START_STEP), START_STEP)
    path = start_J[:, None] + speed_S[:, None, None] * np.arange(frames)
    path_PT = reflected(path, np.array([room], np.float64)).reshape(-1, frames)
    sum_P, square_P = path_PT.sum(axis=1), np.square(path_PT).sum(axis=1)
    errors = []
    for start in range(0, count, CLIPS_AT_ONCE):
        some = slice(start, start + CLIPS_AT_ONCE)
        some_NT = centre_NT[some]
        total_NP = some_NT.sum(axis=1)[:, None] - sum_P
        offset_NP = np.clip(total_NP / frames, least_N[some, None], largest_N[some, None])
        error_NP = np.square(some_NT).sum(axis=1)[:, None] + square_P - 2 * some_NT @ path_PT.T
        error_NP += offset_NP * (frames * offset_NP - 2 * total_NP)
        errors.append(error_NP.reshape(len(some_NT), len(speed_S), -1).min(axis=2))
    return np.concatenate(errors)
