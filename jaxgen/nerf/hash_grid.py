"""Multi-resolution hash grids (Müller et al. 2022), with the indices of tiny-cuda-nn.

Level l of L has the scale ``s_l = 2^(l log2 b) N_min - 1`` and ``ceil(s_l) + 1`` places along each
axis. A point x in [0, 1]^3 is at ``x s_l + 1/2`` on it; its features are those of the eight corners
of its cell, weighted trilinearly. A level has a table of ``min(places^3, 2^T)`` rows, the first
rounded up to a multiple of 8. Corner (i, j, k) has the row ::

    i + j places + k places^2                                where places^3 rows fit in 2^T
    (i xor 2654435761 j xor 805459861 k) mod 2^T             elsewhere, in 32 bits

The tables of all levels are one array of rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxgen.axes import BATCH_MESH_AXES
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.token_sharding import auto_axes

PRIMES = (1, 2654435761, 805459861)
INITIAL_RANGE = 1e-4
CORNERS = tuple(product((0, 1), repeat=3))

Levels = tuple[Array, ...]
"""One array for each level."""


class GridLevel(NamedTuple):
    """One level: its scale s_l, places along an axis, first row, rows, whether it is hashed."""

    scale: float
    places: int
    start: int
    rows: int
    hashed: bool


@dataclass(frozen=True)
class HashGridConfig:
    """Options of a hash grid.

    Attributes:
      levels: L.
      features: numbers of a row.
      log2_table_size: T.
      base_resolution: N_min.
      finest_resolution: ``b^(L-1) N_min``, which sets b.

    Raises:
      InputError: for numbers that make no grid.
    """

    levels: int = 8
    features: int = 4
    log2_table_size: int = 17
    base_resolution: int = 16
    finest_resolution: int = 512

    def __post_init__(self) -> None:
        check_sizes(self, "levels", "features", "base_resolution")
        if not 3 <= self.log2_table_size <= 28:
            raise InputError(f"log2_table_size is {self.log2_table_size}, expected 3 to 28")
        if self.finest_resolution < self.base_resolution:
            raise InputError(
                f"finest_resolution is {self.finest_resolution}, expected at least "
                f"base_resolution={self.base_resolution}"
            )

    @property
    def level_table(self) -> tuple[GridLevel, ...]:
        """All levels, the coarsest first."""
        octaves = math.log2(self.finest_resolution / self.base_resolution)
        step, start, found = octaves / max(self.levels - 1, 1), 0, []
        for level in range(self.levels):
            scale = float(np.float32(2 ** (level * step) * self.base_resolution - 1))
            places = math.ceil(scale) + 1
            hashed = places**3 > 2**self.log2_table_size
            rows = 2**self.log2_table_size if hashed else -(-(places**3) // 8) * 8
            found.append(GridLevel(scale, places, start, rows, hashed))
            start += rows
        return tuple(found)

    @property
    def rows(self) -> int:
        """Rows of all levels together."""
        return sum(level.rows for level in self.level_table)

    @property
    def width(self) -> int:
        """Features of a point: L times those of a row."""
        return self.levels * self.features

    def make_model(self) -> "HashGrid":
        """The grid as a Flax module."""
        return HashGrid(self)


def grid_corners(
    x: Float[Array, "N 3"], level: GridLevel
) -> tuple[Int[Array, "8 N"], Float[Array, "8 N"]]:
    """Rows of the array of all levels, and trilinear weights, of the corners around points.

    Args:
      x: in [0, 1]^3.
      level: of `HashGridConfig.level_table`.
    """
    place_3N = x.T * level.scale + 0.5
    cell_3N = jnp.floor(place_3N)
    share_3N = place_3N - cell_3N
    corner_3N = cell_3N.astype(jnp.uint32)
    rows, weights = [], []
    factors = PRIMES if level.hashed else (1, level.places, level.places**2)
    both = [  # of each axis, what the lower and the upper corner contribute
        (corner_3N[axis] * np.uint32(factor), (corner_3N[axis] + 1) * np.uint32(factor))
        for axis, factor in enumerate(factors)
    ]
    for i, j, k in CORNERS:
        x_N, y_N, z_N = both[0][i], both[1][j], both[2][k]
        index_N = x_N ^ y_N ^ z_N if level.hashed else x_N + y_N + z_N
        rows.append((index_N % np.uint32(level.rows)).astype(jnp.int32) + level.start)
        sides = [
            share_3N[axis] if upper else 1 - share_3N[axis] for axis, upper in enumerate((i, j, k))
        ]
        weights.append(sides[0] * sides[1] * sides[2])
    return jnp.stack(rows), jnp.stack(weights)


def weighted_rows(
    table_RF: Float[Array, "R F"],
    rows_LKN: Int[Array, "L K N"] | Sequence[Int[Array, "K N"]],
    weights_LKN: Float[Array, "L K N"] | Sequence[Float[Array, "K N"]],
) -> Float[Array, "N L F"]:
    """``sum_k weight_k table[row_k]``, for K rows of each of L levels of N points.

    Differentiable backward any number of times. Look-up and scatter-add both run corner by corner
    and level by level, and no array of all levels is made: XLA on CPU then writes no array larger
    than [K, N] but the terms of one corner. Against what was measured instead, see "Speed" in
    ``docs/radiance_fields.md``.
    """
    return _weighted_rows(table_RF, tuple(rows_LKN), tuple(weights_LKN))


@jax.custom_vjp
def _weighted_rows(table_RF: Array, rows_LKN: Levels, weights_LKN: Levels) -> Array:
    return jnp.stack(
        [
            sum(
                table_RF.at[rows_N].get(mode="promise_in_bounds") * weights_N[:, None]
                for rows_N, weights_N in zip(rows_KN, weights_KN, strict=True)
            )
            for rows_KN, weights_KN in zip(rows_LKN, weights_LKN, strict=True)
        ],
        axis=1,
    )


def _weighted_rows_forward(table: Array, rows: Levels, weights: Levels) -> tuple[Array, Any]:
    return _weighted_rows(table, rows, weights), (table, rows, weights)


def _weighted_rows_backward(kept: Any, gradient_NLF: Array) -> tuple[Array, None, Levels]:
    table_RF, rows_LKN, weights_LKN = kept
    to_weights_LKN = []
    for level, rows_KN in enumerate(rows_LKN):
        found_KNF = table_RF.at[rows_KN].get(mode="promise_in_bounds")
        to_weights_LKN.append(jnp.einsum("KNF,NF->KN", found_KNF, gradient_NLF[:, level]))
    sums_RF = _sum_by_row(table_RF.shape[0], rows_LKN, weights_LKN, gradient_NLF)
    return sums_RF, None, tuple(to_weights_LKN)


_weighted_rows.defvjp(_weighted_rows_forward, _weighted_rows_backward)


def _sum_by_row(
    count: int, rows_LKN: Levels, weights_LKN: Levels, gradient_NLF: Float[Array, "N L F"]
) -> Float[Array, "R F"]:
    """For each of R rows the sum of ``weight gradient`` over the corners that are this row.

    Where points are shared by devices, each adds up its own, and one sum over devices follows: left
    to XLA, it would follow each of the L K scatters.
    """

    def local(rows_LKN: Levels, weights_LKN: Levels, gradient_NLF: Array) -> Array:
        sums_RF = jnp.zeros((count, gradient_NLF.shape[-1]), gradient_NLF.dtype)
        for level, (rows_KN, weights_KN) in enumerate(zip(rows_LKN, weights_LKN, strict=True)):
            for rows_N, weights_N in zip(rows_KN, weights_KN, strict=True):
                terms_NF = gradient_NLF[:, level] * weights_N[:, None]
                sums_RF = sums_RF.at[rows_N].add(terms_NF, mode="promise_in_bounds")
        return sums_RF

    mesh = jax.sharding.get_abstract_mesh()
    sizes = auto_axes()
    axes = tuple(axis for axis in BATCH_MESH_AXES if sizes.get(axis, 1) > 1)
    shards = math.prod(sizes[axis] for axis in axes)
    if not axes or len(gradient_NLF) % shards or len(sizes) < len(mesh.axis_names):
        return local(rows_LKN, weights_LKN, gradient_NLF)
    of_corners, of_points = PartitionSpec(None, axes), PartitionSpec(axes)
    shared = jax.shard_map(
        lambda *given: jax.lax.psum(local(*given), axes),
        in_specs=(of_corners, of_corners, of_points),
        out_specs=PartitionSpec(),
        axis_names=set(axes),
    )
    return shared(rows_LKN, weights_LKN, gradient_NLF)


@jax.custom_vjp
def _gradient_once(x_N3: Array) -> Array:
    """The points as they are, with a gradient that is computed once.

    XLA on CPU computes the gradient of points, all corners of all levels, again for each of what is
    made of it, such as the gradients of origins and of directions of rays. It does not compute the
    operands of a matrix product again.
    """
    return x_N3


def _gradient_once_backward(_: None, gradient_N3: Array) -> tuple[Array]:
    return (jnp.dot(gradient_N3, jnp.eye(3), precision=jax.lax.Precision.HIGHEST),)


_gradient_once.defvjp(lambda x_N3: (x_N3, None), _gradient_once_backward)


class HashGrid(nn.Module):
    """Features of points of the unit cube; the table starts as U(-1e-4, 1e-4).

    Attributes:
      config: the options.
    """

    config: HashGridConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B 3"]) -> Float[Array, "*B D"]:
        """x in [0, 1]^3 (points outside are moved to the border) to [..., L times features]."""
        config = self.config

        def initial(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-INITIAL_RANGE, maxval=INITIAL_RANGE)

        named = nn.with_logical_partitioning(initial, ("hash", None))
        table_RF = jnp.asarray(self.param("table", named, (config.rows, config.features)))
        x_N3 = jnp.clip(_gradient_once(x.reshape(-1, 3)), 0, 1)
        corners = [grid_corners(x_N3, level) for level in config.level_table]
        rows_LKN, weights_LKN = zip(*corners, strict=True)
        features_NLF = weighted_rows(table_RF, rows_LKN, weights_LKN)
        return features_NLF.reshape(*x.shape[:-1], config.width)
