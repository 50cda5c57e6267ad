"""The surface of a density or of a signed distance as a mesh. Alone in importing scikit-image.

The surface is where the density, interpolated linearly along the edges of the grid's cells, equals
a threshold. The cells' cases are those of Lewiner et al. 2003, "Efficient implementation of
marching cubes' cases with topological guarantees", which leave no holes. The density of a radiance
field jumps by orders of magnitude from one point of a grid to the next; there the surface lies
close to the outer of the two points, and shows steps of the size of a cell.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from jaxgen.errors import InputError
from jaxgen.geometry.triangle_mesh import Mesh, unit_vectors

OUTSIDE = -1e9
"""Of the empty space around a box, less than any value in it: a closed surface ends at the box."""

BINS = 1024
"""Of the histogram in which a threshold is found."""

STEEPEST = 1e9
"""Ratio of two differences beside which the smaller one is nothing to a vertex in float32."""


def marching_cubes(
    density_XYZ: Float[Any, "X Y Z"],
    low: Sequence[float],
    high: Sequence[float],
    threshold: float | None = None,
    *,
    closed: bool = False,
) -> Mesh:
    """The surface around all places of a density above a threshold, with its normals.

    The mesh is closed where the surface stays inside of the box. Where it leaves it, the mesh is
    open, or with `closed` has the box's faces there. Where densities are equal to the threshold or
    next to it, and at edges of the box, faces may have no area.

    Args:
      density_XYZ: Values on a regular grid of 2 or more points along each axis. The first and last
        points lie on the box's faces: point i of X is at ``low + (high - low) i / (X - 1)``.
      low: (x, y, z) of the box's lowest corner.
      high: The highest corner's.
      threshold: The density of the surface; None for that of `solid_threshold`.
      closed: Whether all is empty outside of the box.

    Returns:
      A mesh in the coordinates of the box. Faces and normals point to lower densities.

    Raises:
      InputError: The density is not [X, Y, Z] of real numbers, not finite (in float32), or too
        small; the box is empty; no density is on one side of the threshold, so that there is no
        surface; or scikit-image is not installed.
    """
    values_XYZ = _check_grid("density", density_XYZ)
    low_3, high_3 = _check_box(low, high)
    if threshold is None:
        threshold = solid_threshold(values_XYZ)
    least, most = float(values_XYZ.min()), float(values_XYZ.max())
    fault = f"threshold is {threshold:.6g}, expected one with a surface between the least density, "
    fault += f"{least:.6g}, and the largest, {most:.6g}"
    return _mesh_above(values_XYZ, threshold, (low_3, high_3), closed, fault)


def distance_surface(
    distance_XYZ: Float[Any, "X Y Z"],
    low: Sequence[float],
    high: Sequence[float],
    *,
    closed: bool = False,
) -> Mesh:
    """The surface where a signed distance, below zero inside, is zero; with its normals.

    Args:
      distance_XYZ: Values on a grid, as for `marching_cubes`.
      low: (x, y, z) of the box's lowest corner.
      high: The highest corner's.
      closed: As for `marching_cubes`.

    Returns:
      A mesh in the coordinates of the box. Faces and normals point to larger distances.

    Raises:
      InputError: As for `marching_cubes`; no distance is below zero, or none above.
    """
    values_XYZ = _check_grid("distance", distance_XYZ)
    box = _check_box(low, high)
    fault = f"distance is {_range(values_XYZ)} everywhere, expected numbers below 0 inside of a "
    fault += "surface and above 0 outside"
    return _mesh_above(-values_XYZ, 0.0, box, closed, fault)


def _mesh_above(
    values_XYZ: Float32[np.ndarray, "X Y Z"],
    threshold: float,
    box: tuple[Any, Any],
    closed: bool,
    fault: str,
) -> Mesh:
    """The surface around values above a threshold; without one, an error of that text."""
    if not float(values_XYZ.min()) < threshold < float(values_XYZ.max()):
        raise InputError(fault)
    vertices_V3, faces_F3, normals_V3 = _surface(values_XYZ, threshold, closed)
    if not len(faces_F3):
        raise InputError(fault)
    low_3, high_3 = box
    spacing_3 = (high_3 - low_3) / np.subtract(values_XYZ.shape, 1)
    return Mesh(
        (low_3 + spacing_3 * vertices_V3).astype(np.float32),
        faces_F3.astype(np.int32),
        # A gradient along axes of other units; +Z where the values have no slope.
        unit_vectors(normals_V3 / spacing_3).astype(np.float32),
    )


def solid_threshold(density_XYZ: Float[Any, "*grid"]) -> float:
    """The density that separates solid from empty space best.

    Otsu's method (1979, "A threshold selection method from gray-level histograms") on u =
    log(1 + max(density, 0)), as densities of a radiance field span orders of magnitude: of the
    thresholds between the bins of a histogram, the one with the largest ``p q (m_p - m_q)^2``, p
    and q the shares of places below and above it and m the means of u there. Where bins are empty
    between the two groups, it is their middle. Solids of less than about one place in a thousand
    may be missed where the space around them is not quite empty: they need a threshold of their
    own.

    Raises:
      InputError: The densities are not finite real numbers, or all are equal or none is positive.
    """
    values = _check_numbers("density", density_XYZ)
    logs = np.log1p(np.maximum(values, 0).astype(np.float64)).ravel()
    if not values.size or logs.min() == logs.max():
        raise InputError(
            f"density is {_range(values)} everywhere, expected a solid in empty space, for a "
            "threshold between them"
        )
    counts_N, edges = np.histogram(logs, BINS)
    split = _otsu(counts_N, (edges[:-1] + edges[1:]) / 2)
    return float(np.expm1((edges[split[0]] + edges[split[1]]) / 2))


def _range(values: np.ndarray) -> str:
    if not values.size:
        return "empty"
    least, most = float(values.min()) + 0.0, float(values.max()) + 0.0  # no -0
    return f"{least:.6g}" if least == most else f"{least:.6g} to {most:.6g}"


def _otsu(counts_N: Int64[np.ndarray, "N"], centres_N: Float[np.ndarray, "N"]) -> tuple[int, int]:
    """The first and the last of the equally good edges of bins at which a histogram is split."""
    share_N = counts_N / counts_N.sum()
    below_N = np.cumsum(share_N)[:-1]
    sum_N = np.cumsum(share_N * centres_N)
    # p q (m_p - m_q)^2 with m_p = s / p and m_q = (m - s) / q
    between_N = (sum_N[-1] * below_N - sum_N[:-1]) ** 2 / (below_N * (1 - below_N))
    first = int(np.argmax(between_N)) + 1
    return first, first + int(np.argmax(counts_N[first:] > 0))


def _surface(
    values_XYZ: Float32[np.ndarray, "X Y Z"], threshold: float, closed: bool
) -> tuple[Any, Any, Any]:
    """Vertices in units of the grid, faces, and normals of no certain length."""
    above_XYZ = _above(values_XYZ, threshold)
    if closed:
        above_XYZ = np.pad(above_XYZ, 1, constant_values=OUTSIDE)
    try:
        vertices_V3, faces_F3, normals_V3, _ = _import_measure().marching_cubes(
            above_XYZ,
            0.0,
            gradient_direction="ascent",  # faces turn outwards where the inside is the larger
            method="lewiner",
        )
    except RuntimeError:  # no cell has the surface in it
        nothing = np.zeros((0, 3))
        return nothing, nothing, nothing
    if closed:  # what is beside the box's faces by the rounding of float32 is on them
        vertices_V3 = np.clip(vertices_V3 - 1, 0, np.subtract(values_XYZ.shape, 1))
    return vertices_V3.astype(np.float64), faces_F3, normals_V3.astype(np.float64)


def _above(
    values_XYZ: Float32[np.ndarray, "X Y Z"], threshold: float
) -> Float32[np.ndarray, "X Y Z"]:
    """Values less the threshold, in a unit that scikit-image's 1e-7 beside differences is small to.

    Values of exactly 0, at which it would leave holes, are taken for empty space.
    """
    above_XYZ = values_XYZ.astype(np.float64) - threshold
    above_XYZ /= min(above_XYZ.max(), -above_XYZ.min())
    above_XYZ = np.clip(above_XYZ, -STEEPEST, STEEPEST).astype(np.float32)
    above_XYZ[above_XYZ == 0] = -np.finfo(np.float32).eps
    return above_XYZ


def _check_grid(name: str, values: Any) -> Float32[np.ndarray, "X Y Z"]:
    values_XYZ = _check_numbers(name, values)
    if values_XYZ.ndim != 3 or min(values_XYZ.shape) < 2:
        raise InputError(
            f"{name} has shape {list(values_XYZ.shape)}, expected [X, Y, Z] of 2 or more each"
        )
    return values_XYZ


def _check_numbers(name: str, given: Any) -> Float32[np.ndarray, "*grid"]:
    values = np.asarray(given)
    if values.dtype.kind not in "fiu" and values.dtype.name != "bfloat16":
        raise InputError(f"{name} has type {values.dtype}, expected real numbers")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    wrong = int(np.sum(~np.isfinite(values)))
    if wrong:
        raise InputError(
            f"{name} has {wrong} of {values.size} values that are NaN or infinite in "
            "float32, expected finite numbers"
        )
    return values


def _check_box(low: Any, high: Any) -> tuple[Any, Any]:
    low_3, high_3 = np.asarray(low, np.float64), np.asarray(high, np.float64)
    box = f"box from {low_3.tolist()} to {high_3.tolist()}"
    if low_3.shape != (3,) or high_3.shape != (3,):
        raise InputError(f"{box}, expected two corners of three coordinates")
    if not (np.isfinite([low_3, high_3]).all() and (low_3 < high_3).all()):
        raise InputError(f"{box}, expected finite corners, the first below the second on each axis")
    return low_3, high_3


def _import_measure() -> Any:
    try:
        import skimage.measure
    except ImportError as error:
        raise InputError(
            f"marching cubes need the package scikit-image, extra jaxgen[experiments] ({error})"
        ) from error
    return skimage.measure
