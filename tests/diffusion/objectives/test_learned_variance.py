"""Learnt variances: the optimum is the true variance, and the bound does not move the mean."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxgen.diffusion import DiscreteSchedule
from jaxgen.diffusion.denoiser import step_index
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.objectives.learned_variance import (
    all_levels,
    hybrid_loss,
    learned_cell_decoder,
)
from jaxgen.diffusion.objectives.losses import diffusion_loss
from jaxgen.diffusion.objectives.time_distributions import Steps
from jaxgen.diffusion.objectives.variational import make_transitions
from jaxgen.diffusion.objectives.weightings import SNR, SNRPlus
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.diffusion.process.predictions import make_target
from jaxgen.errors import InputError

KEY = jax.random.key(4)
N = 12
TABLE = DiscreteSchedule("linear", N, 0.01, 0.4)
VALUES = np.linspace(-1, 1, 256)


def data(batch, seed=0):
    k = np.random.default_rng(seed).integers(0, 256, (batch, 2, 3))
    return VALUES[k].astype(np.float32)


def linear_network(params):
    """A network whose mean and variance have parameters of their own."""
    return lambda z, time: jnp.concatenate(
        [params["mean"] * z, jnp.full_like(z, params["variance"])], -1
    )


PARAMS = {"mean": np.float32(0.4), "variance": np.float32(0.2)}


def test_no_gradient_of_the_bound_reaches_the_mean():
    x = data(64)

    @jax.jit
    @jax.value_and_grad
    def run(params, scale):
        network = linear_network(params)
        return hybrid_loss(network, x, KEY, schedule=TABLE, scale=scale)[0].mean()

    def simple(params):
        def network(z, time):
            return params["mean"] * z

        options = {"target": "e", "weighting": SNR(), "times": Steps(N)}
        options["time_input"] = step_index(TABLE)
        return diffusion_loss(network, x, KEY, schedule=TABLE, **options)[0].mean()

    found = {scale: run(PARAMS, scale) for scale in (0.0, 1.0, 100.0)}
    plain = jax.jit(jax.value_and_grad(simple))(PARAMS)
    for _, slopes in found.values():
        np.testing.assert_allclose(slopes["mean"], plain[1]["mean"], rtol=1e-6)
    assert found[0.0][1]["variance"] == 0
    once, hundredfold = (float(found[scale][1]["variance"]) for scale in (1.0, 100.0))
    assert abs(once) > 1e-3
    np.testing.assert_allclose(hundredfold, 100 * once, rtol=1e-4)
    np.testing.assert_allclose(found[0.0][0], plain[0], rtol=1e-6)


def numpy_bound(x, e, i, mean_of_z, output):
    """N times the cost of step i in bits per dimension, from its definition, one example."""
    betas = np.linspace(0.01, 0.4, N)
    bar = np.cumprod(1 - betas)
    z = np.sqrt(bar[i]) * x + np.sqrt(1 - bar[i]) * e
    guess = (z - np.sqrt(1 - bar[i]) * mean_of_z(z)) / np.sqrt(bar[i])
    fraction = (output + 1) / 2
    if i == 0:
        # The posterior has no width there: its variance is that of the step before, as in the
        # programs of Ho et al. 2020.
        least = betas[1] * (1 - bar[0]) / (1 - bar[1])
        deviation = np.exp((fraction * np.log(betas[0]) + (1 - fraction) * np.log(least)) / 2)
        low = np.where(x < -0.999, -np.inf, x - 1 / 255)
        high = np.where(x > 0.999, np.inf, x + 1 / 255)
        nats = -np.log(norm.cdf(high, guess, deviation) - norm.cdf(low, guess, deviation))
    else:
        least = betas[i] * (1 - bar[i - 1]) / (1 - bar[i])
        learnt = np.exp(fraction * np.log(betas[i]) + (1 - fraction) * np.log(least))
        gain = np.sqrt(bar[i - 1]) * betas[i] / (1 - bar[i])
        nats = (
            np.log(learnt / least) - 1 + least / learnt + (gain * (x - guess)) ** 2 / learnt
        ) / 2
    return N * nats.mean() / math.log(2)


def test_the_bound_is_that_of_the_paper_step_by_step():
    """Nichol & Dhariwal 2021, equations 4 to 7 and 15, in numpy, for examples at every step."""
    batch = 64
    x = data(batch)
    network = linear_network(PARAMS)
    whole, level = hybrid_loss(network, x, KEY, schedule=TABLE, scale=1.0)
    simple, _ = hybrid_loss(network, x, KEY, schedule=TABLE, scale=0.0)
    keys = example_keys(jax.random.split(KEY)[1], jnp.arange(batch))  # the times' key comes first
    e = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2, 3)))(keys), np.float64)
    steps = np.rint(np.asarray(level.t) * N).astype(int) - 1
    assert set(steps) == set(range(N))
    wanted = [
        numpy_bound(np.asarray(x[b], np.float64), e[b], steps[b], lambda z: 0.4 * z, 0.2)
        for b in range(batch)
    ]
    np.testing.assert_allclose(whole - simple, wanted, rtol=2e-3)


def test_the_best_variance_is_the_true_one():
    """Gaussian data and the exact mean: z_u given z_t is Gaussian, and its variance is learnt."""
    variance = 0.3
    denoiser = gaussian_denoiser(np.zeros(1), variance * np.eye(1))
    x = np.random.default_rng(8).normal(0, math.sqrt(variance), (1 << 14, 1)).astype(np.float32)
    outputs = np.linspace(-1.0, 1.0, 41, dtype=np.float32)

    def losses(output):
        def network(z, time):
            level = TABLE.at((time + 1) / N)
            estimate = denoiser(z, level)
            e = make_target("e", estimate.x, estimate.e, level)
            return jnp.concatenate([e, jnp.full_like(z, output)], -1)

        loss_B, level = hybrid_loss(network, x, KEY, schedule=TABLE, scale=1.0)
        i_B = jnp.rint(level.t * N).astype(int) - 1
        return jnp.stack([jnp.where(i_B == i, loss_B, 0.0).mean() for i in (3, 6, 10)])

    found = outputs[np.argmin(jax.jit(lambda: jax.lax.map(losses, outputs))(), 0)]
    for i, output in zip((3, 6, 10), found, strict=True):
        now, after = TABLE.at_index(i), TABLE.at_index(i - 1)
        # z_t = c z_u + sqrt(1 - c^2) e': the variance of z_u given z_t, by Gaussian conditioning.
        c = now.a / after.a
        latent = after.a**2 * variance + after.s**2
        forward = 1 - c**2
        true = latent * forward / (c**2 * latent + forward)
        least = forward * after.s**2 / now.s**2
        wanted = 2 * math.log(true / least) / math.log(forward / least) - 1
        assert -1 < wanted < 1
        assert abs(output - wanted) < 0.11, (i, output, wanted)


def test_the_last_step_is_between_its_variances():
    levels = all_levels(TABLE)
    assert levels.log_snr.shape == (N,)
    assert (np.diff(levels.log_snr) > 0).all()
    np.testing.assert_allclose(levels.t, np.arange(N, 0, -1) / N, rtol=1e-12)
    spread = make_transitions(levels).spread
    betas = np.linspace(0.01, 0.4, N)[::-1]
    bar = np.cumprod(1 - betas[::-1])[::-1]
    # Of every other step: log beta_i over the posterior's beta_i (1 - bar_{i-1}) / (1 - bar_i).
    np.testing.assert_allclose(spread, np.log((1 - bar[:-1]) / (1 - bar[1:])), rtol=1e-5)
    assert learned_cell_decoder(levels) is not learned_cell_decoder(levels, 16)


@pytest.mark.parametrize("target", ["v", "x"])
def test_values_and_gradients_are_finite_with_zero_terminal_snr(target):
    table = DiscreteSchedule("linear", N, 0.01, 0.4, zero_terminal_snr=True)
    x = data(48)

    def loss(params):
        losses, level = hybrid_loss(
            linear_network(params), x, KEY, schedule=table, target=target, weighting=SNRPlus()
        )
        return losses.mean(), level.a

    (value, a), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(PARAMS)
    assert np.min(a) == 0
    assert np.isfinite(value)
    assert np.isfinite(list(slopes.values())).all()


def test_examples_have_their_own_randomness():
    x = data(8)
    network = linear_network(PARAMS)

    @jax.jit
    def losses(x, index_B):
        return hybrid_loss(network, x, KEY, schedule=TABLE, index_B=index_B)[0]

    other = np.array([3, 5, 4, 0, 7, 7, 1, 2])
    whole = np.asarray(losses(x, np.arange(8)))
    np.testing.assert_allclose(losses(x[other], other), whole[other], rtol=1e-6)


def test_the_network_is_conditioned_on_the_number_of_the_step():
    @jax.jit
    def inputs():
        seen = []

        def network(z, time):
            seen.append(time)
            return jnp.concatenate([z, z], -1)

        level = hybrid_loss(network, data(4), KEY, schedule=TABLE)[1]
        hybrid_loss(network, data(4), KEY, schedule=TABLE, time_input=lambda level: level.log_snr)
        return seen, level

    seen, level = inputs()
    np.testing.assert_allclose(seen[0], level.t * N - 1, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(seen[1], level.log_snr)


def test_bad_input_is_refused():
    table = DiscreteSchedule("linear", N, 0.01, 0.4, zero_terminal_snr=True)
    with pytest.raises(InputError, match="target is 'e' with zero_terminal_snr"):
        hybrid_loss(linear_network(PARAMS), data(2), KEY, schedule=table)
    with pytest.raises(InputError, match="expected an even last axis, mean and variance"):
        hybrid_loss(lambda z, time: z, data(2), KEY, schedule=TABLE)
    with pytest.raises(InputError, match="prediction has shape"):
        hybrid_loss(lambda z, time: jnp.ones((2, 2, 4)), data(2), KEY, schedule=TABLE)
