"""DPM-Solver and DPM-Solver++ (Lu et al. 2022a, 2022b), deterministic and stochastic.

Symbols: z = a x + s e now, a' and s' next, and, in this module, half of the log-SNR:
l = lambda / 2 = log(a/s) and h = l' - l. The probability-flow ODE solved exactly but for how x^ (or
e^) moves on the way (2022b, equation 8; 2022a, proposition 3.1)::

    z' = (s'/s) z + a' int_0^h exp(-(h - u)) x^(l + u) du                     x^: DPM-Solver++
    z' = (a'/a) z - s' int_0^h exp(+(h - u)) e^(l + u) du                     e^: DPM-Solver

    and of the reverse-time SDE, with c = sqrt(1 - exp(-2h)):                 SDE-DPM-Solver++
    z' = (s'/s) exp(-h) z + 2 a' int_0^h exp(-2(h - u)) x^(l + u) du + s' c noise

What moves is replaced by a polynomial through its latest values: multistep solvers take those of
earlier steps, single-step solvers ask in the middle of a step. With the moments ::

    m_j(h) = int_0^h exp(-(h - u)) (u/h)^j du:    m_0 = 1 - exp(-h),    m_j = 1 - (j/h) m_{j-1}

all of them are weighted sums; with e^ for x^, h becomes -h and a' becomes s'. Both ends may be
infinite with x^: from pure noise, and to clean data in a step of first order.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from jaxgen.diffusion.levels import Level
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    check_finite_sigma,
    from_level_with_noise,
    from_noise_to_data,
    make_table,
)
from jaxgen.errors import InputError

Variant = Literal["exact", "midpoint"]
"""How the slope of x^ enters a step of second order: m_1 as above, or m_0 / 2, its limit."""

FEW_STEPS = 15
"""Below so many steps the order is lowered at the end, as in the authors' program."""


def moments(h: np.ndarray) -> list[np.ndarray]:
    """m_0, m_1, m_2; h may be negative, and +inf."""
    m = [-np.expm1(-h)]
    for j in (1, 2):
        m.append(1 - j / h * m[-1])
    return m


