"""Schedules given as tables: N steps with variances beta_i, as in the papers that began the field.

Symbols: i = 0 .. N-1 the step, beta_i the share of variance that step i replaces by noise::

    a_i^2 = prod_{j <= i} (1 - beta_j),     s_i^2 = 1 - a_i^2          (Ho et al. 2020, equation 4)

Step i is the time t = (i + 1) / N, and t = 0 is clean data. Between steps the log-SNR is linear in
t (as in DPM-Solver); in the first interval, where it starts from infinity, s is linear, and in the
last one of a table with zero terminal SNR, a is.
"""

import abc
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from jaxgen.diffusion.process.levels import ArrayLike, as_numbers, log_snr_of, namespace
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError

TableKind = Literal["linear", "scaled_linear", "squared_cosine"]


class TableSchedule(Schedule):
    """A schedule through N tabulated log-SNRs; sub-classes say where the table comes from."""

    @property
    @abc.abstractmethod
    def table(self) -> Float64[np.ndarray, "N"]:
        """lambda of steps 0 .. N-1, falling; the last one may be -inf."""

    @property
    def steps(self) -> int:
        """N."""
        return len(self.table)

    def index(self, t: ArrayLike) -> Any:
        """The step at time t, t N - 1, not rounded: what a network trained on steps is given."""
        return as_numbers(t) * self.steps - 1

    def at_index(self, i: ArrayLike) -> Any:
        """The noise level of step i; see `Schedule.at`."""
        return self.at((as_numbers(i) + 1) / self.steps)

    def _ends(self) -> tuple[float, float]:
        """s of the first step and a of the last one before the end."""
        first, before_last = self.table[0], self.table[-2]
        return float(1 / np.sqrt(1 + np.exp(first))), float(1 / np.sqrt(1 + np.exp(-before_last)))

    def log_snr(self, t: ArrayLike) -> Any:
        """Through the table: linear between its entries."""
        t = as_numbers(t)
        xp, table, n = namespace(t), self.table, self.steps
        s_first, a_before_last = self._ends()
        place = xp.clip(t, 0.0, 1.0) * n - 1
        finite = table if np.isfinite(table[-1]) else np.append(table[:-1], table[-2])
        inner = xp.interp(place, xp.arange(n), xp.asarray(finite))
        s = xp.clip(place + 1, 0.0, 1.0) * s_first
        first = log_snr_of(xp.sqrt((1 - s) * (1 + s)), s)
        result = xp.where(place < 0, first, inner)
        if np.isfinite(table[-1]):
            return result
        a = xp.clip(n - 1 - place, 0.0, 1.0) * a_before_last
        return xp.where(place > n - 2, log_snr_of(a, xp.sqrt((1 - a) * (1 + a))), result)

    def time(self, log_snr: ArrayLike) -> Any:
        """The inverse of `log_snr`."""
        log_snr = as_numbers(log_snr)
        xp, table, n = namespace(log_snr), self.table, self.steps
        s_first, a_before_last = self._ends()
        last = n if np.isfinite(table[-1]) else n - 1
        inner = xp.interp(-log_snr, xp.asarray(-table[:last]), xp.arange(last, dtype=float))
        s = xp.exp(-xp.logaddexp(log_snr, 0.0) / 2)
        place = xp.where(log_snr > table[0], s / s_first - 1, inner)
        if last < n:
            a = xp.exp(-xp.logaddexp(-log_snr, 0.0) / 2)
            place = xp.where(log_snr < table[-2], n - 1 - a / a_before_last, place)
        return (place + 1) / n

    def derivative(self, t: ArrayLike) -> Any:
        """The slope to the left of t, so that at a step it is that of the interval before it."""
        t = as_numbers(t)
        xp, table, n = namespace(t), self.table, self.steps
        place = xp.clip(t, 0.0, 1.0) * n - 1
        last = n if np.isfinite(table[-1]) else n - 1
        slopes = xp.asarray(np.diff(table[:last]) * n)
        # Times of steps are seldom exact, in float32 least of all.
        interval = xp.clip(xp.ceil(place - 1e-3).astype(int) - 1, 0, last - 2)
        # lambda = log((1 - s^2) / s^2):  d lambda / ds = -2 / (s (1 - s^2)), and so for a.
        s_first, a_before_last = self._ends()
        s = xp.clip(place + 1, 0.0, 1.0) * s_first
        a = xp.clip(n - 1 - place, 0.0, 1.0) * a_before_last
        with np.errstate(divide="ignore"):
            first = -2 * s_first * n / (s * (1 - s * s))
            end = -2 * a_before_last * n / (a * (1 - a * a))
        result = xp.where(place <= 0, first, slopes[interval])
        return result if last == n else xp.where(place > n - 2, end, result)


