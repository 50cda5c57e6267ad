"""Sorted alpha compositing of Gaussians in tiles, with its own backward pass.

At every pixel, over the Gaussians of its tile from the nearest on (Kerbl et al. 2023, equation 3)::

    T_1 = 1,   T_(i+1) = T_i (1 - alpha_i),   w_i = T_i alpha_i,   out = sum_i w_i f_i

with f the features that are summed: colour, distance, 1 for the opacity, normals. The sum stops
before the Gaussian that would take T below 1e-4. As T only falls, that is the same as leaving out
every i with T_(i+1) < 1e-4.

Tiles are sorted by the lengths of their lists and composited in groups: one loop over places in the
lists, as many as the longest list of the group has, whose body is a handful of operations on
[pixels, tiles]. It ends early where all pixels have stopped.

**Backward pass.** Nothing is kept but the output: transmittances are computed again, front to back.
With g the gradient of the output and q_i = g . f_i, what lies behind i is the remainder of the
whole sum, g . out, after w_1 q_1 ... w_i q_i::

    d alpha_i = T_i q_i - (g . out - sum_(j <= i) w_j q_j) / (1 - alpha_i)

With h_i = alpha_i d alpha_i, the gradients of a Gaussian's place and conic are the moments
sum h, sum h x, ..., sum h y^2 over the pixels of the tile: one product of a 6 x P matrix, the same
for all tiles, with h. Plain differentiation of the loop would keep alpha and T of all steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxgen.axes import BATCH_MESH_AXES
from jaxgen.nerf.splat_projection import LARGEST_ALPHA, LEAST_ALPHA, ProjectedSplats
from jaxgen.nerf.splat_tiles import TileGrid, TileLists

LEAST_TRANSMITTANCE = 1e-4
SHAPE = 6
"""Columns of the table before the features: x, y, a, b, c, opacity."""


class TileGroups(NamedTuple):
    """How tiles are composited: static.

    Attributes:
      grid: the tiles.
      size: tiles of a group.
    """

    grid: TileGrid
    size: int


class _Group(NamedTuple):
    """n tiles: where their lists begin, how long they are, and their corners in pixels."""

    start: Int[Array, "N"]
    length: Int[Array, "N"]
    corner: Float[Array, "2 N"]


def splat_table(splats: ProjectedSplats, features: Float[Array, "G C"]) -> Float[Array, "G F"]:
    """All that compositing reads of a Gaussian, in one row."""
    return jnp.concatenate([splats.place, splats.conic, splats.opacity[:, None], features], axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def composite_tiles(
    groups: TileGroups, table: Float[Array, "G F"], lists: TileLists
) -> Float[Array, "T C P"]:
    """The sums at all pixels of all tiles.

    Args:
      groups: how tiles are composited.
      table: see `splat_table`.
      lists: the Gaussians of every tile.

    Returns:
      [T, C, P], C features at P pixels of a tile, row by row.
    """
    return _forward(groups, table, lists)[0]


def _forward(groups: TileGroups, table: Array, lists: TileLists) -> tuple[Array, Any]:
    order, group = _in_groups(groups, lists)

    def local(table: Array, gaussian: Array, group: _Group) -> Array:
        return jax.lax.map(partial(_composite_group, groups.grid.side, table, gaussian), group)

    out = _over_devices(local, (table, lists.gaussian), group)
    tiles = out.transpose(0, 3, 1, 2).reshape(-1, *out.shape[1:3])
    return tiles[jnp.argsort(order)[: groups.grid.total]], (table, lists, tiles)


def _backward(groups: TileGroups, saved: Any, gradient: Array) -> tuple[Array, None]:
    table, lists, tiles = saved
    order, group = _in_groups(groups, lists)
    filled = jnp.zeros_like(tiles).at[: groups.grid.total].set(gradient)[order]

    def local(table: Array, gaussian: Array, rest: tuple[_Group, Array, Array]) -> Array:
        def add(total: Array, one: tuple[_Group, Array, Array]) -> tuple[Array, None]:
            return _backward_group(groups.grid.side, table, gaussian, total, *one), None

        return jax.lax.scan(add, jnp.zeros_like(table), rest)[0]

    both = (x.reshape(-1, groups.size, *x.shape[1:]).transpose(0, 2, 3, 1) for x in (tiles, filled))
    return _over_devices(local, (table, lists.gaussian), (group, *both), summed=True), None


composite_tiles.defvjp(_forward, _backward)


def _in_groups(groups: TileGroups, lists: TileLists) -> tuple[Int[Array, "T"], _Group]:
    """The order of the tiles, longest lists first, and the tiles in groups [groups, n].

    Filled up with tiles of no Gaussians, to a multiple of the devices that share them; of these
    each gets every so manieth group.
    """
    grid, shards = groups.grid, _shards()
    missing = -grid.total % (groups.size * shards)
    start_T, count_T = (jnp.pad(x, (0, missing)) for x in (lists.start, lists.count))
    order = jnp.argsort(-count_T).reshape(-1, shards, groups.size).swapaxes(0, 1).reshape(-1)
    corner = jnp.stack([order % grid.columns, order // grid.columns]) * float(grid.side)

    def cut(x: Array) -> Array:
        return x[order].reshape(-1, groups.size)

    corners = corner.reshape(2, -1, groups.size).swapaxes(0, 1)
    return order, _Group(cut(start_T), cut(count_T), corners)


def _shards() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else int(np.prod([mesh.shape[axis] for axis in BATCH_MESH_AXES]))


def _over_devices(
    local: Callable[..., Array], whole: Any, split: Any, *, summed: bool = False
) -> Array:
    """``local(*whole, split)``, each device with its part of the groups."""
    if _shards() == 1:
        return local(*whole, split)

    def run(whole: Any, split: Any) -> Array:
        found = local(*whole, split)
        return jax.lax.psum(found, BATCH_MESH_AXES) if summed else found

    spec = PartitionSpec(BATCH_MESH_AXES)
    return jax.shard_map(
        run,
        in_specs=(PartitionSpec(), spec),
        out_specs=PartitionSpec() if summed else spec,
        axis_names=set(BATCH_MESH_AXES),
        check_vma=False,
    )(whole, split)


class _Shaded(NamedTuple):
    """The Gaussians at one place of n lists, at P pixels each."""

    row: Int[Array, "N"]
    numbers: Float[Array, "F N"]
    dx: Float[Array, "P N"]
    dy: Float[Array, "P N"]
    raw: Float[Array, "P N"]
    alpha: Float[Array, "P N"]


def _offsets(side: int) -> tuple[Float[np.ndarray, "P 1"], Float[np.ndarray, "P 1"]]:
    """Pixel centres of a tile from its middle, x and y, [P, 1]."""
    along = np.arange(side, dtype=np.float32) + 0.5 - side / 2
    return np.tile(along, side)[:, None], np.repeat(along, side)[:, None]


def _shade(side: int, table: Array, gaussian: Array, group: _Group, k: Array) -> _Shaded:
    row = gaussian[jnp.minimum(group.start + k, len(gaussian) - 1)]
    numbers = table[row].T
    x, y = (jnp.asarray(offset) for offset in _offsets(side))
    # Relative to the tile's middle, where numbers are small.
    mx, my = numbers[:2] - group.corner - side / 2
    dx, dy = x - mx, y - my
    a, b, c, opacity = numbers[2:SHAPE]
    raw = opacity * jnp.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
    seen = (k < group.length) & (raw >= LEAST_ALPHA)
    alpha = jnp.where(seen, jnp.minimum(raw, LARGEST_ALPHA), 0)
    return _Shaded(row, numbers, dx, dy, raw, alpha)


def _loop(group: _Group, pixels: int, step: Any, carry: Any) -> Any:
    """``step(k, transmittance, carry)`` from the nearest Gaussians on, until nothing is left."""

    def going(state: Any) -> Array:
        k, transmittance, _ = state
        return (k < group.length.max()) & jnp.any(transmittance >= LEAST_TRANSMITTANCE)

    def body(state: Any) -> Any:
        k, transmittance, carry = state
        return k + 1, *step(k, transmittance, carry)

    start = jnp.zeros((), jnp.int32), jnp.ones((pixels, len(group.start))), carry
    return jax.lax.while_loop(going, body, start)[2]


def _composite_group(
    side: int, table: Array, gaussian: Array, group: _Group
) -> Float[Array, "C P N"]:
    def step(k: Array, transmittance: Array, out: Array) -> tuple[Array, Array]:
        shaded = _shade(side, table, gaussian, group, k)
        left = transmittance * (1 - shaded.alpha)
        weight = jnp.where(left >= LEAST_TRANSMITTANCE, transmittance * shaded.alpha, 0)
        return left, out + weight * shaded.numbers[SHAPE:, None, :]

    features = table.shape[1] - SHAPE
    return _loop(group, side**2, step, jnp.zeros((features, side**2, len(group.start))))


def _backward_group(
    side: int,
    table: Array,
    gaussian: Array,
    total: Array,
    group: _Group,
    out: Float[Array, "C P N"],
    gradient: Float[Array, "C P N"],
) -> Float[Array, "G F"]:
    """The gradient of the table, added to ``total``."""
    x, y = (offset[:, 0] for offset in _offsets(side))
    moments_6P = jnp.asarray(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]))
    features = range(len(gradient))

    def step(k: Array, transmittance: Array, carry: tuple[Array, Array]) -> tuple[Array, Any]:
        behind, total = carry
        shaded = _shade(side, table, gaussian, group, k)
        alpha, numbers = shaded.alpha, shaded.numbers
        left = transmittance * (1 - alpha)
        kept = left >= LEAST_TRANSMITTANCE
        weight = jnp.where(kept, transmittance * alpha, 0)
        # Sums of few terms, written out: XLA on CPU computes reductions one number at a time.
        q = sum(gradient[i] * numbers[SHAPE + i] for i in features)
        behind = behind - weight * q
        h = jnp.where(
            kept & (shaded.raw < LARGEST_ALPHA),
            alpha * (transmittance * q - behind / (1 - alpha)),
            0,
        )
        h, weight = jax.lax.optimization_barrier((h, weight))
        of_shape = _shape_gradient(numbers, group.corner + side / 2, moments_6P @ h)
        of_features = [_sum_of_rows(weight * gradient[i]) for i in features]
        rows = jnp.stack([*of_shape, *of_features], axis=-1)
        return left, (behind, total.at[shaded.row].add(rows))

    behind = (gradient * out).sum(axis=0)
    return _loop(group, side**2, step, (behind, total))[1]


def _shape_gradient(numbers: Array, middle: Array, moments: Array) -> list[Array]:
    """Of x, y, a, b, c and the opacity, from the moments of h about the middle of the tile."""
    mx, my = numbers[0] - middle[0], numbers[1] - middle[1]
    a, b, c, opacity = numbers[2:SHAPE]
    h, hx, hy, hxx, hxy, hyy = moments
    hxx = hxx - 2 * mx * hx + mx * mx * h
    hxy = hxy - mx * hy - my * hx + mx * my * h
    hyy = hyy - 2 * my * hy + my * my * h
    hx, hy = hx - mx * h, hy - my * h
    # h is 0 where a Gaussian has no opacity, and rows that fill up have any.
    of_opacity = h / jnp.maximum(opacity, LEAST_ALPHA)
    return [a * hx + b * hy, c * hy + b * hx, -hxx / 2, -hxy, -hyy / 2, of_opacity]


def _sum_of_rows(x: Float[Array, "P N"]) -> Float[Array, "N"]:
    """The sum along the first axis, of 2^n rows by halves: XLA then adds whole rows."""
    while len(x) > 1 and len(x) % 2 == 0:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x.sum(axis=0)
