"""Shapes of parameters, and the comparison of trees of them."""

import jax
import numpy as np
from flax import linen as nn


def shapes(init, *inputs):
    """The abstract parameters of ``init(key, *inputs)``."""
    boxed = jax.eval_shape(init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(
        lambda x: x.value, boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata)
    )


def assert_same(found, expected, tolerance):
    """Two trees, each leaf relative to the largest number in it."""
    paths = jax.tree_util.tree_flatten_with_path(expected)[0]
    for (path, want), value in zip(paths, jax.tree.leaves(found), strict=True):
        error = np.abs(np.asarray(value) - want).max() / np.abs(want).max()
        assert error < tolerance, (jax.tree_util.keystr(path), error)
