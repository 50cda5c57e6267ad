"""Down by the ODE, then up again with noise: each step takes away more than it has to.

Symbols: z = a x + s e now, a' and s' at the next level, lambda_d >= lambda' the level that a step
goes down to, without noise. Up from there, noise is added::

    z_d = a_d x^ + s_d e^        z' = (a'/a_d) z_d + sqrt(s'^2 - (a'/a_d)^2 s_d^2) noise

in which a_d cancels, so that in any scaling, with q^2 = 1 - exp(lambda' - lambda_d) ::

    z' = a' x^ + s' (sqrt(1 - q^2) e^ + q noise)

Methods differ in how far down they go. (`DDIM` with eta is one of them, in other words:
q = eta sqrt(1 - exp(lambda - lambda')).)
"""

import abc
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.table_schedules import TableSchedule
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    from_noise_to_data,
    make_table,
)
from jaxgen.errors import check_share


class Renoising(LinearSampler):
    """What these samplers share; sub-classes say how far `down` a step goes."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("x", 0), ("e", 0)

    @property
    def noisy(self) -> bool:
        """Always, so that other values of the options do not recompile."""
        return True

    @abc.abstractmethod
    def down(self, now: Level, after: Level) -> Float64[np.ndarray, "N"]:
        """lambda_d of each step; where it is less than lambda', lambda' is taken."""

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`; a step to clean data adds no noise."""
        now, after = from_noise_to_data(levels)
        last = after.s == 0
        below = np.where(last, 0.0, after.log_snr)
        gap = np.where(last, 0.0, below - np.maximum(self.down(now, after), below))
        q = np.sqrt(-np.expm1(gap))
        return make_table(now, after, [after.a, after.s * np.sqrt(1 - q**2)], after.s * q)


@dataclass(frozen=True)
class TCD(Renoising):
    """Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024).

    A step to time t' goes down to (1 - gamma) t', of a table to the whole step below (1 - gamma)
    times that of t', but no further than where the sample ends. For a model whose x^ is the end of
    the path through z, gamma weighs how much of an error in it is kept (0, `DDIM`) against how much
    noise has to be taken away again (1, `ConsistencySampler` if the sample ends at clean data).

    Attributes:
      schedule: says which level a time has; that of the levels.
      gamma: how far down a step goes.

    Raises:
      InputError: unless 0 <= gamma <= 1.
    """

    schedule: Schedule
    gamma: float = 0.3

    def __post_init__(self) -> None:
        check_share("gamma", self.gamma)

    def down(self, now: Level, after: Level) -> Float64[np.ndarray, "N"]:
        """lambda at (1 - gamma) t'."""
        t = (1 - self.gamma) * after.t
        if isinstance(self.schedule, TableSchedule):
            step = np.round(after.t * self.schedule.steps - 1)
            t = (np.floor((1 - self.gamma) * step + 1e-6) + 1) / self.schedule.steps
        end = t <= after.t[-1]
        log_snr = self.schedule.log_snr(np.where(end, after.t, t))
        return np.where(end, after.log_snr[-1], log_snr)


@dataclass(frozen=True)
class FlowAncestral(Renoising):
    """Ancestral sampling on straight lines (Euler's ancestral method for rectified flows).

    With u = s / (a + s), the time of the scaling "flow" (the same number in every scaling), a step
    goes down to ``u_d = u' (1 - eta (1 - u'/u))``.

    Attributes:
      eta: how far down: 0 for the ODE, 1 for u'^2 / u (which in the place of u for s / a would be
        `DDIM` with eta = 1).

    Raises:
      InputError: unless 0 <= eta <= 1.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_share("eta", self.eta)

    def down(self, now: Level, after: Level) -> Float64[np.ndarray, "N"]:
        """lambda at u_d."""
        u, u_after = (level.s / (level.a + level.s) for level in (now, after))
        u_down = u_after * (1 - self.eta * (1 - u_after / u))
        with np.errstate(divide="ignore"):
            return 2 * (np.log1p(-u_down) - np.log(u_down))
