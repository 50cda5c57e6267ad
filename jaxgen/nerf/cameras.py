"""Cameras and their rays.

Axes of a camera are OpenGL's: x to the right, y up, z backwards, so it looks along -z. Pixel (i, j)
is column i of row j, counted from the upper left corner of the image, with its centre at
(i + 1/2, j + 1/2). A pinhole camera sees there::

    direction = R ((i + 1/2 - cx) / fx, -(j + 1/2 - cy) / fy, -1), scaled to length 1

with R the rotation of ``camera_to_world``; what the other models see is in
`jaxgen.nerf.projection`. So t of a point ``origin + t direction`` is its distance from the camera
along the ray, not its depth along the camera's axis. The rays of an orthographic camera have one
direction, and begin at the pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import typing
from jaxtyping import Array, Bool, Float, Int

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.errors import InputError, can_be_checked
from jaxgen.nerf.projection import from_plane, to_plane

ArrayLike = typing.ArrayLike | Sequence[Any]
"""What becomes an array: one, a number, or numbers in tuples or lists."""

RADIUS = 2 / np.sqrt(12)
"""Of a disc with the variance of a square of width 1, along each axis (Barron et al. 2021)."""

FAR_AWAY = 1e10
"""Distance that stands for infinity where a ray is parallel to a side of a box."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rays:
    """Half lines of any leading shape.

    Attributes:
      origin: [..., 3], in world coordinates.
      direction: [..., 3], of length 1.
      valid: [...], whether the camera sees anything there: a distorted image has places that belong
        to no direction. None: all of them.
      radius: [...], of the pixels' cones at distance 1 (`jaxgen.nerf.footprints`); None where
        footprints are not wanted.
      parallel: whether rays have a common direction, and their cones are cylinders of that radius.
    """

    origin: Float[Array, "*B 3"]
    direction: Float[Array, "*B 3"]
    valid: Bool[Array, "*B"] | None = None
    radius: Float[Array, "*B"] | None = None
    parallel: bool = field(default=False, metadata={"static": True})

    def points(self, distances: Float[Array, "*B S"]) -> Float[Array, "*B S 3"]:
        """``origin + t direction`` at S distances of each ray."""
        return self.origin[..., None, :] + distances[..., None] * self.direction[..., None, :]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cameras:
    """N cameras of one model with images of one size; `make_cameras` validates.

    Attributes:
      camera_to_world: [N, 3, 4], rotation and position.
      focal: [N, 2], fx and fy in pixels; of an equirectangular camera pixels per radian, of an
        orthographic one pixels per unit of length.
      centre: [N, 2], cx and cy of the principal point in pixels.
      distortion: [N, K], the further parameters of the model, in the order of
        `jaxgen.camera_models`.
      height: of an image, in pixels.
      width: of an image, in pixels.
      model: COLMAP's name of the model.
    """

    camera_to_world: Float[Array, "N 3 4"]
    focal: Float[Array, "N 2"]
    centre: Float[Array, "N 2"]
    distortion: Float[Array, "N K"]
    height: int = field(metadata={"static": True})
    width: int = field(metadata={"static": True})
    model: str = field(default="PINHOLE", metadata={"static": True})

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def take(self, indices: Int[Array, "M"] | slice) -> "Cameras":
        """The cameras of some indices, in their order."""
        return jax.tree.map(lambda array: array[indices], self)


