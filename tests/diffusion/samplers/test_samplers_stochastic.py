"""Stochastic samplers: their variances by Bayes' rule, and what many samples are like."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    COSINE,
    KEY,
    MEAN,
    MIXTURE,
    SCALINGS,
    VARIANCE,
    level_at,
    moments_through,
    one_gaussian,
    run,
    run_many,
    true_moments,
)

from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.diffusion.samplers import (
    DDIM,
    AnalyticDPM,
    Ancestral,
    DPMSolver,
    Euler,
    LangevinCorrector,
    LearnedAncestral,
    Midpoint,
    SASolver,
    SingleStepDPMSolver,
    StochasticKarras,
    unknown_variance,
)
from jaxgen.diffusion.samplers.sampling import sample_with_table
from jaxgen.errors import InputError


@pytest.mark.parametrize("scaling", SCALINGS)
def test_ancestral_steps_follow_from_bayes_rule(scaling):
    """p(z'|z, x) from the prior N(a' x, s'^2) and the likelihood of z = a_ z' + s_ noise."""
    levels = make_steps(SCALINGS[scaling], 9)
    now, after = (Level(*(v[k] for v in levels)) for k in (slice(0, 8), slice(1, 9)))
    a_ = now.a / after.a
    s_ = np.sqrt(now.s**2 - a_**2 * after.s**2)
    precision = 1 / after.s**2 + (a_ / s_) ** 2
    wanted_z, wanted_x = a_ / s_**2 / precision, after.a / after.s**2 / precision
    for gamma, deviation in [(0, precision**-0.5), (1, s_)]:
        table = Ancestral(gamma).table(levels)
        np.testing.assert_allclose(table.weights[:8, 0], wanted_z, rtol=2e-5)
        np.testing.assert_allclose(table.weights[:8, 1], wanted_x, rtol=2e-5)
        np.testing.assert_allclose(table.noise[:8], deviation, rtol=2e-5)
    middle = Ancestral(0.3).table(levels).noise[:8]
    log = 0.3 * np.log(s_**2) + 0.7 * np.log(1 / precision)
    np.testing.assert_allclose(middle, np.exp(log / 2), rtol=2e-5)
    table = Ancestral(0.3).table(levels)
    np.testing.assert_allclose(table.weights[8], [0, 1], atol=1e-7)
    assert table.noise[8] == 0


def test_ancestral_steps_in_the_words_of_the_paper():
    """Ho et al. (2020): mean (z - beta / sqrt(1 - abar) e) / sqrt(1 - beta), variance beta."""
    schedule = DiscreteSchedule()
    levels = make_steps(schedule, 1000, "leading")
    betas = schedule.betas[::-1]
    abar = np.cumprod(1 - schedule.betas)[::-1]
    before = np.append(abar[1:], 1.0)
    upper, lower = Ancestral(1.0).table(levels), Ancestral(0.0).table(levels)
    np.testing.assert_allclose(upper.noise[:-1] ** 2, betas[:-1], rtol=1e-4)
    posterior = (1 - before) / (1 - abar) * betas
    np.testing.assert_allclose(lower.noise[:-1] ** 2, posterior[:-1], rtol=1e-4)
    z, e = 0.7, -0.4
    x = (z - np.sqrt(1 - abar) * e) / np.sqrt(abar)
    wanted = (z - betas / np.sqrt(1 - abar) * e) / np.sqrt(1 - betas)
    np.testing.assert_allclose(upper.weights @ [z, 0] + upper.weights[:, 1] * x, wanted, rtol=2e-5)


def test_moments_of_ancestral_sampling():
    """Exact moments of the sampler, and those of many samples; they come to the data's."""
    errors = {}
    for count in (25, 100, 400):
        levels = make_steps(COSINE, count)
        for gamma in (0.0, 0.5, 1.0):
            mean, variance = moments_through(Ancestral(gamma), levels)
            errors[gamma, count] = abs(variance - VARIANCE)
            assert mean == pytest.approx(MEAN, abs=0.03)
    for gamma in (0.0, 0.5, 1.0):
        assert errors[gamma, 400] < errors[gamma, 25] / 8
        assert errors[gamma, 400] < 0.02 * VARIANCE
    levels = make_steps(COSINE, 25)
    mean, variance = moments_through(Ancestral(0.5), levels)
    x = run_many(Ancestral(0.5), levels, one_gaussian(), 20_000, 1)
    assert x.mean() == pytest.approx(mean, abs=0.02)
    assert x.var() == pytest.approx(variance, rel=0.04)


def test_learned_fraction():
    """A constant fraction is gamma; a fraction per number is used per number."""

    def with_fraction(fraction):
        return lambda z, level: MIXTURE(z, level)._replace(
            fraction=jnp.broadcast_to(jnp.asarray(fraction), z.shape)
        )

    levels = make_steps(COSINE, 6)
    for fraction in (0.0, 0.4, 1.0):
        found = run(LearnedAncestral(), levels, with_fraction(fraction))
        np.testing.assert_allclose(found, run(Ancestral(fraction), levels), rtol=1e-4, atol=1e-5)
    gaussian = gaussian_denoiser(np.zeros(2), np.eye(2) * VARIANCE)

    def split(z, level):
        return gaussian(z, level)._replace(
            fraction=jnp.broadcast_to(jnp.array([0.0, 1.0]), z.shape)
        )

    found = run(LearnedAncestral(), levels, split)
    for i, gamma in enumerate((0.0, 1.0)):
        wanted = run(Ancestral(gamma), levels, gaussian)
        np.testing.assert_allclose(found[:, i], wanted[:, i], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="made with learned_variance=True"):
        run(LearnedAncestral(), levels)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("count", [2, 5])
def test_analytic_variance_is_exact_for_a_gaussian(scaling, count):
    """Then p(z'|z) is Gaussian: its moments are those of the latents at every level, in few steps.

    The usual variances are far off with so few.
    """
    levels = make_steps(SCALINGS[scaling], count, "uniform_angle", final="first")
    unknown = levels.s**2 * VARIANCE / (levels.a**2 * VARIANCE + levels.s**2)
    for eta in (1.0, 0.6):
        sampler = AnalyticDPM(tuple(unknown[:-1]), eta)
        mean, variance = moments_through(sampler, levels)
        wanted = true_moments(level_at(levels, -1))
        assert mean == pytest.approx(wanted[0], rel=1e-4)
        if eta == 1:
            assert variance == pytest.approx(wanted[1], rel=1e-4)
    for gamma in (0.0, 1.0):
        assert abs(moments_through(Ancestral(gamma), levels)[1] / wanted[1] - 1) > 0.05


def test_estimated_variance():
    """From data and a denoiser against the closed form, at pure noise and little noise too."""
    levels = make_steps(CosineSchedule(-math.inf, 14), 6)
    x = np.random.default_rng(0).normal(MEAN, math.sqrt(VARIANCE), (20_000, 1)).astype(np.float32)
    found = unknown_variance(one_gaussian(), x, levels, jax.random.key(1))
    wanted = levels.s**2 * VARIANCE / (levels.a**2 * VARIANCE + levels.s**2)
    np.testing.assert_allclose(found, wanted[:-1], rtol=0.04)
    assert levels.a[0] == 0
    sampler = AnalyticDPM(tuple(found))
    found = run_many(sampler, levels, one_gaussian(), 5_000, 1)
    assert found.var() > run_many(Ancestral(), levels, one_gaussian(), 5_000, 1).var()


@pytest.mark.parametrize(
    ("sampler", "count"),
    [
        (DDIM(1.0), 200),
        (DPMSolver(1, stochastic=True), 200),
        (DPMSolver(2, stochastic=True), 40),
        (DPMSolver(3, stochastic=True), 40),
        (SingleStepDPMSolver(2, stochastic=True), 400),
        (DPMSolver(2, predicts="e", stochastic=True), 60),
        (StochasticKarras(COSINE, churn=20.0, low=0.05, high=50.0, inflation=1.0), 40),
        (SASolver(2, 2), 60),
        (SASolver(3, 3, low=0.0, high=1.0), 60),
        (Midpoint(CosineSchedule(-12, 8), eta=1.0), 300),
        (LangevinCorrector(Euler(), 0.1, count=2, rule="fixed"), 60),
        (LangevinCorrector(DDIM(1.0), 0.1, rule="fixed"), 100),
    ],
    ids=str,
)
def test_mean_and_covariance(sampler, count):
    """10,000 samples of a correlated Gaussian; tolerances are five standard errors and more."""
    mean, covariance = np.array([0.5, -1.0]), np.array([[1.0, 0.4], [0.4, 0.5]])
    denoiser = gaussian_denoiser(mean, covariance)
    levels = make_steps(CosineSchedule(-12, 8), count, "uniform_log_snr", final="first")
    x = run_many(sampler, levels, denoiser, 10_000, 2)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.09)


