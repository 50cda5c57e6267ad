"""Likelihoods by the ODE against closed-form densities; estimated traces; bits of pixel values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from jaxgen.diffusion import CosineSchedule, DiscreteSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.exact import (
    gaussian_denoiser,
    gaussian_mixture_denoiser,
    gaussian_mixture_log_density,
)
from jaxgen.diffusion.objectives.likelihood import dequantise, dequantised_bits, log_likelihood
from jaxgen.diffusion.process.step_levels import CLEAN
from jaxgen.errors import InputError

KEY = jax.random.key(3)
VP = CosineSchedule(-14, 14)
MEAN = np.array([0.5, -0.3, 0.1])
COVARIANCE = np.array([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.4]])
GAUSSIAN = gaussian_denoiser(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))
MIXTURE = np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-0.4, 0.6]]), np.array([0.3, 0.4])


def data(count):
    noise = np.random.default_rng(0).normal(size=(count, 3))
    return MEAN + noise @ np.linalg.cholesky(COVARIANCE).T


def compiled(denoiser, **options):
    return jax.jit(lambda x, key: log_likelihood(denoiser, x, key, **options))


@pytest.mark.parametrize(
    "schedule",
    [VP, KarrasSchedule(1e-3, 1e3), RectifiedFlow(), DiscreteSchedule("linear", 1000)],
    ids=["vp", "ve", "flow", "table"],
)
def test_the_density_of_gaussian_data(schedule):
    """Through the levels of any scaling."""
    x = data(16)
    found = compiled(GAUSSIAN, schedule=schedule, trace="exact", limits=(-14, 14))(x, KEY)
    # At the log-SNR where the ODE begins the data are smoothed by noise.
    first = min(14.0, float(schedule.log_snr(0.0)))
    smoothed = COVARIANCE + math.exp(-first) * np.eye(3)
    wanted = multivariate_normal(MEAN, smoothed).logpdf(x)
    # At the end of this table the data are still there, with a = 0.0064, but not in N(0, I).
    limit = 2e-2 if isinstance(schedule, DiscreteSchedule) else 3e-3
    np.testing.assert_allclose(found, wanted, atol=limit)


def test_the_density_of_a_mixture():
    x = np.random.default_rng(1).normal(0, 0.8, (64, 2))
    denoiser = gaussian_mixture_denoiser(*MIXTURE)
    found = compiled(denoiser, schedule=VP, count=96, trace="exact")(x, KEY)
    clean = jax.tree.map(np.float32, CLEAN)
    wanted = jax.jit(lambda x: gaussian_mixture_log_density(x, clean, *MIXTURE))(np.float32(x))
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def errors(method, counts):
    x = data(4)
    wanted = multivariate_normal(MEAN, COVARIANCE + math.exp(-6) * np.eye(3)).logpdf(x)
    # N(0, I) in place of the true z_1 leaves a fixed error, so that of the steps is a difference.
    narrow = CosineSchedule(-6, 6)
    values = [
        compiled(GAUSSIAN, schedule=narrow, count=n, method=method, trace="exact")(x, KEY)
        for n in (*counts, 256)
    ]
    assert np.abs(values[-1] - wanted).max() < 0.05
    return [float(np.abs(value - values[-1]).mean()) for value in values[:-1]]


@pytest.mark.parametrize(
    ("method", "order", "counts"), [("heun", 2, (12, 24)), ("rk4", 4, (5, 10))]
)
def test_methods_have_their_order(method, order, counts):
    coarse, fine = errors(method, counts)
    assert fine > 1e-5  # not yet rounding
    assert abs(math.log2(coarse / fine) - order) < 0.75


@pytest.mark.parametrize("trace", ["rademacher", "gaussian"])
def test_estimated_traces_have_the_right_mean(trace):
    x = np.repeat(data(1), 1 << 12, 0)
    options = {"schedule": CosineSchedule(-8, 8), "count": 12, "method": "heun"}
    exact = compiled(GAUSSIAN, trace="exact", **options)(x[:1], KEY)
    found = np.asarray(compiled(GAUSSIAN, trace=trace, **options)(x, KEY), np.float64)
    error = found.std() / 64
    assert 0.001 < error < 0.05
    assert abs(found.mean() - float(exact[0])) < 4 * error


def test_rademacher_probes_are_exact_where_numbers_are_independent():
    """A diagonal derivative: v . (D v) is the trace for every v of signs."""
    x = data(5)
    denoiser = gaussian_denoiser(jnp.asarray(MEAN), jnp.diag(jnp.asarray([0.2, 0.3, 0.5])))
    options = {"schedule": VP, "count": 8}
    exact = compiled(denoiser, trace="exact", **options)(x, KEY)
    np.testing.assert_allclose(compiled(denoiser, **options)(x, KEY), exact, rtol=1e-5)


def test_examples_have_their_own_probes_and_any_rank():
    x = np.float32(data(4))
    image, other = x.reshape(4, 3, 1, 1), np.array([2, 0, 3, 3])

    def denoiser(z, level):
        estimate = GAUSSIAN(z.reshape(-1, 3), level)
        return jax.tree.map(lambda value: value.reshape(z.shape), estimate)

    options = {"schedule": VP, "count": 8, "method": "heun"}
    run = jax.jit(lambda x, i: log_likelihood(GAUSSIAN, x, KEY, index_B=i, **options))
    whole = np.asarray(run(x, np.arange(4)))
    np.testing.assert_allclose(run(x[other], other), whole[other], rtol=1e-5)
    exact = compiled(GAUSSIAN, trace="exact", **options)(x, KEY)
    as_image = compiled(denoiser, trace="exact", **options)(image, KEY)
    np.testing.assert_allclose(as_image, exact, rtol=1e-5)
    assert np.abs(whole - exact).max() > 1e-3


def test_bits_of_dequantised_values():
    """Values of a rounded Gaussian: its exact mass against the bits of the smoothed density."""
    count, deviation = 256, 0.25
    rng = np.random.default_rng(2)
    k = np.clip(np.rint((rng.normal(0, deviation, (1 << 13, 4)) + 1) / 2 * 255), 0, 255)
    x = 2 * k / 255 - 1
    spread = np.asarray(jax.jit(dequantise)(np.float32(x), KEY), np.float64)
    assert np.abs(spread - x).max() <= 1 / 255 + 1e-6
    assert abs((spread - x).mean()) < 1e-4
    np.testing.assert_allclose((spread - x).std(), 2 / 255 / math.sqrt(12), rtol=0.02)
    log_density = norm.logpdf(spread, 0, deviation).sum(-1)
    found = float(np.mean(dequantised_bits(np.float32(log_density), 4, count)))
    mass = norm.cdf(x + 1 / 255, 0, deviation) - norm.cdf(x - 1 / 255, 0, deviation)
    wanted = -np.log2(mass).mean()
    assert abs(found - wanted) < 1e-3
    np.testing.assert_allclose(
        wanted, math.log2(deviation * math.sqrt(2 * np.pi * np.e) * 127.5), rtol=5e-3
    )


def test_limits_say_how_much_the_density_is_smoothed():
    """From a log-SNR of 2 on the data are known up to noise of variance exp(-2)."""
    x = data(8)
    found = compiled(GAUSSIAN, schedule=VP, count=32, trace="exact", limits=(-14, 2))(x, KEY)
    wanted = multivariate_normal(MEAN, COVARIANCE + math.exp(-2) * np.eye(3)).logpdf(x)
    np.testing.assert_allclose(found, wanted, atol=3e-3)


def test_cells_of_four_values_are_two_thirds_wide():
    k = np.broadcast_to(np.arange(4), (2000, 4))
    spread = jax.jit(lambda x: dequantise(x, KEY, count=4))(np.float32(2 * k / 3 - 1))
    spread = np.asarray(spread, np.float64)
    place = (spread + 1) * 1.5 - k
    assert -0.5 - 1e-6 < place.min() < -0.49
    assert 0.49 < place.max() < 0.5 + 1e-6
    # Four cells, all alike: two bits for each number.
    density = np.full(1, 5 * math.log(1 / (4 * 2 / 3)))
    np.testing.assert_allclose(dequantised_bits(density, 5, count=4), 2, rtol=1e-6)


def test_uniform_values_cost_eight_bits():
    density = np.full(2, 12 * math.log(255 / 512))  # uniform from -256/255 to 256/255
    np.testing.assert_allclose(dequantised_bits(density, 12), 8, rtol=1e-6)


def test_dequantisation_depends_on_the_example_alone():
    x, other = np.zeros((4, 2, 2), np.float32), np.array([2, 3, 0, 3])
    run = jax.jit(lambda index_B: dequantise(x, KEY, index_B, count=16))
    whole = np.asarray(run(np.arange(4)))
    np.testing.assert_array_equal(run(other), whole[other])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "euler"}, "method is 'euler', expected one of heun, rk4"),
        ({"trace": "none"}, "trace is 'none', expected one of rademacher, gaussian, exact"),
        ({"count": 0}, "count is 0, expected at least 1 step"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        log_likelihood(GAUSSIAN, jnp.zeros((1, 3)), KEY, schedule=VP, **options)
