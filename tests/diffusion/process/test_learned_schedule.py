"""Learnt schedules: monotone whatever is learnt, inverse, derivative, what the bound teaches."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.objectives.decoders import continuous_decoder
from jaxgen.diffusion.objectives.losses import diffusion_loss
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy
from jaxgen.diffusion.objectives.variational import continuous_bound
from jaxgen.diffusion.process.learned_schedule import LearnedSchedule, LearnedScheduleConfig
from jaxgen.diffusion.process.schedules import check_monotone
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.errors import InputError

KEY = jax.random.key(2)
CONFIG = LearnedScheduleConfig(features=16)
TIMES = np.linspace(0, 1, 33)


@functools.cache
def initial(config=CONFIG, seed=0):
    variables = jax.jit(config.make_model().init)(jax.random.key(seed), np.float32(0))
    return jax.device_get(nn.meta.unbox(variables)["params"])


def random_schedule(seed, scale=3.0, config=CONFIG):
    """Every parameter random and far from where it began, the ends' too."""
    rng = np.random.default_rng(seed)
    params = {
        name: np.float32(rng.normal(0, scale, value.shape))
        for name, value in initial(config).items()
    }
    if config.learn_ends:
        params["fall"] = np.float32(rng.uniform(5, 30))
    return LearnedSchedule(params, config)


