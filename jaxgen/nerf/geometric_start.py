"""Initial weights with which an MLP is the distance to a sphere.

Atzmon and Lipman 2020, "SAL", theorem 1: with weights N(0, 2 / units) a layer of ReLU keeps the
length of its input, in expectation, and the sum over the units of the last one is proportional to
it. What joins the place (waves, features of a grid) has weights 0.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def even_directions(
    key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Float[Array, "D F"]:
    """Of the first layer: of the first 3 inputs alone, evenly spread over the sphere.

    With few units even directions are closer to a sphere than random ones. Their length is the root
    mean square of those.
    """
    units = shape[1]
    turn = jax.random.uniform(key, (), maxval=2 * math.pi)
    height = 1 - (2 * jnp.arange(units) + 1) / units
    angle = turn + math.pi * (3 - math.sqrt(5)) * jnp.arange(units)
    around = jnp.sqrt(1 - height**2)
    directions = jnp.stack([around * jnp.cos(angle), around * jnp.sin(angle), height])
    kernel = jnp.zeros(shape, dtype)
    return kernel.at[:3].set(math.sqrt(6 / units) * directions.astype(dtype))


def rotation(
    joined: int, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Float[Array, "D F"]:
    """Of a later layer: N(0, 2 / units).

    Args:
      joined: how many inputs are those of the layer before, where others come first (the place,
        and what has weights 0); 0: all are.
      key: a key.
      shape: inputs and units.
      dtype: of the weights.
    """
    kernel = jax.random.normal(key, shape, dtype) * math.sqrt(2 / shape[1])
    return kernel.at[3 : shape[0] - joined].set(0) if joined else kernel


def mean_length(
    depth: int, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Float[Array, "D F"]:
    """Of the output: its sum over the units of the last of ``depth`` layers is the place's length.

    Units of random weights have the mean ``sqrt(1 / (pi units))``, those of `even_directions`
    ``sqrt(6 / units) / 4``; noise tells the units apart.
    """
    scale = 4 / math.sqrt(6) if depth == 1 else math.sqrt(math.pi)
    return scale / math.sqrt(shape[0]) + 1e-4 * jax.random.normal(key, shape, dtype)