def make_cameras(
    camera_to_world: ArrayLike,
    focal: ArrayLike | None,
    centre: ArrayLike | None = None,
    *,
    height: int,
    width: int,
    model: str = "PINHOLE",
    distortion: ArrayLike | None = None,
) -> Cameras:
    """Cameras from poses and intrinsics, validated.

    Args:
      camera_to_world: [N, 3, 4], or [N, 4, 4] with a last row (0, 0, 0, 1).
      focal: in pixels; a number, (fx, fy), or [N, 2]. None for the model "EQUIRECTANGULAR", whose
        images show the whole sphere.
      centre: cx and cy in pixels, (2,) or [N, 2]; None: the middle of the image.
      height: of the images, in pixels.
      width: of the images, in pixels.
      model: one of `jaxgen.camera_models.CAMERA_MODELS`.
      distortion: the model's further parameters, (K,) or [N, K]; None: it has none.

    Raises:
      InputError: for a wrong shape or size, a model that is not known, numbers that are not finite,
        a rotation that is not orthonormal with determinant 1 (to 1e-3), a focal length that is not
        positive; the message names the camera's index.
    """
    for name, size in (("height", height), ("width", width)):
        if size < 1:
            raise InputError(f"{name} is {size}, expected 1 or more")
    if model not in CAMERA_MODELS:
        raise InputError(f"model is {model!r}, expected one of {', '.join(CAMERA_MODELS)}")
    pose_N34 = _check_pose(camera_to_world)
    if model == "EQUIRECTANGULAR" and focal is None:
        focal = width / (2 * np.pi), height / np.pi
    if focal is None:
        raise InputError(f"focal is None with the model {model}, expected numbers > 0")
    middle = (width / 2, height / 2) if centre is None else centre
    count = len(pose_N34)
    numbers = {
        "focal": _spread("focal", focal, count, 2),
        "centre": _spread("centre", middle, count, 2),
        "distortion": _spread(
            "distortion",
            () if distortion is None else distortion,
            count,
            len(CAMERA_MODELS[model].distortion),
        ),
    }
    if can_be_checked(pose_N34, *numbers.values()):
        _check_numbers(np.asarray(pose_N34), {name: np.asarray(x) for name, x in numbers.items()})
    return Cameras(pose_N34, **numbers, height=height, width=width, model=model)


def _check_pose(camera_to_world: ArrayLike) -> Float[Array, "N 3 4"]:
    pose = jnp.asarray(camera_to_world, float)
    if pose.ndim != 3 or pose.shape[1:] not in ((3, 4), (4, 4)):
        raise InputError(
            f"camera_to_world has shape {list(pose.shape)}, expected [N, 3, 4] or [N, 4, 4]"
        )
    return pose[:, :3]


def _spread(name: str, value: ArrayLike, cameras: int, size: int) -> Float[Array, "N K"]:
    array = jnp.asarray(value, float)
    alone = () if name == "focal" else (size,)
    if array.shape not in (alone, (size,), (cameras, size)):
        raise InputError(
            f"{name} has shape {list(array.shape)}, expected [{size}] or [{cameras}, {size}]"
        )
    return jnp.broadcast_to(array, (cameras, size))


def _check_numbers(pose_N34: np.ndarray, numbers: dict[str, np.ndarray]) -> None:
    for name, array in {"camera_to_world": pose_N34, **numbers}.items():
        for i in np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[:1]:
            raise InputError(f"{name}[{i}] is {array[i].tolist()}, expected finite numbers")
    for i in np.flatnonzero((numbers["focal"] <= 0).any(axis=1))[:1]:
        raise InputError(f"focal[{i}] is {numbers['focal'][i].tolist()}, expected numbers > 0")
    turn_N33 = pose_N34[:, :, :3].astype(np.float64)
    excess_N33 = turn_N33 @ turn_N33.swapaxes(1, 2) - np.eye(3)
    wrong_N = (np.abs(excess_N33) > 1e-3).any(axis=(1, 2)) | (np.linalg.det(turn_N33) < 0)
    for i in np.flatnonzero(wrong_N)[:1]:
        raise InputError(
            f"camera_to_world[{i}] has the rotation {turn_N33[i].round(4).tolist()}, "
            "expected an orthonormal one with determinant 1"
        )


def camera_rays(cameras: Cameras, *, footprints: bool = False) -> Rays:
    """The rays of all pixels, [N, Y, X, 3], with the radius of their cones if wanted."""
    row_Y = jnp.arange(cameras.height)[:, None]
    column_X = jnp.arange(cameras.width)
    every = jax.tree.map(lambda array: array[:, None, None], cameras)
    return _rays_through(every, row_Y, column_X, footprints)


