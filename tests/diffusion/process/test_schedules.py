"""Schedules: inverse, derivative, published values, both kinds of arrays, ends."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process.derived_schedules import Blended, Bounded, Rescaled, Shifted
from jaxgen.diffusion.process.learned_schedule import LearnedSchedule
from jaxgen.diffusion.process.schedules import (
    CosineSchedule,
    InverseCosineSchedule,
    KarrasSchedule,
    RectifiedFlow,
    Schedule,
    SigmoidSchedule,
    check_monotone,
)
from jaxgen.diffusion.process.sde_schedules import GeometricSchedule, LinearBetaSchedule
from jaxgen.diffusion.process.table_schedules import DiscreteSchedule
from jaxgen.errors import InputError

INFINITE = CosineSchedule(-math.inf, math.inf)
SCHEDULES = {
    "cosine": CosineSchedule(),
    "cosine without bounds": INFINITE,
    "cosine of wide bounds": CosineSchedule(-60, 60),
    "sigmoid": SigmoidSchedule(),
    "sigmoid, sharp": SigmoidSchedule(0.0, 3.0, 0.3, margin=1e-5),
    "karras": KarrasSchedule(),
    "flow": RectifiedFlow(),
    "shifted": Shifted(CosineSchedule(), 0.25),
    "shifted flow": Shifted(RectifiedFlow(), 1 / 3),
    "reframed": Rescaled(CosineSchedule(), "flow"),
    "inverse cosine": InverseCosineSchedule(),
    "linear beta": LinearBetaSchedule(),
    "constant beta": LinearBetaSchedule(5.0, 5.0),
    "geometric": GeometricSchedule(),
    "bounded": Bounded(InverseCosineSchedule(), -7, 9),
    "bounded flow": Bounded(RectifiedFlow(), -20, 20),
    "blended": Blended(CosineSchedule(), Shifted(CosineSchedule(), 1 / 8)),
    "blended, infinite ends": Blended(RectifiedFlow(), Shifted(RectifiedFlow(), 1 / 3)),
    "table": DiscreteSchedule(),
    "zero terminal": DiscreteSchedule("scaled_linear", 20, 0.01, 0.2, zero_terminal_snr=True),
}
TIMES = np.linspace(0, 1, 101)
INNER = np.array([0.0204, 0.1374, 0.3104, 0.5014, 0.6423, 0.8713, 0.9834])


@pytest.fixture(params=SCHEDULES, ids=str)
def schedule(request):
    return SCHEDULES[request.param]


def test_the_log_snr_falls_and_time_inverts_it(schedule):
    log_snr = schedule.log_snr(TIMES)
    assert log_snr.dtype == np.float64
    assert (np.diff(log_snr) < 0).all()
    np.testing.assert_allclose(schedule.time(log_snr), TIMES, atol=1e-7)
    np.testing.assert_allclose(schedule.time(schedule.log_snr(INNER)), INNER, rtol=1e-9)
    check_monotone(schedule)


def test_beyond_the_ends_time_is_clipped(schedule):
    np.testing.assert_allclose(schedule.time(np.array([np.inf, 1e4])), 0, atol=1e-9)
    np.testing.assert_allclose(schedule.time(np.array([-1e4, -np.inf])), 1, atol=1e-9)


def test_derivative_against_finite_differences(schedule):
    width = 1e-6
    slope = (schedule.log_snr(INNER + width) - schedule.log_snr(INNER - width)) / (2 * width)
    np.testing.assert_allclose(schedule.derivative(INNER), slope, rtol=1e-5)
    assert (schedule.derivative(TIMES) < 0).all()


def test_derivative_against_automatic_differentiation(schedule):
    t = jnp.asarray(INNER, jnp.float32)
    slope = jax.vmap(jax.grad(schedule.log_snr))(t)
    np.testing.assert_allclose(schedule.derivative(t), slope, rtol=1e-3)


def test_numpy_and_jax_agree(schedule):
    t = jnp.asarray(TIMES, jnp.float32)
    host, device = schedule.at(np.asarray(t)), schedule.at(t)
    assert all(value.dtype == np.float64 for value in host)
    assert all(isinstance(value, jax.Array) and value.dtype == jnp.float32 for value in device)
    np.testing.assert_allclose(device.a, host.a, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(device.s, host.s, rtol=2e-4, atol=2e-6)
    t = schedule.time(device.log_snr)
    np.testing.assert_allclose(t, TIMES, atol=1e-4)
    finite = np.isfinite(host.log_snr)
    slope = schedule.derivative(jnp.asarray(TIMES[5:-5]))
    np.testing.assert_allclose(slope, schedule.derivative(TIMES[5:-5]), rtol=2e-2)
    assert finite[1:-1].all()


def test_levels_are_the_same_by_time_and_by_log_snr(schedule):
    level = schedule.at(TIMES)
    again = schedule.at_log_snr(level.log_snr)
    for value, other in zip(level, again, strict=True):
        np.testing.assert_allclose(other, value, rtol=1e-8, atol=1e-7)
    a, s = level.a, level.s
    kept = {"vp": a**2 + s**2, "ve": a, "flow": a + s}[schedule.scaling]
    np.testing.assert_allclose(kept, 1, rtol=1e-12)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(2 * np.log(a / s), level.log_snr, rtol=1e-9, atol=1e-9)


def test_a_schedule_is_hashable_and_of_any_shape(schedule):
    assert hash(schedule) == hash(dataclasses.replace(schedule))
    assert schedule == dataclasses.replace(schedule)
    level = schedule.at(np.full((2, 3), 0.5))
    assert {value.shape for value in level} == {(2, 3)}
    assert np.shape(schedule.at(0.5).a) == ()


def test_cosine_values():
    """Salimans & Ho 2022: a_t = cos(pi t / 2) without bounds, and log-SNRs of -20 and 20 with."""
    level = INFINITE.at(TIMES)
    np.testing.assert_allclose(level.a, np.cos(np.pi * TIMES / 2), atol=1e-15)
    np.testing.assert_allclose(level.s, np.sin(np.pi * TIMES / 2), atol=1e-15)
    assert (level.log_snr[0], level.log_snr[-1]) == (np.inf, -np.inf)
    np.testing.assert_allclose(CosineSchedule().log_snr(np.array([0, 1])), [20, -20], rtol=1e-12)
    b = math.atan(math.exp(-10))
    a = math.atan(math.exp(10)) - b
    want = -2 * np.log(np.tan(a * INNER + b))
    np.testing.assert_allclose(CosineSchedule().log_snr(INNER), want, rtol=1e-10, atol=1e-12)


def test_the_noisy_end_of_the_cosine_keeps_its_digits_in_float32():
    log_snr = CosineSchedule().log_snr(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(log_snr, [20, -20], rtol=1e-6)


def test_sigmoid_values():
    """Jabri et al. 2022: a^2 by the formula of their pseudo-code, without margin."""
    start, end, tau = 0.0, 3.0, 0.9
    g = 1 / (1 + np.exp(-np.array([start, end, *(TIMES * (end - start) + start)]) / tau))
    want = (g[1] - g[2:]) / (g[1] - g[0])
    found = SigmoidSchedule(start, end, tau, margin=0.0).at(TIMES)
    np.testing.assert_allclose(found.a**2, want, atol=1e-14)
    ends = SigmoidSchedule(margin=1e-4).at(np.array([0.0, 1.0]))
    np.testing.assert_allclose(ends.s[0] ** 2, 1e-4, rtol=1e-9)
    np.testing.assert_allclose(ends.a[1] ** 2, 1e-4, rtol=1e-9)


def test_karras_sigmas():
    """Karras et al. 2022, equation 5, with t = 1 - i / (N - 1)."""
    i, count = np.arange(18), 18
    roots = 80 ** (1 / 7) + i / (count - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    level = KarrasSchedule().at(1 - i / (count - 1))
    np.testing.assert_allclose(level.s, roots**7, rtol=1e-12)
    assert (level.a == 1).all()


def test_rectified_flow_is_a_straight_line():
    level = RectifiedFlow().at(TIMES)
    np.testing.assert_array_equal(level.a, 1 - TIMES)
    np.testing.assert_array_equal(level.s, TIMES)
    np.testing.assert_allclose(level.log_snr[50], 0)


def test_a_shift_is_the_warp_of_time_of_stable_diffusion_3():
    """Esser et al. 2024, equation 23: t' = sqrt(m/n) t / (1 + (sqrt(m/n) - 1) t)."""
    ratio = 3.0
    shifted = Shifted(RectifiedFlow(), 1 / ratio)
    warped = ratio * TIMES / (1 + (ratio - 1) * TIMES)
    np.testing.assert_allclose(shifted.at(TIMES).s, warped, atol=1e-14)
    np.testing.assert_allclose(shifted.at(TIMES).a, 1 - warped, atol=1e-14)


