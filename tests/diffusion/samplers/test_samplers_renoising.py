"""Samplers that go down and add noise, and Euler-Maruyama: by the letter, and their moments."""

import jax
import numpy as np
import pytest
from chains import (
    COSINE,
    SCALINGS,
    VARIANCE,
    level_at,
    moments_through,
    one_gaussian,
    run,
    run_many,
    true_moments,
)

from jaxgen.diffusion.distillation.consistency import ConsistencySampler
from jaxgen.diffusion.process.derived_schedules import Rescaled
from jaxgen.diffusion.process.example_keys import example_keys, normal
from jaxgen.diffusion.process.levels import scales
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.step_levels import make_steps, reverse_steps, steps_at
from jaxgen.diffusion.samplers import DDIM, TCD, BlendedDDIM, Euler, EulerMaruyama, FlowAncestral
from jaxgen.errors import InputError

ENDS = {
    "no noise, TCD": (TCD(COSINE, 0.0), DDIM()),
    "no noise, flow": (FlowAncestral(0.0), DDIM()),
    "no noise, blended": (BlendedDDIM(0.0), DDIM()),
    "blended, all": (BlendedDDIM(1.0), DDIM(1.0)),
    "all noise": (TCD(COSINE, 1.0), ConsistencySampler()),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_at_both_ends_they_are_known_samplers(name, scaling):
    one, other = ENDS[name]
    levels = make_steps(SCALINGS[scaling], 7, "uniform_angle")
    np.testing.assert_allclose(run(one, levels), run(other, levels), rtol=3e-4, atol=3e-5)


def down_and_up(levels, i, log_snr, scaling):
    """Weights of x^, e^ and noise: to a level by DDIM, then up with the noise in between."""
    a_down, s_down = scales(log_snr, scaling)
    keep = levels.a[i + 1] / a_down
    up = np.sqrt(levels.s[i + 1] ** 2 - (keep * s_down) ** 2)
    return keep * a_down, keep * s_down, up


@pytest.mark.parametrize("scaling", SCALINGS)
def test_tcd_by_the_letter(scaling):
    schedule, gamma = SCALINGS[scaling], 0.35
    levels = make_steps(schedule, 6, final="first")
    table = TCD(schedule, gamma).table(levels)
    for i in range(5):
        log_snr = schedule.log_snr((1 - gamma) * levels.t[i + 1])
        wanted = down_and_up(levels, i, log_snr, scaling)
        np.testing.assert_allclose([*table.weights[i], table.noise[i]], wanted, rtol=1e-5)
    assert table.noise[5] == 0
    total = np.hypot(table.weights[:, 1], table.noise)
    np.testing.assert_allclose(total, levels.s[1:], rtol=1e-6)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_ancestral_flow_by_the_letter(scaling):
    """u' (1 - eta (1 - u'/u)) in the time of straight lines, whatever the scaling."""
    eta = 0.6
    levels = make_steps(SCALINGS[scaling], 6, "uniform_angle")
    table = FlowAncestral(eta).table(levels)
    u = levels.s / (levels.a + levels.s)
    for i in range(5):
        down = u[i + 1] * (1 + (u[i + 1] / u[i] - 1) * eta)
        wanted = down_and_up(levels, i, 2 * np.log((1 - down) / down), scaling)
        np.testing.assert_allclose([*table.weights[i], table.noise[i]], wanted, rtol=1e-5)
    assert table.noise[5] == 0


@pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineSchedule(-np.inf, np.inf)], ids=str)
def test_from_pure_noise_to_clean_data(schedule):
    levels = make_steps(schedule, 6)
    for sampler in (TCD(schedule, 0.3), TCD(schedule, 1.0), FlowAncestral(0.5)):
        table = sampler.table(levels)
        assert np.isfinite(table.weights).all()
        assert np.isfinite(table.noise).all()
        np.testing.assert_allclose(table.weights[-1], [1, 0])
        assert np.isfinite(run(sampler, levels)).all()


SHORT = CosineSchedule(-12, 8)
CONVERGENT = {
    "flow": FlowAncestral(0.5),
    "flow, all": FlowAncestral(),
    "Euler-Maruyama": EulerMaruyama(SHORT),
    "Euler-Maruyama, more": EulerMaruyama(SHORT, 1.3),
    "Euler-Maruyama, none": EulerMaruyama(SHORT, 0.0),
    "blended": BlendedDDIM(0.5),
}


@pytest.mark.parametrize("name", CONVERGENT)
def test_moments_come_to_those_of_the_data(name):
    """Exact moments of the sampler, whose error halves with twice the steps."""
    errors = []
    for count in (200, 400, 800):
        levels = make_steps(SHORT, count, final="first")
        mean, variance = moments_through(CONVERGENT[name], levels)
        wanted = true_moments(level_at(levels, -1))
        errors.append(abs(variance - wanted[1]))
        assert mean == pytest.approx(wanted[0], abs=0.03)
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2, atol=0.3)
    assert errors[-1] < 0.03 * VARIANCE


