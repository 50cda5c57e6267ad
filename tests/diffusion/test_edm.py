"""EDM by name, where everything is known: for data N(0, d^2) the best F is zero at every level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import EDM, initial_noise, sample
from jaxgen.diffusion.denoiser import thousandths
from jaxgen.diffusion.distillation.consistency import make_consistency_function
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.preconditioning import (
    precondition,
    precondition_network,
    quarter_log_sigma,
    scales_of,
)
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule
from jaxgen.diffusion.samplers import Heun, StochasticKarras
from jaxgen.errors import InputError

EDM_2 = EDM(sigma_data=2.0)


def nothing(z, time):
    return jnp.zeros_like(z)


def test_table_1_of_the_paper():
    sigma, d = np.array([0.002, 0.3, 2.0, 80.0]), 0.5
    level = KarrasSchedule().at_log_snr(-2 * np.log(sigma))
    scales = scales_of(level, d)
    np.testing.assert_allclose(scales.skip, d**2 / (sigma**2 + d**2), rtol=1e-5)
    np.testing.assert_allclose(scales.out, sigma * d / np.sqrt(sigma**2 + d**2), rtol=1e-5)
    np.testing.assert_allclose(scales.into, 1 / np.sqrt(sigma**2 + d**2), rtol=1e-5)
    np.testing.assert_allclose(quarter_log_sigma(level), np.log(sigma) / 4, atol=1e-6)
    weight = EDM(sigma_data=d).weighting.weight(level, "x")
    np.testing.assert_allclose(weight, (sigma**2 + d**2) / (sigma * d) ** 2, rtol=1e-5)
    np.testing.assert_allclose(weight * scales.out**2, 1, rtol=1e-5)


@pytest.mark.parametrize("schedule", [KarrasSchedule(), CosineSchedule()])
def test_gaussian_data(schedule):
    """In every scaling, both as a denoiser and as a network that predicts x."""
    exact = gaussian_denoiser(jnp.zeros(3), 4.0 * jnp.eye(3))
    z = 3 * jax.random.normal(jax.random.key(0), (5, 3))
    level = jax.tree.map(jnp.asarray, schedule.at(np.array([0.1, 0.3, 0.5, 0.7, 0.9])))
    wanted = exact(z, level)
    found = precondition(nothing, 2.0)(z, level)
    np.testing.assert_allclose(found.x, wanted.x, rtol=1e-4, atol=1e-5)
    network = precondition_network(nothing, schedule, 2.0)
    np.testing.assert_allclose(network(z, thousandths(level)), wanted.x, rtol=1e-3, atol=1e-4)


def test_loss_of_the_best_network_is_one():
    """The error of F = 0 is a standard normal number, whatever the level that is drawn."""
    x = 2 * jax.random.normal(jax.random.key(1), (4000, 16))
    loss_B, level = jax.jit(lambda x, key: EDM_2.loss(nothing, x, key))(x, jax.random.key(2))
    assert abs(float(loss_B.mean()) - 1) < 0.02
    log_sigma = -level.log_snr / 2
    assert abs(float(log_sigma.mean()) + 1.2) < 0.08
    assert abs(float(log_sigma.std()) - 1.2) < 0.05
    for low, high in ((-9, -2), (-2, 0), (0, 9)):
        inside = (log_sigma > low) & (log_sigma < high)
        assert abs(float(loss_B[inside].mean()) - 1) < 0.05


def test_sampler():
    """The path through z is z sqrt((sigma^2 + d^2) / (sigma_0^2 + d^2)); Heun follows it."""
    levels = EDM_2.levels(40)
    np.testing.assert_allclose(levels.s[[0, -2, -1]], [80, 0.002, 0], rtol=1e-9)
    z = initial_noise(jax.random.key(0), jnp.arange(6), (2,), levels)
    assert isinstance(EDM_2.sampler(), Heun)
    x = sample(EDM_2.sampler(), EDM_2.make_denoiser(nothing), z, levels, jax.random.key(0))
    np.testing.assert_allclose(x, z * 2 / np.sqrt(80**2 + 2**2), rtol=0.01)
    churned = EDM_2.sampler(40, 0.05, 50, 1.003)
    assert churned == StochasticKarras(EDM_2.schedule)
    x = sample(
        churned,
        EDM_2.make_denoiser(nothing),
        initial_noise(jax.random.key(0), jnp.arange(4000), (1,), levels),
        levels,
        jax.random.key(1),
    )
    assert abs(float(x.std()) / 2 - 1) < 0.06


def test_consistency_functions_have_the_same_scales():
    def network(z, time):
        return jnp.sin(z + time[:, None])

    z = jax.random.normal(jax.random.key(0), (3, 2))
    level = Level(*(jnp.asarray(v) for v in KarrasSchedule().at(np.array([0.2, 0.5, 0.8]))))
    found = make_consistency_function(network, time_input=quarter_log_sigma)(z, level)
    np.testing.assert_array_equal(found.x, EDM().make_denoiser(network)(z, level).x)


def test_what_is_no_edm():
    with pytest.raises(InputError, match="sigma_data is -1"):
        EDM(sigma_data=-1.0)
    with pytest.raises(InputError, match="sigma_min"):
        EDM(sigma_min=90.0)