def pixel_rays(
    cameras: Cameras,
    camera_R: Int[Array, "R"],
    row_R: Int[Array, "R"],
    column_R: Int[Array, "R"],
    *,
    footprints: bool = False,
) -> Rays:
    """The rays of chosen pixels, [R, 3]; differentiable in the cameras.

    Args:
      cameras: the cameras.
      camera_R: index of a camera for each ray.
      row_R: j, 0 at the top.
      column_R: i, 0 at the left.
      footprints: whether rays have the radius of their cones.
    """
    return _rays_through(cameras.take(camera_R), row_R, column_R, footprints)


def _rays_through(cameras: Cameras, row: Array, column: Array, footprints: bool) -> Rays:
    """Rays of pixels; the cameras' leading axes and those of the pixels broadcast."""
    x = (column + 0.5 - cameras.centre[..., 0]) / cameras.focal[..., 0]
    y = (row + 0.5 - cameras.centre[..., 1]) / cameras.focal[..., 1]
    place = jnp.stack(jnp.broadcast_arrays(x, y), axis=-1)
    turn, position = cameras.camera_to_world[..., :3], cameras.camera_to_world[..., 3]
    if cameras.model == "ORTHOGRAPHIC":
        direction = jnp.broadcast_to(-turn[..., 2], (*place.shape[:-1], 3))
        radius = RADIUS * (1 / cameras.focal).mean(axis=-1) + 0 * x * y if footprints else None
        return Rays(_turned(turn, place) + position, direction, radius=radius, parallel=True)
    own, valid = _own_direction(cameras, place)
    radius = None
    if footprints:
        beside = [_own_direction(cameras, place + side / cameras.focal)[0] for side in np.eye(2)]
        width = sum(jnp.linalg.norm(other - own, axis=-1) for other in beside) / 2
        radius = RADIUS * width
    direction = _turned(turn, own)
    return Rays(jnp.broadcast_to(position, direction.shape), direction, valid, radius)


def _own_direction(cameras: Cameras, place: Array) -> tuple[Array, Array | None]:
    """Unit directions in the cameras' axes (OpenCV's), and whether there is one."""
    own, valid = from_plane(cameras.model, place, cameras.distortion)
    # The length without the rotation, so that an error of it is not hidden in gradients.
    return own / jnp.linalg.norm(own, axis=-1, keepdims=True), valid


def _turned(turn: Array, own: Array) -> Array:
    """Vectors in axes of OpenCV (z may be left out), in axes of the world."""
    right, up, back = turn[..., 0], turn[..., 1], turn[..., 2]
    turned = right * own[..., :1] - up * own[..., 1:2]
    return turned if own.shape[-1] == 2 else turned - back * own[..., 2:]


class ProjectedPoints(NamedTuple):
    """Where cameras see points.

    Attributes:
      place: in pixels from the upper left corner, (x, y): pixel (i, j) has its centre at
        (i + 1/2, j + 1/2).
      depth: along the axes of the cameras, negative behind them.
      valid: whether there is a place: see `jaxgen.nerf.projection.to_plane`. It may be outside of
        the image.
    """

    place: Float[Array, "N P 2"]
    depth: Float[Array, "N P"]
    valid: Bool[Array, "N P"]


def project(cameras: Cameras, points: Float[Array, "P 3"]) -> ProjectedPoints:
    """Where every camera sees points: the inverse of `camera_rays`.

    Args:
      cameras: the cameras.
      points: in world coordinates.
    """
    pose = cameras.camera_to_world
    offset_NP3 = points[None] - pose[:, None, :, 3]
    own_NP3 = jnp.einsum("nij,npi->npj", pose[:, :, :3], offset_NP3) * jnp.array([1, -1, -1])
    plane_NP2, valid_NP = to_plane(cameras.model, own_NP3, cameras.distortion[:, None])
    place_NP2 = plane_NP2 * cameras.focal[:, None] + cameras.centre[:, None]
    return ProjectedPoints(place_NP2, own_NP3[..., 2], valid_NP)