@pytest.mark.parametrize("sampler", [*CONVERGENT.values(), TCD(SHORT, 0.3)], ids=str)
def test_moments_of_many_samples(sampler):
    """They are those that the table's rows lead to, one after the other."""
    levels = make_steps(SHORT, 25, final="first")
    mean, variance = moments_through(sampler, levels)
    x = run_many(sampler, levels, one_gaussian(), 20_000, 1)
    assert x.mean() == pytest.approx(mean, abs=0.02)
    assert x.var() == pytest.approx(variance, rel=0.04)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "schedule",
    [CosineSchedule(-6, 8), KarrasSchedule(0.01, 20.0), Rescaled(CosineSchedule(-6, 8), "flow")],
    ids=["vp", "ve", "flow"],
)
def test_euler_maruyama_follows_the_sde(schedule, eta):
    """One step against f and g^2 by differences: f = d log a / dt, g^2 = d s^2 / dt - 2 f s^2."""
    levels = steps_at(schedule, [0.6, 0.5], final="first")
    table = EulerMaruyama(schedule, eta).table(levels)
    for i, (t, d) in enumerate([(0.6, 0.1), (0.5, 0.5)]):
        low, here, high = (schedule.at(t + shift) for shift in (-1e-5, 0.0, 1e-5))
        f = (np.log(high.a) - np.log(low.a)) / 2e-5
        g2 = (high.s**2 - low.s**2) / 2e-5 - 2 * f * here.s**2
        wanted = [1 - d * f, -d * (1 + eta**2) / 2 * g2 / here.s, eta * np.sqrt(d * g2)]
        np.testing.assert_allclose([*table.weights[i], table.noise[i]], wanted, rtol=1e-4)


def test_without_noise_it_is_euler_on_the_velocity():
    """Of straight lines, whose time is the one that Euler's method steps in."""
    schedule = RectifiedFlow()
    levels = steps_at(schedule, [0.9, 0.6, 0.35, 0.1], final="clean")
    found = run(EulerMaruyama(schedule, 0.0), levels)
    np.testing.assert_allclose(found, run(Euler("flow"), levels), rtol=1e-5, atol=1e-6)


def test_blended_ddim_by_the_letter():
    """The mean of the two means of z', and noise that makes up for what e^ is short of."""
    share, levels = 0.3, make_steps(COSINE, 5, final="first")
    table = BlendedDDIM(share).table(levels)
    one, other = (DDIM(eta).table(levels).weights[:, 2] for eta in (0.0, 1.0))
    np.testing.assert_allclose(table.weights[:, 0], levels.a[1:], rtol=1e-6)
    np.testing.assert_allclose(table.weights[:, 1], (1 - share) * one + share * other, rtol=1e-5)
    total = np.hypot(table.weights[:, 1], table.noise)
    np.testing.assert_allclose(total, levels.s[1:], rtol=1e-6)


def test_other_options_compile_nothing():
    """The table is a value: one program for every gamma."""
    sampler, traced = TCD(COSINE), []

    @jax.jit
    def step(table, z):
        traced.append(1)
        row = jax.tree.map(lambda value: value[0], table)
        keys_B = example_keys(jax.random.key(0), np.arange(3))
        return sampler.step(one_gaussian(), sampler.start(z), row, keys_B).z

    levels, z = make_steps(COSINE, 4), normal(example_keys(jax.random.key(1), np.arange(3)), (1,))
    found = [step(TCD(COSINE, gamma).table(levels), z) for gamma in (0.0, 0.3, 1.0)]
    assert len(traced) == 1
    assert np.abs(found[0] - found[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TCD(COSINE, 1.5), "gamma is 1.5, expected 0 <= gamma <= 1"),
        (lambda: FlowAncestral(-0.1), "eta is -0.1, expected 0 <= eta <= 1"),
        (lambda: EulerMaruyama(COSINE, -0.5), "eta is -0.5, expected a finite number >= 0"),
        (lambda: EulerMaruyama("cosine"), "schedule is 'cosine', expected a Schedule"),
        (
            lambda: EulerMaruyama(KarrasSchedule()).table(make_steps(COSINE, 3)),
            "level 0 at t=1 has log-SNR -12 and a=0.00247.*, expected those of KarrasSchedule",
        ),
        (lambda: BlendedDDIM(1.5), "share is 1.5, expected 0 <= share <= 1"),
        (
            lambda: TCD(COSINE).table(reverse_steps(make_steps(COSINE, 3))),
            "levels from data to noise",
        ),
        (
            lambda: EulerMaruyama(RectifiedFlow()).table(make_steps(RectifiedFlow(), 3)),
            "level 0 at t=1, where the log-SNR of RectifiedFlow has an infinite slope",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
