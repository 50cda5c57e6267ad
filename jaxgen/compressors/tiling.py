"""Large frames in tiles: exactly, with halos, or approximately, blended.

A latent *cell* is one position of the latents in space and the s_y x s_x pixels that belong to it.
All positions here are counted in cells: a tile, its halo or its overlap of n cells is n s pixels of
the data, so that tiles of latents and tiles of pixels always fit each other.

**Exact.** Where every layer is local, an output depends on inputs within some *reach*. Each tile is
computed from a window that is larger by the reach (its halo) on each side that is not an edge of
the frame, and the halo of the result is thrown away. Windows all have one size (at the edges they
are moved inwards), so that one program is compiled. The reach follows from the layers. Going back
from one output, an interval [a, b] becomes::

    convolution of size k    [a - (k - 1) // 2, b + k // 2]
    half the resolution      [2 a, 2 b + 2]
    twice the resolution     [floor((a - 1) / 2), floor((b + 1) / 2)]
    tubelets                 [P a, P b + P - 1]

**Blended.** A group norm or attention over the frame makes every output depend on the whole, and no
halo is large enough. Tiles that overlap are computed each for itself and averaged, with weights
that rise linearly over the overlap. What comes out is an approximation.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.errors import InputError
from jaxgen.typing import Tree

Pair = tuple[int, int]
"""A number for rows and one for columns."""

Apply = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How an axis is cut, in cells.

    Attributes:
      window: cells that are computed at once.
      starts: where each window begins.
      kept: the cells [from, to) that are kept of each, counted from the edge of the frame.
    """

    window: int
    starts: tuple[int, ...]
    kept: tuple[Pair, ...]


def plan_tiles(cells: int, tile: int, halo: int) -> Tiles:
    """Cuts an axis into tiles whose windows have a halo on each side, or end at the edge.

    Args:
      cells: of the axis.
      tile: cells of a tile; the last one may keep fewer.
      halo: cells.

    Raises:
      InputError: for a tile of no cells.
    """
    if tile < 1 or halo < 0:
        raise InputError(f"tile and halo are {tile} and {halo} cells, expected at least 1 and 0")
    window = min(tile + 2 * halo, cells)
    kept = tuple((start, min(start + tile, cells)) for start in range(0, cells, tile))
    starts = tuple(min(max(start - halo, 0), cells - window) for start, _ in kept)
    return Tiles(window, starts, kept)


def encoder_reach(config: CausalAutoencoderConfig) -> Pair:
    """How far a latent sees beyond the pixels of its cell, in rows and columns of pixels.

    Raises:
      InputError: for attention in the middle, whose reach is the frame.
    """
    _check_local(config)
    return _reach(config, 1), _reach(config, 2)


def _reach(config: CausalAutoencoderConfig, axis: int) -> int:
    """Rows (axis 1) or columns (2) that the encoder sees beyond a cell."""
    low, high = 0, 0
    levels = len(config.multipliers)
    convs = 1 + 2 * config.middle_blocks  # of 3 x 3: the last, and two for each block
    for level in reversed(range(levels)):
        if level < levels - 1:
            low, high = 2 * low, 2 * high + 2
        convs += 2 * config.blocks
        low, high, convs = low - convs, high + convs, 0
    side = config.data_kernel[axis]
    low, high = low - (side - 1) // 2, high + side // 2
    patch = config.patch[axis]
    low, high = patch * low, patch * high + patch - 1
    return max(-low, high - (config.strides[axis] - 1))


def decoder_reach(config: CausalAutoencoderConfig) -> Pair:
    """How far the pixels of a cell see beyond its latents, in rows and columns of latents.

    Raises:
      InputError: for attention in the middle, whose reach is the frame.
    """
    _check_local(config)
    return _decoder_reach(config, 1), _decoder_reach(config, 2)


