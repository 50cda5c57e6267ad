"""Attention that knows how far two tokens are apart: a learnt number for each offset and head.

Shaw et al. 2018; on a grid as in Liu et al. 2021 (Swin), section 3.2: the offset of places a and b
is ``a - b`` along each axis, between ``-(n - 1)`` and ``n - 1``; a table has one row for each.
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int


def relative_index(sizes: tuple[int, ...]) -> Int[np.ndarray, "L L"]:
    """Which row of a table of offsets belongs to two places of a grid.

    Args:
      sizes: places along each axis.

    Returns:
      [L, L] integers below the product of ``2 n - 1``; offsets are numbered row by row.
    """
    places = np.stack(np.meshgrid(*(np.arange(n) for n in sizes), indexing="ij"), axis=-1)
    places = places.reshape(-1, len(sizes))
    shifted = places[:, None] - places[None] + np.array(sizes) - 1
    rows = np.ravel_multi_index(tuple(np.moveaxis(shifted, -1, 0)), [2 * n - 1 for n in sizes])
    return rows.astype(np.int32)


class RelativeBias(nn.Module):
    """What is added to the logits of attention between the places of a grid.

    Attributes:
      heads: H.
      grid: places along each axis.
    """

    heads: int
    grid: tuple[int, ...]

    @nn.compact
    def __call__(self, places_BL: Int[Array, "B L"] | None = None) -> Float[Array, "*B H L L"]:
        """The bias [H, L, L] of the whole grid, or [B, H, L, L] of some places of each example.

        Args:
          places_BL: [B, L] places, numbered row by row; None for the whole grid.
        """
        initial = nn.initializers.truncated_normal(0.02)
        table_NH = self.param(
            "table",
            nn.with_logical_partitioning(initial, ("positions", "heads")),
            (math.prod(2 * n - 1 for n in self.grid), self.heads),
        )
        index = relative_index(self.grid)
        if places_BL is None:
            return table_NH[index].transpose(2, 0, 1)
        index_BLL = jnp.asarray(index)[places_BL[:, :, None], places_BL[:, None, :]]
        return table_NH[index_BLL].transpose(0, 3, 1, 2)
