"""Randomness of a sample: every example has a key of its own.

Example b draws from ``fold_in(key, index_b)``, so what it becomes depends on the key and its index
alone: not on the batch that it is part of, nor on the mesh or the number of devices.
"""

import jax
from jaxtyping import Array, Float, Int, Key


def example_keys(key: Key[Array, ""], index_B: Int[Array, "B"]) -> Key[Array, "B"]:
    """One key for each example, from its index."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index_B)


def step_keys(keys_B: Key[Array, "B"], step: int | Int[Array, ""]) -> Key[Array, "B"]:
    """The examples' keys for step number `step`."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, step)


def normal(keys_B: Key[Array, "B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Standard normal noise, float32.

    Args:
      keys_B: the examples' keys.
      shape: of one example, without B.

    Returns:
      [B, *shape].
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)


def uniform(keys_B: Key[Array, "B"], shape: tuple[int, ...] = ()) -> Float[Array, "B ..."]:
    """Uniform numbers in [0, 1), float32, [B, *shape]."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys_B)
