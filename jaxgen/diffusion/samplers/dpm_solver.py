"""DPM-Solver and DPM-Solver++ (Lu et al. 2022a, 2022b), deterministic and stochastic.

Symbols and formulas in `jaxgen.diffusion.samplers.exponential`: h is the step of log(a/s), m_j its
moments. Multistep solvers interpolate through values of earlier steps, single-step solvers through
values in the middle of a step. Both ends may be infinite with x^: from pure noise, and to clean
data in a step of first order.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.samplers.exponential import (
    Predicts,
    earlier_nodes,
    moments,
    orders_of_steps,
    polynomial_weights,
    step_parts,
)
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    from_level_with_noise,
    from_noise_to_data,
    make_table,
)
from jaxgen.errors import InputError

Variant = Literal["exact", "midpoint"]
"""How the slope of x^ enters a step of second order: m_1, or m_0 / 2, which is its limit."""

FEW_STEPS = 15
"""Below so many steps the order is lowered at the end, as in the authors' program."""


@dataclass(frozen=True)
class DPMSolver(LinearSampler):
    """Multistep DPM-Solver: 1 (DDIM), 2M, 3M; one evaluation per step.

    Attributes:
      order: 1, 2 or 3.
      variant: ``midpoint`` or ``exact`` (elsewhere called heun) slopes in steps of second order.
      predicts: what is interpolated: ``x`` (DPM-Solver++) or ``e`` (DPM-Solver; with ``exact`` it
        is DEIS in log s/a, Zhang & Chen 2022, equation 15).
      stochastic: solve the SDE instead of the ODE. (In diffusers one coefficient of its third order
        has the wrong sign, and does not vanish with the step; that is not followed.)
      lower_order_final: take the last step in first order and the one before in second at most;
        None for doing so below 15 steps. A last step to clean data is always of first order.
      halve_curvature: in steps of third order, take half of the second derivative, as the authors'
        program, k-diffusion and diffusers do. What is left is of second order.

    Raises:
      InputError: for an unknown order, variant or prediction.
    """

    order: int = 2
    variant: Variant = "midpoint"
    predicts: Predicts = "x"
    stochastic: bool = False
    lower_order_final: bool | None = None
    halve_curvature: bool = False

    def __post_init__(self) -> None:
        _check(self.order, self.variant, self.predicts)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("z", 0), *((self.predicts, lag) for lag in range(self.order))

    @property
    def noisy(self) -> bool:
        """For the SDE."""
        return self.stochastic

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: where e is interpolated from pure noise or to clean data.
        """
        now, after = _steps(self, levels)
        parts = step_parts(self, now, after, self.stochastic, self.predicts)
        weights = np.zeros((self.order, len(now.t)))
        for i, order in enumerate(self._orders(after)):
            step = after.log_snr[i] - now.log_snr[i]
            nodes = earlier_nodes(now.log_snr, i, order, step)
            weights[:order, i] = parts.scale[i] * self._weights(nodes, parts.h[i])
        return make_table(now, after, [parts.z, *weights], parts.noise)

    def _orders(self, after: Level) -> list[int]:
        """The order of each step."""
        count = len(after.t)
        lower = count < FEW_STEPS if self.lower_order_final is None else self.lower_order_final
        return orders_of_steps(self.order, count, (2, 1) if lower else (), after.s[-1] == 0)

    def _weights(self, nodes: np.ndarray, h: float) -> np.ndarray:
        """Of x^ of this step and earlier ones, in units of the scale."""
        m = moments(h)
        if len(nodes) == 2 and self.variant == "midpoint":
            m[1] = m[0] / 2
        if self.halve_curvature:
            m[2] /= 2
        return polynomial_weights(nodes, m)


@dataclass(frozen=True)
class SingleStepDPMSolver(LinearSampler):
    """Single-step DPM-Solver: 2S and 3S, which need no history.

    The levels are taken in groups of `order`: from the first one the solution goes to the second in
    first order, from there (with what was estimated at both) to the third in second order, and so
    on; each level costs one evaluation. Where the number of steps is no multiple, and in a last
    step to clean data, the last groups are smaller (Lu et al. 2022a, appendix D.4).

    Attributes:
      order: 2 or 3 (1 is DDIM).
      variant: ``midpoint`` or ``exact`` slopes. In third order ``midpoint`` takes the slope
        from the first to the last level evaluated and no curvature (2022a, algorithm 2); ``exact``
        takes both (elsewhere called heun).
      predicts: as `DPMSolver`.
      stochastic: as `DPMSolver`; the noise in the middle of a step is not that of the whole step,
        so that the distribution is of first order only, whatever the order.
      lower_order_final: end with smaller groups, whatever the number of steps.

    Raises:
      InputError: for an unknown order, variant or prediction.
    """

    order: int = 2
    variant: Variant = "midpoint"
    predicts: Predicts = "x"
    stochastic: bool = False
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        _check(self.order, self.variant, self.predicts)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return tuple((name, lag) for name in ("z", self.predicts) for lag in range(self.order))

    @property
    def noisy(self) -> bool:
        """For the SDE."""
        return self.stochastic

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: where e is interpolated from pure noise or to clean data.
        """
        now, after = _steps(self, levels)
        orders = np.array(self._orders(now, after))
        start = Level(*(value[np.arange(len(orders)) - orders + 1] for value in now))
        parts = step_parts(self, start, after, self.stochastic, self.predicts)
        weights = np.zeros((2, self.order, len(orders)))
        for i, order in enumerate(orders):
            group = now.log_snr[i - order + 1 : i + 1]
            nodes = earlier_nodes(group, order - 1, order, after.log_snr[i] - group[0])
            nodes -= nodes[-1]
            weights[0, order - 1, i] = parts.z[i]
            weights[1, :order, i] = parts.scale[i] * self._weights(nodes, moments(parts.h[i]))
        return make_table(now, after, list(weights.reshape(2 * self.order, -1)), parts.noise)

    def _orders(self, now: Level, after: Level) -> list[int]:
        """The order of every row: its place in its group."""
        begins_at_noise = bool(now.a[0] == 0)
        left = len(now.t) - begins_at_noise
        tail = _tail(self.order, left) if self.lower_order_final else []
        full, rest = divmod(left - sum(tail), self.order)
        groups = [1] * begins_at_noise + [self.order] * full + [rest] + tail
        orders = [place for size in groups for place in range(1, size + 1)]
        return [*orders[:-1], 1] if after.s[-1] == 0 else orders

    def _weights(self, nodes: np.ndarray, m: np.ndarray) -> np.ndarray:
        """Of the estimates of a group, latest first; the nodes run down to zero."""
        if self.variant == "midpoint" and len(nodes) > 1:
            m[1] = m[0] / 2 if len(nodes) == 2 else m[1]
            first, last = polynomial_weights(nodes[[0, -1]], m)
            return np.array([first, *[0.0] * (len(nodes) - 2), last])
        return polynomial_weights(nodes, m)


def _tail(order: int, count: int) -> list[int]:
    """The last groups of `count` levels where the order is to fall (2022a, appendix D.4)."""
    if order == 1 or count == 0:
        return []
    return {2: [[1, 1], [1]], 3: [[2, 1], [1], [2]]}[order][count % order]


def _steps(sampler: DPMSolver | SingleStepDPMSolver, levels: Level) -> tuple[Level, Level]:
    return from_noise_to_data(levels) if sampler.stochastic else from_level_with_noise(levels)


def _check(order: int, variant: str, predicts: str) -> None:
    if order not in (1, 2, 3):
        raise InputError(f"order is {order}, expected 1, 2 or 3")
    if variant not in get_args(Variant):
        raise InputError(f"variant is {variant!r}, expected exact or midpoint")
    if predicts not in ("x", "e"):
        raise InputError(f"predicts is {predicts!r}, expected x or e")
