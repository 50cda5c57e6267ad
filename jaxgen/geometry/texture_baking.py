"""Textures of meshes: surfaces cut and laid flat, and their colours. Alone in importing xatlas."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Integer, UInt8

from jaxgen.errors import InputError
from jaxgen.geometry.triangle_mesh import (
    Mesh,
    check_surface,
    face_areas,
    smooth_normals,
    unit_vectors,
)

PADDING = 2
"""Texels between two charts, about."""
FILLED = 0.6
"""Share of a texture that is meant to be on the surface."""
SLACK = 1e-6
"""How far outside of a triangle a texel's centre still counts, beside the triangle's sides."""
TEXELS_AT_A_TIME = 2**19

ColourFunction = Callable[
    [Float32[np.ndarray, "N 3"], Float32[np.ndarray, "N 3"]], Float[np.ndarray, "N 3"]
]
"""``(points, normals) -> colours`` in [0, 1]."""


class Texels(NamedTuple):
    """Texels whose centre is in a triangle.

    Attributes:
      index_N: Where in the texture, row by row from the top.
      face_N: The triangle.
      weights_N3: Of the triangle's corners.
    """

    index_N: Integer[np.ndarray, "N"]
    face_N: Integer[np.ndarray, "N"]
    weights_N3: Float64[np.ndarray, "N 3"]


def unwrap(mesh: Mesh, size: int) -> Mesh:
    """The mesh with coordinates of a texture, cut where it has to be to lie flat.

    Args:
      mesh: Any mesh. At a cut its vertices are doubled, with their normals and colours.
      size: Texels of the texture's side that is meant, for the distance between charts.

    Raises:
      InputError: As for `check_surface`, or xatlas is not installed.
    """
    check_surface(mesh)
    _check_size(size)
    xatlas = _import_xatlas()
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices_V3, mesh.faces_F3.astype(np.uint32))
    packing = xatlas.PackOptions()
    # Texels for each unit of length, rather than a resolution, to which xatlas keeps but badly.
    area = max(float(face_areas(mesh).sum()), 1e-300)
    packing.texels_per_unit, packing.padding = size * math.sqrt(FILLED / area), PADDING
    atlas.generate(pack_options=packing)
    source_V, faces_F3, uv_V2 = atlas.get_mesh(0)
    normals, colours = (
        None if values is None else values[source_V]
        for values in (mesh.normals_V3, mesh.colours_V3)
    )
    return Mesh(
        mesh.vertices_V3[source_V],
        faces_F3.astype(np.int32),
        normals,
        colours,
        # Square texels: xatlas divides by the atlas' width and height each.
        uv_V2.astype(np.float32) * _sides(atlas),
    )


def _sides(atlas: Any) -> Float32[np.ndarray, "2"]:
    longer = max(atlas.width, atlas.height, 1)
    return np.asarray([atlas.width / longer, atlas.height / longer], np.float32)


def bake_texture(mesh: Mesh, colour: ColourFunction, size: int) -> Mesh:
    """The mesh with a texture of colours that a function gives for places on its surface.

    Each texel with its centre in a triangle has the colour of the place there; all others that of
    the nearest of these, so that seams do not show where a viewer mixes neighbouring texels.

    Args:
      mesh: A mesh; one without coordinates of a texture is unwrapped.
      colour: ``(points, normals) -> colours`` in [0, 1], of all places at once; normals are the
        mesh's, or smooth ones where it has none.
      size: Texels of each side of the texture.

    Raises:
      InputError: As for `unwrap`, or the size is so small that no texel is on the surface.
    """
    check_surface(mesh)
    _check_size(size)
    flat = unwrap(mesh, size) if mesh.uv_V2 is None else mesh
    texels = rasterise(corner_uv(flat), size)
    if not len(texels.index_N):
        raise InputError(f"size is {size}, expected more texels: none is on the surface")
    normals_V3 = smooth_normals(flat) if flat.normals_V3 is None else flat.normals_V3
    points_N3, normals_N3 = (
        np.einsum("nk,nkc->nc", texels.weights_N3, values_V3[flat.faces_F3[texels.face_N]])
        for values_V3 in (flat.vertices_V3, normals_V3)
    )
    found = colour(points_N3.astype(np.float32), unit_vectors(normals_N3).astype(np.float32))
    texture = np.zeros((size * size, 3), np.uint8)
    texture[texels.index_N] = np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)
    inside = np.zeros(size * size, bool)
    inside[texels.index_N] = True
    dilated = _dilate(texture.reshape(size, size, 3), inside.reshape(size, size))
    return replace(flat, texture=dilated)


def corner_uv(mesh: Mesh) -> Float64[np.ndarray, "F 3 2"]:
    """The coordinates of the texture at each face's corners.

    Raises:
      InputError: The mesh has none.
    """
    if mesh.uv_V2 is None:
        raise InputError("mesh has no texture coordinates, expected some")
    return mesh.uv_V2.astype(np.float64)[mesh.faces_F3]


def rasterise(uv_F32: Float[np.ndarray, "F 3 2"], size: int) -> Texels:
    """The texels whose centres are in triangles, each once (the last triangle's, where they meet).

    Texel (row, column) has its centre at u = (column + 1/2) / size, v = 1 - (row + 1/2) / size.
    """
    # In units of texels, x to the right and y down, whole numbers at the centres.
    places_F32 = np.asarray(uv_F32, np.float64) * [size, -size] + [-0.5, size - 0.5]
    parts = list(_candidates(places_F32, size))
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Texels(nothing, nothing, np.zeros((0, 3)))
    index_N, face_N, weights_N3 = (np.concatenate(values) for values in zip(*parts, strict=True))
    owner = np.full(size * size, -1)
    owner[index_N] = np.arange(len(index_N))
    chosen = owner[owner >= 0]
    return Texels(index_N[chosen], face_N[chosen], weights_N3[chosen])


def _candidates(places_F32: Float64[np.ndarray, "F 3 2"], size: int) -> Iterator[Texels]:
    """Texels in the boxes around triangles, triangles with boxes of about one size at a time."""
    low_F2 = np.clip(np.ceil(places_F32.min(axis=1) - SLACK), 0, None).astype(np.int64)
    high_F2 = np.clip(np.floor(places_F32.max(axis=1) + SLACK), None, size - 1).astype(np.int64)
    sides_F2 = high_F2 - low_F2 + 1
    edge_F2, other_F2 = places_F32[:, 1] - places_F32[:, 0], places_F32[:, 2] - places_F32[:, 0]
    twice_F = edge_F2[:, 0] * other_F2[:, 1] - edge_F2[:, 1] * other_F2[:, 0]
    usable_F = (sides_F2 > 0).all(axis=1) & (np.abs(twice_F) > 1e-12)
    level_F2 = np.ceil(np.log2(np.maximum(sides_F2, 1))).astype(np.int64)
    for level_2 in np.unique(level_F2[usable_F], axis=0):
        faces = np.flatnonzero(usable_F & (level_F2 == level_2).all(axis=1))
        x, y = (axis.ravel() for axis in np.meshgrid(*(np.arange(2**n) for n in level_2)))
        step = max(1, TEXELS_AT_A_TIME // len(x))
        for start in range(0, len(faces), step):
            face_T = faces[start : start + step, None]
            column, row = low_F2[face_T, 0] + x, low_F2[face_T, 1] + y
            right = column - places_F32[face_T, 0, 0]
            down = row - places_F32[face_T, 0, 1]
            second = (right * other_F2[face_T, 1] - down * other_F2[face_T, 0]) / twice_F[face_T]
            third = (edge_F2[face_T, 0] * down - edge_F2[face_T, 1] * right) / twice_F[face_T]
            weights = np.stack([1 - second - third, second, third], axis=-1)
            inside = (weights >= -SLACK).all(axis=-1) & (column < size) & (row < size)
            yield Texels(
                (row * size + column)[inside],
                np.broadcast_to(face_T, inside.shape)[inside],
                weights[inside],
            )


def _dilate(texture: UInt8[np.ndarray, "Y X 3"], inside: Any) -> UInt8[np.ndarray, "Y X 3"]:
    """Colours of the nearest texel inside, everywhere."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return texture[rows, columns]


def sample_texture(
    texture: UInt8[np.ndarray, "Y X 3"], uv_N2: Float[np.ndarray, "N 2"]
) -> Float64[np.ndarray, "N 3"]:
    """Colours in [0, 1] at coordinates of a texture, mixed from the four texels around.

    Coordinates outside of [0, 1] repeat the texture.
    """
    height, width = texture.shape[:2]
    uv_N2 = np.asarray(uv_N2, np.float64)
    u_N, v_N = np.where((uv_N2 >= 0) & (uv_N2 <= 1), uv_N2, uv_N2 % 1).T
    x_N, y_N = u_N * width - 0.5, (1 - v_N) * height - 0.5
    left_N, top_N = np.floor(x_N).astype(np.int64), np.floor(y_N).astype(np.int64)
    found_N3 = np.zeros((len(u_N), 3))
    for row, down_N in ((top_N, top_N + 1 - y_N), (top_N + 1, y_N - top_N)):
        for column, right_N in ((left_N, left_N + 1 - x_N), (left_N + 1, x_N - left_N)):
            texel_N3 = texture[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
            found_N3 += (down_N * right_N)[:, None] * texel_N3
    return found_N3 / 255


def _check_size(size: int) -> None:
    if size < 1:
        raise InputError(f"size is {size}, expected 1 or more texels")


def _import_xatlas() -> Any:
    try:
        import xatlas
    except ImportError as error:
        raise InputError(
            f"textures of meshes need the package xatlas, extra jaxgen[experiments] ({error})"
        ) from error
    return xatlas
