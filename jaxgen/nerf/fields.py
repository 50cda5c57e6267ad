"""What a field is: density and colour of points of space.

    density = sigma(x) >= 0, per unit of length         colour = c(x, direction) in [0, 1]^3

Every field is a Flax module with two methods, ``field(x, direction, context)`` and
``field.density(x, context)``, and its configuration has ``make_model()`` and ``bounds``. A context
is what only some fields need of a sample; any part of it may be missing. The fields: the original
network and those of mip-NeRF (`jaxgen.nerf.network_field`), those over grids of features
(`jaxgen.nerf.grid_field`), signed distances (`jaxgen.nerf.distance_field`).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import InputError
from jaxgen.nerf.cameras import Box
from jaxgen.nn.dense import Dense


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FieldOutput:
    """What a field is at points.

    Attributes:
      density: sigma, [...].
      colour: c, [..., 3].
      gradient: of a signed distance, [..., 3], of length 1 where it is one; None of other fields.
    """

    density: Float[Array, "*B"]
    colour: Float[Array, "*B 3"]
    gradient: Float[Array, "*B 3"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampleContext:
    """What is known of samples beside their places.

    Attributes:
      covariance: [..., 3, 3], of the Gaussian that stands for the piece of a pixel's cone of which
        a sample is the mean; for integrated encodings.
      length: [...], of the interval that a sample stands for; for signed distances.
      offset: [...], of the sample from the beginning of that interval; None: half the length.
      code: [..., C], of the image that a sample is seen in.
      progress: [], the share of the training that is done, in [0, 1]; None: all of it.
    """

    covariance: Float[Array, "*B 3 3"] | None = None
    length: Float[Array, "*B"] | None = None
    offset: Float[Array, "*B"] | None = None
    code: Float[Array, "*B C"] | None = None
    progress: Float[Array, ""] | None = None


NO_CONTEXT = SampleContext()


def appearance(config: Any, context: SampleContext, like: Array) -> list[Array]:
    """What joins the input of a field's colour: the image's code, zeros where there is none.

    Raises:
      InputError: for a code of another size than the configuration's ``code_size``.
    """
    size, code = config.code_size, context.code
    if code is not None and code.shape[-1] != size:
        raise InputError(f"code has {code.shape[-1]} numbers, expected code_size={size}")
    if not size:
        return []
    shape = (*like.shape[:-1], size)
    return [jnp.zeros(shape) if code is None else jnp.broadcast_to(code, shape)]


def mlp_layer(units: int, inputs: str | None, bias: bool = True) -> Dense:
    """A hidden layer."""
    return Dense((units,), (inputs, "mlp"), bias=bias)


def density_within(box: Box | None, x: Float[Array, "*B 3"], density: Float[Array, "*B"]) -> Array:
    """The density, 0 outside of the box."""
    if box is None:
        return density
    low, high = (jnp.asarray(corner) for corner in box)
    return jnp.where(((x >= low) & (x <= high)).all(axis=-1), density, 0.0)


def level_weights(
    progress: Float[Array, ""] | None, levels: int, share: float, first: int = 1
) -> Float[Array, "L"]:
    """How much each level of an encoding counts while its levels are faded in, coarse to fine.

    ``(1 - cos(pi clip(a - l, 0, 1))) / 2`` with a from ``first`` to all levels (Lin et al. 2021,
    "BARF", equation 14).

    Args:
      progress: the share of training that is done; None: all of it.
      levels: L.
      share: of the training, after which all levels count; 0: always.
      first: how many levels count from the beginning.
    """
    if progress is None or not share:
        return jnp.ones(levels)
    reached = levels_in_use(progress, levels, share, first)
    part_L = jnp.clip(reached - jnp.arange(levels), 0, 1)
    return (1 - jnp.cos(jnp.pi * part_L)) / 2


def levels_in_use(
    progress: Float[Array, ""] | None, levels: int, share: float, first: int = 1
) -> Float[Array, ""] | int:
    """How many levels `level_weights` has reached, rising from ``first`` to all of them."""
    if progress is None or not share:
        return levels
    return first + (levels - first) * jnp.clip(progress / share, 0, 1)


def unit(vector: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    """Vectors at length 1; 0 where they are 0."""
    return vector * jax.lax.rsqrt(jnp.maximum((vector**2).sum(-1, keepdims=True), 1e-20))
