"""Denoisers that are formulas against numerical integrals and Tweedie's formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.exact import (
    gaussian_denoiser,
    gaussian_mixture_denoiser,
    gaussian_mixture_log_density,
)
from jaxgen.diffusion.process.levels import Level, scales
from jaxgen.errors import InputError

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]])
DEVIATIONS = np.array([0.3, 0.5, 0.2])
MIXTURE = WEIGHTS, MEANS, DEVIATIONS
SCALINGS = ("vp", "ve", "flow")
Z = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)


def level_of(log_snr, scaling="vp"):
    a, s = scales(np.asarray(log_snr, np.float64), scaling)
    return Level(*(np.float32(v) for v in (np.full_like(a, 0.5), log_snr, a, s)))


mixture = jax.jit(gaussian_mixture_denoiser(*MIXTURE))
log_density_of = jax.jit(lambda z, level: gaussian_mixture_log_density(z, level, *MIXTURE))
score_of = jax.jit(jax.grad(lambda *given: log_density_of(*given).sum()))


def posterior_mean_1d(z, a, s, density):
    """E[x | z] by a sum over a fine grid."""
    x = np.linspace(-8, 8, 40001)
    mass = density(x) * np.exp(-((z - a * x) ** 2) / (2 * s * s))
    return (x * mass).sum() / mass.sum()


OF_NUMBERS = np.array([0.3, 0.7]), np.array([1.2, -0.5]), np.array([0.2, 0.6])
mixture_of_numbers = jax.jit(
    gaussian_mixture_denoiser(OF_NUMBERS[0], OF_NUMBERS[1][:, None], OF_NUMBERS[2])
)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("log_snr", [-4.0, 0.0, 3.0])
def test_mixture_against_numerical_integration(scaling, log_snr):
    w, m, c = OF_NUMBERS

    def density(x):
        return (w / c * np.exp(-((x[:, None] - m) ** 2) / (2 * c**2))).sum(-1)

    level = level_of(log_snr, scaling)
    a, s = float(level.a), float(level.s)
    z = np.array([-2.0, -0.3, 0.9, 2.5]) * np.hypot(a, s)
    estimate = jax.device_get(mixture_of_numbers(np.float32(z[:, None]), level))
    want = np.array([posterior_mean_1d(value, a, s, density) for value in z])
    np.testing.assert_allclose(estimate.x[:, 0], want, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(estimate.e[:, 0], (z - a * want) / s, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_tweedies_formula(scaling):
    """E[e | z] = -s grad log p(z), E[x | z] = (z + s^2 grad log p(z)) / a."""
    level = level_of(np.array([-5.0, -1.0, 0.0, 1.0, 5.0]), scaling)
    z = Z * np.hypot(level.a, level.s)[:, None]
    score, estimate = np.asarray(score_of(z, level)), mixture(z, level)
    a, s = (value[:, None] for value in level[2:])
    np.testing.assert_allclose(estimate.e, -s * score, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(estimate.x, (z + s**2 * score) / a, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_density_of_latents_integrates_to_one_and_is_the_convolution(scaling):
    level = level_of(0.5, scaling)
    a, s = float(level.a), float(level.s)
    side = np.linspace(-6, 6, 161) * np.hypot(a, s)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    log_density = np.asarray(log_density_of(np.float32(grid), level))
    np.testing.assert_allclose(np.exp(log_density).sum() * (side[1] - side[0]) ** 2, 1, rtol=1e-4)
    point, want = grid[7000], 0.0
    for w, m, c in zip(*MIXTURE, strict=True):
        v = a * a * c * c + s * s
        want += w / (2 * np.pi * v) * np.exp(-((point - a * m) ** 2).sum() / (2 * v))
    np.testing.assert_allclose(log_density[7000], np.log(want), rtol=1e-4)


@jax.jit
def three_gaussians(z, level):
    mean = np.array([0.3, -0.6])
    round_one = gaussian_denoiser(mean, 0.49 * np.eye(2))(z, level)
    same = gaussian_mixture_denoiser(np.ones(1), mean[None], np.array([0.7]))(z, level)
    return round_one, same, gaussian_denoiser(mean, np.array([[1.0, 0.8], [0.8, 0.9]]))(z, level)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_gaussian_against_a_mixture_of_one_and_against_linear_algebra(scaling):
    level = level_of(np.array([-4.0, -1.0, 0.0, 1.0, 4.0]), scaling)
    mean = np.array([0.3, -0.6])
    z = Z * np.hypot(level.a, level.s)[:, None]
    round_one, same, found = jax.device_get(three_gaussians(z, level))
    np.testing.assert_allclose(round_one.x, same.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(round_one.e, same.e, rtol=1e-4, atol=1e-5)
    covariance = np.array([[1.0, 0.8], [0.8, 0.9]])
    for b in range(5):
        a, s = float(level.a[b]), float(level.s[b])
        rest = np.linalg.solve(a * a * covariance + s * s * np.eye(2), z[b] - a * mean)
        np.testing.assert_allclose(found.x[b], mean + a * covariance @ rest, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.e[b], s * rest, rtol=1e-3, atol=1e-4)


def test_a_singular_covariance_keeps_data_on_their_line():
    direction = np.array([0.6, 0.8])
    denoiser = gaussian_denoiser(np.zeros(2), np.outer(direction, direction))
    x = jax.jit(denoiser)(Z, level_of(-1.0)).x
    np.testing.assert_allclose(x @ np.array([-0.8, 0.6]), 0, atol=1e-6)


def test_points_are_told_apart_where_there_is_little_noise():
    denoiser = jax.jit(gaussian_mixture_denoiser(WEIGHTS, MEANS, np.zeros(3)))
    level = level_of(9.0)
    z = level.a * MEANS + level.s * 0.5
    np.testing.assert_allclose(denoiser(np.float32(z), level).x, MEANS, atol=1e-5)
    far = denoiser(np.float32(MEANS), level_of(-np.inf))
    np.testing.assert_allclose(far.x, np.broadcast_to(WEIGHTS @ MEANS, (3, 2)), rtol=1e-5)


@pytest.mark.parametrize("scaling", ["vp", "flow"])
@pytest.mark.parametrize("log_snr", [np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["gaussian", "mixture", "points"])
def test_both_ends_are_finite_with_finite_gradients(scaling, log_snr, kind):
    z = np.float32(MEANS)
    found, slope = jax.device_get(with_slope(kind, z, level_of(log_snr, scaling)))
    assert all(np.isfinite(value).all() for value in found)
    assert np.isfinite(slope).all()
    if log_snr > 0 and kind == "mixture":
        np.testing.assert_allclose(found[0], z, rtol=1e-5)
    if log_snr < 0:
        mean = MEANS[0] if kind == "gaussian" else WEIGHTS @ MEANS
        np.testing.assert_allclose(found[0], np.broadcast_to(mean, (3, 2)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1], z, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def with_slope(kind, z, level):
    denoiser = {
        "gaussian": gaussian_denoiser(MEANS[0], np.array([[1.0, 0.5], [0.5, 0.25]])),
        "mixture": gaussian_mixture_denoiser(*MIXTURE),
        "points": gaussian_mixture_denoiser(WEIGHTS, MEANS, np.zeros(3)),
    }[kind]
    found, pull = jax.vjp(lambda z: tuple(denoiser(z, level)[:2]), z)
    return found, pull(jax.tree.map(jnp.ones_like, found))[0]


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match=r"covariance has shape \(3, 3\), expected \(2, 2\)"):
        gaussian_denoiser(np.zeros(2), np.eye(3))
