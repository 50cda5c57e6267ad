"""Decoders: masses against scipy's, sums that are one, finite values and gradients far out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxgen.diffusion import CosineSchedule, Estimate, Level
from jaxgen.diffusion.objectives.decoders import (
    categorical_decoder,
    cell_decoder,
    continuous_decoder,
    log_cell_mass,
    total,
)
from jaxgen.diffusion.process.derived_schedules import Rescaled
from jaxgen.diffusion.process.levels import broadcast_level
from jaxgen.errors import InputError

VALUES = np.linspace(-1, 1, 256)
RNG = np.random.default_rng(0)


def level_of(batch, t=0.05, scaling="vp"):
    level = Rescaled(CosineSchedule(), scaling).at(t)
    return level, jax.tree.map(jnp.float32, broadcast_level(level, batch))


@pytest.mark.parametrize("deviation", [20.0, 0.5, 0.05, 0.005, 1e-4])
@pytest.mark.parametrize("mean", [0.0, 0.3, -1.02, 4.0])
def test_masses_of_cells_are_those_of_the_normal_distribution(mean, deviation):
    low = np.where(np.arange(256) == 0, -np.inf, VALUES - 1 / 255)
    high = np.where(np.arange(256) == 255, np.inf, VALUES + 1 / 255)
    wanted = norm.cdf(high, mean, deviation) - norm.cdf(low, mean, deviation)
    found = log_cell_mass(
        jnp.asarray(VALUES), jnp.float32(mean), jnp.float32(math.log(deviation)), 256
    )
    np.testing.assert_allclose(np.exp(np.asarray(found, np.float64)).sum(), 1, atol=2e-5)
    # Of smaller masses scipy's difference has no digits left, or of narrower ones float32's x.
    clear = (wanted > 1e-6) & (deviation > 1e-3)
    np.testing.assert_allclose(found[clear], np.log(wanted[clear]), atol=2e-3)


def test_masses_far_out_follow_the_density_with_finite_gradients():
    """Ten to a hundred deviations away, where a difference of distributions would be log(0)."""
    x = jnp.float32(VALUES[128])
    for away in (10.0, 30.0, 100.0):
        deviation = 0.05
        mean = VALUES[128] + away * deviation
        found = log_cell_mass(x, jnp.float32(mean), jnp.float32(math.log(deviation)), 256)
        width = 2 / 255 / deviation
        # The integral of exp(-c^2 / 2) over a narrow cell: the density times sinh(c w/2) / (c w/2).
        tilt = away * width / 2
        wanted = norm.logpdf(away) + math.log(width) + math.log(math.sinh(tilt) / tilt)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_masses_have_finite_gradients():
    def loss(mean, log_deviation):
        return log_cell_mass(jnp.asarray(VALUES), mean, log_deviation, 256).sum()

    mean, log_deviation = jnp.meshgrid(jnp.array([0.0, 1e3, -1e3]), jnp.array([-9.0, 0.0, 6.0]))
    slopes = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1))))
    value, (by_mean, by_deviation) = slopes(mean.ravel(), log_deviation.ravel())
    assert np.isfinite(value).all()
    assert np.isfinite(by_mean).all()
    assert np.isfinite(by_deviation).all()
    assert (by_mean[3:6] * jnp.array([0, 1, -1]) <= 0).all()  # towards the values


def test_a_cell_decoder_interpolates_the_log_deviation():
    x = jnp.asarray(RNG.choice(VALUES, (3, 5)), jnp.float32)
    mean = jnp.asarray(np.clip(x + RNG.normal(0, 0.02, (3, 5)), -1, 1), jnp.float32)
    fraction = jnp.asarray(RNG.uniform(size=(3, 5)), jnp.float32)
    level = level_of(3)[1]
    plain = cell_decoder(0.02)(x, x, Estimate(mean, mean), level)
    wanted = norm.cdf(x + 1 / 255, mean, 0.02) - norm.cdf(x - 1 / 255, mean, 0.02)
    np.testing.assert_allclose(plain, np.log(wanted).sum(-1), rtol=1e-3)
    deviation = 0.01 ** (1 - fraction) * 0.04**fraction
    learnt = cell_decoder(0.01, 0.04)(x, x, Estimate(mean, mean, fraction), level)
    wanted = norm.cdf(x + 1 / 255, mean, deviation) - norm.cdf(x - 1 / 255, mean, deviation)
    np.testing.assert_allclose(learnt, np.log(wanted).sum(-1), rtol=1e-3)


@pytest.mark.parametrize("scaling", ["vp", "ve", "flow"])
def test_a_categorical_decoder_is_bayes_rule(scaling):
    count = 16
    values = np.linspace(-1, 1, count)
    exact, level = level_of(4, 0.15, scaling)
    x = RNG.choice(values, (4, 2, 3))
    z = exact.a * x + exact.s * RNG.normal(size=x.shape)
    likelihood = norm.pdf(z[..., None], exact.a * values, exact.s)
    wanted = np.log(norm.pdf(z, exact.a * x, exact.s) / likelihood.sum(-1)).sum((1, 2))
    empty = Estimate(jnp.zeros(()), jnp.zeros(()))
    decoder = categorical_decoder(count)
    found = decoder(jnp.asarray(x, jnp.float32), jnp.asarray(z, jnp.float32), empty, level)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    # Over all values it is a distribution.
    z = jnp.full((count, 1), 0.3)
    spread = decoder(jnp.asarray(values)[:, None], z, empty, level_of(count, 0.15, scaling)[1])
    np.testing.assert_allclose(np.exp(spread).sum(), 1, rtol=1e-5)


def test_a_categorical_decoder_of_hardly_any_noise_is_certain():
    x = jnp.asarray(VALUES[:, None], jnp.float32)
    level = broadcast_level(jax.tree.map(jnp.float32, CosineSchedule(-20, 20).at(0.0)), 256)
    z = level.a[:, None] * x
    empty = Estimate(z, z)
    np.testing.assert_allclose(categorical_decoder()(x, z, empty, level), 0, atol=1e-6)


@pytest.mark.parametrize("scaling", ["vp", "ve", "flow"])
def test_a_continuous_decoder_is_a_density(scaling):
    exact, level = level_of(3, 0.1, scaling)
    x = RNG.normal(size=(3, 4, 2))
    z = exact.a * x + exact.s * RNG.normal(size=x.shape)
    wanted = norm.logpdf(x, z / exact.a, exact.s / exact.a).sum((1, 2))
    x, z = jnp.asarray(x, jnp.float32), jnp.asarray(z, jnp.float32)
    np.testing.assert_allclose(continuous_decoder(x, z, Estimate(z, z), level), wanted, rtol=1e-4)


def test_sums_are_over_examples():
    np.testing.assert_array_equal(total(jnp.ones((3, 4, 2))), [8, 8, 8])
    np.testing.assert_array_equal(total(jnp.arange(3.0)), [0, 1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: categorical_decoder(1), "count is 1, expected at least 2 values"),
        (lambda: cell_decoder(0.1, count=1), "count is 1"),
        (lambda: cell_decoder(0.0), "low is 0.0"),
        (lambda: cell_decoder(0.2, 0.1), r"low is 0\.2, high is 0\.1, expected 0 < low <= high"),
        (lambda: cell_decoder(0.2, math.inf), "high is inf"),
    ],
)
def test_decoders_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_learned_deviations_need_a_fraction():
    x = jnp.zeros((1, 2))
    with pytest.raises(InputError, match="estimates no fraction"):
        cell_decoder(0.1, 0.2)(x, x, Estimate(x, x), Level(*[jnp.ones(1)] * 4))
