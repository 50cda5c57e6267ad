"""Triangle meshes as arrays: what they are made of, and what is measured on them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, Integer, UInt8

from jaxgen.errors import InputError


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with common vertices.

    Where a texture has a seam, two vertices are at one place, each with its own coordinates of the
    texture.

    Attributes:
      vertices_V3: positions (x, y, z).
      faces_F3: the vertices of each triangle, counter-clockwise as seen from outside.
      normals_V3: unit vectors outwards, or None.
      colours_V3: red, green, blue of 0 to 255 in sRGB, as in images, or None.
      uv_V2: coordinates of the texture, (0, 0) in its lower left corner and (1, 1) in its upper
        right one, or None.
      texture: uint8 [Y, X, 3], sRGB, row 0 at the top, or None. It needs `uv_V2`.
    """

    vertices_V3: Float32[np.ndarray, "V 3"]
    faces_F3: Int32[np.ndarray, "F 3"]
    normals_V3: Float32[np.ndarray, "V 3"] | None = None
    colours_V3: UInt8[np.ndarray, "V 3"] | None = None
    uv_V2: Float32[np.ndarray, "V 2"] | None = None
    texture: UInt8[np.ndarray, "Y X 3"] | None = None


def check_surface(mesh: Mesh, name: str = "mesh") -> None:
    """Refuses a mesh that no file should hold.

    Args:
      mesh: the mesh.
      name: what it is called in an error.

    Raises:
      InputError: There are no faces or no vertices, a face names a vertex that is not there, a
        number is not finite, a texture has no coordinates, or a shape or type is not that of
        `Mesh`.
    """
    _check_array(f"{name}: vertices", mesh.vertices_V3, np.float32)
    _check_array(f"{name}: faces", mesh.faces_F3, np.int32)
    count = len(mesh.vertices_V3)
    if not count or not len(mesh.faces_F3):
        raise InputError(
            f"{name} has {count} vertices and {len(mesh.faces_F3)} faces, expected one or more"
        )
    low, high = mesh.faces_F3.min(), mesh.faces_F3.max()
    if low < 0 or high >= count:
        raise InputError(
            f"{name}: faces have vertices {low} to {high}, expected them in [0, {count})"
        )
    if mesh.normals_V3 is not None:
        _check_array(f"{name}: normals", mesh.normals_V3, np.float32, count)
    if mesh.colours_V3 is not None:
        _check_array(f"{name}: colours", mesh.colours_V3, np.uint8, count)
    if mesh.uv_V2 is not None:
        _check_array(f"{name}: texture coordinates", mesh.uv_V2, np.float32, count, 2)
    if mesh.texture is not None:
        _check_texture(name, mesh.texture)
        if mesh.uv_V2 is None:
            raise InputError(f"{name}: texture coordinates are missing, expected some")


def _check_texture(name: str, texture: Any) -> None:
    kind, shape = getattr(texture, "dtype", type(texture).__name__), np.shape(texture)
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or not np.prod(shape):
        raise InputError(f"{name}: texture is {kind} {list(shape)}, expected uint8 [Y, X, 3]")


def _check_array(
    name: str, values: Any, dtype: Any, rows: int | None = None, columns: int = 3
) -> None:
    kind, shape = getattr(values, "dtype", type(values).__name__), list(np.shape(values))
    if kind != dtype or len(shape) != 2 or shape[1] != columns or rows not in (None, shape[0]):
        expected = f"[{'N' if rows is None else rows}, {columns}]"
        raise InputError(f"{name} are {kind} {shape}, expected {np.dtype(dtype)} {expected}")
    finite_N = np.isfinite(values).all(axis=1)
    if not finite_N.all():
        raise InputError(
            f"{name}: number {finite_N.argmin()} is {values[finite_N.argmin()].tolist()}, "
            "expected finite numbers"
        )


def with_faces(mesh: Mesh, faces_F3: Int32[np.ndarray, "F 3"]) -> Mesh:
    """Some of a mesh's faces, and the vertices that they need, in the same order."""
    used, corners = np.unique(faces_F3, return_inverse=True)
    normals, colours, uv = (
        None if values is None else values[used]
        for values in (mesh.normals_V3, mesh.colours_V3, mesh.uv_V2)
    )
    return replace(
        mesh,
        vertices_V3=mesh.vertices_V3[used],
        faces_F3=corners.reshape(faces_F3.shape).astype(np.int32),
        normals_V3=normals,
        colours_V3=colours,
        uv_V2=uv,
    )


def turned_mesh(mesh: Mesh, rotation: Float32[np.ndarray, "3 3"]) -> Mesh:
    """A mesh in other axes."""
    normals = mesh.normals_V3
    return replace(
        mesh,
        vertices_V3=mesh.vertices_V3 @ rotation.T,
        normals_V3=None if normals is None else normals @ rotation.T,
    )


