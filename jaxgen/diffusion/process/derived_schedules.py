"""Schedules made of other schedules: moved, in another scaling, between bounds, blended.

Symbols as in `jaxgen.diffusion.process.schedules`.

==========  ===========================================  ======================
schedule    lambda(t)                                    source
==========  ===========================================  ======================
`Shifted`   another's plus 2 log(factor)                 Hoogeboom et al. 2023
`Rescaled`  another's, with latents in other units
`Bounded`   another's, from one log-SNR to another       Salimans & Ho 2022, B
`Blended`   (1 - t) times one's plus t times another's   Hoogeboom et al. 2023
==========  ===========================================  ======================

They compose: ``Shifted(Bounded(RectifiedFlow(), -15, 15), 64 / 256)`` for images of 256 x 256 has
bounds of -15 and 15, both moved by 2 log(1/4).
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxgen.diffusion.process.learned_schedule import LearnedSchedule
from jaxgen.diffusion.process.levels import ArrayLike, Scaling, as_numbers, namespace
from jaxgen.diffusion.process.schedules import (
    Schedule,
    bisect_time,
    check_falling,
    check_monotone,
    check_scaling,
    check_schedule,
    newton_step,
)
from jaxgen.errors import InputError, check_positive

HALF_A_STEP = 2.0**-25
"""By how much float32 may miss a time near one."""


@dataclass(frozen=True)
class Shifted(Schedule):
    """Another schedule with its log-SNR moved by a constant: ``lambda(t) + 2 log(factor)``.

    Larger images need more noise for the same loss of information. For images of d x d trained with
    a schedule found good at d0 x d0 the factor is d0 / d (Hoogeboom et al. 2023, equation 5; as
    ``64 / d`` there). In the scaling of flows it is the warp of time by Esser et al. (2024,
    equation 23) with m/n = (1 / factor)^2.

    Attributes:
      schedule: the one to move.
      factor: what a / s is multiplied by; below one for more noise.

    Raises:
      InputError: unless factor > 0.
    """

    schedule: Schedule
    factor: float

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        check_positive("factor", self.factor)

    @property
    def scaling(self) -> Scaling:
        """That of the schedule."""
        return self.schedule.scaling

    def log_snr(self, t: ArrayLike) -> Any:
        """The schedule's, plus 2 log(factor)."""
        return self.schedule.log_snr(t) + 2 * math.log(self.factor)

    def time(self, log_snr: ArrayLike) -> Any:
        """The schedule's, of log_snr - 2 log(factor)."""
        return self.schedule.time(as_numbers(log_snr) - 2 * math.log(self.factor))

    def derivative(self, t: ArrayLike) -> Any:
        """The schedule's."""
        return self.schedule.derivative(t)


@dataclass(frozen=True)
class Rescaled(Schedule):
    """Another schedule's log-SNR with latents scaled otherwise.

    The same denoising problem at every t, in other units: z' = (a' / a) z.

    Attributes:
      schedule: whose log-SNR it is.
      scaling: the new one.

    Raises:
      InputError: for an unknown frame.
    """

    schedule: Schedule
    scaling: Scaling = "vp"

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        check_scaling(self.scaling)

    def log_snr(self, t: ArrayLike) -> Any:
        """The schedule's."""
        return self.schedule.log_snr(t)

    def time(self, log_snr: ArrayLike) -> Any:
        """The schedule's."""
        return self.schedule.time(log_snr)

    def derivative(self, t: ArrayLike) -> Any:
        """The schedule's."""
        return self.schedule.derivative(t)


