"""Positions of tokens as fixed waves: of the places of a grid, or of any places.

A position p on one axis becomes ``sin(p w_0) ... sin(p w_{n-1}) cos(p w_0) ... cos(p w_{n-1})``
with ``w_i = 10000^(-i / n)`` (Vaswani et al. 2017). On a grid, the features are divided evenly
among the axes. On images the width's half comes first, then the height's, as in DiT (Peebles & Xie
2023) and in the masked autoencoder that it took them from (He et al. 2022). They are constants, not
parameters, and take any size of grid, square or not.

Places are values, [..., L, A] with an axis A of the grid (frame, row, column) for each number.
Known ones are numpy arrays, and computed with in float64; traced ones are JAX arrays.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Real

from jaxgen.errors import InputError

MAX_PERIOD = 10_000.0


def sincos(
    positions: Real[Any, "*N"], features: int, max_period: float = MAX_PERIOD
) -> Float[Any, "*N D"]:
    """The waves of positions on one axis: in float64 of numpy arrays, in float32 of JAX arrays.

    Args:
      positions: any shape; whole or fractional, in units of tokens.
      features: D, an even number.
      max_period: sets the slowest wave.

    Raises:
      InputError: if ``features`` is odd.
    """
    if features % 2:
        raise InputError(f"position features are {features}, expected an even number")
    half = features // 2
    w_D = max_period ** (-np.arange(half) / half)
    positions, xp = as_places(positions)
    angle = positions[..., None] * w_D.astype(positions.dtype)
    return xp.concatenate([xp.sin(angle), xp.cos(angle)], axis=-1)


def as_places(positions: Real[Any, "*N"]) -> tuple[Any, types.ModuleType]:
    """Positions as numbers to compute with, float32 of JAX or float64 of numpy, and the module."""
    if isinstance(positions, jax.Array):
        return positions.astype(jnp.float32), jnp
    return np.asarray(positions, np.float64), np


def sincos_places(places: Real[Any, "*N A"], features: int) -> Float[Any, "*N D"]:
    """The waves of places with several axes; the features of the last axis come first.

    Args:
      places: [..., A], such as (row, column).
      features: D, divisible by twice the number of axes.

    Returns:
      [..., D], as `sincos`.

    Raises:
      InputError: if ``features`` does not divide.
    """
    axes = places.shape[-1]
    if features % (2 * axes):
        raise InputError(
            f"position features are {features}, expected a multiple of {2 * axes}: "
            f"a sine and a cosine for each of {axes} axes"
        )
    _, xp = as_places(places)
    waves = [sincos(places[..., axis], features // axes) for axis in reversed(range(axes))]
    return xp.concatenate(waves, axis=-1)


def grid_places(sizes: tuple[int, ...]) -> Int[np.ndarray, "L A"]:
    """All places of a grid, row by row (the last axis runs fastest), int32.

    Args:
      sizes: places along each axis; ``(Y, X)`` for an image, ``(T, Y, X)`` for a video.
    """
    return np.indices(sizes, np.int32).reshape(len(sizes), -1).T


def sincos_grid(sizes: tuple[int, ...], features: int) -> Float[np.ndarray, "L D"]:
    """The waves of all places of a grid, row by row (the last axis runs fastest), in float32.

    Args:
      sizes: places along each axis; ``(Y, X)`` for an image, ``(T, Y, X)`` for a video.
      features: D, divisible by twice the number of axes.

    Returns:
      [L, D] with L the product of the sizes; the features of the last axis come first.

    Raises:
      InputError: if ``features`` does not divide.
    """
    return sincos_places(grid_places(sizes), features).astype(np.float32)
