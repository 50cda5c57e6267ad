"""Attention that knows how far two tokens are apart: a learnt number for each offset and head.

Shaw et al. 2018; on a grid as in Liu et al. 2021 (Swin), section 3.2: the offset of places a and b
is ``a - b`` along each axis, between ``-(n - 1)`` and ``n - 1``; a table has one row for each.

Along a sequence of any length, offsets share rows, called *buckets* (Raffel et al. 2020, "T5",
section 2.1). With N buckets, half of them for n = query - key < 0 and e = N / 4::

    |n| < e    a bucket each
    else       e + floor(e log(|n| / e) / log(largest / e)), at most N / 2 - 1
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError


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


def bucket_index(
    offset: Int[np.ndarray, "*N"], buckets: int = 32, largest: int = 32
) -> Int[np.ndarray, "*N"]:
    """The bucket of each offset, see above.

    Args:
      offset: place of the query minus place of the key.
      buckets: N, a multiple of 4.
      largest: distance from which on all offsets of one sign share a bucket, above N / 4.

    Raises:
      InputError: for numbers that make no buckets.
    """
    check_buckets(buckets, largest)
    half, exact = buckets // 2, buckets // 4
    distance = np.abs(offset)
    # Base 2 keeps powers of two, where buckets meet, free of rounding.
    share = np.log2(np.maximum(distance, exact) / exact) / np.log2(largest / exact)
    far = np.minimum(exact + np.floor(exact * share), half - 1)
    return (np.where(distance < exact, distance, far) + half * (offset < 0)).astype(np.int32)


def check_buckets(buckets: int, largest: int) -> None:
    """Refuses numbers that make no buckets.

    Raises:
      InputError: for a number of buckets that is no multiple of 4, or a largest distance whose
        neighbours have buckets of their own.
    """
    if buckets < 4 or buckets % 4:
        raise InputError(f"buckets is {buckets}, expected a positive multiple of 4")
    if largest <= buckets // 4:
        raise InputError(f"largest distance is {largest}, expected more than {buckets // 4}")


class BucketBias(nn.Module):
    """What is added to the logits of attention along a sequence, by buckets of offsets.

    Attributes:
      heads: H.
      buckets: N, a multiple of 4.
      largest: distance from which on all offsets of one sign share a bucket.
      table_init: the initial table.
    """

    heads: int
    buckets: int = 32
    largest: int = 32
    table_init: Callable[..., Any] = nn.initializers.truncated_normal(0.02)

    @nn.compact
    def __call__(self, length: int) -> Float[Array, "H L L"]:
        """The bias between the places 0 to ``length`` - 1."""
        table_NH = self.param(
            "table",
            nn.with_logical_partitioning(self.table_init, ("positions", "heads")),
            (self.buckets, self.heads),
        )
        place_L = np.arange(length)
        index_LL = bucket_index(place_L[:, None] - place_L, self.buckets, self.largest)
        return jnp.asarray(table_NH)[index_LL].transpose(2, 0, 1)
