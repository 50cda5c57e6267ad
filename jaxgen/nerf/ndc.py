"""Normalised device coordinates, for scenes that face forward (Mildenhall et al. 2020, appendix C).

A pinhole camera at the origin that looks along -z takes the frustum beyond its plane z = -n to a
cube: straight lines stay straight, and depth becomes even in its inverse, out to infinity::

    x' = -2 f x / (W z),    y' = -2 f y / (H z),    z' = 1 + 2 n / z           from -1 at n to 1

A ray that is moved to begin at z = -n, with o there and direction d, is o' + t' d' in the cube::

    o' = (-2 f o_x / (W o_z), -2 f o_y / (H o_z), 1 + 2 n / o_z)
    d' = (-2 f/W (d_x / d_z - o_x / o_z), -2 f/H (d_y / d_z - o_y / o_z), -2 n / o_z)
    t' = 1 - o_z / (o_z + t d_z)                          0 at z = -n, 1 at infinity

Cameras of a capture get there with the axes of their average pose (`average_pose`): `NdcConfig`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgen.errors import InputError, check_positive
from jaxgen.nerf.cameras import ArrayLike, Rays

ALONG = 1e-6
"""Rays that look along -z by less than this have no place in the cube."""
FARTHEST = 1e4
"""Depth at which what is at infinity is said to be, in units of n."""


@dataclass(frozen=True)
class NdcConfig:
    """The camera whose frustum is the cube.

    Attributes:
      camera_to_world: its pose, three rows of a rotation and a position.
      focal: fx and fy, in pixels.
      width: of its image, in pixels.
      height: of its image, in pixels.
      near: n, where the cube begins, in the world's units.

    Raises:
      InputError: for a pose that is not [3, 4], or numbers that are not positive.
    """

    camera_to_world: tuple[tuple[float, ...], ...]
    focal: tuple[float, float]
    width: int
    height: int
    near: float

    def __post_init__(self) -> None:
        shape = np.shape(self.camera_to_world)
        if shape != (3, 4):
            raise InputError(f"camera_to_world has shape {list(shape)}, expected [3, 4]")
        for name, value in (("near", self.near), *(("focal", part) for part in self.focal)):
            check_positive(name, value)
        for name in ("width", "height"):
            check_positive(name, getattr(self, name))

    def points(self, x: Float[Array, "*B 3"]) -> tuple[Float[Array, "*B 3"], Bool[Array, "*B"]]:
        """Points of the world in the cube, and whether they are beyond its plane; finite."""
        own = self._turned(x - self._pose[:, 3])
        beyond = own[..., 2] < -self.near
        own = jnp.where(beyond[..., None], own, jnp.array([0.0, 0.0, -self.near]))
        return ndc_points(own, self.focal, self.width, self.height, self.near), beyond

    def rays(self, rays: Rays) -> tuple[Rays, Float[Array, "*B"]]:
        """Rays of the world in the cube, with directions of length 1, and their length there."""
        found = ndc_rays(self._own(rays), self.focal, self.width, self.height, self.near)
        length = jnp.linalg.norm(found.direction, axis=-1)
        return Rays(found.origin, found.direction / length[..., None], found.valid), length

    def distances(self, rays: Rays, shares: Float[Array, "*B S"]) -> Float[Array, "*B S"]:
        """Distances along rays of the world of shares t' in the cube: `ndc_shares` the other way.

        What is at infinity is at the depth of `FARTHEST`.
        """
        own = self._own(rays)
        _, direction = _facing(own)
        z = -self.near / jnp.maximum(1 - shares, 1 / FARTHEST)
        return (z - own.origin[..., 2:]) / direction[..., 2:]

    @property
    def _pose(self) -> Float[Array, "3 4"]:
        return jnp.asarray(self.camera_to_world, jnp.float32)

    def _turned(self, vectors: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
        return jnp.matmul(vectors, self._pose[:, :3], precision=jax.lax.Precision.HIGHEST)

    def _own(self, rays: Rays) -> Rays:
        origin = self._turned(rays.origin - self._pose[:, 3])
        return Rays(origin, self._turned(rays.direction), rays.valid)


def ndc_points(
    points: Float[Array, "*B 3"],
    focal: ArrayLike,
    width: int,
    height: int,
    near: float | Float[Array, ""],
) -> Float[Array, "*B 3"]:
    """Points in the cube, where those in front of the camera and beyond the plane have |z'| <= 1.

    Args:
      points: in the camera's axes, with z below 0.
      focal: in pixels, one or (fx, fy).
      width: of the image, in pixels.
      height: of the image, in pixels.
      near: n, above 0.
    """
    slope = points[..., :2] / points[..., 2:]
    depth = 1 + 2 * near / points[..., 2:]
    return jnp.concatenate([slope * _scale(focal, width, height), depth], axis=-1)


def ndc_rays(
    rays: Rays, focal: ArrayLike, width: int, height: int, near: float | Float[Array, ""]
) -> Rays:
    """Rays in the cube, from the plane at t' = 0 to infinity at t' = 1; differentiable.

    Their directions are *not* of length 1: t' is no distance. Rays that do not look along -z are
    marked as not valid, and finite.

    Args:
      rays: in the camera's axes.
      focal: as `ndc_points` has it.
      width: as `ndc_points` has it.
      height: as `ndc_points` has it.
      near: as `ndc_points` has it.
    """
    faces, direction = _facing(rays)
    begin = rays.origin - ((near + rays.origin[..., 2:]) / direction[..., 2:]) * direction
    origin = ndc_points(begin, focal, width, height, near)
    slope = direction[..., :2] / direction[..., 2:] - begin[..., :2] / begin[..., 2:]
    along = jnp.concatenate([slope * _scale(focal, width, height), 1 - origin[..., 2:]], axis=-1)
    return Rays(origin, along, faces if rays.valid is None else faces & rays.valid)


def ndc_shares(
    rays: Rays, distances: Float[Array, "*B S"], near: float | Float[Array, ""]
) -> Float[Array, "*B S"]:
    """t' of points at distances along the original rays; below 0 nearer than the plane.

    Args:
      rays: in the camera's axes.
      distances: t from the origins.
      near: n, above 0.
    """
    _, direction = _facing(rays)
    # o_z is -n once the ray begins at the plane, where z is -n too.
    z = rays.origin[..., 2:] + distances * direction[..., 2:]
    return 1 + near / z


def _facing(rays: Rays) -> tuple[Array, Array]:
    """Which rays look along -z, and directions that do for all of them."""
    faces = rays.direction[..., 2] < -ALONG
    return faces, jnp.where(faces[..., None], rays.direction, jnp.array([0.0, 0.0, -1.0]))


def _scale(focal: ArrayLike, width: int, height: int) -> jax.Array:
    return -2 * jnp.asarray(focal, float) / jnp.array([width, height])
