"""A scene that needs no download: coloured solids on a checkered slab, traced exactly.

Where rays meet the solids is in `jaxgen.data.scenes.solids`. Colours, in linear light, then encoded
as sRGB (IEC 61966-2-1):

    albedo (ambient(n) + diffuse v max(0, n . l)) + specular v max(0, r . w)^shininess

with the normal n, the direction l to the light, the direction w to the camera, r the mirror image
of l at n (Phong 1975), and v = 0 in the shadow of another solid, else 1. An image's pixel is the
mean over 3 x 3 rays, of colours as stored and weighted by whether they hit; depth and normals are
those of the middle ray. Nothing else is in the scene, so the rest is transparent.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer

from jaxgen.data.scenes.blender import BOX, FAR, NEAR
from jaxgen.data.scenes.intrinsics import pinholes
from jaxgen.data.scenes.solids import Ball, Block, Drum, Solid, dot, into_axes
from jaxgen.data.scenes.views import Scene, Views
from jaxgen.data.text.corpus import PARTS
from jaxgen.errors import InputError

RAYS_PER_SIDE = 3
"""Rays per pixel and axis; odd, so that the middle one goes through the pixel's centre."""
DISTANCE = 4.0
"""Of all cameras, from the origin, which they look at."""
CAMERA_ANGLE_X = 0.6911112070783618
"""Angle of view of NeRF's Blender scenes."""
LOWEST, HIGHEST = math.radians(8), math.radians(72)
"""Elevations between which the cameras are."""
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
TURNS = 180
"""Turns of a spiral to choose from."""

LIGHT_3 = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])
"""Direction to the light, which is far away."""
AMBIENT, AMBIENT_UP, DIFFUSE = 0.30, 0.14, 0.72
"""Light from all sides, more of it from above: 0.30 + 0.14 n_z; and that of the light."""
SHADOW_OFFSET = 1e-6
"""How far over the surface a ray to the light begins."""

_FOLDERS = {"train": "train", "validation": "val", "test": "test"}


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
    if size < 1:
        raise InputError(f"size is {size}, expected 1 or more")
    if seed < 0:
        raise InputError(f"seed is {seed}, expected 0 or more")
    if len(views) != len(PARTS) or min(views) < 0 or not views[0]:
        raise InputError(
            f"views is {tuple(views)}, expected 3 numbers, for train (1 or more), validation and"
            " test"
        )
    turn = np.random.default_rng(seed).uniform(0, 2 * math.pi)
    poses = _place(views, turn)
    parts = {
        part: _photograph(part, own, size)
        for part, own in zip(PARTS, poses, strict=True)
        if len(own)
    }
    return Scene("shapes", parts, NEAR, FAR, BOX)


def _place(counts: Sequence[int], turn: float) -> list[Float32[np.ndarray, "N 3 4"]]:
    """A spiral for each part; each but the first turned so that it is far from those before."""
    placed = [_spiral(counts[0], turn)]
    for count in counts[1:]:
        others = np.concatenate(placed)[:, :, 3]
        turned = [_spiral(count, turn + 2 * math.pi * i / TURNS) for i in range(TURNS)]
        apart = [
            np.linalg.norm(own[:, None, :, 3] - others, axis=-1).min(initial=math.inf)
            for own in turned
        ]
        placed.append(turned[int(np.argmax(apart))])
    return placed


def _spiral(count: int, turn: float) -> Float32[np.ndarray, "N 3 4"]:
    """Cameras at equal steps of height, each turned from the last by the golden angle."""
    steps = (np.arange(count) + 0.5) / count
    up = math.sin(LOWEST) + steps * (math.sin(HIGHEST) - math.sin(LOWEST))
    angle, out = turn + GOLDEN_ANGLE * np.arange(count), np.sqrt(1 - up**2)
    back = np.stack([out * np.cos(angle), out * np.sin(angle), up], -1)
    right = np.stack([-np.sin(angle), np.cos(angle), np.zeros(count)], -1)
    return np.stack([right, np.cross(back, right), back, DISTANCE * back], -1).astype(np.float32)