@dataclass(frozen=True)
class Bounded(Schedule):
    """Another schedule from one log-SNR to another, its time stretched to fill [0, 1].

    ``lambda'(t) = lambda(t_0 + t (t_1 - t_0))`` with ``lambda(t_0) = log_snr_max`` and
    ``lambda(t_1) = log_snr_min``; of the cosine schedule without bounds it is the one with bounds.

    Times near one have few digits: in float32 1 - t is a multiple of 6e-8. How much noise may be
    asked for depends on how steeply the schedule ends: log-SNRs of -20 and less of straight lines
    or a cosine, but some -8 of `InverseCosineSchedule`.

    Attributes:
      schedule: the one to cut; not a learnt one, whose ends are its own.
      log_snr_min: lambda'(1). Below what the schedule has, its own end stays.
      log_snr_max: lambda'(0). Above what the schedule has, likewise.

    Raises:
      InputError: unless log_snr_min < log_snr_max and some of the schedule lies between them; for a
        learnt schedule; for a log_snr_min that float32 has no times for.
    """

    schedule: Schedule
    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    def __post_init__(self) -> None:
        check_fixed(self.schedule)
        check_falling(self.log_snr_max, self.log_snr_min)
        first, last = self._ends
        if not first < last:
            high, low = float(self.schedule.log_snr(0.0)), float(self.schedule.log_snr(1.0))
            raise InputError(
                f"log_snr_min is {self.log_snr_min}, log_snr_max is {self.log_snr_max}, expected "
                f"bounds that leave some of {type(self.schedule).__name__}, from {high:.4g} to "
                f"{low:.4g}"
            )
        if self.log_snr_min > -math.inf and last < 1:
            error = -float(self.schedule.derivative(last)) * HALF_A_STEP
            if not error < 0.1:
                raise InputError(
                    f"log_snr_min is {self.log_snr_min}: {type(self.schedule).__name__} has it at "
                    f"1 - t = {1 - last:.2g}, and float32 has no times so near to one, expected a "
                    "larger one"
                )

    @property
    def scaling(self) -> Scaling:
        """That of the schedule."""
        return self.schedule.scaling

    @functools.cached_property
    def _ends(self) -> tuple[float, float]:
        """t_0 and t_1."""
        first, last = (self.schedule.time(end) for end in (self.log_snr_max, self.log_snr_min))
        return float(first), float(last)

    def _inner(self, t: ArrayLike) -> Any:
        """t_0 + t (t_1 - t_0)."""
        first, last = self._ends
        return first + as_numbers(t) * (last - first)

    def log_snr(self, t: ArrayLike) -> Any:
        """The schedule's at the stretched time, and to rounding never beyond the bounds."""
        log_snr = self.schedule.log_snr(self._inner(t))
        return namespace(log_snr).clip(log_snr, self.log_snr_min, self.log_snr_max)

    def time(self, log_snr: ArrayLike) -> Any:
        """The schedule's time, moved and stretched back."""
        t = self.schedule.time(log_snr)
        first, last = self._ends
        return namespace(t).clip((t - first) / (last - first), 0.0, 1.0)

    def derivative(self, t: ArrayLike) -> Any:
        """The schedule's at the stretched time, times t_1 - t_0."""
        first, last = self._ends
        return self.schedule.derivative(self._inner(t)) * (last - first)


@dataclass(frozen=True)
class Blended(Schedule):
    """``lambda(t) = (1 - t) lambda_first(t) + t lambda_last(t)`` (Hoogeboom et al. 2023).

    There between two shifts of one schedule: as little noise as small images need where details are
    made, and as much as large ones need where the sample begins.

    Attributes:
      first: what it is at t = 0.
      last: what it is at t = 1.

    Raises:
      InputError: for learnt schedules; where the two have different scalings, or the blend does not
        fall everywhere. (It rises from t = 0 where `last` alone begins with clean data, and towards
        t = 1 where `first` alone ends with pure noise.)
    """

    first: Schedule
    last: Schedule

    def __post_init__(self) -> None:
        check_fixed(self.first)
        check_fixed(self.last)
        if self.first.scaling != self.last.scaling:
            raise InputError(
                f"scalings are {self.first.scaling!r} and {self.last.scaling!r}, expected one and "
                "the same (see Rescaled)"
            )
        for t, near, far in ((0.0, self.first, self.last), (1.0, self.last, self.first)):
            if np.isfinite(near.log_snr(t)) and not np.isfinite(far.log_snr(t)):
                raise InputError(
                    f"Blended is not monotone: at t={t:g} the log-SNR of {type(near).__name__} is "
                    f"finite and that of {type(far).__name__} is not (see Bounded)"
                )
        check_monotone(self)

    @property
    def scaling(self) -> Scaling:
        """That of both."""
        return self.first.scaling

    def log_snr(self, t: ArrayLike) -> Any:
        """The mean of the two by time."""
        t = as_numbers(t)
        return _blend(t, self.first.log_snr(t), self.last.log_snr(t))

    def time(self, log_snr: ArrayLike) -> Any:
        """By bisection, in JAX with a step of Newton through which gradients flow."""
        log_snr = as_numbers(log_snr)
        xp = namespace(log_snr)
        if xp is np:
            t = bisect_time(self.log_snr, log_snr)
        else:
            t = bisect_time(self.log_snr, jax.lax.stop_gradient(log_snr))
            step = newton_step(self.log_snr(t), log_snr, self.derivative(t))
            t = xp.clip(t - step, 0.0, 1.0)
        first, last = self.log_snr(0.0), self.log_snr(1.0)
        return xp.where(log_snr >= first, 0.0, xp.where(log_snr <= last, 1.0, t))

    def derivative(self, t: ArrayLike) -> Any:
        """The mean of the two by time, and what lies between them."""
        t = as_numbers(t)
        xp = namespace(t)
        slope = _blend(t, self.first.derivative(t), self.last.derivative(t))
        with np.errstate(invalid="ignore"):
            gap = self.last.log_snr(t) - self.first.log_snr(t)
        return xp.where(xp.isfinite(slope), slope + gap, slope)


def check_fixed(schedule: Schedule) -> None:
    """Raises InputError for what is no schedule, or one whose parameters are learnt."""
    check_schedule(schedule)
    if isinstance(schedule, LearnedSchedule):
        raise InputError("schedule is a LearnedSchedule, expected one without parameters")


def _blend(t: Any, first: Any, last: Any) -> Any:
    """(1 - t) first + t last, where one of them may be infinite at the other's end."""
    xp = namespace(t)
    with np.errstate(invalid="ignore"):
        mean = (1 - t) * first + t * last
    return xp.where(t <= 0, first, xp.where(t >= 1, last, mean))
