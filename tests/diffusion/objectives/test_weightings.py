"""Weights: the same loss in the terms of every target, and the published forms."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.objectives.losses import both_error, mean_square, prediction_loss
from jaxgen.diffusion.objectives.time_distributions import UniformLogSNR
from jaxgen.diffusion.objectives.weightings import (
    P2,
    SNR,
    WEIGHTINGS,
    Constant,
    FlowLoss,
    MinSNR,
    SNRPlus,
    SoftMinSNR,
    TruncatedSNR,
    weighting_named,
)
from jaxgen.diffusion.process.levels import Level, scales
from jaxgen.diffusion.process.predictions import TARGETS, channels_of, make_target, to_x_and_e
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.errors import InputError

SCALINGS = ("vp", "ve", "flow")
LOG_SNRS = np.array([-9.0, -4.0, -1.0, 0.0, 1.0, 4.0, 9.0])
RATIO = np.exp(LOG_SNRS)
FORMULAS = {
    "constant": (Constant(), np.ones_like(RATIO)),
    "snr": (SNR(), RATIO),
    "truncated": (TruncatedSNR(), np.maximum(RATIO, 1)),
    "truncated at 0.2": (TruncatedSNR(0.2), np.maximum(RATIO, 0.2)),
    "plus one": (SNRPlus(), RATIO + 1),
    "karras": (SNRPlus(1 / 0.5**2), RATIO + 4),
    "flow": (FlowLoss(), (np.sqrt(RATIO) + 1) ** 2),
    "min 5": (MinSNR(), np.minimum(RATIO, 5)),
    "min 0.5": (MinSNR(0.5), np.minimum(RATIO, 0.5)),
    "soft min": (SoftMinSNR(3.0), RATIO * 3 / (RATIO + 3)),
    "p2": (P2(), RATIO / (1 + RATIO)),
    "p2, half": (P2(0.3, 0.5), RATIO / (0.3 + RATIO) ** 0.5),
    "p2, two": (P2(2.0, 2.0), RATIO / (2 + RATIO) ** 2),
    "p2, none": (P2(1.0, 0.0), RATIO),
}


def level_of(log_snr, scaling):
    """A level in float64 (numpy), so that weights are computed in it."""
    log_snr = np.asarray(log_snr, np.float64)
    return Level(np.full_like(log_snr, 0.5), log_snr, *scales(log_snr, scaling))


def on_device(level):
    return Level(*(jnp.asarray(value, jnp.float32) for value in level))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_weights_of_x_are_the_formulas(name, scaling):
    weighting, want = FORMULAS[name]
    level = level_of(LOG_SNRS, scaling)
    np.testing.assert_allclose(weighting.weight(level), want, rtol=1e-10)
    np.testing.assert_allclose(weighting.weight(on_device(level)), want, rtol=1e-4)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_target_gives_the_loss_of_x(name, target, scaling):
    """weight(target) |target - prediction|^2 == w(SNR) |x - x^|^2, whatever is predicted."""
    weighting, w = FORMULAS[name]
    level = level_of(LOG_SNRS, scaling)
    rng = np.random.default_rng(0)
    x, e, wrong = (rng.normal(size=(7, 2)) for _ in range(3))
    a, s = level.a[:, None], level.s[:, None]
    truth = {
        "x": x,
        "e": e,
        "v": a * e - s * x,
        "score": -e / s,
        "flow": e - x,
        "both": np.concatenate([x, e], -1),
    }[target]
    error = wrong if target != "both" else rng.normal(size=(7, 4))
    z, r = a * x + s * e, a * a + s * s
    if target == "both":
        x1, e1 = np.split(truth - error, 2, -1)
        x_hat = (s * s * x1 + a * (z - s * e1)) / r
        error = np.sqrt(s * s / r) * error[:, :2] - np.sqrt(a * a / r) * error[:, 2:]
    else:
        prediction = truth - error
        x_hat = {
            "x": prediction,
            "e": (z - s * prediction) / a,
            "v": (a * z - s * prediction) / r,
            "score": (z + s * s * prediction) / a,
            "flow": (z - s * prediction) / (a + s),
        }[target]
    found = weighting.weight(level, target) * (error**2).sum(-1)
    np.testing.assert_allclose(found, w * ((x - x_hat) ** 2).sum(-1), rtol=1e-7)


@pytest.mark.parametrize(
    ("scaling", "log_snr"),
    [
        *itertools.product(SCALINGS, [-30.0, 0.0, 30.0, np.inf]),
        ("vp", -np.inf),
        ("flow", -np.inf),
    ],
)
def test_plain_losses_have_weight_one(scaling, log_snr):
    """SNR is the e loss in every scaling; SNR + 1 the v loss in vp, FlowLoss that of flow."""
    level = level_of(log_snr, scaling)
    assert SNR().weight(level, "e") == 1
    assert Constant().weight(level, "x") == 1
    if scaling == "vp":
        np.testing.assert_allclose(SNRPlus().weight(level, "v"), 1, rtol=1e-12)
    if scaling == "flow":
        np.testing.assert_allclose(FlowLoss().weight(level, "flow"), 1, rtol=1e-6)


def test_min_snr_under_every_target():
    """Hang et al. 2023: min(SNR, g) for x, min(g / SNR, 1) for e, min(SNR, g) / (SNR + 1) for v."""
    level, g = level_of(LOG_SNRS, "vp"), 5.0
    weighting = MinSNR(g)
    np.testing.assert_allclose(weighting.weight(level, "x"), np.minimum(RATIO, g))
    np.testing.assert_allclose(weighting.weight(level, "e"), np.minimum(g / RATIO, 1))
    np.testing.assert_allclose(weighting.weight(level, "v"), np.minimum(RATIO, g) / (RATIO + 1))


def test_p2_and_sigmoid_under_e():
    """Choi et al. 2022: 1 / (k + SNR)^gamma; Hoogeboom et al. 2024: sigmoid(b - lambda)."""
    level = level_of(LOG_SNRS, "vp")
    np.testing.assert_allclose(P2(1.0, 0.5).weight(level, "e"), 1 / np.sqrt(1 + RATIO))
    sigmoid = 1 / (1 + np.exp(LOG_SNRS + 3))
    np.testing.assert_allclose(SoftMinSNR(math.exp(-3)).weight(level, "e"), sigmoid)


def test_the_sigmoid_loss_over_log_snrs():
    """Hoogeboom et al. 2024, equation 4: E_t of -dlambda/dt exp(b) sigmoid(lambda - b) |x - x^|^2.

    With times that are uniform in the log-SNR it is a plain mean, up to the range of lambda.
    """
    schedule, bias = CosineSchedule(-15, 15), -3.0
    middles = (np.arange(20_000) + 0.5) / 20_000

    def error(log_snr):
        return 0.25 / (1 + 0.25 * np.exp(log_snr))  # of x, for data N(0, 1/4)

    log_snr = schedule.log_snr(middles)
    weight = np.exp(bias) / (1 + np.exp(bias - log_snr))
    wanted = (-schedule.derivative(middles) * weight * error(log_snr)).mean()
    level = schedule.at(np.asarray(UniformLogSNR(schedule).quantile(middles)))
    found = SoftMinSNR(np.exp(bias)).weight(level) * error(level.log_snr)
    np.testing.assert_allclose(30 * found.mean(), wanted, rtol=1e-3)


def test_weights_of_karras():
    """(s^2 + d^2) / (s d)^2 with d = 0.5 (Karras et al. 2022, table 1)."""
    level = level_of(LOG_SNRS, "ve")
    want = (level.s**2 + 0.25) / (level.s * 0.5) ** 2
    np.testing.assert_allclose(SNRPlus(4.0).weight(level), want)


FINITE_AT_ZERO_SNR = {  # targets whose loss is finite there by nature: all but x^ = (z - s e^) / a
    name: set(TARGETS)
    if name.startswith(("snr", "min", "soft", "p2"))
    else {"x", "v", "flow", "both"}
    for name in WEIGHTINGS
}
FINITE_AT_ZERO_SNR["snr_plus_one"] = {"x", "v", "flow", "both"}


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scaling", ["vp", "flow"])
def test_losses_at_both_ends_are_finite_with_finite_gradients(name, target, scaling):
    weighting = WEIGHTINGS[name]
    for log_snr in (-np.inf, np.inf):
        if log_snr < 0:
            finite = target in FINITE_AT_ZERO_SNR[name]
        else:  # x^ without noise: SNR |x - x^|^2 is infinite where x^ is free
            finite = target != "x" or name in ("constant", "min_snr", "soft_min_snr", "p2")
        level = on_device(level_of([log_snr], scaling))
        x, e = jnp.array([[0.3, -1.0]]), jnp.array([[0.7, 0.2]])
        prediction = jnp.full((1, channels_of(target, 2)), 0.1)

        def loss(prediction, level=level, x=x, e=e):
            return prediction_loss(
                prediction, x, e, level, target=target, weighting=weighting
            ).sum()

        value, grad = jax.value_and_grad(loss)(prediction)
        assert bool(jnp.isfinite(value)) == finite, (name, target, log_snr, value)
        assert bool(jnp.isfinite(grad).all()) == finite
        assert not jnp.isnan(value)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_prediction_loss_is_the_weighted_loss_of_x(scaling, target):
    level = on_device(level_of([-2.0, -0.5, 1.0, 3.0], scaling))
    rng = np.random.default_rng(1)
    x, e = (rng.normal(size=(4, 3, 2)).astype(np.float32) for _ in range(2))
    z = level.a[:, None, None] * x + level.s[:, None, None] * e
    prediction = rng.normal(size=(4, 3, channels_of(target, 2))).astype(np.float32)
    x_hat = np.asarray(to_x_and_e(prediction, z, level, target)[0], np.float64)
    want = np.exp(level.log_snr) * ((x - x_hat) ** 2).mean((1, 2))
    found = prediction_loss(prediction, x, e, level, target=target, weighting=SNR())
    np.testing.assert_allclose(found, want, rtol=2e-3)


def test_the_error_of_both():
    level = on_device(level_of([-1.0, 2.0], "vp"))
    x, e = jnp.ones((2, 3)), jnp.full((2, 3), 2.0)
    error = make_target("both", x, e, level) - 0.5
    want = level.s[:, None] * (x - 0.5) - level.a[:, None] * (e - 0.5)
    np.testing.assert_allclose(both_error(error, level), want, rtol=1e-5)
    np.testing.assert_allclose(mean_square(want), (want**2).mean(-1))


def test_weights_of_the_log_snr_have_gradients():
    """Learnt schedules: finite differences of log w."""
    for weighting in WEIGHTINGS.values():

        def log_weight(log_snr, target="e", weighting=weighting, xp=jnp):
            level = Level(0.5, log_snr, *scales(log_snr, "vp"))
            return xp.log(weighting.weight(level, target))

        slope = jax.grad(log_weight)(jnp.float32(0.7))
        step = [log_weight(np.float64(0.7 + d), xp=np) for d in (1e-5, -1e-5)]
        np.testing.assert_allclose(slope, (step[0] - step[1]) / 2e-5, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: weighting_named("snr+1"), "weighting is 'snr.1', expected one of constant, snr"),
        (lambda: TruncatedSNR(0), "floor is 0, expected a finite number > 0"),
        (lambda: SNRPlus(-1), "added is -1"),
        (lambda: MinSNR(math.inf), "gamma is inf"),
        (lambda: SoftMinSNR(0), "gamma is 0"),
        (lambda: P2(k=0), "k is 0"),
        (lambda: P2(gamma=-1), "gamma is -1, expected a finite number >= 0"),
        (lambda: SNR().weight(level_of(0.0, "vp"), "noise"), "target is 'noise'"),
    ],
)
def test_bad_input(make, fault):
    with pytest.raises(InputError, match=fault):
        make()


def test_weightings_have_names():
    assert weighting_named("min_snr") == MinSNR(5.0)
    assert all(hash(weighting) is not None for weighting in WEIGHTINGS.values())
