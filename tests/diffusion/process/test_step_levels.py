"""Spacings: index conventions written out by hand, evenness in their own unit, bad counts."""

import math

import numpy as np
import pytest

from jaxgen.diffusion.process.derived_schedules import Blended, Bounded, Rescaled, Shifted
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import (
    CosineSchedule,
    InverseCosineSchedule,
    KarrasSchedule,
    RectifiedFlow,
    SigmoidSchedule,
)
from jaxgen.diffusion.process.sde_schedules import GeometricSchedule, LinearBetaSchedule
from jaxgen.diffusion.process.step_levels import (
    SPACINGS,
    insert_middles,
    linear_quadratic_times,
    make_steps,
    pair_levels,
    respace,
    reverse_steps,
    steps_at,
)
from jaxgen.diffusion.process.table_schedules import CustomTable, DiscreteSchedule
from jaxgen.errors import InputError

TABLE = DiscreteSchedule()
SCHEDULES = [
    CosineSchedule(),
    CosineSchedule(-math.inf, math.inf),
    SigmoidSchedule(),
    KarrasSchedule(),
    RectifiedFlow(),
    Shifted(CosineSchedule(), 0.5),
    Rescaled(CosineSchedule(), "flow"),
    InverseCosineSchedule(),
    LinearBetaSchedule(),
    GeometricSchedule(),
    Bounded(InverseCosineSchedule(), -7),
    Blended(CosineSchedule(), Shifted(CosineSchedule(), 1 / 8)),
    TABLE,
    DiscreteSchedule("squared_cosine"),
    DiscreteSchedule(zero_terminal_snr=True),
]


def indices(levels):
    return np.round(1000 * levels.t - 1, 6)[:-1].tolist()


@pytest.mark.parametrize(
    ("spacing", "count", "options", "wanted"),
    [
        ("leading", 5, {}, [800, 600, 400, 200, 0]),
        ("leading", 5, {"offset": 1}, [801, 601, 401, 201, 1]),
        ("leading", 3, {}, [666, 333, 0]),
        ("leading", 4, {"without_first": True}, [800, 600, 400, 200]),
        ("leading", 4, {"without_first": True, "offset": 1}, [801, 601, 401, 201]),
        ("linspace", 4, {}, [999, 666, 333, 0]),
        ("linspace", 5, {}, [999, 749, 500, 250, 0]),
        ("linspace", 3, {"without_first": True}, [999, 666, 333]),
        ("trailing", 5, {}, [999, 799, 599, 399, 199]),
        ("trailing", 3, {}, [999, 666, 332]),
        ("trailing", 1, {}, [999]),
        ("uniform", 5, {}, [999, 799, 599, 399, 199]),
    ],
)
def test_indices_of_a_table(spacing, count, options, wanted):
    levels = make_steps(TABLE, count, spacing, **options)
    assert indices(levels) == wanted
    assert levels.t.shape == (count + 1,)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("without_first", [False, True])
