"""PSNR and SSIM against closed forms, scikit-image, and plain numpy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation import psnr, ssim


def random_pair(*shape, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.uniform(size=shape).astype(np.float32)
    return a, np.clip(a + noise * rng.normal(size=shape), 0, 1).astype(np.float32)


def plain_psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2, axis=(-3, -2, -1)))


def plain_ssim(a, b, data_range=1.0):
    """Each window by itself, in float64: the formula of the paper."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    windows_a, windows_b = (
        np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (11, 11), axis=(-3, -2))
        for x in (a, b)
    )

    def mean(values):
        return np.sum(weights * values, axis=(-2, -1))

    m_a, m_b = mean(windows_a), mean(windows_b)
    centred_a, centred_b = windows_a - m_a[..., None, None], windows_b - m_b[..., None, None]
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = (2 * m_a * m_b + c1) * (2 * mean(centred_a * centred_b) + c2)
    values /= (m_a**2 + m_b**2 + c1) * (mean(centred_a**2) + mean(centred_b**2) + c2)
    return values.mean(axis=(-3, -2, -1))


def test_a_constant_error_has_a_closed_form():
    """20 log10(L / d) decibels."""
    a = np.zeros((3, 4, 5, 3), np.float32)
    b = a + np.asarray([0.1, 0.01, 1], np.float32)[:, None, None, None]
    np.testing.assert_allclose(psnr(a, b), [20, 40, 0], atol=1e-5)
    np.testing.assert_allclose(
        psnr(jnp.asarray(a), b, 2.0), np.add([20, 40, 0], 20 * math.log10(2)), 1e-6
    )
    assert psnr(a[0], b[0]).shape == ()
    assert psnr(a[None], b[None]).shape == (1, 3)
    b[1, 0, 0, 0] = math.nan
    np.testing.assert_array_equal(np.isnan(psnr(a, b)), [False, True, False])


def test_psnr_of_a_whole_view_in_float32():
    for noise in (1e-4, 0.1):
        a, b = random_pair(2, 800, 800, 3, noise=noise)
        np.testing.assert_allclose(psnr(a, b), plain_psnr(a, b), atol=2e-4)


def test_a_set_has_the_mean_of_the_psnrs_and_not_the_psnr_of_the_mean_error():
    a = np.zeros((2, 3, 3, 1), np.float32)
    b = a + np.asarray([0.1, 0.001], np.float32)[:, None, None, None]
    assert float(psnr(a, b).mean()) == pytest.approx(40, abs=1e-4)
    of_mean_error = -10 * math.log10((0.1**2 + 0.001**2) / 2)
    assert of_mean_error == pytest.approx(23.0, abs=0.1)


def test_equal_images():
    a, b = random_pair(2, 16, 16, 3)
    b[1] = a[1]
    values, slopes = jax.vjp(lambda x: psnr(x, b), jnp.asarray(a))
    assert np.isfinite(values[0])
    assert values[1] == math.inf
    (slope,) = slopes(jnp.ones(2))
    assert np.isfinite(slope).all()
    assert np.abs(slope[0]).max() > 0
    assert np.abs(slope[1]).max() == 0
    assert float(ssim(a, b)[1]) == pytest.approx(1, abs=1e-6)
    for image in (a, np.zeros_like(a), np.ones_like(a)):
        slope = jax.grad(lambda x, image=image: ssim(x, image).sum())(jnp.asarray(image))
        assert np.abs(slope).max() < 1e-5  # at the maximum


def test_ssim_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity

    for shape in [(11, 11, 1), (12, 40, 3), (64, 33, 3), (50, 50, 1)]:
        for noise in (0.01, 0.3):
            a, b = random_pair(2, *shape, noise=noise)
            options = {"sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
            expected = [
                structural_similarity(x, y, gaussian_weights=True, channel_axis=-1, **options)
                for x, y in zip(a.astype(np.float64), b, strict=True)
            ]
            np.testing.assert_allclose(ssim(a, b), expected, atol=1e-5)


def test_ssim_is_the_formula_of_the_paper():
    a, b = random_pair(2, 3, 20, 17, 2, noise=0.2)
    np.testing.assert_allclose(ssim(a, b), plain_ssim(a, b), atol=1e-6)
    np.testing.assert_allclose(
        ssim(2 * a - 1, 2 * b - 1, 2), plain_ssim(2 * a - 1, 2 * b - 1, 2), 1e-5
    )
    independent = ssim(a, random_pair(2, 3, 20, 17, 2, seed=1)[0])
    assert np.abs(independent).max() < 0.2
    inverted = ssim(a + 9.5, 10.5 - a)
    assert inverted.max() < -0.9  # luminances are about equal, structures opposite


def test_nearly_constant_images_keep_their_digits():
    """With a variance far below eps m^2, where the mean of squares would have none of it left."""
    rng = np.random.default_rng(0)
    base = (0.5 + 1e-5 * rng.normal(size=(1, 24, 24, 1))).astype(np.float32)
    other = (base + 1e-5 * rng.normal(size=base.shape)).astype(np.float32)
    for data_range in (1e-4, 1e-3, 1.0):
        expected = plain_ssim(base, other, data_range)
        np.testing.assert_allclose(ssim(base, other, data_range), expected, atol=2e-6)
    assert 0.3 < plain_ssim(base, other, 1e-4) < 0.9


def test_the_slope_of_ssim_is_that_of_float64():
    a, b = random_pair(1, 14, 13, 1)
    slope = jax.grad(lambda x: ssim(x, b)[0])(jnp.asarray(a))
    step = np.zeros(a.shape)
    for place in [(0, 0, 0, 0), (0, 6, 6, 0), (0, 7, 12, 0)]:
        step[:] = 0
        step[place] = 1e-5
        expected = (plain_ssim(a + step, b) - plain_ssim(a - step, b))[0] / 2e-5
        assert slope[place] == pytest.approx(expected, rel=1e-3, abs=1e-6)


IMAGE = np.zeros((2, 12, 12, 3), np.float32)


@pytest.mark.parametrize("measure", [psnr, ssim])
@pytest.mark.parametrize(
    ("a", "b", "data_range", "fault"),
    [
        (IMAGE.astype(np.uint8), IMAGE, 1, "images a have type uint8, expected real numbers"),
        (IMAGE, IMAGE.astype(np.int32), 255, "images b have type int32, expected real numbers"),
        (IMAGE, IMAGE > 0, 1, "images b have type bool"),
        (IMAGE, IMAGE[:1], 1, r"shapes \[2, 12, 12, 3\] and \[1, 12, 12, 3\], expected one shape"),
        (IMAGE[0, 0], IMAGE[0, 0], 1, r"images have shape \[12, 3\], expected \[..., Y, X, C\]"),
        (IMAGE[..., :0], IMAGE[..., :0], 1, r"images have shape \[2, 12, 12, 0\]"),
        (IMAGE[:, :0], IMAGE[:, :0], 1, r"images have shape \[2, 0, 12, 3\]"),
        (IMAGE, IMAGE, 0, "data_range is 0, expected a finite number > 0"),
        (IMAGE, IMAGE, math.nan, "data_range is nan"),
    ],
    ids=range(9),
)
def test_images_that_cannot_be_compared(measure, a, b, data_range, fault):
    with pytest.raises(InputError, match=fault):
        measure(a, b, data_range)


def test_images_smaller_than_a_window():
    for small in (IMAGE[:, :10], IMAGE[:, :, :10]):
        with pytest.raises(InputError, match=r"expected .*, Y and X of 11 or more"):
            ssim(small, small)
        assert psnr(small, small + 0.1).shape == (2,)