def look_at(
    position: ArrayLike, target: ArrayLike = (0.0, 0.0, 0.0), up: ArrayLike = (0.0, 0.0, 1.0)
) -> Float[Array, "*B 3 4"]:
    """Poses at a position, looking at a target, with an upward direction upright in the image.

    Args:
      position: [..., 3].
      target: [..., 3], or one for all.
      up: [..., 3], or one for all; of any length.

    Raises:
      InputError: for a position at its target, or above or below it as ``up`` has it.
    """
    position, target, up = (jnp.asarray(x, jnp.float32) for x in (position, target, up))
    back, length = _unit(position - target)
    right, sine = _unit(jnp.cross(up, back))
    if can_be_checked(length, sine) and (jnp.any(length == 0) or jnp.any(sine < 1e-6)):
        raise InputError(
            f"position is {position.tolist()} with the target {target.tolist()}, "
            f"expected one that is not on a line along up={up.tolist()} through it"
        )
    columns = jnp.broadcast_arrays(right, jnp.cross(back, right), back, position)
    return jnp.stack(columns, axis=-1)


def _unit(vector: Array) -> tuple[Array, Array]:
    length = jnp.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / jnp.maximum(length, 1e-12), length


Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""The lower and the upper corner of a box, in world coordinates."""


def ray_box(
    rays: Rays, low: ArrayLike, high: ArrayLike
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Where rays enter and leave a box.

    Args:
      rays: [..., 3].
      low: lower corner, [3].
      high: upper corner, [3].

    Returns:
      Distances near and far, both finite. near is 0 or more (0 for a ray that starts inside); a
      ray that misses the box, or has it behind it, has far <= near. Gradients are finite, also for
      rays along an axis.
    """
    parallel = jnp.abs(rays.direction) < 1e-12
    slope = 1 / jnp.where(parallel, 1.0, rays.direction)
    sides = [(jnp.asarray(side) - rays.origin) * slope for side in (low, high)]
    inside = (rays.origin >= jnp.asarray(low)) & (rays.origin <= jnp.asarray(high))
    never = jnp.where(inside, -FAR_AWAY, FAR_AWAY)
    near = jnp.where(parallel, never, jnp.minimum(*sides))
    far = jnp.where(parallel, -never, jnp.maximum(*sides))
    return jnp.maximum(near.max(axis=-1), 0.0), far.min(axis=-1)


def ray_sphere(
    rays: Rays, centre: ArrayLike, radius: ArrayLike
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Where rays enter and leave a sphere.

    Args:
      rays: [..., 3].
      centre: [3].
      radius: of the sphere, above 0.

    Returns:
      Distances near and far, as those of `ray_box`: near is 0 or more, and far <= near where a ray
      misses the sphere or has it behind it. Gradients are finite, also for rays that touch it.
    """
    offset = rays.origin - jnp.asarray(centre)
    along = (offset * rays.direction).sum(axis=-1)
    # From the point next to the centre, rather than by squares of distances from far away.
    across = offset - along[..., None] * rays.direction
    rest = jnp.asarray(radius) ** 2 - (across**2).sum(axis=-1)
    half = jnp.where(rest > 0, jnp.sqrt(jnp.where(rest > 0, rest, 1.0)), 0.0)
    return jnp.maximum(-along - half, 0.0), half - along


def check_box(name: str, box: Box) -> None:
    """Raises InputError unless the corners are finite and the upper one is above the lower one."""
    corners = np.asarray(box, np.float64)
    if (
        corners.shape != (2, 3)
        or not np.isfinite(corners).all()
        or (corners[0] >= corners[1]).any()
    ):
        raise InputError(
            f"{name} is {box}, expected ((x, y, z), (x, y, z)), the lower corner first"
        )
