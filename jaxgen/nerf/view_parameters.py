"""What is learned of each photograph beside the field: a code, an exposure, its pose; intrinsics.

A code joins the input of the field's colour, for what changes from photograph to photograph
(Martin-Brualla et al. 2021, "NeRF in the wild"). An exposure multiplies the colours that a
photograph shows, each channel by ``exp(e_i - mean e)``. A pose is corrected by a small rotation
around the camera, ``exp(omega) R``, and a small move, ``o + v``; focal lengths and centre of all
photographs by common factors and shifts. All corrections start at none. Poses and intrinsics are a
tenth of their parameters, so that one learning rate does for fields and for them.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError
from jaxgen.nerf.cameras import Cameras
from jaxgen.typing import Tree

SCALE = 0.1
"""Radians, units of length and logarithms of factors, of a parameter of 1."""


@dataclass(frozen=True)
class ViewConfig:
    """What is learned of photographs.

    Attributes:
      count: how many photographs.
      code_size: numbers of a code; 0: no codes.
      exposure: whether exposures are learned.
      poses: whether poses are.
      intrinsics: whether focal lengths and centre are.

    Raises:
      InputError: for numbers below 0, or no photographs.
    """

    count: int
    code_size: int = 0
    exposure: bool = False
    poses: bool = False
    intrinsics: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count is {self.count}, expected 1 or more photographs")
        if self.code_size < 0:
            raise InputError(f"code_size is {self.code_size}, expected 0 or more")

    def init(self, key: Array) -> Tree:
        """Initial parameters, with logical axes (none)."""
        params = {}
        if self.code_size:
            params["codes"] = 0.1 * jax.random.normal(key, (self.count, self.code_size))
        if self.exposure:
            params["exposures"] = jnp.zeros((self.count, 3))
        if self.poses:
            params["rotations"] = jnp.zeros((self.count, 3))
            params["moves"] = jnp.zeros((self.count, 3))
        if self.intrinsics:
            params["intrinsics"] = jnp.zeros(4)
        return {k: nn.LogicallyPartitioned(v, (None,) * v.ndim) for k, v in params.items()}

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn."""
        return bool(self.code_size or self.exposure or self.poses or self.intrinsics)


def refine_cameras(params: Tree, cameras: Cameras) -> Cameras:
    """The cameras as corrected; differentiable.

    Args:
      params: of `ViewConfig`; what it does not have is not corrected. Corrections of poses are
        those of the cameras, one by one.
      cameras: of the photographs.
    """
    pose, focal, centre = cameras.camera_to_world, cameras.focal, cameras.centre
    if "rotations" in params:
        turn = rotation_of(SCALE * params["rotations"]) @ pose[..., :3]
        place = pose[..., 3] + SCALE * params["moves"]
        pose = jnp.concatenate([turn, place[..., None]], axis=-1)
    if "intrinsics" in params:
        focal = focal * jnp.exp(SCALE * params["intrinsics"][:2])
        centre = centre + SCALE * params["intrinsics"][2:] * cameras.width
    return dataclasses.replace(cameras, camera_to_world=pose, focal=focal, centre=centre)


def rotation_of(vector: Float[Array, "*B 3"]) -> Float[Array, "*B 3 3"]:
    """The rotation by |vector| radians around the vector (Rodrigues), smooth at 0."""
    square = (vector**2).sum(axis=-1)[..., None, None]
    small = square < 1e-8
    angle = jnp.sqrt(jnp.where(small, 1, square))
    first = jnp.where(small, 1 - square / 6, jnp.sin(angle) / angle)
    second = jnp.where(small, 0.5 - square / 24, (1 - jnp.cos(angle)) / angle**2)
    x, y, z = jnp.moveaxis(vector, -1, 0)
    zero = jnp.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    cross = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    return jnp.eye(3) + first * cross + second * (cross @ cross)


def view_codes(params: Tree, view: Int[Array, "R"] | None) -> Float[Array, "R C"] | None:
    """The codes of rays; of a view that is no photograph, the mean of all (``view`` is None)."""
    if "codes" not in params:
        return None
    codes = params["codes"]
    return codes.mean(axis=0, keepdims=True) if view is None else codes[view]


def expose(params: Tree, view: Int[Array, "R"] | None, colour: Array) -> Array:
    """Colours as the photographs show them; as they are where there is no photograph."""
    if "exposures" not in params or view is None:
        return colour
    logs = params["exposures"]
    return colour * jnp.exp(logs - logs.mean(axis=0))[view]
