"""Denoisers made of networks; clipping and thresholding against plain numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.denoiser import (
    Estimate,
    change_x,
    check_target_fits,
    clip_x,
    evaluate_at,
    make_denoiser,
    noise_given,
    split_variance,
    step_index,
    thousandths,
    threshold_x,
)
from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.diffusion.process.predictions import TARGETS, make_target, to_x_and_e
from jaxgen.diffusion.process.schedules import CosineSchedule, KarrasSchedule, RectifiedFlow
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.errors import InputError

SCHEDULE = CosineSchedule()
LEVEL = jax.tree.map(jnp.asarray, SCHEDULE.at(jnp.array([0.1, 0.4, 0.8])))
X = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
E = np.random.default_rng(1).normal(size=(3, 5, 2)).astype(np.float32)
Z = expand(LEVEL.a, X) * X + expand(LEVEL.s, X) * E


def says(x):
    """A denoiser with one answer, and the noise that goes with it."""
    return lambda z, level: Estimate(x, noise_given(x, z, level))


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_that_is_right_makes_a_denoiser_that_is_right(target):
    seen = {}

    def network(z, time):
        seen["time"] = time
        return make_target(target, X, E, LEVEL)

    estimate = make_denoiser(network, target)(Z, LEVEL)
    np.testing.assert_allclose(estimate.x, X, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(estimate.e, E, rtol=2e-3, atol=2e-3)
    assert estimate.fraction is None
    np.testing.assert_allclose(seen["time"], [100, 400, 800], rtol=1e-6)


def test_one_level_reaches_the_network_as_one_for_each_example():
    level = jax.tree.map(jnp.asarray, SCHEDULE.at(0.25))
    shapes = []
    make_denoiser(lambda z, time: shapes.append(time.shape) or z, "v")(Z, level)
    assert shapes == [(3,)]


def test_time_inputs_of_networks():
    table = DiscreteSchedule()
    np.testing.assert_allclose(step_index(table)(table.at_index(np.array([0, 41]))), [0, 41])
    np.testing.assert_allclose(thousandths(SCHEDULE.at(0.3)), 300)
    inputs = []
    make_denoiser(
        lambda z, time: inputs.append(time) or z, "e", time_input=lambda level: level.log_snr / 4
    )(Z, LEVEL)
    np.testing.assert_allclose(inputs[0], LEVEL.log_snr / 4)


def test_a_learned_variance_is_the_second_half():
    output = jnp.concatenate([jnp.asarray(E), jnp.full_like(E, -0.5)], -1)
    estimate = make_denoiser(lambda z, time: output, "e", learned_variance=True)(Z, LEVEL)
    np.testing.assert_allclose(estimate.e, E)
    np.testing.assert_allclose(estimate.fraction, 0.25)
    both = jnp.concatenate([jnp.asarray(X), jnp.asarray(E), jnp.zeros((3, 5, 4))], -1)
    mean, variance = split_variance(both)
    assert mean.shape == variance.shape == (3, 5, 4)


@pytest.mark.parametrize("recompute_e", [True, False])
def test_clipping(recompute_e):
    before = says(jnp.asarray(2 * X))(Z, LEVEL)
    clipped = clip_x(says(jnp.asarray(2 * X)), -0.5, 1.0, recompute_e=recompute_e)(Z, LEVEL)
    want = np.clip(2 * X, -0.5, 1.0)
    np.testing.assert_allclose(clipped.x, want)
    if recompute_e:
        a, s = (np.asarray(v)[:, None, None] for v in LEVEL[2:])
        np.testing.assert_allclose(clipped.e, (Z - a * want) / s, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(clipped.e, before.e)


@pytest.mark.parametrize("recompute_e", [True, False])
@pytest.mark.parametrize("limit", [math.inf, 1.3])
def test_dynamic_thresholding(recompute_e, limit):
    """Saharia et al. 2022, by the words of section 2.3; one example lies within [-1, 1]."""
    x = np.stack([X[0] * 3, np.clip(X[1], -1, 1) * 0.9, X[2] * 2])
    found = threshold_x(says(jnp.asarray(x)), 0.9, limit, recompute_e=recompute_e)(Z, LEVEL)
    want = []
    for example in x:
        q = min(max(np.quantile(np.abs(example), 0.9), 1), limit)
        want.append(np.clip(example, -q, q) / q)
    np.testing.assert_allclose(found.x, want, rtol=1e-5)
    np.testing.assert_allclose(found.x[1], x[1], rtol=1e-6)
    assert np.abs(found.x).max() <= 1
    again = expand(LEVEL.a, X) * found.x + expand(LEVEL.s, X) * found.e
    assert np.allclose(again, Z, atol=1e-4) == recompute_e


def test_changes_of_x_keep_the_fraction():
    fraction = jnp.full(X.shape, 0.3)
    denoiser = lambda z, level: Estimate(jnp.asarray(X), jnp.asarray(E), fraction)  # noqa: E731
    found = change_x(denoiser, lambda x: x + 1)(Z, LEVEL)
    assert found.fraction is fraction
    np.testing.assert_allclose(found.x, X + 1)


def test_at_the_clean_end_no_noise_is_made_up():
    clean = Level(jnp.zeros(()), jnp.array(jnp.inf), jnp.ones(()), jnp.zeros(()))

    def value(scale):
        return clip_x(says(scale * X), -0.1, 0.1)(jnp.asarray(X), clean)

    found, change = jax.jvp(value, (jnp.float32(1),), (jnp.float32(1),))
    assert (found.e == 0).all()
    assert jnp.isfinite(change.x).all()
    assert jnp.isfinite(change.e).all()


def test_a_denoiser_at_a_time():
    denoiser = make_denoiser(lambda z, time: 0.5 * z, "v")
    found = evaluate_at(denoiser, SCHEDULE)(Z, LEVEL.t)
    want = to_x_and_e(0.5 * Z, Z, LEVEL, "v")
    np.testing.assert_allclose(found.x, want[0], rtol=1e-4, atol=1e-5)
    assert evaluate_at(denoiser, SCHEDULE)(Z, 0.5).x.shape == Z.shape


@pytest.mark.parametrize("target", TARGETS)
def test_noise_is_not_predicted_where_nothing_else_is_left(target):
    endless = [
        DiscreteSchedule(zero_terminal_snr=True),
        RectifiedFlow(),
        CosineSchedule(-math.inf, 20),
    ]
    for schedule in endless:
        if target in ("e", "score"):
            with pytest.raises(InputError, match=f"target is '{target}' with .*zero SNR"):
                check_target_fits(schedule, target)
        else:
            check_target_fits(schedule, target)
    for schedule in (DiscreteSchedule(), SCHEDULE, KarrasSchedule()):
        check_target_fits(schedule, target)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda d: make_denoiser(lambda z, time: z, "noise"), "target is 'noise', expected one of"),
        (lambda d: clip_x(d, 1.0, 1.0), "low is 1.0, high is 1.0, expected low < high"),
        (lambda d: threshold_x(d, 0.0), "percentile is 0.0, expected 0 < percentile <= 1"),
        (lambda d: threshold_x(d, 0.9, 0.5), "limit is 0.5, expected at least 1"),
        (lambda d: split_variance(jnp.zeros((2, 3))), r"shape \(2, 3\), expected an even last"),
        (
            lambda d: make_denoiser(lambda z, time: z[..., :1], "v")(Z, LEVEL),
            r"prediction has shape \(3, 5, 1\) for latents of shape \(3, 5, 2\)",
        ),
    ],
)
def test_bad_input(make, fault):
    with pytest.raises(InputError, match=fault):
        make(says(jnp.asarray(X)))
