"""Noise schedules in one form: the log-SNR as a function of time, its inverse and derivative.

Symbols as in `jaxgen.diffusion.process.levels`: t in [0, 1], z_t = a_t x + s_t e,
lambda_t = log a^2/s^2.

=======================  =======  ===========================================  =====================
schedule                 scaling  lambda(t)                                    source
=======================  =======  ===========================================  =====================
`CosineSchedule`         vp       -2 log tan(A t + B)                          Salimans & Ho 2022, B
`InverseCosineSchedule`  vp       logit of acos(2 t - 1) / pi                  Hudson et al. 2023
`SigmoidSchedule`        vp       logit of a sigmoid, rescaled to [0, 1]       Jabri et al. 2022
`KarrasSchedule`         ve       -2 log s, s = (s1 + t (s2 - s1))^rho         Karras et al. 2022
`RectifiedFlow`          flow     2 log((1 - t) / t)                           Liu et al. 2022
=======================  =======  ===========================================  =====================

Those of continuous SDEs are in `jaxgen.diffusion.process.sde_schedules`, tables of betas in
`jaxgen.diffusion.process.table_schedules`, learnt ones in
`jaxgen.diffusion.process.learned_schedule`, and those made of others in
`jaxgen.diffusion.process.derived_schedules`. A schedule is a frozen, hashable dataclass; a new one
defines `log_snr`, `time` and `derivative`.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.process.levels import (
    ArrayLike,
    Level,
    Scaling,
    as_numbers,
    log_snr_of,
    namespace,
    scales,
    sigmoid,
)
from jaxgen.errors import InputError, check_kind, check_positive

HALVINGS = 64
"""Of the interval of times, in `bisect_time`."""


class Schedule(abc.ABC):
    """What every schedule can do; arrays may have any shape (`jaxgen.diffusion.process.levels`)."""

    @property
    def scaling(self) -> Scaling:
        """How latents are scaled."""
        return "vp"

    @abc.abstractmethod
    def log_snr(self, t: ArrayLike) -> Any:
        """lambda(t), of the shape of t; falls as t grows."""

    @abc.abstractmethod
    def time(self, log_snr: ArrayLike) -> Any:
        """The inverse of `log_snr`, of its shape; clipped to [0, 1]."""

    @abc.abstractmethod
    def derivative(self, t: ArrayLike) -> Any:
        """d lambda / dt, of the shape of t; never positive."""

    def at(self, t: ArrayLike) -> Level:
        """The noise level at time t, four arrays of its shape."""
        t = as_numbers(t)
        log_snr = self.log_snr(t)
        return Level(t, log_snr, *scales(log_snr, self.scaling))

    def at_log_snr(self, log_snr: ArrayLike) -> Level:
        """The noise level with a log-SNR, four arrays of its shape."""
        log_snr = as_numbers(log_snr)
        return Level(self.time(log_snr), log_snr, *scales(log_snr, self.scaling))


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """a_t = cos(A t + B): the cosine schedule with bounds (Salimans & Ho 2022, appendix B).

    ``lambda(t) = -2 log tan(A t + B)`` with ``B = atan(exp(-lambda_max / 2))`` and
    ``A = atan(exp(-lambda_min / 2)) - B``; without bounds it is a_t = cos(pi t / 2).

    Attributes:
      log_snr_min: lambda(1).
      log_snr_max: lambda(0).

    Raises:
      InputError: unless log_snr_min < log_snr_max; both may be infinite.
    """

    log_snr_min: float = -20.0
    log_snr_max: float = 20.0

    def __post_init__(self) -> None:
        check_falling(self.log_snr_max, self.log_snr_min)

    @property
    def _angles(self) -> tuple[float, float]:
        """A and B."""
        first = math.atan(math.exp(-self.log_snr_max / 2))
        last = (
            math.atan(math.exp(-self.log_snr_min / 2)) if self.log_snr_min > -700 else math.pi / 2
        )
        return last - first, first

    def _angle(self, t: Any) -> tuple[Any, Any]:
        """The angle A t + B and its complement to pi/2, each without cancellation."""
        slope, first = self._angles
        # The last angle's complement is small: computed by itself it keeps its digits.
        complement = math.atan(math.exp(self.log_snr_min / 2))
        return slope * t + first, slope * (1 - t) + complement

    def log_snr(self, t: ArrayLike) -> Any:
        """-2 log tan(A t + B)."""
        t = as_numbers(t)
        xp = namespace(t)
        angle, complement = self._angle(t)
        with np.errstate(divide="ignore"):
            return 2 * (xp.log(xp.sin(complement)) - xp.log(xp.sin(angle)))

    def time(self, log_snr: ArrayLike) -> Any:
        """(atan(exp(-lambda / 2)) - B) / A."""
        log_snr = as_numbers(log_snr)
        xp = namespace(log_snr)
        slope, first = self._angles
        # exp of a bounded number: atan is pi/2 to rounding from there on.
        angle = xp.arctan(xp.exp(xp.clip(-log_snr / 2, -80.0, 80.0)))
        return xp.clip((angle - first) / slope, 0.0, 1.0)

    def derivative(self, t: ArrayLike) -> Any:
        """-4 A / sin(2 (A t + B))."""
        t = as_numbers(t)
        xp = namespace(t)
        angle, complement = self._angle(t)
        with np.errstate(divide="ignore"):
            return -2 * self._angles[0] / (xp.sin(angle) * xp.sin(complement))


@dataclass(frozen=True)
class InverseCosineSchedule(Schedule):
    """a_t^2 = acos(2 t - 1) / pi: most of the time at middling noise (Hudson et al. 2023, "SODA").

    With time and power of the noise exchanged it is the cosine schedule without bounds, where
    ``s^2 = (1 - cos(pi t)) / 2``; here ``t = (1 - cos(pi s^2)) / 2``. Clean data at t = 0, pure
    noise at t = 1, and so steep there that float32 has no times for log-SNRs below -9 or so.
    """

    def log_snr(self, t: ArrayLike) -> Any:
        """log a^2 - log s^2, with a^2 = 2/pi asin(sqrt(1 - t)) and s^2 = 2/pi asin(sqrt(t))."""
        t = as_numbers(t)
        xp = namespace(t)
        with np.errstate(divide="ignore"):
            return xp.log(xp.arcsin(xp.sqrt(1 - t))) - xp.log(xp.arcsin(xp.sqrt(t)))

    def time(self, log_snr: ArrayLike) -> Any:
        """sin(pi/2 s^2)^2."""
        log_snr = as_numbers(log_snr)
        return namespace(log_snr).sin(math.pi / 2 * sigmoid(-log_snr)) ** 2

    def derivative(self, t: ArrayLike) -> Any:
        """-(ds^2/dt) (1/a^2 + 1/s^2), with ds^2/dt = 1 / (pi sqrt(t (1 - t)))."""
        t = as_numbers(t)
        xp = namespace(t)
        root, rest = xp.sqrt(t), xp.sqrt(1 - t)
        with np.errstate(divide="ignore"):
            return -math.pi / 4 / (root * rest * xp.arcsin(root) * xp.arcsin(rest))


@dataclass(frozen=True)
class SigmoidSchedule(Schedule):
    """a_t^2 follows a sigmoid from 1 to 0 (Jabri et al. 2022, "Scalable adaptive computation").

    ``a_t^2 = (g(1) - g(t)) / (g(1) - g(0))`` with ``g(t) = sigmoid((t (end - start) + start) /
    tau)``, kept within the bounds of the log-SNR by running from `margin` to 1 - `margin` of it.

    Attributes:
      start: where on the sigmoid it begins.
      end: where it ends.
      tau: temperature; the larger, the nearer to a straight line.
      margin: least value of a^2 and of s^2, so that the log-SNR is finite.

    Raises:
      InputError: unless start < end, tau > 0 and 0 <= margin < 1/2.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    margin: float = 1e-9

    def __post_init__(self) -> None:
        if not -math.inf < self.start < self.end < math.inf:
            raise InputError(
                f"start is {self.start}, end is {self.end}, expected start < end, or the schedule "
                "is not monotone"
            )
        check_positive("tau", self.tau)
        if not 0 <= self.margin < 0.5:
            raise InputError(f"margin is {self.margin}, expected 0 <= margin < 1/2")

    @property
    def _ends(self) -> tuple[Any, Any]:
        """Where on the sigmoid, in units of tau, it begins and ends."""
        return np.float64(self.start / self.tau), np.float64(self.end / self.tau)

    def _shares(self, t: Any) -> tuple[Any, Any]:
        """a^2 and s^2 at time t, each without cancellation."""
        xp = namespace(t)
        first, last = self._ends
        now, width, inner = first + t * (last - first), last - first, 1 - 2 * self.margin
        # g(u) - g(v) = sigmoid(u) sigmoid(-v) (1 - exp(v - u)), over g(1) - g(0) so written.
        whole = -np.expm1(-width)
        data = sigmoid(-now) / sigmoid(-first) * (-xp.expm1((t - 1) * width) / whole)
        noise = sigmoid(now) / sigmoid(last) * (-xp.expm1(-t * width) / whole)
        return inner * data + self.margin, inner * noise + self.margin

    def log_snr(self, t: ArrayLike) -> Any:
        """log a^2 - log s^2."""
        t = as_numbers(t)
        xp = namespace(t)
        data, noise = self._shares(t)
        with np.errstate(divide="ignore"):
            return xp.log(data) - xp.log(noise)

    def time(self, log_snr: ArrayLike) -> Any:
        """Through the shares a^2 = sigmoid(lambda) and s^2 = sigmoid(-lambda)."""
        log_snr = as_numbers(log_snr)
        xp = namespace(log_snr)
        first, last = self._ends
        low, high, inner = sigmoid(first), sigmoid(last), 1 - 2 * self.margin
        data = xp.clip((sigmoid(log_snr) - self.margin) / inner, 0.0, 1.0)
        noise = xp.clip((sigmoid(-log_snr) - self.margin) / inner, 0.0, 1.0)
        now = low * data + high * noise
        rest = sigmoid(-first) * data + sigmoid(-last) * noise
        place = xp.log(now) - xp.log(rest)
        return xp.clip((place - first) / (last - first), 0.0, 1.0)

    def derivative(self, t: ArrayLike) -> Any:
        """-(ds^2/dt) (1/a^2 + 1/s^2)."""
        t = as_numbers(t)
        data, noise = self._shares(t)
        first, last = self._ends
        now = first + t * (last - first)
        slope = (last - first) * sigmoid(now) * sigmoid(-now) / (sigmoid(last) - sigmoid(first))
        slope = slope * (1 - 2 * self.margin)
        with np.errstate(divide="ignore"):
            return -slope * (1 / data + 1 / noise)


