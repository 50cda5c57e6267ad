"""Drawing of shapes in numpy: how much of each pixel a shape covers, from samples inside of it.

A shape is a test of points (u, v) in units of its radius, u to the right and v downwards. The
coverage c of a pixel is the share of `SAMPLES` x `SAMPLES` points in it that are inside, and the
pixel ``background (1 - c) + colour c``, rounded. Only the square about a shape is looked at.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Integer, UInt8

SAMPLES = 8
"""Along each side of a pixel."""
_AT_ONCE = 64  # shapes: their samples then fit the cache

Inside = Callable[[Float[np.ndarray, "..."], Float[np.ndarray, "..."]], Bool[np.ndarray, "..."]]


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (v <= 0.5) & (math.sqrt(3) * np.abs(u) <= 1 + v)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A pentagram, its point up: inside are points beyond one of five lines at most."""
    beyond = np.zeros(np.broadcast_shapes(u.shape, v.shape), np.int8)
    for angle in math.pi / 2 + 2 * math.pi * np.arange(5) / 5:
        beyond += u * math.cos(angle) - v * math.sin(angle) > math.cos(2 * math.pi / 5)
    return beyond <= 1


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return (np.maximum(u, v) <= 1) & (np.minimum(u, v) <= 1 / 3)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    square = u * u + v * v
    return (square <= 1) & (square >= 0.3)


INSIDE: Mapping[str, Inside] = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "square": lambda u, v: (np.abs(u) <= 0.8) & (np.abs(v) <= 0.8),
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "diamond": lambda u, v: np.abs(u) + np.abs(v) <= 1,
}
"""Whether points are inside of a shape of radius 1 about the origin."""


def paint(
    images_NYXC: UInt8[np.ndarray, "N Y X 3"],
    index_M: Integer[np.ndarray, "M"],
    shape: str,
    centre_M2: Float[np.ndarray, "M 2"],
    radius_M: Float[np.ndarray, "M"],
    colour_M3: UInt8[np.ndarray, "M 3"],
) -> None:
    """Paints one shape into each of some square images, in place; it may reach over their borders.

    Args:
      images_NYXC: The images.
      index_M: Which of them, each once.
      shape: Of `INSIDE`.
      centre_M2: Row and column of the centres, in pixels from the upper left corner.
      radius_M: In pixels.
      colour_M3: Of the shapes.
    """
    for start in range(0, len(index_M), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        coverage_MYX, corner_M2 = _coverage(shape, centre_M2[some], radius_M[some])
        _blend(images_NYXC, index_M[some], coverage_MYX, corner_M2, colour_M3[some])


def _coverage(
    shape: str, centre_M2: Float[np.ndarray, "M 2"], radius_M: Float[np.ndarray, "M"]
) -> tuple[Float32[np.ndarray, "M Y X"], Int[np.ndarray, "M 2"]]:
    """The coverage of the pixels about each shape, and the upper left ones of these."""
    side = math.ceil(2 * radius_M.max(initial=0)) + 2
    corner_M2 = np.floor(centre_M2 - radius_M[:, None]).astype(np.int64)
    points = (np.arange(side * SAMPLES) + 0.5) / SAMPLES
    offset_M2 = corner_M2 - centre_M2
    v, u = (
        ((points + offset_M[:, None]) / radius_M[:, None]).astype(np.float32)
        for offset_M in offset_M2.T
    )
    inside = INSIDE[shape](u[:, None, :], v[:, :, None])
    counts = inside.reshape(-1, SAMPLES).sum(1, dtype=np.float32)
    counts = counts.reshape(len(centre_M2), side, SAMPLES, side).sum(2)
    return counts / np.float32(SAMPLES**2), corner_M2


def _blend(
    images_NYXC: UInt8[np.ndarray, "N Y X 3"],
    index_M: Integer[np.ndarray, "M"],
    coverage_MYX: Float32[np.ndarray, "M Y2 X2"],
    corner_M2: Int[np.ndarray, "M 2"],
    colour_M3: UInt8[np.ndarray, "M 3"],
) -> None:
    height, width = images_NYXC.shape[1:3]
    number = np.arange(coverage_MYX.shape[1])
    row_MY, column_MX = (corner_M[:, None] + number for corner_M in corner_M2.T)
    seen = ((row_MY >= 0) & (row_MY < height))[:, :, None]
    seen = seen & ((column_MX >= 0) & (column_MX < width))[:, None, :] & (coverage_MYX > 0)
    which, row, column = np.nonzero(seen)
    place = (index_M[which], row_MY[which, row], column_MX[which, column])
    share = coverage_MYX[which, row, column][:, None]
    blended = images_NYXC[place] * (1 - share) + colour_M3[which] * share
    images_NYXC[place] = np.rint(blended).astype(np.uint8)
