"""Which noise levels a sampler visits: from N steps and a spacing to N + 1 levels, on the host.

Symbols: t in [0, 1] (0 data, 1 noise), lambda = log a^2/s^2, phi = atan(s/a) the angle,
sigma = s/a. A sampler with N steps goes through levels 0 .. N, from noise to data.

Tables of T steps, with r = T // N whole steps between two visits (index i is the time (i + 1)/T):

==============  ====================================================================
``leading``     ``i_k = (N - 1 - k) r + offset``, begins short of the last entry
``linspace``    N indices from T - 1 to 0 at even distances, rounded
``trailing``    ``i_k = round(T - k T/N) - 1``, begins at the last entry
==============  ====================================================================

(Lin et al. 2024, table 2, and the conventions of the diffusers package; see `make_steps` for a
variant of the first two. There, DDIM with linspace steps to i - r rather than to the next index,
and Euler's indices are not rounded, as in `jaxgen.pretrained.schedulers`.) Without a table they are
the limit of many steps, evaluated at

    leading    t_k = (N - 1 - k) / N        linspace    t_k = 1 - k / (N - 1)
    trailing   t_k = 1 - k / N              (the times of ``uniform``)

so that the first two end at t = 0, which needs noise there. Any schedule:

===================  ==========================================================
``uniform``          even in t
``uniform_angle``    even in phi
``uniform_log_snr``  even in lambda (Lu et al. 2022)
``karras``           even in sigma^(1/rho) (Karras et al. 2022, equation 5)
===================  ==========================================================

and `steps_at` takes times of one's own choice, `linear_quadratic_times` among them.

After the N levels where a network is evaluated comes the one where the sample ends: clean data, or
the schedule's first level. In t and phi clean data lie at a finite distance, and the steps are even
up to there; in lambda and sigma^(1/rho) the N levels reach from the noisiest to the first one of
the schedule, and the clean one follows.
"""

from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64

from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.table_schedules import TableSchedule
from jaxgen.errors import InputError

Spacing = Literal[
    "uniform", "uniform_angle", "uniform_log_snr", "karras", "leading", "linspace", "trailing"
]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
TABLE_SPACINGS: tuple[Spacing, ...] = ("leading", "linspace", "trailing")

Final = Literal["clean", "first"]

CLEAN = Level(0.0, np.inf, 1.0, 0.0)
"""Data without noise, the same in every scaling."""


def make_steps(
    schedule: Schedule,
    count: int,
    spacing: Spacing = "uniform",
    *,
    final: Final = "clean",
    offset: int = 0,
    without_first: bool = False,
    rho: float = 7.0,
) -> Level:
    """The levels that a sampler of so many steps goes through.

    Args:
      schedule: the schedule.
      count: N, the number of steps.
      spacing: how the levels are spaced; see the module.
      final: where the last step ends: ``clean`` data, or the schedule's ``first`` level (t = 0; for
        a table the entry with index 0).
      offset: what ``leading`` adds to every index of a table.
      without_first: for ``leading`` and ``linspace``: space N + 1 indices and leave out the least,
        so that the table's first entry is never evaluated (as programs of DPM-Solver do).
      rho: the power of ``karras``.

    Returns:
      Level of numpy float64 arrays, [N + 1], from noise to data.

    Raises:
      InputError: for an unknown spacing or final; a count below 1, or one for which the table has
        too few steps; an offset that leaves the table, or without one; rho <= 0; an infinite
        log-SNR where the spacing cannot have one; or two steps at one level.

    Example:
      >>> from jaxgen.diffusion import CosineSchedule
      >>> levels = make_steps(CosineSchedule(), 4)
      >>> levels.t.tolist()
      [1.0, 0.75, 0.5, 0.25, 0.0]
      >>> bool(np.allclose(levels.a**2 + levels.s**2, 1))
      True
    """
    _check(schedule, count, spacing, final, rho)
    if spacing in TABLE_SPACINGS:
        visited = _at_table_steps(schedule, count, spacing, offset, without_first)
        return _checked(_append(visited, _last(schedule, final)), schedule)
    first = _first(schedule)
    if spacing == "uniform":
        end = 0.0 if final == "clean" else float(first.t)
        levels = schedule.at(np.linspace(1.0, end, count + 1))
    elif spacing == "uniform_angle":
        end = 0.0 if final == "clean" else _angle(first.log_snr)
        angles = np.linspace(_angle(schedule.log_snr(1.0)), end, count + 1)
        levels = _at_angles(schedule, angles)
    else:
        evaluated = count if final == "clean" else count + 1
        return _checked(_spaced(schedule, evaluated, spacing, rho, final), schedule)
    return _checked(_append(levels, _last(schedule, final), replace=True), schedule)


