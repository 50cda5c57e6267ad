"""Positions of tokens on a grid, as fixed waves.

A position p on one axis becomes ``sin(p w_0) ... sin(p w_{n-1}) cos(p w_0) ... cos(p w_{n-1})``
with ``w_i = 10000^(-i / n)`` (Vaswani et al. 2017). On a grid, the features are divided evenly
among the axes. On images the width's half comes first, then the height's, as in DiT (Peebles & Xie
2023) and in the masked autoencoder that it took them from (He et al. 2022). They are constants, not
parameters, and take any size of grid, square or not.
"""

import numpy as np
from jaxtyping import Float, Real

from jaxgen.errors import InputError

MAX_PERIOD = 10_000.0


def sincos(
    positions: Real[np.ndarray, "*N"], features: int, max_period: float = MAX_PERIOD
) -> Float[np.ndarray, "*N D"]:
    """The waves of positions on one axis, in float64.

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
    angle = np.asarray(positions, np.float64)[..., None] * w_D
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


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
    axes = len(sizes)
    if features % (2 * axes):
        raise InputError(
            f"position features are {features}, expected a multiple of {2 * axes}: "
            f"a sine and a cosine for each of {axes} axes"
        )
    places = np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij")
    waves = [sincos(place, features // axes) for place in reversed(places)]
    return np.concatenate(waves, axis=-1).reshape(-1, features).astype(np.float32)