def test_a_shift_moves_the_log_snr_by_twice_the_logarithm():
    moved = Shifted(CosineSchedule(), 64 / 256).log_snr(INNER) - CosineSchedule().log_snr(INNER)
    np.testing.assert_allclose(moved, 2 * np.log(1 / 4), rtol=1e-12)
    assert Shifted(KarrasSchedule(), 2.0).scaling == "ve"


def test_linear_betas_in_continuous_time():
    """Song et al. 2021b, equation 33: dlog a^2/dt = -beta; and the limit of tables of N steps."""
    schedule = LinearBetaSchedule(0.2, 12.0)
    width, beta = 1e-6, 0.2 + 11.8 * INNER
    fall = np.log(schedule.at(INNER - width).a) - np.log(schedule.at(INNER + width).a)
    np.testing.assert_allclose(fall / width, beta, rtol=1e-6)
    assert (schedule.log_snr(0.0), schedule.log_snr(1.0)) == (
        np.inf,
        pytest.approx(-np.log(np.expm1(6.1))),
    )
    gaps = []
    for count in (100, 1000):
        table = DiscreteSchedule("linear", count, 0.2 / count, 12.0 / count)
        gaps.append(np.abs(table.at(INNER).log_snr - schedule.log_snr(INNER)).max())
    assert gaps[1] < gaps[0] / 5
    assert gaps[1] < 0.03


