"""The schedules of the SDEs of Song et al. (2021b), with betas and sigmas of continuous time.

Symbols as in `jaxgen.diffusion.process.schedules`; beta_t is the rate of the forward SDE that
preserves variance, ``dz = -beta/2 z dt + sqrt(beta) dw``, and B_t its integral from 0 to t.

=====================  =======  ==========================================  ===================
schedule               scaling  lambda(t)                                   there
=====================  =======  ==========================================  ===================
`LinearBetaSchedule`   vp       -log(exp(B) - 1), B' = beta on a line       equation 33
`GeometricSchedule`    ve       -2 log s, s = s_min (s_max / s_min)^t       equation 31
=====================  =======  ==========================================  ===================

(`jaxgen.diffusion.process.table_schedules` has the tables of betas that the first is the limit of.)
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgen.diffusion.process.levels import ArrayLike, Scaling, as_numbers, namespace, softplus
from jaxgen.diffusion.process.schedules import Schedule, check_sigmas
from jaxgen.errors import InputError


@dataclass(frozen=True)
class LinearBetaSchedule(Schedule):
    """beta_t = beta_min + t (beta_max - beta_min): a table of linear betas with infinite steps.

    ``log a_t^2 = -B_t`` with ``B_t = beta_min t + t^2 (beta_max - beta_min) / 2`` (Song et al.
    2021b, equation 33). Clean data at t = 0, a little of them at t = 1: with these betas a share of
    exp(-10) of the variance.

    Attributes:
      beta_min: beta at t = 0.
      beta_max: beta at t = 1.

    Raises:
      InputError: unless 0 < beta_min <= beta_max, both finite.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise InputError(
                f"beta_min is {self.beta_min}, beta_max is {self.beta_max}, expected finite "
                "numbers with 0 < beta_min <= beta_max"
            )

    @property
    def _slope(self) -> float:
        return self.beta_max - self.beta_min

    def _integral(self, t: Any) -> Any:
        """B_t."""
        return t * (self.beta_min + t * self._slope / 2)

    def log_snr(self, t: ArrayLike) -> Any:
        """-log(exp(B_t) - 1), by exp(-B_t), which cannot overflow."""
        t = as_numbers(t)
        xp = namespace(t)
        integral = self._integral(t)
        with np.errstate(divide="ignore"):
            return -integral - xp.log(-xp.expm1(-integral))

    def time(self, log_snr: ArrayLike) -> Any:
        """The positive root of B_t = log(1 + exp(-lambda)), in the form that does not cancel."""
        log_snr = as_numbers(log_snr)
        xp = namespace(log_snr)
        integral = xp.minimum(softplus(-log_snr), self._integral(1.0))
        root = xp.sqrt(self.beta_min**2 + 2 * self._slope * integral)
        return xp.clip(2 * integral / (self.beta_min + root), 0.0, 1.0)

    def derivative(self, t: ArrayLike) -> Any:
        """-beta_t / s_t^2."""
        t = as_numbers(t)
        xp = namespace(t)
        with np.errstate(divide="ignore"):
            return (self.beta_min + t * self._slope) / xp.expm1(-self._integral(t))


@dataclass(frozen=True)
class GeometricSchedule(Schedule):
    """z = x + s e with ``s_t = s_min (s_max / s_min)^t`` (Song et al. 2021b, equation 31).

    The log-SNR is a straight line; it is the limit of `KarrasSchedule` for large rho.

    Attributes:
      sigma_min: s at t = 0.
      sigma_max: s at t = 1.

    Raises:
      InputError: unless 0 < sigma_min < sigma_max, both finite.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        check_sigmas(self.sigma_min, self.sigma_max)

    @property
    def scaling(self) -> Scaling:
        """Variance exploding."""
        return "ve"

    @property
    def _ends(self) -> tuple[float, float]:
        """lambda(0) and lambda(1)."""
        return -2 * math.log(self.sigma_min), -2 * math.log(self.sigma_max)

    def log_snr(self, t: ArrayLike) -> Any:
        """(1 - t) lambda(0) + t lambda(1)."""
        first, last = self._ends
        return first + as_numbers(t) * (last - first)

    def time(self, log_snr: ArrayLike) -> Any:
        """(lambda - lambda(0)) / (lambda(1) - lambda(0))."""
        log_snr = as_numbers(log_snr)
        first, last = self._ends
        return namespace(log_snr).clip((log_snr - first) / (last - first), 0.0, 1.0)

    def derivative(self, t: ArrayLike) -> Any:
        """lambda(1) - lambda(0), everywhere."""
        first, last = self._ends
        t = as_numbers(t)
        return namespace(t).full_like(t, last - first)