def _photograph(part: str, poses: Float32[np.ndarray, "N 3 4"], size: int) -> Views:
    focal = 0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X)
    images, depths, normals = zip(*(_photo(pose, size, focal) for pose in poses), strict=True)
    return Views(
        names=tuple(f"{_FOLDERS[part]}/r_{i}" for i in range(len(poses))),
        images=np.stack(images),
        camera_to_world=poses,
        intrinsics=pinholes(len(poses), focal, (size / 2, size / 2)),
        depth=np.stack(depths),
        normals=np.stack(normals),
    )


def _photo(
    pose: Float32[np.ndarray, "3 4"], size: int, focal: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes [Y, X, 4], depth [Y, X] and normals [Y, X, 3] of one view."""
    fine = size * RAYS_PER_SIDE
    direction_R3 = _directions(pose.astype(np.float64), fine, focal * RAYS_PER_SIDE)
    origin_R3 = np.broadcast_to(pose[:, 3].astype(np.float64), direction_R3.shape)
    hits = first_hits(origin_R3, direction_R3)
    hit_R = np.isfinite(hits.distance_R)
    color_R4, normal_R3 = np.zeros((fine * fine, 4)), np.zeros((fine * fine, 3))
    distance_R = hits.distance_R[hit_R]
    point_R3 = origin_R3[hit_R] + distance_R[:, None] * direction_R3[hit_R]
    rgb_R3, normal_R3[hit_R] = _shade(hits.solid_R[hit_R], point_R3, direction_R3[hit_R])
    color_R4[hit_R] = np.concatenate([rgb_R3, np.ones_like(rgb_R3[:, :1])], -1)
    middle = slice(RAYS_PER_SIDE // 2, None, RAYS_PER_SIDE)
    depth = hits.distance_R.reshape(fine, fine)[middle, middle].astype(np.float32)
    normal = normal_R3.reshape(fine, fine, 3)[middle, middle].astype(np.float32)
    return _to_bytes(color_R4.reshape(size, RAYS_PER_SIDE, size, RAYS_PER_SIDE, 4)), depth, normal


def _directions(
    pose: Float[np.ndarray, "3 4"], size: int, focal: float
) -> Float[np.ndarray, "R 3"]:
    """Unit directions of the rays through all pixels, row by row."""
    x = (np.arange(size) + 0.5 - size / 2) / focal
    local_YX3 = np.stack(np.broadcast_arrays(x[None], -x[:, None], -1.0), -1)
    world_R3 = into_axes(local_YX3.reshape(-1, 3), pose[:, :3].T)
    return world_R3 / np.sqrt(dot(world_R3, world_R3))[:, None]


def _to_bytes(color: Float[np.ndarray, "Y S X S C"]) -> np.ndarray:
    """Means over the rays of each pixel of colours that are 0 where nothing is hit."""
    mean_YX4 = color.mean((1, 3))
    alpha_YX1 = mean_YX4[..., 3:]
    mean_YX4[..., :3] /= np.where(alpha_YX1 > 0, alpha_YX1, 1)
    return np.rint(255 * np.clip(mean_YX4, 0, 1)).astype(np.uint8)


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
    facing_R = dot(normal_R3, np.broadcast_to(LIGHT_3, normal_R3.shape))
    lit_R = (facing_R > 0) & ~_in_shadow(point_R3, normal_R3, facing_R > 0)
    light_R = AMBIENT + AMBIENT_UP * normal_R3[:, 2] + DIFFUSE * np.where(lit_R, facing_R, 0)
    mirrored_R3 = 2 * facing_R[:, None] * normal_R3 - LIGHT_3
    gloss_R = np.clip(-dot(mirrored_R3, direction_R3), 0, 1)
    gloss_R = gloss_R ** np.array([solid.shininess for solid in SOLIDS])[solid_R]
    gloss_R *= lit_R * np.array([solid.specular for solid in SOLIDS])[solid_R]
    return _encode_srgb(albedo_R3 * light_R[:, None] + gloss_R[:, None]), normal_R3


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


def _encode_srgb(linear: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
