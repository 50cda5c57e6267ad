"""Schedules made of other schedules: moved, in another frame, between bounds, blended.

Symbols as in `jaxgen.diffusion.schedules`.

==========  ===========================================  ======================
schedule    lambda(t)                                    source
==========  ===========================================  ======================
`Shifted`   another's plus 2 log(factor)                 Hoogeboom et al. 2023
`Reframed`  another's, with latents in other units
`Bounded`   another's, from one log-SNR to another       Salimans & Ho 2022, B
`Blended`   (1 - t) times one's plus t times another's   Hoogeboom et al. 2023
==========  ===========================================  ======================

They compose: ``Shifted(Bounded(InverseCosineSchedule(), -15, 15), 64 / 256)`` for images of 256 x
256 has bounds of -15 and 15, both moved by 2 log(1/4).
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxgen.diffusion.levels import ArrayLike, Frame, as_numbers, namespace
from jaxgen.diffusion.schedules import (
    Schedule,
    bisect_time,
    check_falling,
    check_frame,
    check_monotone,
)
from jaxgen.errors import InputError


@dataclass(frozen=True)
class Shifted(Schedule):
    """Another schedule with its log-SNR moved by a constant: ``lambda(t) + 2 log(factor)``.

    Larger images need more noise for the same loss of information. For images of d x d trained with
    a schedule found good at d0 x d0 the factor is d0 / d (Hoogeboom et al. 2023, equation 5; as
    ``64 / d`` there). In the frame of flows it is the warp of time by Esser et al. (2024, equation
    23) with m/n = (1 / factor)^2.

    Attributes:
      schedule: the one to move.
      factor: what a / s is multiplied by; below one for more noise.

    Raises:
      InputError: unless factor > 0.
    """

    schedule: Schedule
    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise InputError(f"factor={self.factor}: expected a finite number > 0")

    @property
    def frame(self) -> Frame:
        """That of the schedule."""
        return self.schedule.frame

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
class Reframed(Schedule):
    """Another schedule's log-SNR with latents scaled otherwise.

    The same denoising problem at every t, in other units: z' = (a' / a) z.

    Attributes:
      schedule: whose log-SNR it is.
      scaling: the frame.

    Raises:
      InputError: for an unknown frame.
    """

    schedule: Schedule
    scaling: Frame = "vp"

    def __post_init__(self) -> None:
        check_frame(self.scaling)

    @property
    def frame(self) -> Frame:
        """How latents are scaled."""
        return self.scaling

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

    Attributes:
      schedule: the one to cut; not a learnt one, whose ends are its own.
      log_snr_min: lambda'(1). Below what the schedule has, its own end stays.
      log_snr_max: lambda'(0). Above what the schedule has, likewise.

    Raises:
      InputError: unless log_snr_min < log_snr_max and some of the schedule lies between them.
    """

    schedule: Schedule
    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    def __post_init__(self) -> None:
        check_falling(self.log_snr_max, self.log_snr_min)
        first, last = self._ends
        if not first < last:
            high, low = float(self.schedule.log_snr(0.0)), float(self.schedule.log_snr(1.0))
            raise InputError(
                f"log_snr_min={self.log_snr_min}, log_snr_max={self.log_snr_max}: expected bounds "
                f"that leave some of {type(self.schedule).__name__}, from {high:.4g} to {low:.4g}"
            )

    @property
    def frame(self) -> Frame:
        """That of the schedule."""
        return self.schedule.frame

    @property
    def _ends(self) -> tuple[float, float]:
        """t_0 and t_1."""
        return float(self.schedule.time(self.log_snr_max)), float(
            self.schedule.time(self.log_snr_min)
        )

    def _inner(self, t: ArrayLike) -> Any:
        """t_0 + t (t_1 - t_0)."""
        first, last = self._ends
        return first + as_numbers(t) * (last - first)

    def log_snr(self, t: ArrayLike) -> Any:
        """The schedule's at the stretched time, and never beyond the bounds.

        (In float32 t_1 may round to one, where some schedules have nothing but noise.)
        """
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
      InputError: where the two are in different frames, or the blend does not fall everywhere.
    """

    first: Schedule
    last: Schedule

    def __post_init__(self) -> None:
        if self.first.frame != self.last.frame:
            raise InputError(
                f"frames {self.first.frame!r} and {self.last.frame!r}: expected one and the same "
                "(see Reframed)"
            )
        check_monotone(self)

    @property
    def frame(self) -> Frame:
        """That of both."""
        return self.first.frame

    def log_snr(self, t: ArrayLike) -> Any:
        """The mean of the two by time."""
        t = as_numbers(t)
        return _blend(t, self.first.log_snr(t), self.last.log_snr(t))

    def time(self, log_snr: ArrayLike) -> Any:
        """By bisection, and a step of Newton through which gradients flow."""
        log_snr = as_numbers(log_snr)
        xp = namespace(log_snr)
        wanted = log_snr if xp is np else jax.lax.stop_gradient(log_snr)
        t = bisect_time(self.log_snr, wanted)
        with np.errstate(invalid="ignore"):
            exact = t - (self.log_snr(t) - log_snr) / self.derivative(t)
        return xp.where(xp.isfinite(log_snr), xp.clip(exact, 0.0, 1.0), t)

    def derivative(self, t: ArrayLike) -> Any:
        """The mean of the two by time, and what lies between them."""
        t = as_numbers(t)
        xp = namespace(t)
        slope = _blend(t, self.first.derivative(t), self.last.derivative(t))
        with np.errstate(invalid="ignore"):
            gap = self.last.log_snr(t) - self.first.log_snr(t)
        return xp.where(xp.isfinite(slope), slope + gap, slope)


def _blend(t: Any, first: Any, last: Any) -> Any:
    """(1 - t) first + t last, where one of them may be infinite at the other's end."""
    xp = namespace(t)
    with np.errstate(invalid="ignore"):
        mean = (1 - t) * first + t * last
    return xp.where(t <= 0, first, xp.where(t >= 1, last, mean))
