"""How far two surfaces are from each other: chamfer distance, and the angle between normals.

With N uniform random points p of the first surface and N of the second, q,

    d_12 = mean over p of min over q of |p - q|,    d_21 = mean over q of min over p of |p - q|,
    chamfer = (d_12 + d_21) / 2,

of distances, not of their squares. Normals are those of the faces that points are on, and their
angle is that between a point and its nearest one, the mean over both directions as well.

Two samples of one surface are not 0 apart: about sqrt(area / N) / 2.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxgen.geometry.triangle_mesh import Mesh, face_vectors, sample_surface, unit_vectors


class SurfaceDistance(NamedTuple):
    """The distance of two surfaces.

    Attributes:
      chamfer: The mean of both directions.
      from_first: From points of the first surface to the second.
      from_second: From points of the second to the first.
      normal_degrees: The mean angle between normals at nearest points; 180 where a surface is
        turned inside out.
      points: N, of each surface.
    """

    chamfer: float
    from_first: float
    from_second: float
    normal_degrees: float
    points: int


def surface_distance(
    first: Mesh, second: Mesh, points: int = 100_000, seed: int = 0
) -> SurfaceDistance:
    """Compares two surfaces: see the module.

    Args:
      first: A mesh.
      second: Another, in the same coordinates.
      points: N, how many points of each.
      seed: What the points follow from.

    Raises:
      InputError: `check_surface` refuses a mesh, it has no area, or N is not 1 or more.
    """
    samples = [
        _sample(mesh, points, 2 * seed + offset) for offset, mesh in enumerate((first, second))
    ]
    (from_first, one_way), (from_second, other_way) = (
        _compare(*samples),
        _compare(*samples[::-1]),
    )
    return SurfaceDistance(
        (from_first + from_second) / 2, from_first, from_second, (one_way + other_way) / 2, points
    )


def _sample(mesh: Mesh, points: int, seed: int) -> tuple[Float64[np.ndarray, "N 3"], ...]:
    """Points, and normals there."""
    places_N3, face_N = sample_surface(mesh, points, seed)
    return places_N3, unit_vectors(face_vectors(mesh))[face_N]


def _compare(own: Any, others: Any) -> tuple[float, float]:
    """Mean distance to the nearest of the others, and mean angle in degrees."""
    from scipy.spatial import cKDTree

    distance_N, nearest_N = cKDTree(others[0]).query(own[0])
    cosine_N = np.einsum("na,na->n", own[1], others[1][nearest_N])
    return float(distance_N.mean()), float(np.degrees(np.arccos(np.clip(cosine_N, -1, 1))).mean())
