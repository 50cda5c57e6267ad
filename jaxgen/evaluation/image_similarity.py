"""How close an image is to a reference, pixel by pixel (PSNR) and window by window (SSIM).

Symbols: a and b one image each, L the distance from black to white (`data_range`)::

    PSNR = 10 log10(L^2 / MSE),   MSE the mean of (a - b)^2 over pixels and channels

    SSIM = (2 m_a m_b + C1) (2 v_ab + C2) / ((m_a^2 + m_b^2 + C1) (v_a + v_b + C2))

with C1 = (0.01 L)^2, C2 = (0.03 L)^2; m, v and v_ab are mean, variance and covariance in a window
of 11 x 11 pixels weighted by a Gaussian of deviation 1.5 (weights that sum to 1, and no factor
N / (N - 1)); the mean over all windows that lie in the image, then over channels. Wang et al. 2004,
"Image quality assessment: from error visibility to structural similarity", equation 13 and section
III.C. The numbers are those of scikit-image's ``structural_similarity`` with
``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``; its default, a flat window of 7,
gives others.

The value of a set of images, such as the test views of a scene, is in the literature the mean of
the images' values: ``psnr(a, b).mean()``. The PSNR of the mean MSE is another, smaller number.

In float32, v as the difference of the means of a^2 and of m^2 would lose digits where an image is
nearly constant. Instead each image is centred, and rows, then columns, add only terms of 0 or more:
the variance is the mean of the rows' variances and the variance of the rows' means.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxgen.errors import InputError, check_positive

WINDOW = 11
"""Pixels of a window's side, the least size of an image that has an SSIM."""

SIGMA = 1.5
K1, K2 = 0.01, 0.03

_OFFSETS = range(-(WINDOW // 2), WINDOW // 2 + 1)
_GAUSSIAN = [math.exp(-0.5 * (offset / SIGMA) ** 2) for offset in _OFFSETS]
WEIGHTS = tuple(weight / sum(_GAUSSIAN) for weight in _GAUSSIAN)
"""Of a window's pixels along one axis; they sum to 1."""


def psnr(
    a: Float[Any, "*N Y X C"], b: Float[Any, "*N Y X C"], data_range: float = 1.0
) -> Float32[Array, "*N"]:
    """The peak signal-to-noise ratio of each image in decibels, infinite for equal images.

    Differentiable; at equal images, where there is no derivative, it is 0.

    Args:
      a: Images, real numbers in any range of length `data_range`; of numpy or JAX.
      b: Those they are compared with, of the same shape.
      data_range: L: 1 for images in [0, 1], 2 for [-1, 1].

    Returns:
      One number per image; that of a set is their mean (see the module's text).

    Raises:
      InputError: Shapes differ or are not [..., Y, X, C], there are no pixels, the type is not one
        of real numbers (bytes are divided by 255 first), or `data_range` is not above 0.

    Example:
      >>> a = np.zeros((4, 4, 3), np.float32)
      >>> round(float(psnr(a, a + 0.1)), 3)
      20.0
    """
    return _psnr(*_as_pair(a, b, data_range, least=1), data_range)


def ssim(
    a: Float[Any, "*N Y X C"], b: Float[Any, "*N Y X C"], data_range: float = 1.0
) -> Float32[Array, "*N"]:
    """The structural similarity of each image, in [-1, 1], 1 for equal images; differentiable.

    Args:
      a: As in `psnr`.
      b: As in `psnr`.
      data_range: As in `psnr`.

    Returns:
      One number per image.

    Raises:
      InputError: As in `psnr`, and for images of fewer than 11 pixels in height or width.
    """
    return _ssim(*_as_pair(a, b, data_range, least=WINDOW), data_range)


def _as_pair(a: Any, b: Any, data_range: float, least: int) -> tuple[Array, Array]:
    """Both as float32, after the checks."""
    check_positive("data_range", data_range)
    pair = jnp.asarray(a), jnp.asarray(b)
    for name, images in zip("ab", pair, strict=True):
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(
                f"images {name} have type {images.dtype}, expected real numbers; bytes are divided "
                "by 255, for a data_range of 1"
            )
    shapes = [list(images.shape) for images in pair]
    if shapes[0] != shapes[1]:
        raise InputError(f"images have shapes {shapes[0]} and {shapes[1]}, expected one shape")
    if len(shapes[0]) < 3 or min(shapes[0][-3:-1]) < least or not shapes[0][-1]:
        raise InputError(
            f"images have shape {shapes[0]}, expected [..., Y, X, C], Y and X of {least} or more"
        )
    return pair[0].astype(jnp.float32), pair[1].astype(jnp.float32)


@jax.jit
def _psnr(a: Array, b: Array, data_range: float) -> Array:
    error = jnp.mean(((a - b) / data_range) ** 2, axis=(-3, -2, -1))
    differs = error != 0  # so has NaN
    return jnp.where(differs, -10 * jnp.log10(jnp.where(differs, error, 1)), jnp.inf)


def _centre(images: Array) -> Array:
    """The means of each image's channels; the result does not depend on them but by rounding."""
    return jax.lax.stop_gradient(jnp.mean(images, axis=(-3, -2), keepdims=True))


class _Statistics(NamedTuple):
    """Weighted means, variances and the covariance of two images, at each window."""

    mean_a: Any
    mean_b: Any
    variance_a: Any
    variance_b: Any
    covariance: Any


@jax.jit
def _ssim(a: Array, b: Array, data_range: float) -> Array:
    centre_a, centre_b = _centre(a), _centre(b)
    zero = jnp.zeros_like(a)
    pixels = _Statistics(a - centre_a, b - centre_b, zero, zero, zero)
    window = _merge_along(_merge_along(pixels, a.ndim - 3), a.ndim - 2)
    mean_a, mean_b = window.mean_a + centre_a, window.mean_b + centre_b
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * window.covariance + c2) / (window.variance_a + window.variance_b + c2)
    return jnp.mean(luminance * contrast, axis=(-3, -2, -1))


def _merge_along(parts: _Statistics, axis: int) -> _Statistics:
    """The statistics of windows from those of their parts along one axis."""
    mean_a = sum(weight * part.mean_a for weight, part in _shifted(parts, axis))
    mean_b = sum(weight * part.mean_b for weight, part in _shifted(parts, axis))
    variance_a = variance_b = covariance = 0.0
    for weight, part in _shifted(parts, axis):
        step_a, step_b = part.mean_a - mean_a, part.mean_b - mean_b
        variance_a += weight * (part.variance_a + step_a**2)
        variance_b += weight * (part.variance_b + step_b**2)
        covariance += weight * (part.covariance + step_a * step_b)
    return _Statistics(mean_a, mean_b, variance_a, variance_b, covariance)


def _shifted(parts: _Statistics, axis: int) -> Iterator[tuple[float, _Statistics]]:
    """Each weight of a window, and what it belongs to in all windows."""
    count = parts.mean_a.shape[axis] - WINDOW + 1
    for start, weight in enumerate(WEIGHTS):
        cut = [jax.lax.slice_in_dim(part, start, start + count, axis=axis) for part in parts]
        yield weight, _Statistics(*cut)
