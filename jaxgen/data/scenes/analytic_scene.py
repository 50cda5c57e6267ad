"""A scene that needs no download: coloured solids on a checkered slab, traced exactly.

Where rays meet the solids is in `jaxgen.data.scenes.solids`; cameras, colours and images are those
of `jaxgen.data.scenes.traced_views`. Nothing else is in the scene, so the rest is transparent.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from jaxgen.data.scenes.blender import BOX, FAR, NEAR
from jaxgen.data.scenes.solids import Ball, Block, Drum, Solid, dot
from jaxgen.data.scenes.traced_views import LIGHT_3, Traced, place_cameras, shade, trace_views
from jaxgen.data.scenes.views import Scene

SHADOW_OFFSET = 1e-6
"""How far over the surface a ray to the light begins."""

FLOOR_TOP = -0.32
SOLIDS: tuple[Solid, ...] = (
    Block(
        centre=(0, 0, FLOOR_TOP - 0.05),
        half=(0.86, 0.86, 0.05),
        turn=0.0,
        color=(0.80, 0.76, 0.66),
        specular=0.05,
        shininess=16,
        check=0.215,
        second_color=(0.17, 0.27, 0.30),
    ),
    Ball((-0.38, 0.36, FLOOR_TOP + 0.42), 0.42, (0.80, 0.13, 0.08), 0.45, 40),
    Block(
        centre=(0.47, 0.30, FLOOR_TOP + 0.27),
        half=(0.25, 0.25, 0.27),
        turn=0.5,
        color=(0.06, 0.30, 0.62),
        specular=0.15,
        shininess=24,
    ),
    Drum((-0.45, -0.42, FLOOR_TOP + 0.24), 0.23, 0.24, (0.86, 0.50, 0.04), 0.25, 30),
    Ball(
        centre=(0.36, -0.42, FLOOR_TOP + 0.25),
        radius=0.25,
        color=(0.10, 0.48, 0.20),
        specular=0.35,
        shininess=60,
        bands=8,
        second_color=(0.85, 0.83, 0.70),
    ),
)
"""The slab, a large ball, a box, a cylinder and a banded ball that stand on it."""


class Hits(NamedTuple):
    """Where rays first meet a solid.

    Attributes:
      distance_R: Along the ray, inf where it meets none.
      solid_R: Which of `SOLIDS`, 0 where none.
    """

    distance_R: Float[np.ndarray, "R"]
    solid_R: Integer[np.ndarray, "R"]


def make_analytic_scene(
    size: int = 100, views: Sequence[int] = (60, 8, 12), seed: int = 0
) -> Scene:
    """The scene "shapes": see the module.

    Args:
      size: Y and X of the images, in pixels.
      views: How many train, validate and test; 0 leaves validation or test out. Each part's cameras
        stand on a spiral of Fibonacci on the upper half of a sphere, looking at its centre.
      seed: What turns the spiral of training; those of the other parts are turned so that their
        cameras are far from it. The solids are always the same.

    Returns:
      Views with alpha, depth and normals; distances and box are those of NeRF's Blender scenes.

    Raises:
      InputError: A size or a number is out of its range.
    """
    poses = place_cameras(size, views, seed)
    return Scene("shapes", trace_views(poses, size, _trace), NEAR, FAR, BOX)


def _trace(origin_R3: Float[np.ndarray, "R 3"], direction_R3: Float[np.ndarray, "R 3"]) -> Traced:
    """What rays see of the solids."""
    hits = first_hits(origin_R3, direction_R3)
    hit_R = np.isfinite(hits.distance_R)
    color_R3, normal_R3 = np.zeros_like(direction_R3), np.zeros_like(direction_R3)
    distance_R = hits.distance_R[hit_R]
    point_R3 = origin_R3[hit_R] + distance_R[:, None] * direction_R3[hit_R]
    color_R3[hit_R], normal_R3[hit_R] = _shade(hits.solid_R[hit_R], point_R3, direction_R3[hit_R])
    return Traced(hits.distance_R, color_R3, normal_R3)


def first_hits(origin_R3: Float[np.ndarray, "R 3"], direction_R3: Float[np.ndarray, "R 3"]) -> Hits:
    """The first of `SOLIDS` that each ray meets.

    Args:
      origin_R3: Where the rays begin, outside of all solids.
      direction_R3: Unit vectors.
    """
    distance_R = np.full(len(origin_R3), np.inf)
    solid_R = np.zeros(len(origin_R3), int)
    for i, solid in enumerate(SOLIDS):
        enter_R, leave_R = solid.interval(origin_R3, direction_R3)
        nearer_R = (enter_R < leave_R) & (enter_R > 0) & (enter_R < distance_R)
        distance_R[nearer_R], solid_R[nearer_R] = enter_R[nearer_R], i
    return Hits(distance_R, solid_R)


def _shade(
    solid_R: Integer[np.ndarray, "R"],
    point_R3: Float[np.ndarray, "R 3"],
    direction_R3: Float[np.ndarray, "R 3"],
) -> tuple[Float[np.ndarray, "R 3"], Float[np.ndarray, "R 3"]]:
    """Colours as stored, in [0, 1], and normals, at points seen along directions."""
    albedo_R3, normal_R3 = np.empty_like(point_R3), np.empty_like(point_R3)
    for i, solid in enumerate(SOLIDS):
        on_R = solid_R == i
        albedo_R3[on_R], normal_R3[on_R] = (
            solid.albedo(point_R3[on_R]),
            solid.normal(point_R3[on_R]),
        )
    facing_R = dot(normal_R3, np.broadcast_to(LIGHT_3, normal_R3.shape)) > 0
    lit_R = facing_R & ~_in_shadow(point_R3, normal_R3, facing_R)
    specular, shininess = np.array([(solid.specular, solid.shininess) for solid in SOLIDS]).T
    gloss = specular[solid_R], shininess[solid_R]
    return shade(albedo_R3, normal_R3, direction_R3, lit_R, *gloss), normal_R3


def _in_shadow(
    point_R3: Float[np.ndarray, "R 3"],
    normal_R3: Float[np.ndarray, "R 3"],
    facing_R: Bool[np.ndarray, "R"],
) -> Bool[np.ndarray, "R"]:
    """Whether a solid is between points and the light, for those that face it."""
    start_R3 = point_R3[facing_R] + SHADOW_OFFSET * normal_R3[facing_R]
    hits = first_hits(start_R3, np.broadcast_to(LIGHT_3, start_R3.shape))
    shadow_R = np.zeros(len(point_R3), bool)
    shadow_R[facing_R] = np.isfinite(hits.distance_R)
    return shadow_R