@dataclass(frozen=True)
class DiscreteSchedule(TableSchedule):
    """The tables in common use::

      linear          beta_i from beta_first to beta_last (Ho et al. 2020)
      scaled_linear   sqrt(beta_i) from sqrt(beta_first) to sqrt(beta_last) (Rombach et al. 2022)
      squared_cosine  a^2 ~ cos^2((t + 0.008) / 1.008 pi/2), beta at most 0.999 (Nichol &
                      Dhariwal 2021); beta_first and beta_last do not matter

    Attributes:
      kind: which table.
      count: N.
      beta_first: beta_0.
      beta_last: beta_{N-1}.
      zero_terminal_snr: rescale a so that the last one is zero and the first stays (Lin et al.
        2024, algorithm 1). The noise cannot be predicted there: such a schedule refuses the
        targets e and score (`jaxgen.diffusion.denoiser`).

    Raises:
      InputError: for an unknown kind, fewer than 3 steps, or betas outside of (0, 1).
    """

    kind: TableKind = "linear"
    count: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "scaled_linear", "squared_cosine"):
            raise InputError(
                f"kind is {self.kind!r}, expected one of linear, scaled_linear, squared_cosine"
            )
        if self.count < 3:
            raise InputError(f"count is {self.count}, expected at least 3 steps")
        for name in ("beta_first", "beta_last"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 < {name} < 1")

    @cached_property
    def betas(self) -> Float64[np.ndarray, "N"]:
        """beta_i before any rescaling."""
        n, first, last = self.count, self.beta_first, self.beta_last
        match self.kind:
            case "linear":
                return np.linspace(first, last, n)
            case "scaled_linear":
                return np.linspace(math.sqrt(first), math.sqrt(last), n) ** 2
            case "squared_cosine":
                bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
                return np.minimum(1 - bar[1:] / bar[:-1], 0.999)

    @cached_property
    def table(self) -> Float64[np.ndarray, "N"]:
        """lambda of every step."""
        log_a2 = np.cumsum(np.log1p(-self.betas))
        if self.zero_terminal_snr:
            return log_snr_from_a(_to_zero(np.exp(log_a2 / 2)))
        return log_a2 - np.log(-np.expm1(log_a2))


@dataclass(frozen=True)
class CustomTable(TableSchedule):
    """A table of one's own.

    Attributes:
      log_snrs: lambda of every step; the last one may be -inf.

    Raises:
      InputError: for fewer than 3 steps, or where the log-SNR does not fall, naming the steps.
    """

    log_snrs: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_snrs", tuple(float(value) for value in self.log_snrs))
        if len(self.log_snrs) < 3:
            raise InputError(f"log_snrs has {len(self.log_snrs)} entries, expected at least 3")
        rising = ~(np.diff(self.log_snrs) < 0)
        if rising.any() or not math.isfinite(self.log_snrs[0]):
            i = int(rising.argmax())
            raise InputError(
                f"log_snrs[{i}:{i + 2}] is {self.log_snrs[i : i + 2]}, expected it to fall from a "
                "finite value, or the schedule is not monotone"
            )

    @classmethod
    def from_betas(cls, betas: Any) -> "CustomTable":
        """The table of betas, [N] numbers in (0, 1); the last may be 1, for zero terminal SNR.

        Raises:
          InputError: for a beta outside of (0, 1), naming it.
        """
        betas = np.asarray(betas, np.float64)
        outside = ~((betas > 0) & (betas < 1))
        if betas.ndim == 1 and len(betas):
            outside[-1] &= betas[-1] != 1
        if betas.ndim != 1 or outside.any():
            i = int(outside.argmax()) if betas.ndim == 1 else 0
            found = (
                f"betas[{i}] is {betas[i]}"
                if betas.ndim == 1
                else f"betas have shape {betas.shape}"
            )
            raise InputError(
                f"{found}, expected numbers in (0, 1), [N], or the schedule is not monotone"
            )
        with np.errstate(divide="ignore"):
            log_a2 = np.cumsum(np.log1p(-betas))
        return cls(tuple((log_a2 - np.log(-np.expm1(log_a2))).tolist()))

    @property
    def table(self) -> Float64[np.ndarray, "N"]:
        """lambda of every step."""
        return np.array(self.log_snrs)


def log_snr_from_a(a_N: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """lambda of variance-preserving scales a."""
    return log_snr_of(a_N, np.sqrt((1 - a_N) * (1 + a_N)))


def _to_zero(a_N: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """a shifted to end at zero and scaled to begin where it did (Lin et al. 2024, algorithm 1)."""
    first, last = a_N[0], a_N[-1]
    a_N = (a_N - last) * first / (first - last)
    a_N[-1] = 0.0
    return a_N
