"""At which times a network is trained: distributions over t in [0, 1], drawn by quantiles.

Symbols: u ~ U[0, 1), q the quantile function of a distribution with density p(t), t = q(u).

Example b draws from ``fold_in(key, index_b)``, so its time depends on the key and its index alone
and not on the batch, the mesh or the number of devices. `LowDiscrepancy` is the one exception: it
spreads the times of a batch evenly, so they depend on how many there are.
"""

import abc
import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.process.example_keys import example_keys, uniform
from jaxgen.diffusion.process.levels import as_numbers
from jaxgen.diffusion.process.schedules import Schedule, check_schedule
from jaxgen.errors import InputError, check_positive


class Times(abc.ABC):
    """A distribution over times; sub-classes define `quantile` and `density`."""

    @abc.abstractmethod
    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The time t with P(t' < t) = u, for u in [0, 1], of any shape."""

    @abc.abstractmethod
    def density(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """p(t), or for a table of N steps N P(t); dividing a loss by it makes times uniform."""

    def draw(
        self, key: Key[Array, ""], index_B: Int[Array, "B"], parts: tuple[int, ...] = ()
    ) -> Float[Array, "B ..."]:
        """One time for each example, or for each of its parts.

        Args:
          key: randomness of this step.
          index_B: what tells the examples apart, their places in the batch for example.
          parts: how many parts of an example have times of their own, (T,) for frames.

        Returns:
          t, float32, [B, *parts].
        """
        return self.quantile(uniform(example_keys(key, index_B), parts))


@dataclass(frozen=True)
class Uniform(Times):
    """t ~ U[low, high).

    Raises:
      InputError: unless 0 <= low < high <= 1.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise InputError(
                f"low is {self.low}, high is {self.high}, expected 0 <= low < high <= 1"
            )

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """low + u (high - low)."""
        return self.low + u * (self.high - self.low)

    def density(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """1 / (high - low) between them."""
        inside = (t >= self.low) & (t <= self.high)
        return jnp.where(inside, 1 / (self.high - self.low), 0.0)


@dataclass(frozen=True)
class LogitNormal(Times):
    """log(t / (1 - t)) ~ N(mean, deviation^2) (Esser et al. 2024, equation 19).

    Raises:
      InputError: unless deviation > 0.
    """

    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        check_positive("deviation", self.deviation)

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """sigmoid(mean + deviation Phi^-1(u))."""
        return jax.nn.sigmoid(self.mean + self.deviation * ndtri(u))

    def density(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """N(logit t; mean, deviation^2) / (t (1 - t)), zero at both ends."""
        inside = (t > 0) & (t < 1)
        t = jnp.where(inside, t, 0.5)
        logit = jnp.log(t) - jnp.log1p(-t)
        return jnp.where(inside, _normal(logit, self.mean, self.deviation) / (t * (1 - t)), 0.0)


@dataclass(frozen=True)
class UniformLogSNR(Times):
    """The log-SNR is uniform between its ends: every part of the variational bound alike.

    The bound is then the mean of |e - e^|^2, up to a constant (Kingma et al. 2021, section 5.1).

    Attributes:
      schedule: whose log-SNR; both ends must be finite.

    Raises:
      InputError: where an end is infinite, or is being learnt.
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        if isinstance(self.schedule.log_snr(0.0), jax.core.Tracer):
            raise InputError("log-SNRs of a schedule that is being learnt, expected known ends")
        first, last = self._ends
        if not (math.isfinite(first) and math.isfinite(last)):
            raise InputError(
                f"log-SNR from {first} to {last}, expected finite ends to be uniform between"
            )

    @property
    def _ends(self) -> tuple[float, float]:
        return float(self.schedule.log_snr(0.0)), float(self.schedule.log_snr(1.0))

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The time whose log-SNR is (1 - u) lambda(0) + u lambda(1)."""
        first, last = self._ends
        return self.schedule.time(first + u * (last - first))

    def density(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """-(d lambda / dt) / (lambda(0) - lambda(1))."""
        first, last = self._ends
        return self.schedule.derivative(t) / (last - first)


@dataclass(frozen=True)
class NormalLogSNR(Times):
    """lambda ~ N(mean, deviation^2).

    For log s ~ N(m, d^2) in the scaling "ve" (Karras et al. 2022, table 1: m = -1.2, d = 1.2) the
    mean is -2 m and the deviation 2 d. Beyond the ends of a schedule the times are its ends, so
    that the density holds only between them.

    Attributes:
      schedule: whose log-SNR.
      mean: of the log-SNR.
      deviation: of the log-SNR.

    Raises:
      InputError: unless deviation > 0.
    """

    schedule: Schedule
    mean: float = 2.4
    deviation: float = 2.4

    def __post_init__(self) -> None:
        check_positive("deviation", self.deviation)

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The time whose log-SNR is mean - deviation Phi^-1(u)."""
        return self.schedule.time(self.mean - self.deviation * ndtri(u))

    def density(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """-(d lambda / dt) N(lambda; mean, deviation^2)."""
        log_snr = self.schedule.log_snr(t)
        return -self.schedule.derivative(t) * _normal(log_snr, self.mean, self.deviation)


@dataclass(frozen=True)
class Steps(Times):
    """One of the steps i = 0 .. N-1 of a table, t = (i + 1) / N.

    Attributes:
      count: N.
      probabilities: P(i), for instance in proportion to sqrt(E[L_i^2]), which makes an estimate of
        the bound vary least (Nichol & Dhariwal 2021, equation 18); None for all alike.

    Raises:
      InputError: for a count below 1, or probabilities that are not N positive numbers with sum 1.
    """

    count: int
    probabilities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count is {self.count}, expected at least 1")
        if self.probabilities is not None:
            found = np.asarray(self.probabilities, np.float64)
            if found.shape != (self.count,) or not (found > 0).all():
                raise InputError(
                    f"probabilities have shape {found.shape}, least {found.min():.3g}, expected "
                    f"{self.count} numbers > 0"
                )
            if abs(found.sum() - 1) > 1e-6:
                raise InputError(f"probabilities with sum {found.sum():.6g}, expected 1")

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """(i + 1) / N, where i is the number of steps whose cumulated probability is at most u."""
        if self.probabilities is None:
            i = jnp.floor(u * self.count)
        else:
            i = jnp.searchsorted(jnp.asarray(np.cumsum(self.probabilities)), u, side="right")
        return (jnp.clip(i, 0, self.count - 1) + 1) / self.count

    def index(self, t: Float[Array, "..."]) -> Int[Array, "..."]:
        """The step of a time."""
        return jnp.clip(jnp.rint(t * self.count).astype(int) - 1, 0, self.count - 1)

    def density(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """N P(i)."""
        if self.probabilities is None:
            return jnp.ones_like(t)
        return self.count * jnp.asarray(self.probabilities)[self.index(t)]


@dataclass(frozen=True)
class LowDiscrepancy(Times):
    """Evenly spaced over a distribution from one offset (Kingma et al. 2021, appendix I.1).

    u_b = (u_0 + b / B) mod 1: each example's time has the right distribution by itself, and the
    mean of a batch varies far less. By nature it depends on B, the size of the whole batch (which,
    under `jax.jit`, is the global one on every mesh), and expects the places 0 .. B-1 as index.

    Attributes:
      of: the distribution.
    """

    of: Times = field(default_factory=Uniform)

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """That of the distribution."""
        return self.of.quantile(u)

    def density(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """That of the distribution."""
        return self.of.density(t)

    def draw(
        self, key: Key[Array, ""], index_B: Int[Array, "B"], parts: tuple[int, ...] = ()
    ) -> Float[Array, "B ..."]:
        """One time for each example or part, each part with an offset of its own."""
        place = (index_B / len(index_B)).reshape(-1, *(1 for _ in parts))
        return self.quantile((jax.random.uniform(key, parts) + place) % 1.0)


def _normal(value: Any, mean: float, deviation: float) -> Any:
    """The density N(value; mean, deviation^2)."""
    z = (as_numbers(value) - mean) / deviation
    return jnp.exp(-z * z / 2) / (deviation * math.sqrt(2 * math.pi))