def test_churn_by_the_letter():
    """One step of algorithm 2 of Karras et al. (2022), written out, with the same noise."""
    schedule = KarrasSchedule()
    levels = make_steps(schedule, 5, "karras")
    sampler = StochasticKarras(schedule, churn=1.0, low=0.1, high=60.0, inflation=1.01)
    table = sampler.table(levels)
    assert (table.churn > 0).tolist() == [i in (2, 4, 6) for i in range(9)]
    z = 20 * jax.random.normal(jax.random.key(2), (3, 2))
    sigma, after = levels.s[1:3]
    keys_B = step_keys(example_keys(KEY, jnp.arange(3)), jnp.asarray(0))
    hat = sigma * (1 + min(1 / 5, math.sqrt(2) - 1))
    churned = z + math.sqrt(hat**2 - sigma**2) * 1.01 * normal(keys_B, (2,))

    def slope(z, sigma):
        level = Level(*(jnp.float32(v) for v in schedule.at_log_snr(-2 * np.log(sigma))))
        return (z - MIXTURE(z, level).x) / sigma

    here = slope(churned, hat)
    there = slope(churned + (after - hat) * here, after)
    wanted = churned + (after - hat) / 2 * (here + there)
    found = sample_with_table(sampler, MIXTURE, z, jax.tree.map(lambda v: v[2:4], table), KEY)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    # The network is conditioned on the time of the churned level.
    assert table.now.s[2] == pytest.approx(hat, rel=1e-6)
    assert table.now.t[2] == pytest.approx(float(schedule.time(-2 * np.log(hat))), rel=1e-5)


