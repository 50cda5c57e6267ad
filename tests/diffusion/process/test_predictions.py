"""Predictions: cycles through every pair of targets, and both ends of the process."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process.levels import Level, scales
from jaxgen.diffusion.process.predictions import (
    TARGETS,
    channels_of,
    convert,
    divide,
    make_target,
    to_x_and_e,
)
from jaxgen.errors import InputError

SCALINGS = ("vp", "ve", "flow")
SINGLE = tuple(target for target in TARGETS if target != "both")
X = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
E = np.random.default_rng(1).normal(size=(6, 3, 4)).astype(np.float32)


def level_of(scaling, log_snrs=(-6.0, -2.0, -0.5, 0.0, 1.5, 6.0)):
    log_snr = np.array(log_snrs)
    a, s = scales(log_snr, scaling)
    return Level(*(jnp.asarray(v, jnp.float32) for v in (np.linspace(1, 0, 6), log_snr, a, s)))


def latents(level):
    return level.a[:, None, None] * X + level.s[:, None, None] * E


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(TARGETS, TARGETS)))
def test_every_prediction_becomes_every_other(scaling, source, target):
    level = level_of(scaling)
    prediction = make_target(source, X, E, level)
    found = convert(prediction, latents(level), level, source, target)
    want = make_target(target, X, E, level)
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(SINGLE, SINGLE)))
def test_there_and_back_for_predictions_that_are_wrong(scaling, source, target):
    """Any prediction, not only the true one, keeps what it means."""
    level = level_of(scaling, (-3, -2, -0.5, 0, 1.5, 3))
    z = latents(level)
    prediction = np.random.default_rng(2).normal(size=X.shape).astype(np.float32)
    there = convert(prediction, z, level, source, target)
    np.testing.assert_allclose(
        convert(there, z, level, target, source), prediction, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_data_and_noise_make_up_the_latent(scaling, target):
    level = level_of(scaling)
    z = latents(level)
    width = channels_of(target, X.shape[-1])
    prediction = np.random.default_rng(3).normal(size=(*X.shape[:-1], width)).astype(np.float32)
    x, e = to_x_and_e(prediction, z, level, target)
    again = level.a[:, None, None] * x + level.s[:, None, None] * e
    np.testing.assert_allclose(again, z, rtol=1e-4, atol=2e-5)


def test_definitions():
    a, s = 0.6, 0.8
    level = Level(*(jnp.float32(v) for v in (0.5, np.log(a * a / s / s), a, s)))
    z = a * X + s * E
    want = {"x": X, "e": E, "v": a * E - s * X, "score": -E / s, "flow": E - X}
    for target, value in want.items():
        np.testing.assert_allclose(make_target(target, X, E, level), value, rtol=1e-5, atol=1e-6)
    v = want["v"]
    x, e = to_x_and_e(v, z, level, "v")
    np.testing.assert_allclose(x, a * z - s * v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(e, s * z + a * v, rtol=1e-5, atol=1e-6)
    guess = np.concatenate([X + 1, E - 2], -1)
    found = to_x_and_e(guess, z, level, "both")[0]
    np.testing.assert_allclose(found, s**2 * (X + 1) + a * (z - s * (E - 2)), rtol=1e-4, atol=1e-5)


def test_v_is_the_velocity_of_the_angle_and_flow_that_of_the_line():
    """v = dz/dphi with a = cos phi, s = sin phi; flow = dz/dt with a = 1 - t, s = t."""
    phi, t = jnp.float32(0.7), jnp.float32(0.3)

    def level(a, s):
        return Level(t, 2 * jnp.log(a / s), a, s)

    _, v = jax.jvp(lambda phi: jnp.cos(phi) * X + jnp.sin(phi) * E, (phi,), (jnp.ones(()),))
    want = make_target("v", X, E, level(jnp.cos(phi), jnp.sin(phi)))
    np.testing.assert_allclose(v, want, rtol=1e-5, atol=1e-6)
    _, flow = jax.jvp(lambda t: (1 - t) * X + t * E, (t,), (jnp.ones(()),))
    np.testing.assert_allclose(flow, make_target("flow", X, E, level(1 - t, t)), rtol=1e-5)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_score_is_the_gradient_of_the_density_of_latents_given_data(scaling):
    level = level_of(scaling)
    a, s = (value[:, None, None] for value in level[2:])

    def log_density(z):
        return (-((z - a * X) ** 2) / (2 * s**2)).sum()

    score = jax.grad(log_density)(latents(level))
    np.testing.assert_allclose(score, make_target("score", X, E, level), rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("scaling", ["vp", "flow"])
@pytest.mark.parametrize(("source", "target"), list(itertools.product(TARGETS, TARGETS)))
def test_values_and_gradients_are_finite_at_both_ends(scaling, source, target):
    """a = 0 and s = 0: clean data, pure noise, in every scaling in which both exist."""
    level = Level(*(jnp.array(v) for v in ([0.0, 1.0], [jnp.inf, -jnp.inf], [1.0, 0], [0, 1.0])))
    z = jnp.asarray(np.stack([X[0], E[1]]))
    prediction = make_target(source, X[:2], E[:2], level)

    def value(prediction, z):
        return convert(prediction, z, level, source, target)

    found, pull = jax.vjp(value, prediction, z)
    assert jnp.isfinite(found).all()
    assert all(jnp.isfinite(g).all() for g in pull(jnp.ones_like(found)))
    if source in ("v", "flow", "both"):  # these know both ends
        x, e = to_x_and_e(prediction, z, level, source)
        np.testing.assert_allclose(x[0], X[0], rtol=1e-6)
        np.testing.assert_allclose(e[1], E[1], rtol=1e-6)
        if source != "both":
            np.testing.assert_allclose(x[1], X[1], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(e[0], E[0], rtol=1e-5, atol=1e-6)


def test_the_first_level_of_an_exploding_process():
    level = Level(jnp.zeros(1), jnp.full(1, jnp.inf), jnp.ones(1), jnp.zeros(1))
    for source, target in itertools.product(TARGETS, TARGETS):
        prediction = make_target(source, X[:1], E[:1], level)
        found, pull = jax.vjp(
            lambda p, s=source, t=target: convert(p, X[:1], level, s, t), prediction
        )
        assert jnp.isfinite(found).all()
        assert jnp.isfinite(pull(jnp.ones_like(found))[0]).all()


def test_one_level_for_all_examples_and_any_rank():
    level = Level(*(jnp.float32(v) for v in (0.5, 0.0, np.sqrt(0.5), np.sqrt(0.5))))
    for shape in [(2,), (2, 3), (2, 3, 4, 5), (2, 2, 3, 4, 5)]:
        x, e = np.ones(shape, np.float32), np.full(shape, 2.0, np.float32)
        z = level.a * x + level.s * e
        for target in SINGLE:
            found, _ = to_x_and_e(make_target(target, x, e, level), z, level, target)
            np.testing.assert_allclose(found, x, rtol=1e-5)


def test_division_by_zero_is_zero_with_a_finite_gradient():
    value, grad = jax.value_and_grad(lambda d: divide(jnp.float32(3), d))(jnp.float32(0))
    assert (value, grad) == (0, 0)
    assert divide(jnp.float32(3), jnp.float32(2)) == 1.5


@pytest.mark.parametrize("target", TARGETS)
def test_predictions_of_another_shape_are_refused(target):
    level = level_of("vp")
    with pytest.raises(InputError, match=r"prediction has shape \(6, 3, 5\) .* expected \(6, 3, "):
        to_x_and_e(np.zeros((6, 3, 5)), X, level, target)


def test_unknown_targets_are_refused():
    with pytest.raises(InputError, match="target is 'noise', expected one of x, e, v, score"):
        make_target("noise", X, E, level_of("vp"))
    with pytest.raises(InputError, match="target is 'eps'"):
        convert(X, X, level_of("vp"), "x", "eps")
