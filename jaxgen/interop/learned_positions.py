"""Positions that were learnt for one grid of patches, for another one: by bicubic interpolation.

Vision transformers are finetuned at other sizes so (Dosovitskiy et al. 2021, section 3.2), and
windows with learnt offsets (Liu et al. 2021, section 3.2): numbers lie at the centres of cells, and
the new ones at the centres of as many cells as there are now. The kernel is Keys's cubic (1981,
a = -1/2), with the nearest numbers repeated outside.
"""

import jax
import numpy as np
from jaxtyping import Float

from jaxgen.errors import InputError

Grid = tuple[int, int]


def square_grid(where: str, count: int) -> Grid:
    """The sides of a square grid with so many places.

    Raises:
      InputError: Where there is none.
    """
    side = round(count**0.5)
    if side * side != count:
        raise InputError(f"{where}: {count} positions, expected those of a square grid of patches")
    return side, side


def resize_positions(
    positions_LD: Float[np.ndarray, "L D"], grid: Grid, new: Grid
) -> Float[np.ndarray, "M D"]:
    """Positions of a grid, row by row, at the places of another one.

    Args:
      positions_LD: One vector for each place of ``grid``.
      grid: Rows and columns that they were learnt for.
      new: Rows and columns that are wanted.

    Returns:
      One vector for each place of ``new``, in the type of the positions; the same ones for the same
      grid, bit by bit.
    """
    if grid == new:
        return positions_LD
    values = positions_LD.astype(np.float32).reshape(*grid, -1)
    resized = jax.image.resize(values, (*new, values.shape[-1]), "cubic", antialias=False)
    return np.asarray(resized).reshape(-1, values.shape[-1]).astype(positions_LD.dtype)


def resize_offsets(
    table_NH: Float[np.ndarray, "N H"], grid: Grid, new: Grid
) -> Float[np.ndarray, "M H"]:
    """A table of a number for each offset between two places, for another grid.

    Args:
      table_NH: Rows for the offsets of `jaxgen.nn.relative.relative_index`.
      grid: Rows and columns that it was learnt for.
      new: Rows and columns that are wanted.

    Returns:
      Rows for the offsets between places of ``new``.
    """
    offsets = (2 * grid[0] - 1, 2 * grid[1] - 1)
    return resize_positions(table_NH, offsets, (2 * new[0] - 1, 2 * new[1] - 1))