@pytest.mark.parametrize("rule", ["snr", "fixed"])
def test_langevin_by_the_letter(rule):
    """Song et al. (2021b, algorithm 4): step 2 (r |noise| / |score|)^2, then the predictor."""
    levels = make_steps(COSINE, 5)
    sampler = LangevinCorrector(DDIM(), 0.3, rule=rule)
    table = sampler.table(levels)
    row = jax.tree.map(lambda v: v[2], table)
    z = jax.random.normal(jax.random.key(2), (3, 2))
    keys_B = example_keys(KEY, jnp.arange(3))
    found = sampler.step(MIXTURE, sampler.start(z), row, keys_B).z
    level = level_at(levels, 2)
    noise = normal(step_keys(keys_B, jnp.asarray(0)), (2,))
    score = -MIXTURE(z, level).e / level.s
    norm = [jnp.linalg.norm(v, axis=1, keepdims=True) for v in (noise, score)]
    size = 2 * (0.3 * norm[0] / norm[1]) ** 2 if rule == "snr" else 0.3 * level.s**2 / 2
    size = jnp.minimum(size, level.s**2 / 2)
    corrected = z + size * score + jnp.sqrt(2 * size) * noise
    estimate = MIXTURE(corrected, level)
    wanted = levels.a[3] * estimate.x + levels.s[3] * estimate.e
    assert (size < level.s**2 / 2).any()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_langevin_steps_mend_a_coarse_predictor():
    """A few Euler steps miss the variance; correctors at each level bring it back."""
    levels = make_steps(CosineSchedule(-12, 6), 6, "uniform_log_snr", final="first")
    # The last step is made a small one, since nothing corrects what comes after it.
    before = CosineSchedule(-12, 6).at_log_snr(5.99)
    levels = Level(*(np.insert(v, -1, new) for v, new in zip(levels, before, strict=True)))
    wanted = true_moments(level_at(levels, -1))[1]
    langevin = LangevinCorrector(Euler(), 0.1, count=40, rule="fixed")
    plain, mended = (
        run_many(sampler, levels, one_gaussian(), 8_000, 1).var() for sampler in (Euler(), langevin)
    )
    assert abs(plain / wanted - 1) > 0.1
    assert mended == pytest.approx(wanted, rel=0.06)


def test_signal_to_noise_rule_in_many_dimensions():
    """There the sizes hardly vary, and correctors leave the variance where it should be."""
    denoiser = gaussian_denoiser(np.full(64, MEAN), VARIANCE * np.eye(64))
    levels = make_steps(CosineSchedule(-12, 6), 10, "uniform_log_snr", final="first")
    unknown = levels.s**2 * VARIANCE / (levels.a**2 * VARIANCE + levels.s**2)
    exact = AnalyticDPM(tuple(unknown[:-1]))
    x = run_many(LangevinCorrector(exact, 0.16, count=2), levels, denoiser, 500, 64)
    mean, variance = true_moments(level_at(levels, -1))
    assert x.mean() == pytest.approx(mean, abs=0.02)
    assert x.var() == pytest.approx(variance, rel=0.04)


def test_guided_sampling_is_exact_for_gaussians():
    """A correctly conditioned score: product of N(0, 1) and a likelihood, with a corrector."""
    prior = gaussian_denoiser(np.zeros(1), np.eye(1))
    observed, noise = 0.8, 0.5

    def conditional(z, level):
        """grad log p(y | z) in closed form: y | z ~ N(x^(z), var(x | z) + noise^2)."""
        a, s = level.a[:, None], level.s[:, None]
        estimate = prior(z, level)
        unknown = s**2 / (a**2 + s**2)
        slope = a / (a**2 + s**2) * (observed - estimate.x) / (unknown + noise**2)
        e = estimate.e - s * slope
        return Estimate((z - s * e) / a, e)

    levels = make_steps(CosineSchedule(-12, 8), 300, "uniform_log_snr", final="first")
    x = run_many(LangevinCorrector(DDIM(1.0), 0.1, rule="fixed"), levels, conditional, 8_000, 1)
    variance = 1 / (1 + 1 / noise**2)
    assert x.mean() == pytest.approx(observed * variance / noise**2, abs=0.03)
    assert x.var() == pytest.approx(variance, rel=0.08)
