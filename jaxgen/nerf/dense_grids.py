"""Grids of features without hashing: one in space, and three planes.

A point of the unit cube is at ``x (N - 1)`` on N places along each axis; features are mixed
linearly between the places around it. A dense grid has N^3 places (Sun et al. 2022, "Direct voxel
grid optimization"); a tri-plane one of N^2 for each pair of axes, whose features are added or
multiplied (Chan et al. 2022, "EG3D"; Fridovich-Keil et al. 2023, "K-planes").
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.errors import InputError
from jaxgen.nerf.hash_grid import INITIAL_RANGE, weighted_rows

PLANES = ((0, 1), (0, 2), (1, 2))
"""Axes of the planes."""


class _OneLevel:
    """What grids of one level have in common with a hash grid."""

    resolution: int
    features: int

    def _check(self) -> None:
        if self.resolution < 2:
            raise InputError(f"resolution is {self.resolution}, expected 2 or more")
        if self.features < 1:
            raise InputError(f"features is {self.features}, expected 1 or more")

    @property
    def levels(self) -> int:
        """Levels of detail."""
        return 1

    @property
    def finest_resolution(self) -> int:
        """Places along an axis of the only level."""
        return self.resolution

    @property
    def width(self) -> int:
        """Features of a point."""
        return self.features


@dataclass(frozen=True)
class DenseGridConfig(_OneLevel):
    """Options of a dense grid.

    Attributes:
      resolution: N, places along each axis.
      features: of a place.

    Raises:
      InputError: for numbers that make no grid.
    """

    resolution: int = 128
    features: int = 4

    def __post_init__(self) -> None:
        self._check()

    def make_model(self) -> "DenseGrid":
        """The grid as a Flax module."""
        return DenseGrid(self)


@dataclass(frozen=True)
class TriPlaneConfig(_OneLevel):
    """Options of a tri-plane.

    Attributes:
      resolution: N, places along both axes of a plane.
      features: of a place.
      combine: how the features of the planes become one: their sum, or their product.

    Raises:
      InputError: for options that make no tri-plane.
    """

    resolution: int = 256
    features: int = 16
    combine: Literal["sum", "product"] = "sum"

    def __post_init__(self) -> None:
        self._check()
        if self.combine not in ("sum", "product"):
            raise InputError(f"combine is {self.combine!r}, expected 'sum' or 'product'")

    def make_model(self) -> "TriPlane":
        """The planes as a Flax module."""
        return TriPlane(self)


class DenseGrid(nn.Module):
    """Features of points of the unit cube; places start as U(-1e-4, 1e-4).

    Attributes:
      config: the options.
    """

    config: DenseGridConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B 3"]) -> Float[Array, "*B F"]:
        """x in [0, 1]^3; points outside are moved to the border."""
        config, flat_N3 = self.config, jnp.clip(x.reshape(-1, 3), 0, 1)
        table = _table(self, "table", config.resolution**3, config.features, INITIAL_RANGE, 0.0)
        return _looked_up(table, flat_N3, config.resolution).reshape(*x.shape[:-1], config.width)


class TriPlane(nn.Module):
    """Features of points of the unit cube, from planes.

    Planes that are multiplied start near 1, not near 0, where a product has no gradient.

    Attributes:
      config: the options.
    """

    config: TriPlaneConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B 3"]) -> Float[Array, "*B F"]:
        """x in [0, 1]^3; points outside are moved to the border."""
        config, flat_N3 = self.config, jnp.clip(x.reshape(-1, 3), 0, 1)
        start = (0.1, 0.0) if config.combine == "sum" else (0.1, 1.0)
        planes = [
            _looked_up(
                _table(self, f"plane_{i}", config.resolution**2, config.features, *start),
                flat_N3[:, jnp.array(axes)],
                config.resolution,
            )
            for i, axes in enumerate(PLANES)
        ]
        combined = sum(planes) if config.combine == "sum" else planes[0] * planes[1] * planes[2]
        return jnp.asarray(combined).reshape(*x.shape[:-1], config.width)


def _table(
    module: nn.Module, name: str, rows: int, features: int, spread: float, middle: float
) -> Float[Array, "R F"]:
    def initial(key: Array, shape: Sequence[int]) -> Array:
        return middle + jax.random.uniform(key, shape, minval=-spread, maxval=spread)

    named = nn.with_logical_partitioning(initial, ("hash", None))
    return jnp.asarray(module.param(name, named, (rows, features)))


def _looked_up(
    table_RF: Float[Array, "R F"], x_NA: Float[Array, "N A"], resolution: int
) -> Float[Array, "N F"]:
    """Linear interpolation along every axis; the first axis is that of neighbouring rows."""
    axes = x_NA.shape[1]
    place_AN = x_NA.T * (resolution - 1)
    cell_AN = jnp.clip(jnp.floor(place_AN), 0, max(resolution - 2, 0)).astype(jnp.int32)
    share_AN = place_AN - cell_AN
    rows, weights = [], []
    for corner in itertools.product((0, 1), repeat=axes):
        row_N, weight_N = jnp.zeros_like(cell_AN[0]), jnp.ones_like(share_AN[0])
        for axis, upper in enumerate(corner):
            row_N += (cell_AN[axis] + upper) * resolution**axis
            weight_N *= share_AN[axis] if upper else 1 - share_AN[axis]
        rows.append(row_N)
        weights.append(weight_N)
    return weighted_rows(table_RF, jnp.stack(rows)[None], jnp.stack(weights)[None])[:, 0]
