"""The bound with exact denoisers: it is the entropy of Gaussian data, and near that of mixtures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import CosineSchedule, Estimate, KarrasSchedule, Level, Reframed
from jaxgen.diffusion.decoders import categorical_decoder, continuous_decoder
from jaxgen.diffusion.discrete import DiscreteSchedule
from jaxgen.diffusion.exact import (
    gaussian_denoiser,
    gaussian_mixture_denoiser,
    gaussian_mixture_log_density,
)
from jaxgen.diffusion.steps import CLEAN, make_steps
from jaxgen.diffusion.times import LowDiscrepancy, Steps, Uniform, UniformLogSNR
from jaxgen.diffusion.variational import (
    Transition,
    bits_per_dimension,
    continuous_bound,
    discrete_bound,
    make_transitions,
    prior_loss,
    step_loss,
)
from jaxgen.errors import InputError

KEY = jax.random.key(5)
VP, NARROW = CosineSchedule(-10, 10), CosineSchedule(-6, 6)
B = 1 << 16
MEAN = np.array([0.5, -0.3])
COVARIANCE = np.array([[0.5, 0.2], [0.2, 0.3]])
ENTROPY = math.log(np.linalg.det(2 * np.pi * np.e * COVARIANCE)) / (4 * math.log(2))
GAUSSIAN = gaussian_denoiser(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))
MIXTURE = np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-0.4, 0.6]]), np.array([0.2, 0.4])


def gaussian_data(count=B):
    noise = np.random.default_rng(0).normal(size=(count, 2))
    noise = (noise - noise.mean(0)) / noise.std(0)
    return jnp.asarray(MEAN + noise @ np.linalg.cholesky(COVARIANCE).T, jnp.float32)


def mixture_data(count=B):
    rng = np.random.default_rng(1)
    weights, means, deviations = MIXTURE
    k = rng.choice(2, count, p=weights)
    x = means[k] + deviations[k, None] * rng.normal(size=(count, 2))
    return jnp.asarray(x, jnp.float32)


def mean_and_error(bits_B):
    bits_B = np.asarray(bits_B, np.float64)
    return bits_B.mean(), bits_B.std() / math.sqrt(len(bits_B))


def evenly(schedule):
    return LowDiscrepancy(UniformLogSNR(schedule))


@pytest.mark.parametrize(
    "schedule",
    [VP, Reframed(VP, "flow"), Reframed(VP, "ve"), KarrasSchedule(math.exp(-5), math.exp(5))],
    ids=["vp", "flow", "ve", "karras"],
)
def test_the_continuous_bound_of_gaussian_data_is_their_entropy(schedule):
    bound = jax.jit(
        lambda x: continuous_bound(
            GAUSSIAN,
            x,
            KEY,
            schedule=schedule,
            decoder=continuous_decoder,
            times=evenly(schedule),
        )
    )(gaussian_data())
    mean, error = mean_and_error(bound.total)
    assert error < 0.06
    assert abs(mean - ENTROPY) < 4 * error
    np.testing.assert_allclose(bound.prior.mean(), 0, atol=1e-4)


def expected_diffusion(schedule, points=4001):
    """1/2 integral of E |e - e^|^2 over lambda, in bits per dimension: exact for Gaussian data."""
    log_snr = np.linspace(float(schedule.log_snr(1.0)), float(schedule.log_snr(0.0)), points)
    snr = np.exp(log_snr)[:, None]
    variances = np.linalg.eigvalsh(COVARIANCE)
    # SNR times the posterior variance c^2 / (1 + SNR c^2) of every principal direction.
    errors = (snr * variances / (1 + snr * variances)).sum(-1)
    return np.trapezoid(errors, log_snr) / (4 * math.log(2))


def test_the_integral_and_the_other_terms_are_the_entropy_in_closed_form():
    reconstruction = (1 + math.log(2 * np.pi) - 10) / (2 * math.log(2))
    np.testing.assert_allclose(expected_diffusion(VP) + reconstruction, ENTROPY, atol=1e-3)


@pytest.mark.parametrize(
    "times",
    [Uniform(), LowDiscrepancy(), UniformLogSNR(NARROW)],
    ids=["independent", "even", "log-SNR"],
)
def test_the_estimate_does_not_depend_on_how_times_are_drawn(times):
    bound = jax.jit(
        lambda x: continuous_bound(
            GAUSSIAN, x, KEY, schedule=NARROW, decoder=continuous_decoder, times=times
        )
    )
    mean, error = mean_and_error(bound(gaussian_data()).diffusion)
    assert error < 0.06
    assert abs(mean - expected_diffusion(NARROW)) < 4 * error


def test_the_bound_of_a_mixture_is_hardly_above_its_entropy():
    denoiser = gaussian_mixture_denoiser(*MIXTURE)
    x = mixture_data()
    clean = jax.tree.map(jnp.float32, CLEAN)
    nats = -gaussian_mixture_log_density(x, clean, *MIXTURE)
    truth = bits_per_dimension(nats, 2)
    bound = jax.jit(
        lambda x: continuous_bound(
            denoiser, x, KEY, schedule=VP, decoder=continuous_decoder, times=evenly(VP)
        )
    )(x)
    mean, error = mean_and_error(bound.total - truth)
    assert error < 0.06
    assert abs(mean) < 4 * error


def discrete_excess(count):
    """The bound of a process of N steps over Gaussian data, less their entropy, and its error."""
    levels = make_steps(CosineSchedule(-8, 8), count, "uniform_log_snr", final="first")
    bound = jax.jit(
        lambda x: discrete_bound(GAUSSIAN, x, KEY, levels=levels, decoder=continuous_decoder)
    )(gaussian_data(1 << 12))
    return bound, levels


def exact_steps(levels):
    """The sum over steps of 1/2 (SNR_u - SNR_t) E |x - x^|^2, in bits per dimension."""
    snr = np.exp(levels.log_snr)
    variances = np.linalg.eigvalsh(COVARIANCE)
    errors = (variances / (1 + snr[:-1, None] * variances)).sum(-1)
    return (np.diff(snr) * errors).sum() / (4 * math.log(2))


def test_the_discrete_bound_falls_to_the_continuous_one():
    schedule, wanted = CosineSchedule(-8, 8), expected_diffusion(CosineSchedule(-8, 8))
    excess = [
        exact_steps(make_steps(schedule, count, "uniform_log_snr", final="first")) - wanted
        for count in (8, 32, 128, 512)
    ]
    assert all(value > 0 for value in excess)
    assert excess == sorted(excess, reverse=True)
    np.testing.assert_allclose(excess[2] / excess[3], 4, rtol=0.05)  # in proportion to 1 / N
    for count in (8, 64):
        bound, levels = discrete_excess(count)
        mean, error = mean_and_error(bound.diffusion)
        assert abs(mean - exact_steps(levels)) < 4 * error
        assert error < 0.02 * mean


@pytest.mark.parametrize("probabilities", [None, (0.1, 0.2, 0.05, 0.25, 0.15, 0.25)])
def test_one_step_for_each_example_has_the_same_mean(probabilities):
    levels = make_steps(CosineSchedule(-4, 4), 6, "uniform_log_snr", final="first")
    bound = jax.jit(
        lambda x: discrete_bound(
            GAUSSIAN,
            x,
            KEY,
            levels=levels,
            decoder=continuous_decoder,
            steps=Steps(6, probabilities),
        )
    )(gaussian_data())
    mean, error = mean_and_error(bound.diffusion)
    assert error < 0.05 * mean
    assert abs(mean - exact_steps(levels)) < 4 * error


def numpy_kl(mean, variance, other_mean, other_variance):
    """KL(N(mean, variance), N(other)) in nats, summed over an example."""
    ratio = variance / other_variance
    gap = (mean - other_mean) ** 2 / other_variance
    return (ratio - 1 - np.log(ratio) + gap).sum(-1) / 2


@pytest.mark.parametrize("frame", ["vp", "ve", "flow"])
@pytest.mark.parametrize("fraction", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("times", [(0.9, 0.8), (0.2, 0.1)])
def test_a_step_costs_the_divergence_of_two_gaussians(frame, fraction, times):
    rng = np.random.default_rng(3)
    x, e, guess = rng.normal(size=(3, 4, 5))
    schedule = Reframed(CosineSchedule(), frame)
    now, after = (schedule.at(t) for t in times)
    z = now.a * x + now.s * e
    # q(z_u | z_t, x): Kingma et al. 2021, equations 26 to 28, with a_ts = a_t / a_s.
    between = now.a / after.a
    forward = now.s**2 - between**2 * after.s**2
    variance = forward * after.s**2 / now.s**2

    def mean(x):
        return between * after.s**2 / now.s**2 * z + after.a * forward / now.s**2 * x

    f = 0.0 if fraction is None else fraction
    learnt = np.exp(f * np.log(forward) + (1 - f) * np.log(variance))
    wanted = numpy_kl(mean(x), variance, mean(guess), learnt)
    steps = make_transitions(Level(*np.stack([now, after, schedule.at(0.05)]).T))
    step = jax.tree.map(lambda value: value[0], steps)
    given = None if fraction is None else jnp.full((4, 5), fraction)
    estimate = Estimate(jnp.asarray(guess), jnp.asarray((z - now.a * guess) / now.s), given)
    found = step_loss(estimate, jnp.asarray(x), jnp.asarray(e), step)
    np.testing.assert_allclose(found, wanted, rtol=2e-4)


def test_a_step_from_pure_noise_is_finite_with_finite_gradients():
    table = DiscreteSchedule("linear", 10, 0.05, 0.5, zero_terminal_snr=True)
    steps = make_transitions(table.at_index(np.arange(10)[::-1]))
    first = jax.tree.map(lambda value: value[0], steps)
    assert first.now.a == 0
    x, e = jax.random.normal(KEY, (2, 3, 4))

    def loss(guess):
        return step_loss(Estimate(guess, e), x, e, first).sum()

    value, slope = jax.value_and_grad(loss)(jnp.zeros((3, 4)))
    snr = float(np.exp(table.at_index(8).log_snr))
    np.testing.assert_allclose(value, snr / 2 * (x**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(slope, -snr * x, rtol=1e-5)


@pytest.mark.parametrize("frame", ["vp", "ve", "flow"])
def test_the_prior_term_is_the_divergence_from_the_latents_that_sampling_starts_with(frame):
    level = Reframed(CosineSchedule(), frame).at(0.7)
    x = np.random.default_rng(4).normal(size=(3, 6))
    total = level.a**2 + level.s**2
    wanted = numpy_kl(level.a * x, level.s**2, 0.0, total)
    np.testing.assert_allclose(prior_loss(jnp.asarray(x), level), wanted, rtol=1e-5)
    noise = Level(1.0, -np.inf, 0.0, 1.0)
    np.testing.assert_array_equal(prior_loss(jnp.asarray(x), noise), 0)


def test_bits_of_values_are_at_least_their_entropy():
    """Two values, told apart at once: one bit for each number, and nothing more."""
    x = jnp.where(jax.random.bernoulli(KEY, 0.5, (1 << 15, 3)), 1.0, -1.0)

    def denoiser(z, level):
        centre = z * (level.a / level.s**2)[:, None]
        mean = jnp.tanh(centre)  # E[x | z] for x = -1 or 1 alike
        return Estimate(mean, (z - level.a[:, None] * mean) / level.s[:, None])

    schedule = CosineSchedule(-10, 8)
    bound = jax.jit(
        lambda x: continuous_bound(
            denoiser,
            x,
            KEY,
            schedule=schedule,
            decoder=categorical_decoder(2),
            times=evenly(schedule),
        )
    )(x)
    mean, error = mean_and_error(bound.total)
    assert error < 0.03
    assert abs(mean - 1) < 4 * error
    np.testing.assert_allclose(bound.reconstruction, 0, atol=1e-5)


def test_a_worse_denoiser_has_a_worse_bound():
    def off(z, level):
        x = GAUSSIAN(z, level).x + 0.1
        return Estimate(x, (z - level.a[:, None] * x) / level.s[:, None])

    narrow = CosineSchedule(-6, 4)

    def bound(denoiser):
        return continuous_bound(
            denoiser,
            gaussian_data(1 << 12),
            KEY,
            schedule=narrow,
            decoder=continuous_decoder,
            times=evenly(narrow),
        ).diffusion

    worse = jax.jit(lambda: bound(off) - bound(GAUSSIAN))()
    # 1/2 integral of SNR 0.1^2 over lambda = 1/2 0.01 (SNR_0 - SNR_1), for each number.
    mean, error = mean_and_error(worse)
    wanted = 0.005 * (math.exp(4) - math.exp(-6)) / math.log(2)
    assert abs(mean - wanted) < 4 * error
    assert error < 0.2 * wanted


def test_examples_have_their_own_randomness():
    x = gaussian_data(6)
    levels = make_steps(CosineSchedule(-4, 4), 5, "uniform_log_snr", final="first")

    def bounds(x, index_B):
        return discrete_bound(
            GAUSSIAN,
            x,
            KEY,
            levels=levels,
            decoder=continuous_decoder,
            steps=Steps(5),
            index_B=index_B,
        ).total

    bounds = jax.jit(bounds)
    whole = bounds(x, jnp.arange(6))
    np.testing.assert_allclose(bounds(x[2:5], jnp.arange(2, 5)), whole[2:5], rtol=1e-5)


def test_transitions_hold_what_the_table_says():
    levels = make_steps(CosineSchedule(-4, 4), 5, "uniform_log_snr", final="first")
    steps = make_transitions(levels)
    assert isinstance(steps, Transition)
    np.testing.assert_allclose(steps.gap, np.full(5, 8 / 5), rtol=1e-6)
    np.testing.assert_allclose(steps.log_snr, levels.log_snr[1:], rtol=1e-6)
    np.testing.assert_allclose(steps.spread, np.diff(-2 * np.log(levels.s)), rtol=1e-6)
    np.testing.assert_allclose(bits_per_dimension(jnp.array([math.log(2)]), 1), 1, rtol=1e-6)


def test_levels_that_end_in_clean_data_or_go_backwards_are_refused():
    schedule = CosineSchedule(-4, 4)
    with pytest.raises(InputError, match="still has some, where the decoder begins"):
        make_transitions(make_steps(schedule, 5, "uniform_log_snr"))
    levels = make_steps(schedule, 5, "uniform_log_snr", final="first")
    with pytest.raises(InputError, match="log-SNR"):
        make_transitions(Level(*(value[::-1] for value in levels)))
    with pytest.raises(InputError, match=r"steps\.count=4: expected 5"):
        discrete_bound(
            GAUSSIAN,
            gaussian_data(2),
            KEY,
            levels=levels,
            decoder=continuous_decoder,
            steps=Steps(4),
        )
