"""Where a video is cut, and how much moves within its shots.

Frames are averaged to 64x64 pixels. Of consecutive frames a and b, with means over 16x16 blocks
A, B and histograms of 8x8x8 colours P, Q,

  difference = mean |A - B|, in levels of 255;  change of colours = sum |P - Q| / 2, in [0, 1];
  motion = mean |luma of a - luma of b| over the 64x64 pixels, in levels of 255.

There is a cut between them where both the difference and the change of colours reach a threshold,
and one of them stands out: it is several times the median of the steps around it (the adaptive
threshold of shot detectors such as PySceneDetect's). Hard motion has large differences in many
steps, and a jolt leaves the colours as they were. A shot's motion is the mean over its steps.
Dissolves are not found.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64, UInt8

from jaxgen.data.images.resizing import import_pillow
from jaxgen.errors import InputError

SIDE, BLOCKS, COLORS = 64, 16, 8
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class CutThresholds:
    """What makes a step between two frames a cut.

    Attributes:
      difference: The least difference, in levels of 255.
      colors: The least change of colours, in [0, 1].
      ratio: How many times the median of the steps around it one of the two is, at least.
      window: How many steps on each side count as around it.

    Raises:
      InputError: A threshold is out of its range.
    """

    difference: float = 12.0
    colors: float = 0.15
    ratio: float = 3.0
    window: int = 8

    def __post_init__(self) -> None:
        for name, least, most in (
            ("difference", 0, 255),
            ("colors", 0, 1),
            ("ratio", 1, 1e9),
            ("window", 1, 1e9),
        ):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} is {getattr(self, name)}, expected {least} to {most:g}")


@dataclass(frozen=True, eq=False)
class FrameSteps:
    """What changes from each frame of a video to the next one.

    Attributes:
      difference: float32 [T - 1], in levels of 255.
      colors: float32 [T - 1], in [0, 1].
      motion: float32 [T - 1], in levels of 255.
    """

    difference: Float[np.ndarray, "N"]
    colors: Float[np.ndarray, "N"]
    motion: Float[np.ndarray, "N"]


@dataclass
class _Thumbnail:
    pixels: np.ndarray
    blocks: np.ndarray = field(init=False)
    colors: np.ndarray = field(init=False)
    luma: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rgb = self.pixels.astype(np.float32)
        side = SIDE // BLOCKS
        self.blocks = rgb.reshape(BLOCKS, side, BLOCKS, side, 3).mean((1, 3))
        bins = self.pixels.astype(np.int64) * COLORS // 256
        flat = (bins[..., 0] * COLORS + bins[..., 1]) * COLORS + bins[..., 2]
        self.colors = np.bincount(flat.ravel(), minlength=COLORS**3) / SIDE**2
        self.luma = rgb @ _LUMA


def frame_steps(pictures: Iterable[UInt8[np.ndarray, "Y X 3"]]) -> FrameSteps:
    """What changes between consecutive frames, from one pass over them.

    Args:
      pictures: The frames of a video, in order.
    """
    return FrameSteps(*np.array(list(_steps(pictures)), np.float32).reshape(-1, 3).T)


def _steps(pictures: Iterable[np.ndarray]) -> Iterator[tuple[float, float, float]]:
    before = None
    pil = import_pillow("shots")
    for picture in pictures:
        image = pil.Image.fromarray(picture).resize((SIDE, SIDE), pil.Image.Resampling.BOX)
        here = _Thumbnail(np.asarray(image))
        if before is not None:
            yield (
                float(np.abs(here.blocks - before.blocks).mean()),
                float(np.abs(here.colors - before.colors).sum() / 2),
                float(np.abs(here.luma - before.luma).mean()),
            )
        before = here


def find_cuts(steps: FrameSteps, thresholds: CutThresholds) -> Int64[np.ndarray, "M"]:
    """The numbers of the frames that begin a shot, without the first frame.

    Args:
      steps: `frame_steps` of a video.
      thresholds: What makes a cut.
    """
    is_large = (steps.difference >= thresholds.difference) & (steps.colors >= thresholds.colors)
    found = [
        step
        for step in np.flatnonzero(is_large).tolist()
        if any(
            values[step] >= thresholds.ratio * _median_around(values, step, thresholds.window)
            for values in (steps.difference, steps.colors)
        )
    ]
    return np.array(found, np.int64) + 1


def _median_around(values_N: Float[np.ndarray, "N"], step: int, window: int) -> float:
    """The median of the steps around one, without it; 0 where there are none."""
    around = np.concatenate(
        [values_N[max(0, step - window) : step], values_N[step + 1 : step + 1 + window]]
    )
    return float(np.median(around)) if len(around) else 0.0


def shots_of(cuts_M: Int64[np.ndarray, "M"], frames: int) -> list[tuple[int, int]]:
    """The first frame and the number of frames of each shot.

    Args:
      cuts_M: `find_cuts`.
      frames: Of the video.
    """
    edges = [0, *cuts_M.tolist(), frames]
    return [(first, stop - first) for first, stop in itertools.pairwise(edges)]


def motion_score(steps: FrameSteps, first: int, frames: int) -> float:
    """The motion of a shot: the mean over the steps inside of it; 0 for a single frame."""
    inside = steps.motion[first : first + frames - 1]
    return float(inside.mean()) if len(inside) else 0.0
