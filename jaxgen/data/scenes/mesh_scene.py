"""A scene made from a mesh: views by ray casting, with exact depth and normals.

The mesh is centred and scaled so that it fits a sphere around the origin. Light, shadows, images
and cameras are those of `jaxgen.data.scenes.traced_views`, but cameras also look from below. The
albedo is the mesh's texture, or its vertices' colours, or where it has neither two colours in turn,
so that there is something to recognise from several views. Surfaces are shaded by normals that are
mixed between vertices, where faces meet at a small angle; depth and the views' normals are those of
the triangles. Both sides of a triangle are seen, and normals are those of the side that is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from jaxgen.data.scenes.similarity import Similarity
from jaxgen.data.scenes.solids import dot
from jaxgen.data.scenes.traced_views import (
    DISTANCE,
    LIGHT_3,
    Trace,
    Traced,
    decode_srgb,
    place_cameras,
    shade,
    trace_views,
)
from jaxgen.data.scenes.views import Corner, Scene
from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.geometry.mesh_rays import MeshHits, RayCaster, make_ray_caster, mix_corners
from jaxgen.geometry.texture_baking import corner_uv, sample_texture
from jaxgen.geometry.triangle_mesh import (
    Mesh,
    check_surface,
    face_vectors,
    smooth_normals,
    unit_vectors,
)
from jaxgen.interop.mesh_reading import read_mesh

RADIUS = 1.2
"""Of the sphere that the mesh fits; the largest that cameras see whole is 1.35."""
BOX: tuple[Corner, Corner] = ((-1.25,) * 3, (1.25,) * 3)
NEAR, FAR = DISTANCE - 1.5, DISTANCE + 1.5
AROUND = math.radians(-60), math.radians(72)
"""Elevations between which cameras are."""
CREASE = math.radians(40)
"""Angle of a face to the mean of those around a vertex above which an edge is sharp."""
SHADOW_OFFSET = 2e-3
"""How far over the surface a ray to the light begins."""
SPECULAR, SHININESS = 0.08, 20.0
PLAIN_COLORS = np.array([(0.72, 0.66, 0.55), (0.30, 0.42, 0.55)])
CHECK = 0.3
"""Side of the cubes in which plain meshes have one of these albedos, linear, or the other."""


def make_mesh_scene(
    path: Path,
    *,
    size: int = 100,
    views: Sequence[int] = (60, 8, 12),
    seed: int = 0,
) -> Scene:
    """Views of the mesh in a file: see the module.

    Args:
      path: A file that `jaxgen.interop.mesh_reading.read_mesh` reads.
      size: Y and X of the images, in pixels.
      views: How many train, validate and test; 0 leaves validation or test out.
      seed: What turns the cameras.

    Returns:
      Views with alpha, depth and normals. `Scene.to_files` is the way to the coordinates in which
      `read_mesh` gives the mesh.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: The file is refused by `read_mesh`, a number is out of its range, or embreex is
        not installed.
    """
    poses = place_cameras(size, views, seed, AROUND)
    mesh = read_mesh(path)
    to_files = _fit(mesh, str(path))
    parts = trace_views(poses, size, make_mesh_tracer(moved_mesh(mesh, to_files.inverse())))
    return Scene(str(path), parts, NEAR, FAR, BOX, to_files)


def _fit(mesh: Mesh, name: str) -> Similarity:
    """From the sphere of `RADIUS` to where the mesh is."""
    places_V3 = mesh.vertices_V3.astype(np.float64)
    middle_3 = (places_V3.min(axis=0) + places_V3.max(axis=0)) / 2
    radius = float(np.linalg.norm(places_V3 - middle_3, axis=1).max())
    if not radius > 0:
        raise InputError(f"{name}: all vertices are at one place, expected a surface")
    return Similarity(radius / RADIUS, np.eye(3), middle_3)


def moved_mesh(mesh: Mesh, move: Similarity) -> Mesh:
    """A mesh at another place, in another size."""
    normals = mesh.normals_V3
    return replace(
        mesh,
        vertices_V3=move.points(mesh.vertices_V3).astype(np.float32),
        normals_V3=None if normals is None else move.directions(normals).astype(np.float32),
    )


def make_mesh_tracer(mesh: Mesh) -> Trace:
    """``(origins, directions) -> Traced``: what rays see of a mesh under the light.

    Raises:
      InputError: As for `make_ray_caster`.
    """
    check_surface(mesh)
    cast = make_ray_caster(mesh)
    albedo_of = _make_albedo(mesh)
    flat_F3 = unit_vectors(face_vectors(mesh))
    shading_F33 = _shading_normals(mesh, flat_F3)

    def trace(origin_R3: Float[np.ndarray, "R 3"], direction_R3: Any) -> Traced:
        hits = cast(origin_R3, direction_R3)
        met_R = hits.met_R
        seen_R3, point_R3 = direction_R3[met_R], origin_R3[met_R]
        point_R3 = point_R3 + hits.distance_R[met_R, None] * seen_R3
        flat_R3 = flat_F3[hits.face_R[met_R]]
        side_R1 = np.where(dot(flat_R3, seen_R3) > 0, -1.0, 1.0)[:, None]
        flat_R3, smooth_R3 = (
            side_R1 * values for values in (flat_R3, unit_vectors(mix_corners(shading_F33, hits)))
        )
        lit_R = _lit(cast, point_R3, flat_R3, smooth_R3)
        color_R3, normal_R3 = np.zeros((2, len(met_R), 3))
        color_R3[met_R] = shade(
            albedo_of(hits, point_R3), smooth_R3, seen_R3, lit_R, SPECULAR, SHININESS
        )
        normal_R3[met_R] = flat_R3
        return Traced(hits.distance_R, color_R3, normal_R3)

    return trace


def _shading_normals(
    mesh: Mesh, flat_F3: Float64[np.ndarray, "F 3"]
) -> Float64[np.ndarray, "F 3 3"]:
    """Of each face's corners: the vertex's, or at a sharp edge the face's."""
    smooth_F33 = smooth_normals(mesh).astype(np.float64)[mesh.faces_F3]
    cosine_F3 = np.einsum("fka,fa->fk", smooth_F33, flat_F3)
    return np.where(cosine_F3[..., None] > math.cos(CREASE), smooth_F33, flat_F3[:, None])


