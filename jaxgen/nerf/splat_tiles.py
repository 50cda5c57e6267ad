"""Which Gaussians are seen in which tile of an image, nearest first, with static shapes.

Gaussians are sorted by depth, and each gives one pair (Gaussian, tile) for every tile of its box.
All pairs of an image together have a stated capacity M: those beyond it, which are the farthest
Gaussians', are lost, and counted. Pairs whose tile the Gaussian does not reach (its box does) are
then left out, and one sort of the numbers ``tile G + rank in depth`` makes the lists of all tiles,
each a slice of one array. So no tile and no Gaussian has a limit of its own.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError
from jaxgen.nerf.splat_projection import LEAST_ALPHA, ProjectedSplats

LIMIT = 2**32
"""Gaussians times tiles are numbered in 32 bits."""


class TileGrid(NamedTuple):
    """How an image is cut: static.

    Attributes:
      side: of a tile in pixels.
      rows: of tiles; the last one may leave the image.
      columns: of tiles.
    """

    side: int
    rows: int
    columns: int

    @property
    def total(self) -> int:
        """All tiles."""
        return self.rows * self.columns


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TileLists:
    """The Gaussians of every tile, in depth order.

    Attributes:
      gaussian: [M], the lists of all tiles, one after the other; the rest is not used.
      start: [T], where a tile's list begins, tiles row by row.
      count: [T], its length.
      overflow: pairs beyond the capacity, which are lost.
    """

    gaussian: Int[Array, "M"]
    start: Int[Array, "T"]
    count: Int[Array, "T"]
    overflow: Int[Array, ""]


def tile_grid(height: int, width: int, side: int) -> TileGrid:
    """The tiles that cover an image."""
    return TileGrid(side, -(-height // side), -(-width // side))


def make_tile_lists(splats: ProjectedSplats, grid: TileGrid, capacity: int) -> TileLists:
    """The lists of all tiles; nothing here has a gradient.

    Args:
      splats: in the image.
      grid: how it is cut.
      capacity: M.

    Raises:
      InputError: for more than 2^32 Gaussians times tiles.
    """
    splats = jax.lax.stop_gradient(splats)
    gaussians = len(splats.depth)
    if gaussians * (grid.total + 1) >= LIMIT:
        raise InputError(
            f"tiles are {grid.total} with {gaussians} Gaussians, expected a product below 2^32, "
            "so larger tiles"
        )
    order_G = jnp.argsort(jnp.where(splats.visible, splats.depth, jnp.inf))
    near_first = jax.tree.map(lambda x: x[order_G], splats)
    low_G2, size_G2 = _covered(near_first, grid)
    count_G = size_G2.prod(axis=-1).astype(jnp.uint32)
    end_G = jnp.cumsum(count_G)
    owner_M = jnp.repeat(jnp.arange(gaussians), count_G, total_repeat_length=capacity)
    number_M = jnp.arange(capacity, dtype=jnp.uint32)
    within_M = (number_M - (end_G - count_G)[owner_M]).astype(jnp.int32)
    across_M = jnp.maximum(size_G2[owner_M, 0], 1)
    column_M = low_G2[owner_M, 0] + within_M % across_M
    row_M = low_G2[owner_M, 1] + within_M // across_M
    used_M = number_M < end_G[-1]
    used_M &= _reached(near_first, owner_M, column_M, row_M, grid.side)
    key_M = (row_M * grid.columns + column_M).astype(jnp.uint32) * gaussians
    key_M = jnp.sort(jnp.where(used_M, key_M + owner_M.astype(jnp.uint32), jnp.uint32(LIMIT - 1)))
    first_T = jnp.arange(grid.total + 1, dtype=jnp.uint32) * gaussians
    edges_T = jnp.searchsorted(key_M, first_T).astype(jnp.int32)
    return TileLists(
        gaussian=order_G[key_M % gaussians].astype(jnp.int32),
        start=edges_T[:-1],
        count=jnp.diff(edges_T),
        overflow=(jnp.maximum(end_G[-1], capacity) - capacity).astype(jnp.int32),
    )


def _covered(
    splats: ProjectedSplats, grid: TileGrid
) -> tuple[Int[Array, "G 2"], Int[Array, "G 2"]]:
    """The first tile of each box, column and row, and how many columns and rows it has."""
    tiles_2 = jnp.asarray([grid.columns, grid.rows])
    # Pixel centres are at halves; a little more than the box, for rounding.
    reach_G2 = splats.extent * (1 + 1e-5) + 1e-3
    first_G2 = jnp.ceil(splats.place - reach_G2 - 0.5)
    last_G2 = jnp.floor(splats.place + reach_G2 - 0.5)
    low_G2 = jnp.clip(jnp.floor(first_G2 / grid.side), 0, tiles_2)
    high_G2 = jnp.clip(jnp.floor(last_G2 / grid.side) + 1, 0, tiles_2)
    size_G2 = jnp.maximum(high_G2 - low_G2, 0)
    size_G2 = jnp.where(splats.visible[:, None], size_G2, 0)
    return low_G2.astype(jnp.int32), size_G2.astype(jnp.int32)


def _reached(
    splats: ProjectedSplats,
    owner_M: Int[Array, "M"],
    column_M: Int[Array, "M"],
    row_M: Int[Array, "M"],
    side: int,
) -> Bool[Array, "M"]:
    """Whether a pixel's centre may lie in the ellipse of alpha >= 1 / 255.

    The least value of a convex quadratic form in a rectangle is at its centre, or on a side that
    faces it: one of at most two.
    """
    a, b, c = splats.conic[owner_M].T
    low_M2 = jnp.stack([column_M, row_M], axis=-1) * side + 0.5 - splats.place[owner_M]
    high_M2 = low_M2 + (side - 1)
    nearest_x, nearest_y = jnp.clip(0.0, low_M2, high_M2).T

    def form(x: Float[Array, "M"], y: Float[Array, "M"]) -> Float[Array, "M"]:
        return a * x * x + 2 * b * x * y + c * y * y

    along_y = jnp.clip(-b * nearest_x / c, low_M2[:, 1], high_M2[:, 1])
    along_x = jnp.clip(-b * nearest_y / a, low_M2[:, 0], high_M2[:, 0])
    least = jnp.minimum(form(nearest_x, along_y), form(along_x, nearest_y))
    reach = 2 * jnp.log(splats.opacity / LEAST_ALPHA)
    return least <= reach[owner_M] * (1 + 1e-4) + 1e-3
