"""Weights for tests of readers and writers: random numbers, and trees that are equal bit by bit."""

import jax
import numpy as np


def randomly(like, seed=0):
    """Random numbers of the shapes of a tree, in float32."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), like)


def assert_same_bits(found, expected):
    """Refuses trees that differ in structure, types or any bit."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