def _make_albedo(mesh: Mesh) -> Callable[[MeshHits, Float[np.ndarray, "R 3"]], Any]:
    """``(hits, points) -> linear albedos`` of the rays that meet the mesh."""
    if mesh.texture is not None:
        texture, uv_F32 = mesh.texture, corner_uv(mesh)
        return lambda hits, _: decode_srgb(sample_texture(texture, mix_corners(uv_F32, hits)))
    if mesh.colours_V3 is not None:
        colours_F33 = mesh.colours_V3[mesh.faces_F3] / 255
        return lambda hits, _: decode_srgb(mix_corners(colours_F33, hits))
    return lambda _, point_R3: PLAIN_COLORS[
        np.floor(point_R3 / CHECK + 0.5).astype(int).sum(axis=1) % 2
    ]


def _lit(
    cast: RayCaster,
    point_R3: Float[np.ndarray, "R 3"],
    flat_R3: Float[np.ndarray, "R 3"],
    smooth_R3: Float[np.ndarray, "R 3"],
) -> Bool[np.ndarray, "R"]:
    """Whether the light reaches places: they face it, and nothing is between."""
    lit_R = (flat_R3 @ LIGHT_3 > 0) & (smooth_R3 @ LIGHT_3 > 0)
    start_R3 = point_R3[lit_R] + SHADOW_OFFSET * flat_R3[lit_R]
    lit_R[lit_R] = ~cast(start_R3, np.broadcast_to(LIGHT_3, start_R3.shape)).met_R
    return lit_R
