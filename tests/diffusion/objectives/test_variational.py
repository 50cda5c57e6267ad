"""The variational bound against entropies, closed forms and KL divergences by quadrature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.exact import (
    gaussian_denoiser,
    gaussian_mixture_denoiser,
    gaussian_mixture_log_density,
)
from jaxgen.diffusion.objectives.decoders import (
    categorical_decoder,
    cell_decoder,
    continuous_decoder,
    log_cell_mass,
)
from jaxgen.diffusion.objectives.time_distributions import (
    LogitNormal,
    LowDiscrepancy,
    Steps,
    Uniform,
    UniformLogSNR,
)
from jaxgen.diffusion.objectives.variational import (
    Transition,
    bits_per_dimension,
    continuous_bound,
    discrete_bound,
    make_transitions,
    prior_loss,
    step_loss,
)
from jaxgen.diffusion.process.derived_schedules import Rescaled
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import CLEAN, make_steps
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.errors import InputError

KEY = jax.random.key(0)
COSINE = CosineSchedule(-12, 12)
SCALINGS = {
    "vp": COSINE,
    "flow": Rescaled(COSINE, "flow"),
    "ve": KarrasSchedule(math.exp(-6), math.exp(6)),
}
WEIGHTS = np.array([0.3, 0.7], np.float32)
MEANS = np.array([[1.0, -0.5], [-0.4, 0.6]], np.float32)
DEVIATIONS = np.array([0.2, 0.4], np.float32)


def mixture_data(B=4000):
    """Data of the mixture, and -log2 p(x) / D of each."""
    x = mixture_numbers(B)
    clean = Level(*map(np.float32, CLEAN))
    density = jax.jit(lambda x: gaussian_mixture_log_density(x, clean, WEIGHTS, MEANS, DEVIATIONS))
    return x, bits_per_dimension(-np.asarray(density(x)), 2)


def mixture_numbers(B=4000):
    rng = np.random.default_rng(7)
    k = rng.choice(2, B, p=WEIGHTS / WEIGHTS.sum(dtype=float))
    return MEANS[k] + DEVIATIONS[k][:, None] * rng.normal(size=(B, 2)).astype(np.float32)


MIXTURE = gaussian_mixture_denoiser(WEIGHTS, MEANS, DEVIATIONS)


def standard_error(found):
    """Of a mean, from neighbours, whose times are alike if they are evenly spread."""
    return np.diff(np.asarray(found, np.float64)).std() / math.sqrt(2 * len(found))


def within(found, want, slack=0.0):
    """Whether a mean equals another one to four of its standard errors, and some slack."""
    return abs(np.asarray(found, np.float64).mean() - want) < 4 * standard_error(found) + slack


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_continuous_bound_of_a_gaussian_is_its_entropy(scaling):
    """h(N(m, C)) = 1/2 log((2 pi e)^D det C); with the exact denoiser nothing is lost."""
    rng, size = np.random.default_rng(0), 16
    root = 0.3 * rng.normal(size=(size, size)) + 0.4 * np.eye(size)
    covariance, mean = root @ root.T, rng.normal(size=size)
    nats = 0.5 * (size * math.log(2 * math.pi * math.e) + np.linalg.slogdet(covariance)[1])
    x = jnp.float32(mean + rng.normal(size=(20000, size)) @ root.T)
    schedule = SCALINGS[scaling]
    bound = continuous_bound(
        gaussian_denoiser(mean, covariance),
        x,
        KEY,
        schedule=schedule,
        decoder=continuous_decoder,
        times=LowDiscrepancy(UniformLogSNR(schedule)),
    )
    assert within(bound.total, nats / (size * math.log(2)))
    assert standard_error(bound.total) < 0.03  # so the line above says something


NARROW = CosineSchedule(-5, 5)


@pytest.mark.parametrize(
    "times",
    [
        Uniform(),
        LowDiscrepancy(),
        UniformLogSNR(NARROW),
        LowDiscrepancy(LogitNormal(0.0, 1.6)),
        LowDiscrepancy(Steps(400)),
    ],
    ids=["independent", "even", "log-SNR", "logit normal", "steps"],
)
def test_the_estimate_does_not_depend_on_how_times_are_drawn(times):
    """1/2 integral of a^2 c^2 / (a^2 c^2 + s^2) d lambda, by quadrature."""
    c = 0.6
    log_snr = np.linspace(-5, 5, 20001)
    share = c * c / (c * c + np.exp(-log_snr))
    want = 0.5 * np.trapezoid(share, log_snr) / math.log(2)
    x = c * np.random.default_rng(0).normal(size=(40000, 1)).astype(np.float32)
    bound = continuous_bound(
        gaussian_denoiser(np.zeros(1), np.full((1, 1), c * c)),
        x,
        KEY,
        schedule=NARROW,
        decoder=continuous_decoder,
        times=times,
    )
    assert within(bound.diffusion, want, slack=0.01)
    assert standard_error(bound.diffusion) < 0.06


def test_the_continuous_bound_of_a_mixture_is_tight():
    x, nll = mixture_data(60000)
    schedule = CosineSchedule(-8, 8)
    bound = continuous_bound(
        MIXTURE,
        x,
        KEY,
        schedule=schedule,
        decoder=continuous_decoder,
        times=LowDiscrepancy(UniformLogSNR(schedule)),
    )
    gap = np.asarray(bound.total - nll)
    assert within(gap, 0.0, slack=0.01)
    assert standard_error(gap) < 0.03


def test_a_worse_denoiser_has_a_worse_bound():
    x = mixture_numbers()

    def bound_of(denoiser):
        return continuous_bound(
            denoiser, x, KEY, schedule=CosineSchedule(-10, 8), decoder=continuous_decoder
        ).total.mean()

    worse = gaussian_mixture_denoiser(WEIGHTS, MEANS + 0.2, DEVIATIONS)
    assert bound_of(worse) > bound_of(MIXTURE) + 0.05


def test_the_discrete_bound_falls_to_the_entropy_as_steps_become_finer():
    x, nll = mixture_data()
    gaps = []
    for count in (8, 32, 128):
        levels = make_steps(CosineSchedule(-8, 8), count, "uniform_log_snr", final="first")
        bound = discrete_bound(MIXTURE, x[:1000], KEY, levels=levels, decoder=continuous_decoder)
        gaps.append(float((bound.total - nll[:1000]).mean()))
    assert gaps[0] > gaps[1] > gaps[2] > -0.05
    assert gaps[0] > 1
    # First order in the size of steps; what is left of infinitely many is near zero.
    assert abs(gaps[2] - (gaps[1] - gaps[2]) / 3) < 0.12


def test_one_step_at_random_estimates_the_sum():
    levels = make_steps(CosineSchedule(-6, 6), 8, "uniform_log_snr", final="first")
    p = np.arange(1, 9) / 36  # later steps cost more

    @jax.jit
    def diffusions(x):
        options = {"levels": levels, "decoder": continuous_decoder}
        return [
            discrete_bound(MIXTURE, x, KEY, steps=steps, **options).diffusion
            for steps in (None, Steps(8), Steps(8, tuple(p)))
        ]

    whole, even, important = diffusions(mixture_numbers())
    assert within(even, np.mean(whole))
    assert within(important, np.mean(whole))
    assert np.std(important) < np.std(even)


@pytest.mark.parametrize("fraction", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_step_costs_the_divergence_of_two_gaussians(scaling, fraction):
    """KL by its textbook form, from means and variances in numpy."""
    levels = SCALINGS[scaling].at(np.array([0.61, 0.6, 0.2]))
    rng = np.random.default_rng(0)
    x, e, wrong = rng.normal(size=(3, 5))
    table = make_transitions(levels)
    for n in range(2):
        now, after = (Level(*(v[i] for v in levels)) for i in (n, n + 1))
        z = now.a * x + now.s * e
        x_hat = x + 0.3 * wrong
        estimate = Estimate(*(jnp.float32(v)[None] for v in (x_hat, (z - now.a * x_hat) / now.s)))
        ratio = now.a / after.a
        forward = now.s**2 - ratio**2 * after.s**2
        variance = forward * after.s**2 / now.s**2

        chosen = variance
        if fraction is not None:
            chosen = np.exp(fraction * np.log(forward) + (1 - fraction) * np.log(variance))
            estimate = estimate._replace(fraction=jnp.full((1, 5), fraction))
        distance = (after.a * forward / now.s**2 * (x - x_hat)) ** 2  # between the two means
        want = 0.5 * (np.log(chosen / variance) + (variance + distance) / chosen - 1).sum()
        step = jax.tree.map(lambda value, n=n: value[n], table)
        found = step_loss(estimate, jnp.float32(x)[None], jnp.float32(e)[None], step)
        np.testing.assert_allclose(found[0], want, rtol=2e-3)


def test_a_step_from_pure_noise_is_finite():
    """Zero terminal SNR: (SNR_u - 0) |x - x^|^2 / 2, with finite gradients."""
    schedule = DiscreteSchedule("scaled_linear", 20, 0.01, 0.2, zero_terminal_snr=True)
    levels = schedule.at_index(np.arange(20)[::-1])
    step = jax.tree.map(lambda value: value[0], make_transitions(levels))
    x, e = jnp.full((1, 3), 0.5), jnp.full((1, 3), -1.0)

    def cost(x_hat):
        return step_loss(Estimate(x_hat, e), x, e, step).sum()

    value, grad = jax.value_and_grad(cost)(jnp.zeros((1, 3)))
    snr = math.exp(schedule.table[-2])
    np.testing.assert_allclose(value, snr * 3 * 0.25 / 2, rtol=1e-5)
    np.testing.assert_allclose(grad, np.full((1, 3), -snr * 0.5), rtol=1e-5)


def test_the_prior_is_a_divergence_from_the_standard_normal():
    x = jnp.array([[0.5, -2.0], [0.0, 1.0]])
    for log_snr in (-3.0, 0.5):
        a2 = 1 / (1 + math.exp(-log_snr))
        s2 = 1 - a2
        want = 0.5 * (a2 * np.asarray(x) ** 2 + s2 - 1 - math.log(s2)).sum(-1)
        for scaling in ("vp", "flow", "ve"):
            level = Rescaled(CosineSchedule(-20, 20), scaling).at_log_snr(jnp.float32(log_snr))
            np.testing.assert_allclose(prior_loss(x, level), want, rtol=1e-4)
    np.testing.assert_array_equal(prior_loss(x, RectifiedFlow().at(jnp.ones(()))), 0)


def test_discrete_data_are_coded_in_their_entropy():
    """Values 0 and 255 of 256 with probability 1/4 and 3/4: H bits for a number, and no fewer."""
    p = np.array([0.25, 0.75])
    entropy = -(p * np.log2(p)).sum()
    rng = np.random.default_rng(0)
    values = np.array([-1.0, 1.0])
    x = np.float32(rng.choice(values, size=(4000, 1), p=p))
    denoiser = gaussian_mixture_denoiser(p, values[:, None], np.zeros(2))
    schedule = CosineSchedule(-12, 16)
    options = {"decoder": categorical_decoder(), "times": LowDiscrepancy(UniformLogSNR(schedule))}
    bound = jax.jit(lambda x: continuous_bound(denoiser, x, KEY, schedule=schedule, **options))(x)
    # The cost of x is -log2 p(x) on average over noise.
    nll = -np.log2(np.where(x[:, 0] < 0, p[0], p[1]))
    assert within(np.asarray(bound.total) - nll, 0.0)
    assert abs(float(bound.total.mean()) - entropy) < 0.15
    assert np.abs(bound.reconstruction).max() < 1e-3


def test_decoders_are_distributions():
    """Masses of all values sum to one."""
    values = np.linspace(-1, 1, 256)
    level = jax.tree.map(np.float32, CosineSchedule(-5, 7).at(0.0))
    side = np.linspace(-1, 2, 6001)
    discrete = categorical_decoder(), cell_decoder(0.05), cell_decoder(0.01, 0.09)

    @jax.jit
    def run():
        found = []
        for decoder in (*discrete, continuous_decoder):
            x = np.float32(values if decoder in discrete else side)[:, None]
            z, estimate = (jnp.full(x.shape, v) for v in (0.31, 0.3))
            estimate = Estimate(estimate, z, jnp.full(x.shape, 0.5))
            at = jax.tree.map(lambda v, x=x: jnp.full(x.shape[:1], v), level)
            found.append(jnp.exp(decoder(x, z, estimate, at)))
        return found

    *masses, density = map(np.asarray, run())
    for mass in masses:
        np.testing.assert_allclose(mass.sum(), 1, rtol=1e-4)
    np.testing.assert_allclose(np.trapezoid(density, side), 1, rtol=1e-4)


def test_the_bound_of_a_table_of_ho_et_al():
    """All terms of a table with the cell decoder: the steps' sum in numpy, e^ of one number."""
    schedule = DiscreteSchedule("linear", 10, 1e-3, 0.6)
    levels = schedule.at_index(np.arange(10)[::-1])
    x = np.full((2, 1), 2 * 100 / 255 - 1, np.float32)

    @jax.jit
    def run(x):
        nothing = lambda z, level: Estimate(jnp.zeros_like(z), jnp.zeros_like(z))  # noqa: E731
        decoder = cell_decoder(float(levels.s[-1]))
        bound = discrete_bound(nothing, x, KEY, levels=levels, decoder=decoder)
        scale = jnp.float32(math.log(levels.s[-1]))
        return bound, log_cell_mass(x, jnp.zeros((2, 1)), scale, 256)

    bound, mass = jax.device_get(run(x))
    assert bound.total.shape == (2,)
    assert (bound.diffusion > 0).all()
    np.testing.assert_allclose(bound.reconstruction, -mass[:, 0] / math.log(2), rtol=1e-5)
    np.testing.assert_allclose(bound.total, bound.prior + bound.diffusion + bound.reconstruction)