def respace(levels: Level, schedule: Schedule, spacing: Spacing, rho: float = 7.0) -> Level:
    """As many levels between the same ends, spaced otherwise: `karras` or `uniform_log_snr`.

    Args:
      levels: [N + 1]; the first, the last but one and the last stay.
      schedule: theirs.
      spacing: how those between are spaced.
      rho: the power of ``karras``.

    Raises:
      InputError: for another spacing, or infinite log-SNR at one of the N levels.
    """
    if spacing not in ("karras", "uniform_log_snr"):
        raise InputError(f"spacing is {spacing!r}, expected karras or uniform_log_snr")
    log_snr = np.asarray(levels.log_snr, np.float64)
    between = _spread(log_snr[0], log_snr[-2], len(log_snr) - 1, spacing, rho)
    last = Level(*(np.asarray(value)[-1] for value in levels))
    return _checked(_append(schedule.at_log_snr(between), last), schedule)


def steps_at(schedule: Schedule, times: Any, *, final: Final = "clean") -> Level:
    """The levels at times of one's own choice, and the one where the sample ends.

    Args:
      schedule: the schedule.
      times: t of the N levels where a network is evaluated, falling.
      final: as in `make_steps`.

    Returns:
      Level of numpy float64 arrays, [N + 1], from noise to data.

    Raises:
      InputError: for times outside of [0, 1], that do not fall, or whose last one is where the
        sample ends; the message says which.
    """
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or not len(times) or not ((times >= 0) & (times <= 1)).all():
        raise InputError("times are empty or not in [0, 1], expected at least one number in it")
    _check_falling(times, schedule)
    levels = _append(schedule.at(times), _last(schedule, final))
    if not levels.log_snr[-1] > levels.log_snr[-2]:
        raise InputError(
            f"times[{len(times) - 1}] is {times[-1]:.6g}, where the sample ends (t = "
            f"{levels.t[-1]:.6g}, final={final!r}), which is added, expected times that end "
            "above it: leave out the last one"
        )
    return _checked(levels, schedule)


def linear_quadratic_times(
    count: int, threshold: float = 0.025, linear_steps: int | None = None
) -> Float64[np.ndarray, "N"]:
    """Times for `steps_at`: small even steps at the noisy end, then ever longer ones.

    The linear-quadratic schedule of Movie Gen (Polyak et al. 2024) for straight lines, where the
    first of very many steps decide most: with L linear steps of N, ::

        t_i = 1 - threshold i / L - (1 - threshold N / L) (max(0, i - L) / (N - L))^2

    Args:
      count: N.
      threshold: how far the linear steps go.
      linear_steps: L; half of all unless given.

    Returns:
      t_0 = 1 to t_{N-1}, falling; t_N would be 0.

    Raises:
      InputError: for a count below 1; unless 1 <= L < N (for N = 1 there are no linear steps) and
        0 < threshold <= L / N, beyond which steps would become shorter, not longer.
    """
    _check_count(count)
    if count == 1 and linear_steps is None:
        return np.ones(1)
    linear = count // 2 if linear_steps is None else linear_steps
    if not 1 <= linear < count:
        raise InputError(f"linear_steps is {linear} of {count}, expected 1 to {count - 1}")
    if not 0 < threshold <= linear / count:
        raise InputError(
            f"threshold is {threshold}, expected 0 < threshold <= {linear / count:.4g}, the share "
            "of linear steps"
        )
    i = np.arange(count, dtype=np.float64)
    bend = np.maximum(i - linear, 0) / (count - linear)
    return 1 - threshold * i / linear - (1 - threshold * count / linear) * bend**2


def reverse_steps(levels: Level) -> Level:
    """The levels in the opposite order, [N + 1]: what encoding by an ODE goes through."""
    return Level(*(np.asarray(value)[::-1] for value in levels))