def numpy_log_snr(params, t):
    """The module's equations in float64, one time after the other."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def positive(x):
        return np.logaddexp(x, 0)

    def rise(t):
        q = 2 * t - 1
        sigmoids = 1 / (1 + np.exp(-(positive(p["inner"]) * q + p["bias"])))
        return positive(p["slope"]) * q + (positive(p["outer"]) * sigmoids).mean()

    height = rise(1) - rise(0)
    return np.array([p["top"] - positive(p["fall"]) * (rise(now) - rise(0)) / height for now in t])


def test_it_begins_with_the_ends_of_its_configuration():
    for learn_ends in (True, False):
        config = LearnedScheduleConfig(8, -5.0, 13.3, learn_ends)
        params = initial(config)
        schedule = LearnedSchedule(params, config)
        np.testing.assert_allclose(schedule.log_snr(TIMES[[0, -1]]), [13.3, -5], rtol=1e-6)
        assert ("top" in params) == ("fall" in params) == learn_ends
        at = jax.jit(config.make_model().apply)({"params": params}, np.float32(TIMES))
        np.testing.assert_allclose(at, schedule.log_snr(TIMES), atol=2e-5)


def test_parameters_carry_names_of_their_axes():
    shapes = jax.eval_shape(LearnedScheduleConfig().make_model().init, KEY, jnp.zeros(()))["params"]
    assert {name: (leaf.names, leaf.value.shape) for name, leaf in shapes.items()} == {
        **dict.fromkeys(("slope", "top", "fall"), ((), ())),
        **dict.fromkeys(("inner", "outer", "bias"), (("hidden",), (1024,))),
    }


@pytest.mark.parametrize("seed", range(6))
def test_it_is_monotone_whatever_is_learned(seed):
    schedule = random_schedule(seed)
    check_monotone(schedule)
    assert (schedule.derivative(TIMES) < 0).all()
    np.testing.assert_allclose(
        schedule.log_snr(TIMES), numpy_log_snr(schedule.params, TIMES), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("seed", range(3))
def test_time_is_the_inverse_and_the_derivative_that_of_differences(seed):
    schedule = random_schedule(seed)
    np.testing.assert_allclose(schedule.time(schedule.log_snr(TIMES)), TIMES, atol=1e-12)
    top, bottom = schedule.log_snr(TIMES[[0, -1]])
    np.testing.assert_allclose(schedule.time(np.array([top + 9, bottom - 9])), [0, 1], atol=1e-9)
    t, h = TIMES[1:-1], 1e-6
    differences = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    np.testing.assert_allclose(schedule.derivative(t), differences, rtol=1e-6)


@jax.jit
def in_jax(schedule, t):
    log_snr = schedule.log_snr(t)
    automatic = jax.vmap(jax.grad(schedule.log_snr))(t)
    inverse = jax.vmap(jax.value_and_grad(schedule.time))(log_snr)
    return schedule.at(t), schedule.derivative(t), automatic, *inverse


@pytest.mark.parametrize("seed", range(3))
def test_jax_agrees_and_differentiates(seed):
    schedule = random_schedule(seed, scale=1.0)
    t = TIMES[1:-1]
    level, derivative, automatic, time, slope = in_jax(schedule, np.float32(t))
    exact = schedule.at(t)
    for found, wanted in zip(level, exact, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(derivative, schedule.derivative(t), rtol=1e-3)
    np.testing.assert_allclose(automatic, schedule.derivative(t), rtol=1e-3)
    np.testing.assert_allclose(time, t, atol=1e-5)
    np.testing.assert_allclose(slope, 1 / schedule.derivative(t), rtol=1e-3)


def test_gradients_of_the_inverse_reach_the_parameters():
    """d time / d parameter = -(d lambda / d parameter) / (d lambda / dt), at a fixed log-SNR."""
    schedule = random_schedule(1, scale=1.0)
    log_snr = jnp.float32(schedule.log_snr(0.4))

    def time(params):
        return LearnedSchedule(params, CONFIG).time(log_snr)

    def value(params):
        return LearnedSchedule(params, CONFIG).log_snr(jnp.float32(0.4))

    found, rise = jax.jit(lambda p: (jax.grad(time)(p), jax.grad(value)(p)))(schedule.params)
    assert set(found) == {"slope", "inner", "outer", "bias", "top", "fall"}
    slope = float(schedule.derivative(0.4))
    for name in found:
        assert np.abs(rise[name]).max() > 0
        np.testing.assert_allclose(found[name], -rise[name] / slope, rtol=2e-3, atol=1e-6)


def bound_of(config, denoiser, x):
    """The mean of the total and of the square of the diffusion term, as functions of parameters."""

    def bound(params, key):
        return continuous_bound(
            denoiser,
            x,
            key,
            schedule=LearnedSchedule(params, config),
            decoder=continuous_decoder,
            times=LowDiscrepancy(),
        )

    return (
        lambda params, key: bound(params, key).total.mean(),
        lambda params, key: (bound(params, key).diffusion ** 2).mean(),
    )


def gaussian_case(batch=1 << 14):
    variance = 0.4
    x = np.random.default_rng(9).normal(0, math.sqrt(variance), (batch, 2)).astype(np.float32)
    return x, gaussian_denoiser(np.zeros(2), variance * np.eye(2)), variance


def test_the_ends_move_towards_a_tighter_bound():
    """From ends that are too narrow: down at t = 1, up at t = 0, as the closed form says."""
    config = LearnedScheduleConfig(8, -1.0, 1.0)
    x, denoiser, variance = gaussian_case()
    total = bound_of(config, denoiser, x)[0]
    slopes = jax.jit(jax.grad(total))(initial(config), KEY)
    first, last = 1.0, -1.0

    def closed(first, last):
        """The bound for each number, in bits, of a Gaussian with E x^2 = variance."""
        share = 1 / (1 + math.exp(-last))
        prior = (share * (variance - 1) + math.log1p(math.exp(last))) / 2
        steps = (math.log1p(variance * math.exp(first)) - math.log1p(variance * math.exp(last))) / 2
        return (prior + steps + (1 + math.log(2 * np.pi) - first) / 2) / math.log(2)

    h = 1e-5
    by_first = (closed(first + h, last) - closed(first - h, last)) / (2 * h)
    by_last = (closed(first, last + h) - closed(first, last - h)) / (2 * h)
    assert by_first < 0 < by_last
    # lambda(0) = top and lambda(1) = top - softplus(fall), whose derivative is 1 - exp(-2) here.
    np.testing.assert_allclose(slopes["top"], by_first + by_last, atol=0.03)
    np.testing.assert_allclose(slopes["fall"], -by_last * (1 - math.exp(-2)), atol=0.03)


def test_what_is_between_the_ends_changes_the_variance_alone():
    config = LearnedScheduleConfig(8, -6.0, 6.0)
    x, denoiser, _ = gaussian_case()
    total, square = bound_of(config, denoiser, x)
    totals, squares = jax.jit(jax.vmap(lambda p: (total(p, KEY), square(p, KEY))))(
        jax.tree.map(
            lambda *values: np.stack(values),
            *[
                {
                    **initial(config),
                    "slope": np.float32(slope),
                    "bias": np.full(8, bias, np.float32),
                }
                for slope, bias in ((1.0, 0.0), (-3.0, 3.0), (-3.0, -3.0))
            ],
        )
    )
    assert np.ptp(totals) < 0.1  # the standard error is 0.02
    assert np.ptp(squares) > 1


def test_training_the_inside_on_the_square_lessens_it():
    config = LearnedScheduleConfig(8, -6.0, 6.0)
    x, denoiser, _ = gaussian_case(1 << 11)
    square = bound_of(config, denoiser, x)[1]
    inside = ("slope", "inner", "outer", "bias")
    start = {**initial(config), "bias": np.full(8, 4, np.float32), "slope": np.float32(-3.0)}

    @jax.jit
    def train(params):
        def step(params, key):
            slopes = jax.grad(square)(params, key)
            size = 0.2 / jnp.sqrt(sum((slopes[name] ** 2).sum() for name in inside))
            moved = {name: params[name] - size * slopes[name] for name in inside}
            return {**params, **moved}, square(params, KEY)

        return jax.lax.scan(step, params, jax.random.split(KEY, 30))

    trained, values = train(start)
    assert values[-1] < 0.8 * values[0]
    check_monotone(LearnedSchedule(trained, config))


def test_samplers_make_their_steps_of_it():
    levels = make_steps(LearnedSchedule(initial(), CONFIG), 6, "uniform_log_snr", final="first")
    assert levels.log_snr.dtype == np.float64
    np.testing.assert_allclose(levels.log_snr, np.linspace(-5, 13.3, 7), rtol=1e-6)


def test_it_goes_through_jit_and_trains_with_any_loss_between_fixed_ends():
    """A pytree; Python numbers too where parameters are traced, and ends that nobody looks at."""
    config = LearnedScheduleConfig(8, -6.0, 6.0, learn_ends=False)
    schedule = LearnedSchedule(initial(config), config)
    x = np.float32(np.random.default_rng(0).normal(size=(8, 3)))

    @jax.jit
    @jax.value_and_grad
    def loss(schedule):
        options = {"schedule": schedule, "target": "e"}
        return diffusion_loss(lambda z, time: 0.5 * z, x, KEY, **options)[0].mean()

    _, slopes = loss(schedule)
    assert len(jax.tree.leaves(slopes)) == 4
    leaves = jax.device_get(jax.tree.leaves(slopes))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert any((leaf != 0).any() for leaf in leaves)
    traced = jax.jit(lambda schedule: schedule.at(0.3).log_snr)(schedule)
    np.testing.assert_allclose(traced, schedule.log_snr(0.3), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features is 0, expected 1 or more"),
        ({"log_snr_min": 5.0, "log_snr_max": -5.0}, "not monotone"),
        ({"log_snr_max": math.inf}, "log_snr_max is inf, expected finite ends"),
    ],
)
def test_bad_configurations_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LearnedScheduleConfig(**options)