def test_without_a_table_steps_are_those_of_a_fine_one(spacing, without_first):
    """Of 10,000 entries, where the continuous times are within rounding and one entry."""
    schedule, entries = CosineSchedule(-12, 12), 10_000
    fine = CustomTable(tuple(schedule.log_snr((np.arange(entries) + 1) / entries)))
    for count in (2, 5, 25):
        options = {"without_first": without_first}
        found = make_steps(schedule, count, spacing, **options)
        tabled = make_steps(fine, count, spacing, **options)
        # A table leaves the remainder of T / N out; in the limit there is none.
        left_out = entries % (count + without_first) if spacing == "leading" else 0
        np.testing.assert_allclose(found.t, tabled.t, rtol=0, atol=(1.51 + left_out) / entries)
        np.testing.assert_allclose(found.a, tabled.a, atol=3e-4 * (1 + left_out))
    trailing, uniform = (make_steps(schedule, 7, each) for each in ("trailing", "uniform"))
    np.testing.assert_allclose(trailing, uniform, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_final_level(spacing):
    """Clean data, or the first entry of the table."""
    clean = make_steps(TABLE, 4, spacing, offset=1, without_first=True)
    assert [float(value[-1]) for value in clean] == [0.0, math.inf, 1.0, 0.0]
    first = make_steps(TABLE, 4, spacing, offset=1, without_first=True, final="first")
    entry = TABLE.at_index(0)
    np.testing.assert_allclose([v[-1] for v in first], [float(v) for v in entry], rtol=1e-12)


def refusal(schedule, spacing, final):
    """What an error should say, if there is one."""
    is_table = isinstance(schedule, DiscreteSchedule)
    first = schedule.at_index(0) if is_table else schedule.at(0.0)
    ends = np.array([first.log_snr, schedule.log_snr(1.0)])
    if spacing in ("karras", "uniform_log_snr") and not np.isfinite(ends).all():
        return "expected finite ends"
    if spacing in ("leading", "linspace") and first.log_snr == np.inf:
        return "expected trailing or uniform"
    if spacing in ("leading", "linspace") and final == "first":
        return "or for final='clean'"
    return None


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("final", ["clean", "first"])
def test_levels_are_consistent(schedule, spacing, final):
    """From the noisiest level down, in the schedule's scaling, in float64; or one clear error."""
    if refused := refusal(schedule, spacing, final):
        with pytest.raises(InputError, match=refused):
            make_steps(schedule, 7, spacing, final=final)
        return
    levels = make_steps(schedule, 7, spacing, final=final)
    assert {value.dtype for value in levels} == {np.dtype(np.float64)}
    assert {value.shape for value in levels} == {(8,)}
    assert (np.diff(levels.log_snr) > 0).all()
    assert (np.diff(levels.t)[:-1] < 0).all()
    assert levels.t[-1] <= levels.t[-2]  # both may be 0: the schedule's first level, and clean data
    if spacing != "leading":
        assert levels.log_snr[0] == pytest.approx(float(schedule.log_snr(1.0)), rel=1e-12)
    again = schedule.at_log_snr(levels.log_snr)
    np.testing.assert_allclose(levels.a, again.a, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(levels.s, again.s, rtol=1e-9, atol=1e-15)
    evaluated = slice(0, 7 if final == "clean" else 8)
    np.testing.assert_allclose(levels.t[evaluated], again.t[evaluated], rtol=1e-7, atol=1e-9)


def test_even_in_their_unit():
    schedule = Rescaled(CosineSchedule(-10, 12), "flow")
    for final, count in [("clean", 6), ("first", 7)]:
        levels = make_steps(schedule, 6, "uniform_log_snr", final=final)
        np.testing.assert_allclose(levels.log_snr[:count], np.linspace(-10, 12, count))
        levels = make_steps(schedule, 6, "karras", final=final, rho=3)
        roots = (levels.s / levels.a)[:count] ** (1 / 3)
        np.testing.assert_allclose(roots, np.linspace(math.exp(10 / 6), math.exp(-12 / 6), count))
    angles = np.arctan2(*make_steps(schedule, 6, "uniform_angle")[:1:-1])
    np.testing.assert_allclose(angles, np.linspace(angles[0], 0, 7), atol=1e-12)
    np.testing.assert_allclose(make_steps(schedule, 6).t, np.linspace(1, 0, 7))


def test_karras_sigmas_as_published():
    """The sigmas of Karras et al. (2022, equation 5): 18 of them, then zero."""
    levels = make_steps(KarrasSchedule(), 18, "karras")
    i = np.arange(18)
    roots = 80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    np.testing.assert_allclose(levels.s[:18], roots**7, rtol=1e-12)
    assert levels.s[18] == 0


def test_steps_at_and_reverse():
    levels = steps_at(RectifiedFlow(), [0.9, 0.5, 0.1])
    np.testing.assert_allclose(levels.s, [0.9, 0.5, 0.1, 0])
    np.testing.assert_allclose(reverse_steps(levels).s, [0, 0.1, 0.5, 0.9])
    now, after = pair_levels(reverse_steps(levels))
    assert now.s.tolist() == [0, 0.1, 0.5]
    assert after.s.tolist() == [0.1, 0.5, 0.9]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_steps(TABLE, 0), "count is 0, expected a whole number of steps, at least 1"),
        (lambda: make_steps(TABLE, -3, "leading"), "count is -3"),
        (lambda: make_steps(TABLE, 2.5), "count is 2.5"),
        (lambda: make_steps(TABLE, 1001, "trailing"), "at most the table's 1000 steps"),
        (lambda: make_steps(TABLE, 5, "nearest"), "spacing is 'nearest', expected one of uniform"),
        (lambda: make_steps(TABLE, 5, final="last"), "final is 'last', expected clean or first"),
        (
            lambda: make_steps(TABLE, 5, "leading", offset=200),
            "offset is 200 with steps 200 to 1000, expected 0 to 999",
        ),
        (lambda: make_steps(TABLE, 5, "karras", rho=0), "rho is 0"),
        (
            lambda: make_steps(RectifiedFlow(), 5, "leading"),
            "ends at t = 0, where RectifiedFlow has no noise, expected trailing or uniform",
        ),
        (
            lambda: make_steps(CosineSchedule(), 5, "leading", offset=1),
            "offset is 1 with CosineSchedule, expected 0",
        ),
        (lambda: make_steps(RectifiedFlow(), 5, "karras"), "from -inf to inf, expected finite"),
        (lambda: make_steps(TABLE, 1000, "leading", final="first"), "steps 999 and 1000 of Disc"),
        (lambda: steps_at(RectifiedFlow(), [0.5, 0.5]), "steps 0 and 1 of RectifiedFlow"),
        (
            lambda: steps_at(RectifiedFlow(), [1, 0.5, 0.5]),
            "at the times 0.5 and 0.5: leave out one of them",
        ),
        (
            lambda: steps_at(RectifiedFlow(), [0.5, 0.7]),
            "at the times 0.5 and 0.7, expected falling times",
        ),
        (
            lambda: steps_at(RectifiedFlow(), np.linspace(1, 0, 5)),
            r"times\[4\] is 0, where the sample ends .*leave out the last one",
        ),
        (
            lambda: steps_at(CosineSchedule(), [1, 0.5, 0], final="first"),
            r"times\[2\] is 0, where the sample ends .*leave out the last one",
        ),
        (
            lambda: steps_at(RectifiedFlow(), [1, float("nan")]),
            "times are .* in \\[0, 1\\], expected",
        ),
        (
            lambda: pair_levels(Level(*np.array([[0.5, 0.5, 1]] * 4))),
            r"levels 0 and 1 .*the same level twice \(t = 0.5\): leave out one of them",
        ),
        (lambda: steps_at(RectifiedFlow(), [1.5]), "times are .* in \\[0, 1\\], expected"),
        (
            lambda: pair_levels(Level(*np.array([[1, 0.5, 0.6]] * 4))),
            "levels 0 and 1 have log-SNR 1 and 0.5",
        ),
        (lambda: pair_levels(Level(*np.ones((4, 1)))), "levels have shape \\(1,\\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_all_steps_of_a_table():
    levels = make_steps(TABLE, 1000, "leading")
    assert indices(levels) == list(range(999, -1, -1))
    np.testing.assert_allclose(levels.log_snr[:-1], TABLE.table[::-1])


def test_middles_are_half_way_in_log_snr():
    """And where a step is infinite there is none."""
    schedule = CosineSchedule(-math.inf, math.inf)
    levels = make_steps(schedule, 5)
    found = insert_middles(levels, schedule)
    assert len(found.t) == 6 + 3
    kept = [0, 1, 3, 5, 7, 8]
    for old, new in zip(levels, found, strict=True):
        np.testing.assert_array_equal(new[kept], old)
    middle = (levels.log_snr[1:4] + levels.log_snr[2:5]) / 2
    np.testing.assert_allclose(found.log_snr[[2, 4, 6]], middle)
    np.testing.assert_allclose(schedule.log_snr(found.t[[2, 4, 6]]), middle, atol=1e-9)
    ratio = found.a[[2, 4, 6]] / found.s[[2, 4, 6]]
    np.testing.assert_allclose(2 * np.log(ratio), middle, atol=1e-9)


@pytest.mark.parametrize(("count", "linear"), [(10, None), (50, None), (50, 20), (7, 3)])
def test_linear_quadratic_times(count, linear):
    """Even steps of threshold / L, then longer and longer ones, without a jump in their length."""
    times = linear_quadratic_times(count, 0.025, linear)
    linear = linear or count // 2
    steps = -np.diff(np.append(times, 0.0))
    assert times[0] == 1
    np.testing.assert_allclose(steps[:linear], 0.025 / linear, rtol=1e-9)
    growth = np.diff(steps[linear:])
    np.testing.assert_allclose(growth, growth[0], rtol=1e-6)
    np.testing.assert_allclose(steps[linear] - 0.025 / linear, growth[0] / 2, rtol=1e-6)
    levels = steps_at(RectifiedFlow(), times)
    np.testing.assert_allclose(levels.s, np.append(times, 0.0), rtol=1e-12)


def test_one_linear_quadratic_step():
    np.testing.assert_array_equal(linear_quadratic_times(1), [1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "count is 0, expected a whole number of steps"),
        ((10, 0.025, 10), "linear_steps is 10 of 10, expected 1 to 9"),
        ((10, 0.6), "threshold is 0.6, expected 0 < threshold <= 0.5"),
        ((10, 0.0), "threshold is 0.0"),
    ],
)
def test_linear_quadratic_times_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        linear_quadratic_times(*arguments)


def test_respace():
    table = DiscreteSchedule()
    levels = make_steps(table, 6, "trailing", final="first")
    sigma = np.exp(-levels.log_snr / 2)
    spaced = {
        "karras": np.linspace(sigma[0] ** (1 / 7), sigma[-2] ** (1 / 7), 6) ** 7,
        "uniform_log_snr": np.geomspace(sigma[0], sigma[-2], 6),
    }
    for spacing, wanted in spaced.items():
        found = np.exp(-respace(levels, table, spacing).log_snr / 2)
        np.testing.assert_allclose(found, [*wanted, sigma[-1]], rtol=1e-9)
    with pytest.raises(InputError, match="spacing is 'leading', expected karras or"):
        respace(levels, table, "leading")
