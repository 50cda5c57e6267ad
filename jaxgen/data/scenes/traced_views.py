"""Views of scenes whose rays are traced: where cameras stand, how surfaces are lit, images.

Colours, in linear light, then encoded as sRGB (IEC 61966-2-1):

    albedo (ambient(n) + diffuse v max(0, n . l)) + specular v max(0, r . w)^shininess

with the normal n, the direction l to the light, the direction w to the camera, r the mirror image
of l at n (Phong 1975), and v = 0 in a shadow, else 1. An image's pixel is the mean over 3 x 3 rays,
of colours as stored and weighted by whether they hit; depth and normals are those of the middle
ray.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from jaxgen.data.scenes.intrinsics import pinholes
from jaxgen.data.scenes.solids import dot, into_axes
from jaxgen.data.scenes.views import Views
from jaxgen.data.text.corpus import PARTS
from jaxgen.errors import InputError

RAYS_PER_SIDE = 3
"""Rays per pixel and axis; odd, so that the middle one goes through the pixel's centre."""
DISTANCE = 4.0
"""Of all cameras, from the origin, which they look at."""
CAMERA_ANGLE_X = 0.6911112070783618
"""Angle of view of NeRF's Blender scenes."""
ABOVE = math.radians(8), math.radians(72)
"""Elevations between which cameras are that stand around a scene on the ground."""
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
TURNS = 180
"""Turns of a spiral to choose from."""

LIGHT_3 = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])
"""Direction to the light, which is far away."""
AMBIENT, AMBIENT_UP, DIFFUSE = 0.30, 0.14, 0.72
"""Light from all sides, more of it from above: 0.30 + 0.14 n_z; and that of the light."""

_FOLDERS = {"train": "train", "validation": "val", "test": "test"}


class Traced(NamedTuple):
    """What rays see.

    Attributes:
      distance_R: Along the ray, inf where it meets nothing.
      color_R3: As stored, in [0, 1]; 0 where nothing is.
      normal_R3: Unit vectors; 0 where nothing is.
    """

    distance_R: Float[np.ndarray, "R"]
    color_R3: Float[np.ndarray, "R 3"]
    normal_R3: Float[np.ndarray, "R 3"]


Trace = Callable[[Float[np.ndarray, "R 3"], Float[np.ndarray, "R 3"]], Traced]
"""``(origins, unit directions) -> Traced``."""