def _decoder_reach(config: CausalAutoencoderConfig, axis: int) -> int:
    levels = len(config.multipliers)
    blocks = config.blocks + 1 if config.decoder_blocks is None else config.decoder_blocks
    side = config.data_kernel[axis]
    low, high = -((side - 1) // 2), 2 ** (levels - 1) - 1 + side // 2
    for level in range(levels):
        low, high = low - 2 * blocks, high + 2 * blocks
        if level < levels - 1:
            low, high = (low - 1) // 2, (high + 1) // 2
    convs = 1 + 2 * config.middle_blocks
    return max(-low, high) + convs


def _check_local(config: CausalAutoencoderConfig) -> None:
    if config.middle_attention:
        raise InputError(
            "middle_attention sees the whole frame, expected a network without it for exact "
            "tiles; blend_tiles approximates"
        )


def tiled_encode(
    config: CausalAutoencoderConfig,
    params: Tree,
    videos: Float[Array, "B *T Y X C"],
    tile: Pair = (16, 16),
) -> Float[Array, "B *T2 Y2 X2 F"]:
    """What the encoder gives, computed in tiles; equal to the whole but for rounding.

    Args:
      config: of an autoencoder whose layers are all local.
      params: its parameters.
      videos: as the encoder takes them.
      tile: cells of a tile, rows and columns.

    Raises:
      InputError: for a network that is not local, or data that it does not take.
    """
    strides = config.strides[1:]
    rows, columns = encoder_reach(config)
    halo = -(-rows // strides[0]), -(-columns // strides[1])
    height, width = config.latent_grid(videos.shape[1:-1])[-2:]
    apply = functools.partial(_applied(config, "encode"), params)
    return exact_tiles(apply, videos, (height, width), tile, halo)


def tiled_decode(
    config: CausalAutoencoderConfig,
    params: Tree,
    latents: Float[Array, "B *T Y X C"],
    tile: Pair = (16, 16),
) -> Float[Array, "B *T2 Y2 X2 F"]:
    """What the decoder gives, computed in tiles; equal to the whole but for rounding.

    Args:
      config: of an autoencoder whose layers are all local.
      params: its parameters.
      latents: as the decoder takes them.
      tile: cells of a tile, rows and columns.

    Raises:
      InputError: for a network that is not local.
    """
    apply = functools.partial(_applied(config, "decode"), params)
    cells = latents.shape[-3], latents.shape[-2]
    return exact_tiles(apply, latents, cells, tile, decoder_reach(config))


@functools.lru_cache(maxsize=32)
def _applied(config: CausalAutoencoderConfig, way: str) -> Callable[[Tree, Array], Array]:
    """``(params, x) -> result`` of one half, compiled."""
    model = config.make_model()
    return jax.jit(lambda params, x: model.apply({"params": params}, x, method=way))


def exact_tiles(
    apply: Apply, x: Float[Array, "B *T Y X C"], cells: Pair, tile: Pair, halo: Pair
) -> Float[Array, "B *T2 Y2 X2 F"]:
    """A local function of frames, computed in tiles.

    Args:
      apply: the function, from data of any size to data with the same cells; its reach is at most
        the halo.
      x: data whose rows and columns are multiples of the cells.
      cells: of x, rows and columns.
      tile: cells of a tile.
      halo: cells that a result needs beyond its own.

    Raises:
      InputError: for data that the cells do not divide.
    """
    plans = [plan_tiles(*each) for each in zip(cells, tile, halo, strict=True)]
    rows = []
    for row in _windows(plans[0]):
        parts = []
        for column in _windows(plans[1]):
            window = (row[0], column[0]), (plans[0].window, plans[1].window)
            y = apply(_take(x, cells, *window))
            inner = (row[1] - row[0], column[1] - column[0])
            size = (row[2] - row[1], column[2] - column[1])
            parts.append(_take(y, window[1], inner, size))
        rows.append(jnp.concatenate(parts, axis=-2))
    return jnp.concatenate(rows, axis=-3)


def _windows(plan: Tiles) -> Iterator[tuple[int, int, int]]:
    """Of each tile: where its window starts, and the cells that are kept."""
    return ((start, *kept) for start, kept in zip(plan.starts, plan.kept, strict=True))


def _take(x: Any, cells: Pair, start: Pair, size: Pair) -> Array:
    """A rectangle of cells of data that have so many."""
    sides = x.shape[-3], x.shape[-2]
    if sides[0] % cells[0] or sides[1] % cells[1]:
        raise InputError(
            f"data have shape {x.shape}, expected rows and columns that are multiples of "
            f"{cells[0]} and {cells[1]} cells"
        )
    down, right = sides[0] // cells[0], sides[1] // cells[1]  # pixels of a cell
    return _rectangle(x, start[0] * down, start[1] * right, (size[0] * down, size[1] * right))


@functools.partial(jax.jit, static_argnames="size")
def _rectangle(x: Array, row: Array, column: Array, size: Pair) -> Array:
    """Pixels from a place on; one program for all places."""
    rows = jax.lax.dynamic_slice_in_dim(x, row, size[0], axis=x.ndim - 3)
    return jax.lax.dynamic_slice_in_dim(rows, column, size[1], axis=x.ndim - 2)


def blend_tiles(
    apply: Apply,
    x: Float[Array, "B *T Y X C"],
    cells: Pair,
    tile: Pair,
    overlap: float = 0.25,
) -> Float[Array, "B *T2 Y2 X2 F"]:
    """An approximation of a function of whole frames: overlapping tiles, blended linearly.

    Args:
      apply: the function, from data of any size to data with the same cells.
      x: data whose rows and columns are multiples of the cells.
      cells: of x, rows and columns.
      tile: cells of a tile.
      overlap: the part of a tile that it shares with the next, rounded to cells.

    Returns:
      Data with the same cells.

    Raises:
      InputError: for an overlap of half a tile or more, or data that the cells do not divide.
    """
    if not 0 <= overlap < 0.5:
        raise InputError(f"overlap is {overlap}, expected 0 <= overlap < 0.5")
    axes = [
        _Overlapping(count, min(side, count), round(overlap * min(side, count)))
        for count, side in zip(cells, tile, strict=True)
    ]
    size = axes[0].size, axes[1].size
    total: Any = None
    weights: Any = None
    for row, column in itertools.product(*(axis.starts for axis in axes)):
        y = np.asarray(apply(_take(x, cells, (row, column), size)))
        down, right = y.shape[-3] // size[0], y.shape[-2] // size[1]  # pixels of a cell
        if total is None:
            frame = cells[0] * down, cells[1] * right, 1
            weights = np.zeros(frame, np.float32)
            total = np.zeros((*y.shape[:-3], *frame[:2], y.shape[-1]), np.float32)
        weight = axes[0].weights(row, down)[:, None, None] * axes[1].weights(column, right)[:, None]
        rows = slice(row * down, (row + size[0]) * down)
        columns = slice(column * right, (column + size[1]) * right)
        total[..., rows, columns, :] += weight * y
        weights[rows, columns] += weight
    return jnp.asarray(total / weights)


@dataclasses.dataclass(frozen=True)
class _Overlapping:
    """Tiles of an axis that overlap, in cells."""

    cells: int
    size: int
    overlap: int

    @property
    def starts(self) -> list[int]:
        """Where tiles begin; the last one is moved inwards to end with the axis."""
        last = self.cells - self.size
        return [*range(0, last, self.size - self.overlap), last]

    def weights(self, start: int, stride: int) -> np.ndarray:
        """Of the pixels of a tile: 1, and ramps where a neighbour overlaps."""
        length, shared = self.size * stride, self.overlap * stride
        weights_N = np.ones(length, np.float32)
        if shared == 0:
            return weights_N
        rise_N = ((np.arange(length) + 0.5) / shared).astype(np.float32)
        if start > 0:
            weights_N = np.minimum(weights_N, rise_N)
        if start + self.size < self.cells:
            weights_N = np.minimum(weights_N, rise_N[::-1])
        return weights_N
