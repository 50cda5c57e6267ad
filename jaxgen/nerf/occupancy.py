"""Which cells of a box are occupied (Müller et al. 2022, section 5.4 and appendix E.2).

The grid is state that is no parameter: a density for each cell, kept in ``TrainState.variables``.
Now and then, ``max(decay old, new)`` takes the place of the old one, with the new one at a random
point of the cell; at first in all cells, later in a quarter of them drawn from all and a quarter
drawn from the occupied ones. Occupied are those whose density, times the length of a step, is above
``min(threshold, mean over the grid)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import InputError, check_not_negative, check_sizes
from jaxgen.nerf.cameras import Box
from jaxgen.typing import Tree

Density = Callable[[Array], Array]
PARTS = 2
"""Points along each axis of a cell at which `measure_cells` evaluates the density."""


@dataclass(frozen=True)
class OccupancyConfig:
    """Options of an occupancy grid, and of the samples that it guides.

    Attributes:
      resolution: cells along each axis of the box.
      steps: of a ray, over the diagonal of the box; a multiple of 32.
      candidates: budget of steps at which density is evaluated, for all rays together.
      samples: budget of those that are shaded.
      threshold: of density times the length of a step, above which a cell is occupied.
      decay: by which densities fall from one update of the grid to the next.
      every: updates of the field from one update of the grid to the next.
      all_cells: so many first updates of the field, all cells are evaluated.
      least_weight: of a sample that is shaded; of a ray's transmittance that is followed.

    Raises:
      InputError: for numbers that sample nothing.
    """

    resolution: int = 64
    steps: int = 512
    candidates: int = 2**16
    samples: int = 2**15
    threshold: float = 0.01
    decay: float = 0.95
    every: int = 16
    all_cells: int = 256
    least_weight: float = 1e-4

    def __post_init__(self) -> None:
        check_sizes(self, "resolution", "candidates", "samples", "every")
        if self.steps < 32 or self.steps % 32:
            raise InputError(f"steps is {self.steps}, expected a multiple of 32")
        for name in ("threshold", "decay", "least_weight", "all_cells"):
            check_not_negative(name, getattr(self, name))

    def step_length(self, box: Box) -> float:
        """Of a step, in units of the world."""
        return math.dist(*box) / self.steps

    def initial(self) -> Tree:
        """The grid before its first update."""
        return {
            "density": jnp.zeros((self.resolution,) * 3),
            "updates": jnp.zeros((), jnp.int32),
        }


def occupied_cells(config: OccupancyConfig, grid: Tree, box: Box) -> Bool[Array, "X Y Z"]:
    """The cells that are occupied."""
    step = config.step_length(box)
    share = grid["density"] * step
    return share > jnp.minimum(config.threshold, share.mean())


def update_grid(
    config: OccupancyConfig, grid: Tree, density: Density, box: Box, key: Key[Array, ""]
) -> Tree:
    """The grid after one more update of the field: a pure function; most often the grid as it is.

    Args:
      config: the options.
      grid: the grid; ``updates`` counts those of the field.
      density: ``points [..., 3] -> density [...]``.
      box: what the grid divides.
      key: where in their cells points are, and which cells.
    """
    due = grid["updates"] % config.every == 0
    early = grid["updates"] < config.all_cells
    branch = jnp.where(due, jnp.where(early, 1, 2), 0)
    found = jax.lax.switch(
        branch,
        [
            lambda old: old,
            lambda old: _updated_everywhere(config, old, density, box, key),
            lambda old: _updated_in_part(config, old, density, box, key),
        ],
        grid["density"],
    )
    return {"density": found, "updates": grid["updates"] + 1}


def _updated_everywhere(
    config: OccupancyConfig, old: Array, density: Density, box: Box, key: Array
) -> Array:
    cell_N = jnp.arange(config.resolution**3)
    new_N = density(_points(config, cell_N, box, key))
    return jnp.maximum(config.decay * old, new_N.reshape(old.shape))


def _updated_in_part(
    config: OccupancyConfig, old: Array, density: Density, box: Box, key: Array
) -> Array:
    count = max(config.resolution**3 // 4, 1)
    any_key, full_key, place_key = jax.random.split(key, 3)
    any_N = jax.random.randint(any_key, (count,), 0, config.resolution**3)
    full = jnp.cumsum(occupied_cells(config, {"density": old}, box).reshape(-1))
    rank_N = jax.random.uniform(full_key, (count,)) * full[-1]
    full_N = jnp.minimum(jnp.searchsorted(full, rank_N, side="right"), full.shape[0] - 1)
    cell_N = jnp.concatenate([any_N, full_N])
    new_N = density(_points(config, cell_N, box, place_key))
    decayed = config.decay * old.reshape(-1)
    return decayed.at[cell_N].max(new_N).reshape(old.shape)


def _points(config: OccupancyConfig, cell_N: Int[Array, "N"], box: Box, key: Array) -> Array:
    """A random point of each cell, [N, 3]."""
    size = config.resolution
    corner_N3 = jnp.stack([cell_N // size**2, cell_N // size % size, cell_N % size], axis=-1)
    share_N3 = (corner_N3 + jax.random.uniform(key, corner_N3.shape)) / size
    low, high = (jnp.asarray(corner) for corner in box)
    return low + share_N3 * (high - low)


def measure_cells(
    config: OccupancyConfig, density: Density, box: Box, chunk: int = 2**16
) -> Bool[Array, "X Y Z"]:
    """The occupied cells of a density that is known, without the history of a training.

    A cell is occupied where density times the length of a step is above twice the threshold at one
    of 8 points of it. Empty cells are not seen in training: they keep about the density that they
    had when they were given up, the threshold at most, which is no part of the field.

    Args:
      config: the options.
      density: ``points [..., 3] -> density [...]``.
      box: what the grid divides.
      chunk: points that are evaluated at a time.
    """
    size = config.resolution * PARTS
    low, high = (jnp.asarray(corner) for corner in box)
    count = -(-(size**3) // chunk)

    def evaluate(first: Array) -> Array:
        index_N = jnp.minimum(first + jnp.arange(chunk), size**3 - 1)
        place_N3 = jnp.stack([index_N // size**2, index_N // size % size, index_N % size], axis=-1)
        return density(low + (place_N3 + 0.5) / size * (high - low))

    found = jax.lax.map(evaluate, jnp.arange(count) * chunk).reshape(-1)[: size**3]
    largest = jax.lax.reduce_window(
        found.reshape((size,) * 3), 0.0, jax.lax.max, (PARTS,) * 3, (PARTS,) * 3, "VALID"
    )
    return largest * config.step_length(box) > 2 * config.threshold


def cell_is_occupied(
    cells: Bool[Array, "X Y Z"], x: Float[Array, "*B 3"], box: Box
) -> Bool[Array, "*B"]:
    """Whether points are in occupied cells; points outside of the box are taken to its border."""
    low, high = (jnp.asarray(corner) for corner in box)
    size = cells.shape[0]
    place = jnp.floor((x - low) / (high - low) * size)
    i, j, k = jnp.moveaxis(jnp.clip(place, 0, size - 1).astype(jnp.int32), -1, 0)
    return cells.reshape(-1).at[(i * size + j) * size + k].get(mode="promise_in_bounds")