def place_cameras(
    size: int,
    views: Sequence[int],
    seed: int,
    elevations: tuple[float, float] = ABOVE,
) -> dict[str, Float32[np.ndarray, "N 3 4"]]:
    """Cameras around the origin for each part of a scene, on spirals of Fibonacci on a sphere.

    Args:
      size: Y and X of the images, in pixels.
      views: How many train, validate and test; 0 leaves validation or test out.
      seed: What turns the spiral of training; those of the other parts are turned so that their
        cameras are far from it.
      elevations: The lowest and the highest, in radians.

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
    placed = _place(views, turn, elevations)
    return {part: poses for part, poses in zip(PARTS, placed, strict=True) if len(poses)}


def _place(
    counts: Sequence[int], turn: float, elevations: tuple[float, float] = ABOVE
) -> list[Float32[np.ndarray, "N 3 4"]]:
    """A spiral for each part; each but the first turned so that it is far from those before."""
    placed = [_spiral(counts[0], turn, elevations)]
    for count in counts[1:]:
        others = np.concatenate(placed)[:, :, 3]
        turned = [_spiral(count, turn + 2 * math.pi * i / TURNS, elevations) for i in range(TURNS)]
        apart = [
            np.linalg.norm(own[:, None, :, 3] - others, axis=-1).min(initial=math.inf)
            for own in turned
        ]
        placed.append(turned[int(np.argmax(apart))])
    return placed


def _spiral(
    count: int, turn: float, elevations: tuple[float, float]
) -> Float32[np.ndarray, "N 3 4"]:
    """Cameras at equal steps of height, each turned from the last by the golden angle."""
    low, high = (math.sin(elevation) for elevation in elevations)
    steps = (np.arange(count) + 0.5) / count
    up = low + steps * (high - low)
    angle, out = turn + GOLDEN_ANGLE * np.arange(count), np.sqrt(1 - up**2)
    back = np.stack([out * np.cos(angle), out * np.sin(angle), up], -1)
    right = np.stack([-np.sin(angle), np.cos(angle), np.zeros(count)], -1)
    return np.stack([right, np.cross(back, right), back, DISTANCE * back], -1).astype(np.float32)


def trace_views(
    poses: Mapping[str, Float32[np.ndarray, "N 3 4"]], size: int, trace: Trace
) -> dict[str, Views]:
    """The views of each part, with alpha, exact depth along the ray and normals.

    Args:
      poses: The cameras of each part.
      size: Y and X of the images, in pixels.
      trace: What rays see.
    """
    return {part: _photograph(part, own, size, trace) for part, own in poses.items()}


def _photograph(part: str, poses: Float32[np.ndarray, "N 3 4"], size: int, trace: Trace) -> Views:
    focal = 0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X)
    photos = (_photo(pose, size, focal, trace) for pose in poses)
    images, depths, normals = zip(*photos, strict=True)
    return Views(
        names=tuple(f"{_FOLDERS[part]}/r_{i}" for i in range(len(poses))),
        images=np.stack(images),
        camera_to_world=poses,
        intrinsics=pinholes(len(poses), focal, (size / 2, size / 2)),
        depth=np.stack(depths),
        normals=np.stack(normals),
    )


def _photo(
    pose: Float32[np.ndarray, "3 4"], size: int, focal: float, trace: Trace
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes [Y, X, 4], depth [Y, X] and normals [Y, X, 3] of one view."""
    fine = size * RAYS_PER_SIDE
    direction_R3 = _directions(pose.astype(np.float64), fine, focal * RAYS_PER_SIDE)
    origin_R3 = np.broadcast_to(pose[:, 3].astype(np.float64), direction_R3.shape)
    seen = trace(origin_R3, direction_R3)
    alpha_R1 = np.isfinite(seen.distance_R)[:, None].astype(np.float64)
    color_R4 = np.concatenate([seen.color_R3, alpha_R1], axis=1)
    middle = slice(RAYS_PER_SIDE // 2, None, RAYS_PER_SIDE)
    depth = seen.distance_R.reshape(fine, fine)[middle, middle].astype(np.float32)
    normal = seen.normal_R3.reshape(fine, fine, 3)[middle, middle].astype(np.float32)
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


def shade(
    albedo_R3: Float[np.ndarray, "R 3"],
    normal_R3: Float[np.ndarray, "R 3"],
    direction_R3: Float[np.ndarray, "R 3"],
    lit_R: Bool[np.ndarray, "R"],
    specular: Any,
    shininess: Any,
) -> Float[np.ndarray, "R 3"]:
    """Colours as stored, in [0, 1], of places on surfaces: see the module.

    Args:
      albedo_R3: Linear.
      normal_R3: Unit vectors.
      direction_R3: Of the rays that see the places.
      lit_R: Which ones the light reaches.
      specular: How strong highlights are, [R] or of all.
      shininess: How sharp, [R] or of all.
    """
    facing_R = dot(normal_R3, np.broadcast_to(LIGHT_3, normal_R3.shape))
    light_R = AMBIENT + AMBIENT_UP * normal_R3[:, 2] + DIFFUSE * np.where(lit_R, facing_R, 0)
    mirrored_R3 = 2 * facing_R[:, None] * normal_R3 - LIGHT_3
    gloss_R = np.clip(-dot(mirrored_R3, direction_R3), 0, 1)
    gloss_R = gloss_R**shininess
    gloss_R *= lit_R * specular
    return encode_srgb(albedo_R3 * light_R[:, None] + gloss_R[:, None])


def encode_srgb(linear: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
    """Colours as stored, of linear ones, both in [0, 1]."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decode_srgb(stored: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
    """The other way."""
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