def test_examples_of_any_shape_by_themselves():
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 4, 1)).astype(np.float32)
    levels = make_steps(COSINE, 4, "uniform_log_snr", final="first")

    def denoiser(z, level):
        return Estimate(0.5 * z, 0.1 * z)

    for bound in (
        lambda x, i: discrete_bound(
            denoiser, x, KEY, levels=levels, decoder=continuous_decoder, index_B=i
        ),
        lambda x, i: continuous_bound(
            denoiser,
            x,
            KEY,
            schedule=COSINE,
            decoder=continuous_decoder,
            times=Uniform(),
            index_B=i,
        ),
    ):
        run, other = jax.jit(bound), np.array([2, 0, 2])
        whole, moved = (np.asarray(run(x[i], i).total) for i in (np.arange(3), other))
        assert whole.shape == (3,)
        np.testing.assert_allclose(moved, whole[other], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (
            lambda: make_transitions(make_steps(COSINE, 4)),
            "expected them to go from noise to a last",
        ),
        (lambda: make_transitions(COSINE.at(np.linspace(0, 1, 4))), "from noise to a last level"),
        (
            lambda: discrete_bound(
                MIXTURE,
                jnp.zeros((2, 2)),
                KEY,
                levels=make_steps(COSINE, 4, final="first"),
                decoder=continuous_decoder,
                steps=Steps(5),
            ),
            "steps.count is 5, expected 4",
        ),
    ],
)
def test_bad_input(make, fault):
    with pytest.raises(InputError, match=fault):
        make()


def test_a_transition_is_a_tree():
    levels = make_steps(COSINE, 4, "uniform_log_snr", final="first")
    table = make_transitions(levels)
    assert isinstance(table, Transition)
    np.testing.assert_allclose(table.gap, 6, rtol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(table)} == {jnp.dtype("float32")}