@dataclass(frozen=True)
class KarrasSchedule(Schedule):
    """z = x + s e with s from sigma_min to sigma_max in powers (Karras et al. 2022, equation 5).

    ``s_t = (s_min^(1/rho) + t (s_max^(1/rho) - s_min^(1/rho)))^rho``.

    Attributes:
      sigma_min: s at t = 0.
      sigma_max: s at t = 1.
      rho: the power; the larger, the more steps at little noise.

    Raises:
      InputError: unless 0 < sigma_min < sigma_max and rho > 0.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_sigmas(self.sigma_min, self.sigma_max)
        check_positive("rho", self.rho)

    @property
    def scaling(self) -> Scaling:
        """Variance exploding."""
        return "ve"

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def log_snr(self, t: ArrayLike) -> Any:
        """-2 log s_t."""
        t = as_numbers(t)
        first, last = self._roots
        return -2 * self.rho * namespace(t).log(first + t * (last - first))

    def time(self, log_snr: ArrayLike) -> Any:
        """Through s^(1/rho) = exp(-lambda / (2 rho))."""
        log_snr = as_numbers(log_snr)
        xp = namespace(log_snr)
        first, last = self._roots
        root = xp.exp(xp.clip(-log_snr / (2 * self.rho), -80.0, 80.0))
        return xp.clip((root - first) / (last - first), 0.0, 1.0)

    def derivative(self, t: ArrayLike) -> Any:
        """-2 rho (s_max^(1/rho) - s_min^(1/rho)) / s_t^(1/rho)."""
        first, last = self._roots
        return -2 * self.rho * (last - first) / (first + as_numbers(t) * (last - first))


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """z_t = (1 - t) x + t e: straight lines (Liu et al. 2022; Lipman et al. 2022)."""

    @property
    def scaling(self) -> Scaling:
        """Straight lines."""
        return "flow"

    def log_snr(self, t: ArrayLike) -> Any:
        """2 log((1 - t) / t)."""
        t = as_numbers(t)
        return log_snr_of(1 - t, t)

    def time(self, log_snr: ArrayLike) -> Any:
        """sigmoid(-lambda / 2), which is s."""
        return sigmoid(-as_numbers(log_snr) / 2)

    def derivative(self, t: ArrayLike) -> Any:
        """-2 / (t (1 - t))."""
        t = as_numbers(t)
        with np.errstate(divide="ignore"):
            return -2 / (t * (1 - t))

    def at(self, t: ArrayLike) -> Level:
        """a and s are 1 - t and t themselves, without the way over the logarithm."""
        t = as_numbers(t)
        return Level(t, self.log_snr(t), 1 - t, t)


def bisect_time(log_snr_of_time: Callable[[Any], Any], log_snr: Any) -> Any:
    """The time in [0, 1] at which a falling log-SNR has a value, of the value's shape.

    To rounding, also of times near zero.
    """
    xp = namespace(log_snr)

    def halve(_: Any, bounds: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = bounds
        middle = (low + high) / 2
        later = log_snr_of_time(middle) > log_snr
        return xp.where(later, middle, low), xp.where(later, high, middle)

    bounds = xp.zeros_like(log_snr), xp.ones_like(log_snr)
    if xp is jnp:
        low, high = jax.lax.fori_loop(0, HALVINGS, halve, bounds)
    else:
        for i in range(HALVINGS):
            bounds = halve(i, bounds)
        low, high = bounds
    return (low + high) / 2


def newton_step(log_snr_there: Any, log_snr: Any, slope: Any) -> Any:
    """What a time is too large by, to first order; zero where log-SNR or slope are infinite.

    After `bisect_time` it changes no number: it is what gradients flow through.
    """
    xp = namespace(log_snr)
    gap = log_snr_there - log_snr
    finite = xp.isfinite(slope) & xp.isfinite(gap)
    return xp.where(finite, gap, 0.0) / xp.where(finite, slope, 1.0)


def check_schedule(schedule: Schedule) -> None:
    """Raises InputError for what is no schedule, a name for instance."""
    check_kind("schedule", schedule, Schedule, "CosineSchedule()")


def check_sigmas(sigma_min: float, sigma_max: float) -> None:
    """Raises InputError unless 0 < sigma_min < sigma_max, both finite."""
    if not 0 < sigma_min < sigma_max < math.inf:
        raise InputError(
            f"sigma_min is {sigma_min}, sigma_max is {sigma_max}, expected "
            "0 < sigma_min < sigma_max, or the schedule is not monotone"
        )


def check_scaling(scaling: str) -> None:
    """Raises InputError for an unknown frame."""
    if scaling not in get_args(Scaling):
        raise InputError(f"scaling is {scaling!r}, expected one of {', '.join(get_args(Scaling))}")


def check_ends(schedule: Schedule, what: str) -> None:
    """Refuses a schedule that ends at clean data or pure noise, as far as that is known.

    Args:
      schedule: what is looked at; ends that are learnt are finite, and not known while tracing.
      what: what needs finite ends.

    Raises:
      InputError: for an infinite log-SNR at t = 0 or t = 1.
    """
    for t in (0.0, 1.0):
        end = schedule.log_snr(t)
        if not isinstance(end, jax.core.Tracer) and not np.isfinite(end):
            raise InputError(
                f"{what} with {type(schedule).__name__}: log-SNR {float(end)} at t={t:g}, expected "
                "a schedule between finite ones"
            )


def check_falling(first: float, last: float) -> None:
    """Raises InputError unless the log-SNR falls from the first value to the last."""
    if not first > last:
        raise InputError(
            f"log-SNR from {first} at t=0 to {last} at t=1, expected it to fall, or the schedule "
            "is not monotone"
        )


def check_monotone(schedule: Schedule, points: int = 1001) -> None:
    """Looks at a schedule of one's own making, at so many times from 0 to 1.

    Raises:
      InputError: where the log-SNR is nan, or does not fall, naming the times.
    """
    t_N = np.linspace(0, 1, points)
    log_snr_N = np.asarray(jax.device_get(schedule.log_snr(t_N)), np.float64)
    bad = ~(log_snr_N[1:] < log_snr_N[:-1])
    if bad.any():
        i = int(bad.argmax())
        raise InputError(
            f"{type(schedule).__name__} is not monotone: log-SNR {log_snr_N[i]:.6g} at "
            f"t={t_N[i]:.4g}, {log_snr_N[i + 1]:.6g} at t={t_N[i + 1]:.4g}, expected it to fall"
        )