def insert_middles(levels: Level, schedule: Schedule) -> Level:
    """The levels, and between every two of them one with the mean log-SNR.

    So `SingleStepDPMSolver` of second order steps from level to level and evaluates half way as
    well (with ``stochastic=True`` it is the DPM-Solver++ (SDE) of k-diffusion). Steps from pure
    noise and to clean data have no middle, and get none.

    Args:
      levels: [N + 1].
      schedule: theirs; says at what time the new ones are.

    Returns:
      Level of numpy float64 arrays, [2 N + 1] at most.
    """
    now, after = pair_levels(levels)
    mean = (now.log_snr + after.log_snr) / 2
    finite = np.isfinite(mean)
    new = schedule.at_log_snr(mean[finite])
    places = np.flatnonzero(finite) + 1
    return Level(*(np.insert(old, places, more) for old, more in zip(levels, new, strict=True)))


def pair_levels(levels: Level) -> tuple[Level, Level]:
    """Where each of N steps begins and where it ends, [N] each, in float64.

    A last level that repeats the one before is left out: such a step goes nowhere.

    Raises:
      InputError: unless there are at least two levels and their log-SNR strictly rises or falls.
    """
    levels = Level(*(np.asarray(value, np.float64) for value in levels))
    if levels.log_snr.ndim != 1 or len(levels.log_snr) < 2:
        raise InputError(f"levels have shape {levels.log_snr.shape}, expected [N + 1] with N >= 1")
    if len(levels.log_snr) > 2 and levels.log_snr[-1] == levels.log_snr[-2]:
        levels = Level(*(value[:-1] for value in levels))
    now, after = levels.log_snr[:-1], levels.log_snr[1:]
    if not ((after > now).all() or (after < now).all()):
        rising = (after > now).sum() >= (after < now).sum()
        i = int((~(after > now) if rising else ~(after < now)).argmax())
        if now[i] == after[i]:
            advice = f"the same level twice (t = {levels.t[i]:.6g}): leave out one of them"
        else:
            advice = "expected it to rise from noise to data, or to fall throughout, for encoding"
        raise InputError(
            f"levels {i} and {i + 1} have log-SNR {now[i]:.6g} and {after[i]:.6g}: {advice}"
        )
    return Level(*(value[:-1] for value in levels)), Level(*(value[1:] for value in levels))


def _check(schedule: Schedule, count: int, spacing: str, final: str, rho: float) -> None:
    if spacing not in SPACINGS:
        raise InputError(f"spacing is {spacing!r}, expected one of {', '.join(SPACINGS)}")
    if final not in get_args(Final):
        raise InputError(f"final is {final!r}, expected clean or first")
    _check_count(count)
    if not rho > 0:
        raise InputError(f"rho is {rho}, expected a number > 0")
    if spacing in TABLE_SPACINGS and isinstance(schedule, TableSchedule) and count > schedule.steps:
        raise InputError(f"count is {count}, expected at most the table's {schedule.steps} steps")


def _check_count(count: int) -> None:
    if not isinstance(count, int | np.integer) or count < 1:
        raise InputError(f"count is {count}, expected a whole number of steps, at least 1")


def _at_table_steps(
    schedule: Schedule, count: int, spacing: Spacing, offset: int, without_first: bool
) -> Level:
    """The N levels at steps of a table or, without one, at the limit of ever more of them."""
    if isinstance(schedule, TableSchedule):
        index = _table_indices(schedule.steps, count, spacing, offset, without_first)
        return schedule.at_index(index)
    if offset:
        raise InputError(
            f"offset is {offset} with {type(schedule).__name__}, expected 0: it counts steps of a "
            "table"
        )
    evaluated = count + without_first
    match spacing:
        case "leading":
            times = np.arange(evaluated, dtype=np.float64)[::-1] / evaluated
        case "linspace":
            times = np.linspace(1.0, 0.0, evaluated)
        case _:
            times = 1 - np.arange(count) / count
    levels = schedule.at(times[:count])
    if levels.log_snr[-1] == np.inf:
        raise InputError(
            f"spacing is {spacing!r}, which ends at t = 0, where {type(schedule).__name__} has no "
            "noise, expected trailing or uniform"
        )
    return levels


