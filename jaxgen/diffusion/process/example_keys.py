"""Randomness of a sample: every example has a key of its own.

Example b draws from ``fold_in(key, index_b)``, so what it becomes depends on the key and its index
alone: not on the batch that it is part of, nor on the mesh or the number of devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import InputError


class OwnNoise(NamedTuple):
    """Noise in place of keys: what `normal` gives for it, whatever would have been drawn.

    Attributes:
      noise_B: standard normal numbers, [B, ...].
    """

    noise_B: Float[Array, "B ..."]


def example_indices(index_B: Int[Array, "B"] | None, count: int) -> Int[Array, "B"]:
    """The examples' indices, or their places in the batch where none are given.

    Raises:
      InputError: unless there is one for each example: randomness is not to be shared unawares.
    """
    if index_B is None:
        return jnp.arange(count)
    if jnp.shape(index_B) != (count,):
        raise InputError(
            f"index_B has shape {jnp.shape(index_B)} for {count} examples, expected ({count},)"
        )
    return jnp.asarray(index_B)


def example_keys(key: Key[Array, ""], index_B: Int[Array, "B"]) -> Key[Array, "B"]:
    """One key for each example, from its index."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index_B)


def step_keys(keys_B: Key[Array, "B"], step: int | Int[Array, ""]) -> Key[Array, "B"]:
    """The examples' keys for step number `step`.

    Raises:
      InputError: for noise of one's own, where several parts of a step draw.
    """
    if isinstance(keys_B, OwnNoise):
        raise InputError(
            "noise is given, but this method draws several times a step, expected None"
        )
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, step)


def normal(keys_B: Key[Array, "B"] | OwnNoise, shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Standard normal noise, float32.

    Args:
      keys_B: the examples' keys, or the noise itself.
      shape: of one example, without B.

    Returns:
      [B, *shape].
    """
    if isinstance(keys_B, OwnNoise):
        return keys_B.noise_B
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys_B)


def uniform(keys_B: Key[Array, "B"], shape: tuple[int, ...] = ()) -> Float[Array, "B ..."]:
    """Uniform numbers in [0, 1), float32, [B, *shape]."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys_B)
