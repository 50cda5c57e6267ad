"""Where rays first meet a mesh. The one module that imports embreex.

Embree finds the triangle, in float32; where on it the ray is follows in float64 (Möller & Trumbore
1997), so that depth is exact.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

from jaxgen.errors import InputError
from jaxgen.geometry.triangle_mesh import Mesh, check_surface, corner_places

UNIT = 100.0
"""Size to which a mesh is scaled for Embree, whose tolerances are of that order."""
GRAZING = 1e-9
"""A ray and a triangle that are so close to parallel meet where float32 says."""


class MeshHits(NamedTuple):
    """Where rays first meet a mesh.

    Attributes:
      distance_R: Along the ray, inf where it meets nothing.
      face_R: Which face, -1 where none.
      weights_R3: Of the face's corners at the place: barycentric coordinates, 0 where nothing is.
    """

    distance_R: Float64[np.ndarray, "R"]
    face_R: Integer[np.ndarray, "R"]
    weights_R3: Float64[np.ndarray, "R 3"]

    @property
    def met_R(self) -> Bool[np.ndarray, "R"]:
        """Which rays meet the mesh."""
        return self.face_R >= 0


RayCaster = Callable[[Float[np.ndarray, "R 3"], Float[np.ndarray, "R 3"]], MeshHits]


def make_ray_caster(mesh: Mesh) -> RayCaster:
    """``(origins, directions) -> MeshHits`` of a mesh's faces, from both of their sides.

    Directions are unit vectors.

    Raises:
      InputError: As for `check_surface`, or embreex is not installed.
    """
    check_surface(mesh)
    corners_F33 = corner_places(mesh)
    low_3, high_3 = corners_F33.min(axis=(0, 1)), corners_F33.max(axis=(0, 1))
    scale, middle_3 = UNIT / max(float((high_3 - low_3).max()), 1e-300), (low_3 + high_3) / 2
    search = _make_search(scale * (mesh.vertices_V3 - middle_3), mesh.faces_F3)

    def cast(origin_R3: Float[np.ndarray, "R 3"], direction_R3: Float[np.ndarray, "R 3"]) -> Any:
        count = len(origin_R3)
        face_R, coarse_R = search(scale * (origin_R3 - middle_3), direction_R3)
        met_R = face_R >= 0
        distance_R, weights_R3 = np.full(count, np.inf), np.zeros((count, 3))
        distance_R[met_R], weights_R3[met_R] = _meet(
            corners_F33[face_R[met_R]],
            np.asarray(origin_R3, np.float64)[met_R],
            np.asarray(direction_R3, np.float64)[met_R],
            coarse_R[met_R] / scale,
        )
        return MeshHits(distance_R, face_R, weights_R3)

    return cast


def _make_search(vertices_V3: Any, faces_F3: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """``(origins, directions) -> (faces, distances)`` in float32, -1 and what comes for none."""
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        raise InputError(
            f"rays against meshes need the package embreex, extra jaxgen[data] ({error})"
        ) from error
    scene = EmbreeScene(robust=True)  # no gaps between neighbours
    TriangleMesh(scene, vertices_V3.astype(np.float32), faces_F3.astype(np.int32))

    def search(origin_R3: Any, direction_R3: Any) -> tuple[Any, Any]:
        origin_R3, direction_R3 = (
            np.ascontiguousarray(rays_R3, np.float32) for rays_R3 in (origin_R3, direction_R3)
        )
        found = scene.run(origin_R3, direction_R3, output=True)
        return found["primID"], found["tfar"].astype(np.float64)

    return search


def _meet(
    corners_R33: Float64[np.ndarray, "R 3 3"],
    origin_R3: Float64[np.ndarray, "R 3"],
    direction_R3: Float64[np.ndarray, "R 3"],
    coarse_R: Float64[np.ndarray, "R"],
) -> tuple[Float64[np.ndarray, "R"], Float64[np.ndarray, "R 3"]]:
    """Distances to the planes of triangles, and the weights of their corners there."""
    first_R3, second_R3, third_R3 = np.moveaxis(corners_R33, 1, 0)
    along_R3, other_R3, from_R3 = second_R3 - first_R3, third_R3 - first_R3, origin_R3 - first_R3
    normal_R3 = np.cross(along_R3, other_R3)
    square_R = np.maximum(_dot(normal_R3, normal_R3), 1e-300)
    facing_R = _dot(normal_R3, direction_R3)
    clear_R = np.abs(facing_R) > GRAZING * np.sqrt(square_R)
    exact_R = -_dot(normal_R3, from_R3) / np.where(clear_R, facing_R, 1)
    distance_R = np.where(clear_R & (exact_R > 0), exact_R, coarse_R)
    inside_R3 = from_R3 + distance_R[:, None] * direction_R3
    second_R = _dot(np.cross(inside_R3, other_R3), normal_R3) / square_R
    third_R = _dot(np.cross(along_R3, inside_R3), normal_R3) / square_R
    weights_R3 = np.clip(np.stack([1 - second_R - third_R, second_R, third_R], axis=1), 0, 1)
    return distance_R, weights_R3 / weights_R3.sum(axis=1, keepdims=True)


def _dot(left_R3: np.ndarray, right_R3: np.ndarray) -> np.ndarray:
    return np.einsum("ra,ra->r", left_R3, right_R3)


def mix_corners(values_F3: Float[np.ndarray, "F 3 *C"], hits: MeshHits) -> np.ndarray:
    """Values of each face's corners, mixed at the places that rays meet, of these rays alone."""
    met_R = hits.met_R
    return np.einsum("rk,rkc->rc", hits.weights_R3[met_R], values_F3[hits.face_R[met_R]])
