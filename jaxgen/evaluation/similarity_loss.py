"""SSIM to train by: that of `jaxgen.evaluation.ssim`, with a gradient that is cheap.

Variances are differences of means here, ``m(a^2) - m(a)^2``, of images centred at 1/2: exact enough
but where windows are nearly constant. Means of windows are two products with matrices of eleven
diagonals: eleven times the arithmetic of a filter or more, but on one core the gradient of a colour
image of 200 x 200 takes 8 ms; with shifted sums 35 ms, that of `ssim` 485 ms.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.evaluation.image_similarity import K1, K2, WEIGHTS, WINDOW


def differentiable_ssim(
    a: Float[Array, "*N Y X C"], b: Float[Array, "*N Y X C"]
) -> Float[Array, "*N"]:
    """The structural similarity of images in [0, 1], of 11 pixels or more in height and width."""
    a, b = (jnp.moveaxis(image - 0.5, -1, 0) for image in (a, b))
    mean_a, mean_b, square, product = (_window_mean(x) for x in (a, b, a * a + b * b, a * b))
    variances = square - mean_a**2 - mean_b**2
    covariance = product - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    contrast = (2 * covariance + K2**2) / (variances + K2**2)
    return jnp.mean(luminance * contrast, axis=(0, -2, -1))


def _window_mean(x: Float[Array, "*N Y X"]) -> Float[Array, "*N Y2 X2"]:
    rows, columns = (_windows(side) for side in x.shape[-2:])
    return jnp.matmul(rows, jnp.matmul(x, columns.T, precision="highest"), precision="highest")


def _windows(side: int) -> Float[np.ndarray, "M N"]:
    """Weights of every window along a side, one in a row."""
    count = side - WINDOW + 1
    weights = np.zeros((count, side), np.float32)
    for start in range(count):
        weights[start, start : start + WINDOW] = WEIGHTS
    return weights