def test_very_large_betas_do_not_overflow():
    log_snr = LinearBetaSchedule(1.0, 4000.0).log_snr(np.array([0.5, 1.0]))
    np.testing.assert_allclose(log_snr, [-0.5 - 3999 / 8, -1 - 3999 / 2])


def test_geometric_sigmas():
    """Song et al. 2021b, equation 31, which Karras' powers tend to."""
    schedule = GeometricSchedule(0.02, 50.0)
    np.testing.assert_allclose(schedule.at(INNER).s, 0.02 * 2500**INNER, rtol=1e-12)
    near = KarrasSchedule(0.02, 50.0, rho=1e6).at(INNER)
    np.testing.assert_allclose(schedule.at(INNER).s, near.s, rtol=1e-4)


def test_inverse_cosine_exchanges_time_and_noise():
    """a^2 = acos(2 t - 1) / pi: where the cosine schedule is at power t, this one is at time t."""
    level = InverseCosineSchedule().at(TIMES)
    np.testing.assert_allclose(level.a**2, np.arccos(2 * TIMES - 1) / np.pi, atol=1e-15)
    np.testing.assert_allclose(INFINITE.at(level.s**2).s ** 2, TIMES, atol=1e-14)


def test_bounds_make_the_bounded_cosine():
    bounded, cosine = Bounded(INFINITE, -20, 20), CosineSchedule(-20, 20)
    np.testing.assert_allclose(bounded.log_snr(TIMES), cosine.log_snr(TIMES), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(bounded.derivative(TIMES), cosine.derivative(TIMES), rtol=1e-6)
    wide = Bounded(CosineSchedule(), -60, 60)
    np.testing.assert_allclose(wide.log_snr(TIMES), CosineSchedule().log_snr(TIMES), rtol=1e-12)


@pytest.mark.parametrize("of", [LinearBetaSchedule(), RectifiedFlow(), INFINITE], ids=str)
def test_bounds_hold_in_float32(of):
    bounded = Bounded(of, -9, 15)
    log_snr = bounded.log_snr(jnp.linspace(0, 1, 101))
    assert log_snr.max() <= 15
    assert log_snr.min() >= -9
    np.testing.assert_allclose(log_snr[jnp.array([0, 100])], [15, -9], rtol=1e-4)


FINITE = [name for name, s in SCHEDULES.items() if np.isfinite(s.at(np.array([0.0, 1.0]))[1]).all()]


BEYOND_FLOAT32 = {"cosine of wide bounds", "sigmoid"}
"""Whose ends, log-SNRs of 60 and a share of 1e-9, lie nearer to 0 and 1 than float32 has times."""


@pytest.mark.parametrize("name", sorted({*FINITE} - BEYOND_FLOAT32))
def test_float32_tells_all_log_snrs_apart(name):
    """What is drawn evenly comes out evenly: times in between keep the digits that matter."""
    schedule = SCHEDULES[name]
    first, last = (float(schedule.log_snr(t)) for t in (0.0, 1.0))
    wanted = np.linspace(first, last, 4001)
    found = schedule.log_snr(schedule.time(jnp.asarray(wanted, jnp.float32)))
    np.testing.assert_allclose(found, wanted, atol=0.15)


BLENDS = {
    "flow": Blended(RectifiedFlow(), Shifted(RectifiedFlow(), 0.5)),
    "inverse cosine": Blended(InverseCosineSchedule(), Shifted(InverseCosineSchedule(), 0.5)),
}


@pytest.mark.parametrize("name", BLENDS)
def test_times_of_blends_near_both_ends(name):
    blended = BLENDS[name]
    assert (blended.time(np.inf), blended.time(-np.inf)) == (0.0, 1.0)
    assert (blended.time(jnp.inf), blended.time(-jnp.inf)) == (0.0, 1.0)
    log_snr = np.array([15.0, 12.0, 8.0, -8.0, -12.0])
    np.testing.assert_allclose(blended.log_snr(blended.time(log_snr)), log_snr, atol=2e-3)
    extreme = jnp.array([-40.0, -15.0, 15.0, 40.0])
    assert jnp.isfinite(blended.time(extreme)).all()
    assert jnp.isfinite(jax.vmap(jax.grad(blended.time))(extreme)).all()


def test_a_blend_goes_from_one_to_the_other():
    one, other = CosineSchedule(), Shifted(CosineSchedule(), 1 / 8)
    blended = Blended(one, other)
    wanted = one.log_snr(TIMES) - 2 * np.log(8) * TIMES
    np.testing.assert_allclose(blended.log_snr(TIMES), wanted, rtol=1e-12)
    slope = jax.grad(lambda value: blended.time(value))(jnp.float32(1.0))
    time = blended.time(1.0)
    np.testing.assert_allclose(slope, 1 / blended.derivative(time), rtol=1e-4)


def test_derived_schedules_compose():
    schedule = Shifted(Bounded(RectifiedFlow(), -15, 15), 1 / 4)
    ends = 2 * np.log(1 / 4) + np.array([15, -15])
    np.testing.assert_allclose(schedule.log_snr(np.array([0, 1])), ends, rtol=1e-9)


def test_another_scaling_is_the_same_denoising_problem():
    level, same = CosineSchedule().at(INNER), Rescaled(CosineSchedule(), "ve").at(INNER)
    np.testing.assert_allclose(same.log_snr, level.log_snr)
    np.testing.assert_allclose(same.s, level.s / level.a)


@pytest.mark.parametrize("name", ["cosine", "sigmoid", "karras", "table", "shifted"])
def test_gradients_are_finite_at_both_ends_of_bounded_schedules(name):
    schedule = SCHEDULES[name]
    for field in ("a", "s"):
        grads = jax.vmap(jax.grad(lambda t, field=field: getattr(schedule.at(t), field)))(
            jnp.array([0.001, 0.5, 1.0])
        )
        assert jnp.isfinite(grads).all()


class Wavy(Schedule):
    """A schedule of one's own that is none."""

    def log_snr(self, t):
        """Rises again."""
        return -10 * np.asarray(t) + 1.5 * np.sin(10 * np.asarray(t) + np.pi)

    def time(self, log_snr):
        """Not needed."""
        raise NotImplementedError

    def derivative(self, t):
        """Not needed."""
        raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: CosineSchedule(20, -20), "from -20 at t=0 to 20 at t=1, .* not monotone"),
        (lambda: CosineSchedule(math.nan, 20), "not monotone"),
        (lambda: SigmoidSchedule(3, -3), "start is 3, end is -3, .* not monotone"),
        (lambda: SigmoidSchedule(tau=0), "tau is 0, expected a finite number > 0"),
        (lambda: SigmoidSchedule(margin=0.5), "margin is 0.5, expected 0 <= margin"),
        (lambda: KarrasSchedule(1, 0.5), "sigma_min is 1, sigma_max is 0.5, .* not monotone"),
        (lambda: KarrasSchedule(0.0), "sigma_min is 0.0"),
        (lambda: KarrasSchedule(rho=-1), "rho is -1, expected a finite number > 0"),
        (lambda: Shifted(CosineSchedule(), 0), "factor is 0, expected a finite number > 0"),
        (lambda: Shifted(CosineSchedule(), math.inf), "factor is inf"),
        (
            lambda: LinearBetaSchedule(0.0),
            "beta_min is 0.0, beta_max is 20.0, expected finite numbers",
        ),
        (lambda: LinearBetaSchedule(3.0, 2.0), "beta_min is 3.0, beta_max is 2.0"),
        (lambda: GeometricSchedule(50.0, 0.01), "sigma_min is 50.0, .* not monotone"),
        (lambda: Bounded(CosineSchedule(), 5, -5), "from -5 at t=0 to 5 at t=1, .* not monotone"),
        (
            lambda: Bounded(CosineSchedule(), 30, 40),
            "log_snr_min is 30, log_snr_max is 40, expected bounds that leave .*, from 20 to -20",
        ),
        (
            lambda: Bounded(InverseCosineSchedule(), -15, 15),
            "log_snr_min is -15: InverseCosineSchedule has it at 1 - t = 2.3e-13, and float32 has "
            "no",
        ),
        (lambda: Blended(CosineSchedule(), RectifiedFlow()), "scalings are 'vp' and 'flow'"),
        (
            lambda: Blended(CosineSchedule(), InverseCosineSchedule()),
            "at t=0 the log-SNR of CosineSchedule is finite and that of InverseCosineSchedule is",
        ),
        (
            lambda: Blended(InverseCosineSchedule(), LinearBetaSchedule()),
            "at t=1 the log-SNR of LinearBetaSchedule is finite",
        ),
        (lambda: Bounded("cosine"), "schedule is 'cosine', expected a Schedule, such as Cosine"),
        (lambda: Shifted("cosine", 2.0), "schedule is 'cosine', expected a Schedule"),
        (lambda: Rescaled("cosine", "ve"), "schedule is 'cosine', expected a Schedule"),
        (lambda: Blended(CosineSchedule(), "x"), "schedule is 'x', expected a Schedule"),
        (lambda: Bounded(LearnedSchedule({})), "is a LearnedSchedule, expected one without"),
        (
            lambda: Blended(CosineSchedule(-1, 1), Shifted(CosineSchedule(-1, 1), 100)),
            "Blended is not monotone",
        ),
        (lambda: check_monotone(Wavy()), "Wavy is not monotone: log-SNR .* at t=0.23"),
    ],
)
def test_what_is_no_schedule_is_refused(make, fault):
    with pytest.raises(InputError, match=fault):
        make()