def step_parts(
    sampler: "DPMSolver | SingleStepDPMSolver", now: Level, after: Level
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What all orders have in common, [N] each.

    Returns:
      The weight of z; what multiplies the integral; the h of its moments; the deviation of the
      noise.

    Raises:
      InputError: where e is interpolated from pure noise or to clean data.
    """
    h = (after.log_snr - now.log_snr) / 2
    if sampler.predicts == "x":
        if not sampler.stochastic:
            return after.s / now.s, after.a, h, np.zeros_like(h)
        share = np.sqrt(-np.expm1(-2 * h))
        return after.s / now.s * np.exp(-h), after.a, 2 * h, after.s * share
    check_finite_sigma(now, sampler)
    if (after.s == 0).any():
        raise InputError(
            "predicts='e' with a last step to clean data, where s / a changes without bound in "
            "logarithms: expected final='first', or predicts='x'"
        )
    factor = 2 if sampler.stochastic else 1
    noise = after.s * np.sqrt(np.expm1(2 * h)) if sampler.stochastic else np.zeros_like(h)
    return after.a / now.a, factor * after.s, -h, noise


@dataclass(frozen=True)
class DPMSolver(LinearSampler):
    """Multistep DPM-Solver: 1 (DDIM), 2M, 3M; one question per step.

    Attributes:
      order: 1, 2 or 3.
      variant: ``midpoint`` or ``exact`` (elsewhere called heun) slopes in steps of second order.
      predicts: what is interpolated: ``x`` (DPM-Solver++) or ``e`` (DPM-Solver; with ``exact`` it
        is DEIS in log s/a, Zhang & Chen 2022, equation 15).
      stochastic: solve the SDE instead of the ODE.
      lower_order_final: take the last step in first order and the one before in second at most;
        None for doing so below 15 steps. A last step to clean data is always of first order.
      halve_curvature: in steps of third order, take half of the second derivative. Doing so leaves
        second order; the authors' program, k-diffusion and diffusers do it.

    Raises:
      InputError: for an unknown order, variant or prediction.
    """

    order: int = 2
    variant: Variant = "midpoint"
    predicts: Literal["x", "e"] = "x"
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
        """See `jaxgen.diffusion.sampling.Sampler`.

        Raises:
          InputError: where e is interpolated from pure noise or to clean data.
        """
        now, after = _steps(self, levels)
        z, scale, h, noise = step_parts(self, now, after)
        step = after.log_snr - now.log_snr
        weights = np.zeros((len(h), self.order))
        for i, order in enumerate(self._orders(after)):
            weights[i] = self._weights(order, i, h, step)
        return make_table(now, after, [z, *(scale * weights.T)], noise)

    def _orders(self, after: Level) -> list[int]:
        """The order of each step: what the history allows, and lower at the end."""
        count = len(after.t)
        lower = count < FEW_STEPS if self.lower_order_final is None else self.lower_order_final
        orders = [min(self.order, i + 1) for i in range(count)]
        if lower:
            orders[-2:] = [min(order, 2 - i) for i, order in enumerate(orders[-2:])]
            orders[-1] = 1
        if after.s[-1] == 0:
            orders[-1] = 1
        return orders

    def _weights(self, order: int, i: int, h: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Of x^ of steps i, i - 1, .., in units of the scale; [self.order]."""
        m = moments(h[i])
        weights = np.zeros(self.order)
        weights[0] = m[0]
        if order == 2:
            slope = m[1] if self.variant == "exact" else m[0] / 2
            weights[:2] += slope * step[i] / step[i - 1] * np.array([1, -1])
        if order == 3:
            r0, r1 = step[i - 1] / step[i], step[i - 2] / step[i]
            first, second = np.array([1, -1, 0]) / r0, np.array([0, 1, -1]) / r1
            curvature = (first - second) / (r0 + r1)
            weights += m[1] * (first + r0 * curvature)
            weights += m[2] * curvature * (0.5 if self.halve_curvature else 1)
        return weights


@dataclass(frozen=True)
class SingleStepDPMSolver(LinearSampler):
    """Single-step DPM-Solver: 2S and 3S, which need no history.

    The levels are taken in groups of `order`: from the first one the solution goes to the second in
    first order, from there (with what was estimated at both) to the third in second order, and so
    on; each level costs one question. Where the number of steps is no multiple, and in a last step
    to clean data, the last groups are smaller (Lu et al. 2022a, appendix D.4).

    Attributes:
      order: 2 or 3 (1 is DDIM).
      variant: ``midpoint`` or ``exact`` slopes. In third order ``midpoint`` takes the slope
        from the first to the last level asked at and no curvature (2022a, algorithm 2); ``exact``
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
    predicts: Literal["x", "e"] = "x"
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
        """See `jaxgen.diffusion.sampling.Sampler`.

        Raises:
          InputError: where e is interpolated from pure noise or to clean data.
        """
        now, after = _steps(self, levels)
        orders = np.array(self._orders(now, after))
        start = Level(*(value[np.arange(len(orders)) - orders + 1] for value in now))
        z, scale, h, noise = step_parts(self, start, after)
        weights = np.zeros((2, self.order, len(orders)))
        for i, order in enumerate(orders):
            weights[0, order - 1, i] = z[i]
            log_snr = [*now.log_snr[i - order + 1 : i + 1], after.log_snr[i]]
            weights[1, :order, i] = scale[i] * self._weights(moments(h[i]), np.array(log_snr))
        return make_table(now, after, list(weights.reshape(2 * self.order, -1)), noise)

    def _orders(self, now: Level, after: Level) -> list[int]:
        """The order of every row: its place in its group."""
        begins_at_noise = bool(now.a[0] == 0)
        left = len(now.t) - begins_at_noise
        tail = _tail(self.order, left) if self.lower_order_final else []
        full, rest = divmod(left - sum(tail), self.order)
        groups = [1] * begins_at_noise + [self.order] * full + [rest] + tail
        orders = [place for size in groups for place in range(1, size + 1)]
        return [*orders[:-1], 1] if after.s[-1] == 0 else orders

    def _weights(self, m: list[np.ndarray], log_snr: np.ndarray) -> np.ndarray:
        """Of the estimates, latest first, from the levels of a group and its end; [order]."""
        order = len(log_snr) - 1
        if order == 1:
            return np.array([m[0]])
        r = (log_snr[:-1] - log_snr[0]) / (log_snr[-1] - log_snr[0])
        if order == 2:
            slope = (m[1] if self.variant == "exact" else m[0] / 2) / r[1]
            return np.array([slope, m[0] - slope])
        far = np.array([1, 0, -1]) / r[2]
        anchor = m[0] * np.array([0, 0, 1])
        if self.variant == "midpoint":
            return anchor + m[1] * far
        near = np.array([0, 1, -1]) / r[1]
        curvature = (far - near) / (r[2] - r[1])
        return anchor + m[1] * (near - r[1] * curvature) + m[2] * curvature


def _tail(order: int, count: int) -> list[int]:
    """The last groups of `count` levels where the order is to fall (2022a, appendix D.4)."""
    if order == 1 or count == 0:
        return []
    return {2: [[1, 1], [1]], 3: [[2, 1], [1], [2]]}[order][count % order]


def _steps(sampler: DPMSolver | SingleStepDPMSolver, levels: Level) -> tuple[Level, Level]:
    return from_noise_to_data(levels) if sampler.stochastic else from_level_with_noise(levels)


def _check(order: int, variant: str, predicts: str) -> None:
    if order not in (1, 2, 3):
        raise InputError(f"order={order}: expected 1, 2 or 3")
    if variant not in get_args(Variant):
        raise InputError(f"variant={variant!r}: expected exact or midpoint")
    if predicts not in ("x", "e"):
        raise InputError(f"predicts={predicts!r}: expected x or e")