def _table_indices(
    steps: int, count: int, spacing: Spacing, offset: int, without_first: bool
) -> Float64[np.ndarray, "N"]:
    """The N indices of a table, falling."""
    evaluated = min(count + without_first, steps)
    match spacing:
        case "leading":
            index = np.arange(evaluated, dtype=np.float64)[::-1] * (steps // evaluated) + offset
        case "linspace":
            index = np.linspace(0, steps - 1, evaluated).round()[::-1]
        case _:
            index = np.round(steps - np.arange(count) * (steps / count)) - 1
    index = index[:count]
    if index[0] > steps - 1 or index[-1] < 0:
        raise InputError(
            f"offset is {offset} with steps {index[-1]:g} to {index[0]:g}, expected 0 to "
            f"{steps - 1}"
        )
    return index


def _first(schedule: Schedule) -> Level:
    """The first level with noise: t = 0, for tables (where that is clean) the entry 0."""
    return schedule.at_index(0) if isinstance(schedule, TableSchedule) else schedule.at(0.0)


def _last(schedule: Schedule, final: Final) -> Level:
    return CLEAN if final == "clean" else _first(schedule)


def _append(levels: Level, last: Level, replace: bool = False) -> Level:
    """The levels followed by one more, which may replace the last of them."""
    kept = (value[:-1] if replace else value for value in levels)
    return Level(*(np.append(value, end) for value, end in zip(kept, last, strict=True)))


def _angle(log_snr: float) -> float:
    """phi = atan(exp(-lambda / 2)), pi/2 at -inf."""
    return float(np.arctan(np.exp(np.clip(-np.float64(log_snr) / 2, -700, 700))))


def _at_angles(schedule: Schedule, angles: Float64[np.ndarray, "N"]) -> Level:
    """The levels of the angles, from the ends that the schedule has exactly."""
    with np.errstate(divide="ignore"):
        log_snr = -2 * np.log(np.tan(angles))
    log_snr[0] = schedule.log_snr(1.0)
    return schedule.at_log_snr(log_snr)


def _spaced(
    schedule: Schedule, evaluated: int, spacing: Spacing, rho: float, final: Final
) -> Level:
    """Levels even in lambda or sigma^(1/rho) between the schedule's ends."""
    low, high = float(schedule.log_snr(1.0)), float(_first(schedule).log_snr)
    levels = schedule.at_log_snr(_spread(low, high, evaluated, spacing, rho))
    return _append(levels, CLEAN) if final == "clean" else levels


def _spread(
    low: float, high: float, count: int, spacing: Spacing, rho: float
) -> Float64[np.ndarray, "N"]:
    """So many log-SNRs from the noisy end to the other."""
    if not (np.isfinite(high) and np.isfinite(low)):
        raise InputError(
            f"spacing is {spacing!r} for log-SNR from {low} to {high}, expected finite ends"
        )
    if spacing == "karras":
        roots = np.linspace(np.exp(-low / (2 * rho)), np.exp(-high / (2 * rho)), count)
        return np.asarray(-2 * rho * np.log(roots))
    return np.linspace(low, high, count)


def _check_falling(times: Float64[np.ndarray, "N"], schedule: Schedule) -> None:
    """Refuses times that rise or repeat, naming the first two."""
    wrong = np.diff(times) >= 0
    if wrong.any():
        i = int(wrong.argmax())
        what = ": leave out one of them" if times[i] == times[i + 1] else ", expected falling times"
        raise InputError(
            f"steps {i} and {i + 1} of {type(schedule).__name__} are at the times {times[i]:.6g} "
            f"and {times[i + 1]:.6g}{what}"
        )


def _checked(levels: Level, schedule: Schedule) -> Level:
    """The levels, if each has less noise than the one before."""
    same = ~(np.diff(levels.log_snr) > 0)
    if same.any():
        i = int(same.argmax())
        at_end = i + 2 == len(levels.log_snr) and np.isfinite(levels.log_snr[-1])
        advice = "the last step has nowhere to go; ask for fewer steps, or for final='clean'"
        if not at_end:
            advice = "the schedule is flat there; ask for fewer steps, or for times further apart"
        raise InputError(
            f"steps {i} and {i + 1} of {type(schedule).__name__} (t = {levels.t[i]:.6g} and "
            f"{levels.t[i + 1]:.6g}) have log-SNR {levels.log_snr[i]:.6g} and "
            f"{levels.log_snr[i + 1]:.6g}, expected it to rise: {advice}"
        )
    return levels
