"""Meshes with fewer pieces and fewer faces. The one module that imports fast-simplification."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from jaxgen.errors import InputError, check_share
from jaxgen.geometry.triangle_mesh import (
    Mesh,
    check_surface,
    face_areas,
    merged_places,
    with_faces,
)

FEWEST = 4
"""Faces of a closed surface: a tetrahedron's."""


def drop_small_pieces(mesh: Mesh, share: float = 0.01) -> Mesh:
    """The mesh without its small pieces, such as specks that float around a surface.

    Faces are of one piece that have a vertex in common, or vertices at the same place. Vertices of
    no face go as well.

    Args:
      mesh: The mesh.
      share: Pieces of less than this share of the largest piece's area go; 0 keeps all, 1 the
        largest alone.

    Raises:
      InputError: As for `check_surface`, or the share is not in [0, 1].
    """
    check_surface(mesh)
    check_share("share", share)
    piece_F = _pieces(mesh)
    areas = np.bincount(piece_F, face_areas(mesh))
    return with_faces(mesh, mesh.faces_F3[(areas >= share * areas.max())[piece_F]])


def largest_component(mesh: Mesh) -> Mesh:
    """The connected piece with the most faces, without the floating pieces around it.

    Faces are connected as in `drop_small_pieces`. Of pieces of the same size it is the one with the
    first face.

    Raises:
      InputError: As for `check_surface`.
    """
    check_surface(mesh)
    piece_F = _pieces(mesh)
    sizes = np.bincount(piece_F)
    return with_faces(mesh, mesh.faces_F3[piece_F == piece_F[np.argmax(sizes[piece_F])]])


def count_pieces(mesh: Mesh) -> int:
    """The number of pieces, as `drop_small_pieces` tells them apart."""
    return len(np.unique(_pieces(mesh)))


def _pieces(mesh: Mesh) -> Integer[np.ndarray, "F"]:
    """The piece that each face is of."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    faces_F3 = merged_places(mesh)[mesh.faces_F3]
    start_N, end_N = faces_F3[:, :2].ravel(), faces_F3[:, 1:].ravel()
    size = len(mesh.vertices_V3)
    edges = coo_array((np.ones(len(start_N), bool), (start_N, end_N)), shape=(size, size))
    return connected_components(edges, directed=False)[1][faces_F3[:, 0]]


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with fewer faces, by collapsing edges where that changes it least.

    Quadric edge collapse (Garland & Heckbert 1997, "Surface simplification using quadric error
    metrics"). Vertices move, not out of the box around the mesh; each has the normal and the colour
    of the nearest one before. Vertices at one place become one, and a texture with its coordinates
    is left out.

    Args:
      mesh: The mesh.
      faces: How many to have, about: collapses end at this number or just above, and keep the edges
        of an open surface as they are. A mesh of no more faces stays as it is.

    Raises:
      InputError: As for `check_surface`, `faces` is less than 4, nothing would be left, or
        fast-simplification is not installed.
    """
    from scipy.spatial import KDTree

    check_surface(mesh)
    if faces < FEWEST:
        raise InputError(f"faces is {faces}, expected {FEWEST} or more")
    if len(mesh.faces_F3) <= faces:
        return mesh
    whole = without_seams(mesh)
    places, corners = _import_simplification().simplify(
        whole.vertices_V3.astype(np.float64),
        whole.faces_F3,
        target_count=faces,
        preserve_border=True,
    )
    # The place of the least error may lie outside: on a field that is cut off at its box, say.
    places = np.clip(places, whole.vertices_V3.min(axis=0), whole.vertices_V3.max(axis=0))
    fewer = Mesh(places.astype(np.float32), _proper_faces(corners.astype(np.int32)))
    if not len(fewer.faces_F3):
        raise InputError(f"faces is {faces}, expected more: nothing is left of the mesh")
    fewer = with_faces(fewer, fewer.faces_F3)
    nearest_V = KDTree(whole.vertices_V3).query(fewer.vertices_V3)[1]
    normals, colours = (
        None if values is None else values[nearest_V]
        for values in (whole.normals_V3, whole.colours_V3)
    )
    return Mesh(fewer.vertices_V3, fewer.faces_F3, normals, colours)


def without_seams(mesh: Mesh) -> Mesh:
    """The mesh with one vertex at each place, that of the first there, and without a texture.

    Faces of which two corners are at one place go, and pairs that lie on each other back to back.

    Raises:
      InputError: No face is left.
    """
    faces_F3 = _proper_faces(merged_places(mesh)[mesh.faces_F3].astype(np.int32))
    if not len(faces_F3):
        raise InputError("mesh has no face with corners at three places, expected one or more")
    return with_faces(replace(mesh, uv_V2=None, texture=None), faces_F3)


def _proper_faces(faces_F3: Int32[np.ndarray, "F 3"]) -> Int32[np.ndarray, "M 3"]:
    """Faces of three different vertices, without pairs that lie on each other back to back."""
    found_F3 = faces_F3[(faces_F3 != np.roll(faces_F3, 1, axis=1)).all(axis=1)]
    first_F1 = found_F3.argmin(axis=1, keepdims=True)
    turned_F3 = np.take_along_axis(found_F3, (first_F1 + np.arange(3)) % 3, axis=1)
    side_F = np.where(turned_F3[:, 1] < turned_F3[:, 2], 1, -1)
    _, same_F = np.unique(np.sort(found_F3, axis=1), axis=0, return_inverse=True)
    return found_F3[np.bincount(same_F, side_F)[same_F] != 0]


def _import_simplification() -> Any:
    try:
        import fast_simplification
    except ImportError as error:
        raise InputError(
            f"fewer faces need the package fast-simplification, extra jaxgen[experiments] ({error})"
        ) from error
    return fast_simplification
