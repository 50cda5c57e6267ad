"""Tables of betas against cumulative products and the papers' algorithms, in plain numpy."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process.schedules import check_monotone
from jaxgen.diffusion.process.table_schedules import CustomTable, DiscreteSchedule, log_snr_from_a
from jaxgen.errors import InputError

N = 1000


def betas_of(kind):
    """The tables as published, in float64."""
    if kind == "linear":
        return np.array([1e-4 + i / (N - 1) * (0.02 - 1e-4) for i in range(N)])
    if kind == "scaled_linear":
        low, high = math.sqrt(0.00085), math.sqrt(0.012)
        return np.array([(low + i / (N - 1) * (high - low)) ** 2 for i in range(N)])

    def bar(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array([min(1 - bar((i + 1) / N) / bar(i / N), 0.999) for i in range(N)])


def schedule_of(kind, **options):
    ends = {"scaled_linear": (0.00085, 0.012)}.get(kind, (1e-4, 0.02))
    return DiscreteSchedule(kind, N, *ends, **options)


def lin_et_al(betas):
    """Algorithm 1 of Lin et al. 2024, by its lines."""
    root = np.sqrt(np.cumprod(1 - betas))
    first, last = root[0].copy(), root[-1].copy()
    root -= last
    root *= first / (first - last)
    bar = root**2
    alphas = np.concatenate([bar[:1], bar[1:] / bar[:-1]])
    return 1 - alphas


KINDS = ("linear", "scaled_linear", "squared_cosine")


@pytest.mark.parametrize("kind", KINDS)
def test_tables_against_cumulative_products(kind):
    schedule, betas = schedule_of(kind), betas_of(kind)
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-9)
    level = schedule.at_index(np.arange(N))
    bar = np.cumprod(1 - betas)
    np.testing.assert_allclose(level.a**2, bar, rtol=1e-9)
    np.testing.assert_allclose(level.s**2, 1 - bar, rtol=1e-9)
    np.testing.assert_allclose(level.log_snr, np.log(bar / (1 - bar)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(level.t, (np.arange(N) + 1) / N)
    check_monotone(schedule)


def test_known_ends():
    """sqrt of the last cumulative product: 0.00635 for DDPM, 0.0683 for Stable Diffusion."""
    np.testing.assert_allclose(schedule_of("linear").at_index(N - 1).a, 0.00635, rtol=1e-3)
    np.testing.assert_allclose(schedule_of("scaled_linear").at_index(N - 1).a, 0.06826, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_terminal_snr_is_the_published_algorithm(kind):
    schedule = schedule_of(kind, zero_terminal_snr=True)
    level = schedule.at_index(np.arange(N))
    bar = np.cumprod(1 - lin_et_al(betas_of(kind)))
    np.testing.assert_allclose(level.a**2, bar, rtol=1e-7, atol=1e-18)
    assert (level.a[-1], level.s[-1], level.log_snr[-1]) == (0, 1, -np.inf)
    np.testing.assert_allclose(level.a[0], schedule_of(kind).at_index(0).a, rtol=1e-12)
    last = schedule.at(jnp.float32(1.0))
    assert (last.a, last.s) == (0, 1)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_steps_and_times(zero_terminal_snr):
    schedule = schedule_of("linear", zero_terminal_snr=zero_terminal_snr)
    i = np.arange(N)
    np.testing.assert_allclose(schedule.index((i + 1) / N), i, atol=1e-9)
    np.testing.assert_allclose(schedule.time(schedule.table) * N - 1, i, atol=1e-6)
    clean = schedule.at(0.0)
    assert (clean.a, clean.s, clean.log_snr) == (1, 0, np.inf)
    np.testing.assert_allclose(schedule.at(0.5 / N).s, schedule.at_index(0).s / 2, rtol=1e-9)
    between = schedule.log_snr((np.array([10, 500]) + 1.5) / N)
    want = (schedule.table[[10, 500]] + schedule.table[[11, 501]]) / 2
    np.testing.assert_allclose(between, want, rtol=1e-9)


def test_the_derivative_at_a_step_is_that_of_the_interval_before_it():
    schedule = schedule_of("linear")
    i = np.arange(1, N)
    slope = (schedule.table[i] - schedule.table[i - 1]) * N
    np.testing.assert_allclose(schedule.derivative((i + 1) / N), slope, rtol=1e-9)
    device = schedule.derivative(jnp.asarray((i + 1) / N, jnp.float32))
    np.testing.assert_allclose(device, slope, rtol=1e-5)


def test_levels_in_float32():
    schedule = schedule_of("scaled_linear")
    i = np.arange(0, N, 7)
    host, device = schedule.at_index(i), schedule.at_index(jnp.asarray(i))
    np.testing.assert_allclose(device.a, host.a, rtol=2e-4)
    np.testing.assert_allclose(device.s, host.s, rtol=2e-4)


def test_a_table_of_ones_own():
    betas = betas_of("linear")
    custom = CustomTable.from_betas(betas)
    np.testing.assert_allclose(custom.table, schedule_of("linear").table, rtol=1e-9)
    assert hash(custom) == hash(CustomTable.from_betas(betas))
    ends = CustomTable((5.0, 0.0, -math.inf))
    assert ends.at(1.0).a == 0
    np.testing.assert_allclose(ends.time(ends.log_snr(np.array([0.1, 0.5, 0.9]))), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(log_snr_from_a(np.array([0.6])), np.log(0.36 / 0.64))


def test_a_changed_copy_has_its_own_table():
    schedule = schedule_of("linear")
    before = schedule.table[-1]
    assert dataclasses.replace(schedule, zero_terminal_snr=True).table[-1] == -np.inf
    assert schedule.table[-1] == before


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: DiscreteSchedule("quadratic"), "kind is 'quadratic', expected one of linear"),
        (lambda: DiscreteSchedule(count=2), "count is 2, expected at least 3"),
        (
            lambda: DiscreteSchedule(beta_first=0.0),
            "beta_first is 0.0, expected 0 < beta_first < 1",
        ),
        (lambda: DiscreteSchedule(beta_last=1.0), "beta_last is 1.0"),
        (lambda: CustomTable((1.0, 0.0)), "log_snrs has 2 entries"),
        (lambda: CustomTable((1.0, 2.0, 0.0)), r"log_snrs\[0:2\] is .* not monotone"),
        (lambda: CustomTable((3.0, 2.0, math.nan)), r"log_snrs\[1:3\]"),
        (lambda: CustomTable.from_betas([0.1, -0.1, 0.2]), r"betas\[1\] is -0.1, .* not monotone"),
        (lambda: CustomTable.from_betas([[0.1]]), r"shape \(1, 1\)"),
    ],
)
def test_what_is_no_table_is_refused(make, fault):
    with pytest.raises(InputError, match=fault):
        make()
