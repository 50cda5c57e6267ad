"""Parameters drawn by numpy: a program that initialises a network takes longer to compile."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn


def random_params(init: Callable[[Any], Any], table: float = 1.0, seed: int = 0) -> Any:
    """Numbers in the shapes of what ``init(key)`` makes, by the sizes that a layer has.

    Args:
      init: ``key -> parameters``, of which the shapes alone are found.
      table: how far from 0 the numbers of tables may be.
      seed: other numbers.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, x: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "table":
            return rng.uniform(-table, table, x.shape).astype(x.dtype)
        size = np.prod(x.shape[:-1]) if x.ndim > 1 else 100
        return rng.normal(0, size**-0.5, x.shape).astype(x.dtype)

    shapes = nn.meta.unbox(jax.eval_shape(init, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(draw, shapes)