def merged_places(mesh: Mesh) -> Integer[np.ndarray, "V"]:
    """For each vertex the number of the first one that is at the same place."""
    order_V = np.lexsort(mesh.vertices_V3.T)  # stable: of one place the first comes first
    ordered_V3 = mesh.vertices_V3[order_V]
    new_V = np.ones(len(ordered_V3), bool)
    new_V[1:] = (ordered_V3[1:] != ordered_V3[:-1]).any(axis=1)
    first_V = np.empty_like(order_V)
    first_V[order_V] = order_V[new_V][np.cumsum(new_V) - 1]
    return first_V


def corner_places(mesh: Mesh) -> Float64[np.ndarray, "F 3 3"]:
    """The positions of each face's corners."""
    return mesh.vertices_V3.astype(np.float64)[mesh.faces_F3]


def face_vectors(mesh: Mesh) -> Float64[np.ndarray, "F 3"]:
    """Vectors outwards at right angles to each face, of the length of its area."""
    corners_F33 = corner_places(mesh)
    along_F3, other_F3 = (corners_F33[:, i] - corners_F33[:, 0] for i in (1, 2))
    return np.cross(along_F3, other_F3) / 2


def face_areas(mesh: Mesh) -> Float64[np.ndarray, "F"]:
    """The area of each face."""
    return np.linalg.norm(face_vectors(mesh), axis=1)


def enclosed_volume(mesh: Mesh) -> float:
    """The volume inside a closed mesh, below zero where its faces turn inwards.

    Example:
      >>> corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
      >>> faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
      >>> round(enclosed_volume(Mesh(corners, faces)), 6)
      0.166667
    """
    first_F3 = corner_places(mesh)[:, 0]
    return float(np.sum((first_F3 - first_F3.mean(axis=0)) * face_vectors(mesh)) / 3)


def is_closed(mesh: Mesh) -> bool:
    """Whether each edge has faces on both sides, as many in one direction as in the other.

    Vertices at one place are one, so that seams of a texture are no gaps.
    """
    faces_F3 = merged_places(mesh)[mesh.faces_F3]
    start_N, end_N = (np.roll(faces_F3, -i, axis=1).ravel() for i in (0, 1))
    count = len(mesh.vertices_V3)
    forth, back = (np.sort(a * count + b) for a, b in ((start_N, end_N), (end_N, start_N)))
    return bool(np.array_equal(forth, back))


def smooth_normals(mesh: Mesh) -> Float32[np.ndarray, "V 3"]:
    """Unit normals at the vertices: the mean of the faces around each place, by their areas.

    +Z where there is no face with an area.
    """
    place_V = merged_places(mesh)
    sums_V3 = np.zeros((len(mesh.vertices_V3), 3))
    vectors_F3, corners_F3 = face_vectors(mesh), place_V[mesh.faces_F3]
    for i in range(3):
        for axis in range(3):
            sums_V3[:, axis] += np.bincount(
                corners_F3[:, i], vectors_F3[:, axis], minlength=len(sums_V3)
            )
    return unit_vectors(sums_V3[place_V]).astype(np.float32)


def unit_vectors(vectors_N3: Any) -> Float64[np.ndarray, "N 3"]:
    """Vectors at unit length; +Z for those of no length."""
    length_N1 = np.linalg.norm(np.asarray(vectors_N3, np.float64), axis=1, keepdims=True)
    somewhere_N3 = np.where(length_N1 > 0, vectors_N3, [0, 0, 1])
    return somewhere_N3 / np.where(length_N1 > 0, length_N1, 1)


def sample_surface(
    mesh: Mesh, count: int, seed: int = 0
) -> tuple[Float64[np.ndarray, "N 3"], Integer[np.ndarray, "N"]]:
    """Uniform random points of a surface.

    Args:
      mesh: The surface.
      count: How many.
      seed: What they follow from.

    Returns:
      The points, and the face that each is on.

    Raises:
      InputError: As for `check_surface`, no face has an area, or `count` is 0 or less.
    """
    check_surface(mesh)
    if count < 1:
        raise InputError(f"count is {count}, expected 1 or more")
    ends_F = np.cumsum(face_areas(mesh))
    if not ends_F[-1] > 0:
        raise InputError("mesh has no area, expected a face that has one")
    rng = np.random.default_rng(seed)
    face_N = np.searchsorted(ends_F, rng.uniform(0, ends_F[-1], count), side="right")
    face_N = np.minimum(face_N, np.flatnonzero(np.diff(ends_F, prepend=0) > 0)[-1])
    # Uniform in a triangle: the root makes places near the first corner as rare as they are few.
    root_N1, share_N1 = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    first_N3, second_N3, third_N3 = np.moveaxis(corner_places(mesh)[face_N], 1, 0)
    points_N3 = (1 - root_N1) * first_N3 + root_N1 * (
        (1 - share_N1) * second_N3 + share_N1 * third_N3
    )
    return points_N3, face_N
