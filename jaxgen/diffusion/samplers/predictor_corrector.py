"""Predictor-corrector multistep solvers: UniPC and SA-Solver, one evaluation per step.

The evaluation at the end of a step, which the next step needs anyway, first corrects the step:
it is taken again with the polynomial through the new value too. Formulas and symbols are those of
`jaxgen.diffusion.samplers.exponential`: h is the step of log(a/s), m_j its moments. Where a
polynomial is a straight line through two values, the methods replace m_1, as they are free to
(Zhao et al. 2023, section 3.1; it changes no order)::

    UniPC        "bh1" h / 2        "bh2" m_0 / 2
    SA-Solver    H / 2
"""

import abc
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.example_keys import normal
from jaxgen.diffusion.process.levels import Level, broadcast_level
from jaxgen.diffusion.samplers.exponential import (
    Parts,
    Predicts,
    earlier_nodes,
    moments,
    orders_of_steps,
    polynomial_weights,
    step_parts,
)
from jaxgen.diffusion.samplers.linear import (
    from_level_with_noise,
    from_noise_to_data,
    make_table,
)
from jaxgen.diffusion.samplers.sampling import SampleState
from jaxgen.errors import InputError, check_not_negative


class CorrectorRow(NamedTuple):
    """A row of a predictor-corrector: as `LinearRow`, and how z is corrected before.

    Attributes:
      now: where the denoiser is evaluated.
      next: where the row ends.
      weights: of the corrected z and the estimates of this row and earlier ones.
      noise: deviation of the noise that is added, [].
      corrector: of z, the earlier row's corrected z and its noise, and the estimates.
    """

    now: Level
    next: Level
    weights: Any
    noise: Any
    corrector: Any


class Plan(NamedTuple):
    """How many values each of N steps interpolates through.

    Attributes:
      predictor: at the step's beginning and before.
      corrector: these, and the one at its end.
    """

    predictor: list[int]
    corrector: list[int]


class PredictorCorrector(abc.ABC):
    """What UniPC and SA-Solver share."""

    predicts: Predicts

    @property
    @abc.abstractmethod
    def lags(self) -> int:
        """How many estimates are kept, the latest included."""

    @abc.abstractmethod
    def slope(self, h: float, m: np.ndarray) -> float:
        """What replaces m_1 where two values are interpolated through."""

    @property
    def noisy(self) -> bool:
        """Whether noise is added."""
        return False

    def start(self, z: Float[Array, "B ..."]) -> SampleState:
        """Nothing is known yet; latents are kept in float32 at least."""
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        zero = jnp.zeros_like(z)
        return SampleState(z, zero, (zero, zero, (zero,) * (self.lags - 1)))

    def step(
        self, denoiser: Denoiser, state: SampleState, row: CorrectorRow, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """Evaluates, corrects the step that led here, and takes the next one."""
        estimate = denoiser(state.z, broadcast_level(row.now, len(state.z)))
        earlier_z, earlier_noise, earlier = state.history
        latest = estimate.x if self.predicts == "x" else estimate.e
        values = (latest.astype(state.z.dtype), *earlier)
        z = _sum(row.corrector, (state.z, earlier_z, earlier_noise, *values))
        after = _sum(row.weights, (z, *values))
        noise = jnp.zeros_like(z)
        if self.noisy:
            noise = row.noise * normal(keys_B, z.shape[1:])
            after = after + noise
        x = estimate.x.astype(z.dtype)
        return SampleState(after, x, (z, noise, values[:-1]))

    def _table(self, now: Level, after: Level, tau: Any, plan: Plan) -> CorrectorRow:
        """The rows of N steps."""
        parts = step_parts(self, now, after, tau, self.predicts)
        count = len(now.t)
        predictor, corrector = np.zeros((self.lags, count)), np.zeros((3 + self.lags, count))
        corrector[0, 0] = 1
        for i in range(count):
            nodes = self._nodes(now, after, i, plan.predictor[i])
            predictor[: len(nodes), i] = self._weights(parts, i, nodes)
            if i:
                nodes = np.append(1.0, self._nodes(now, after, i - 1, plan.corrector[i - 1] - 1))
                corrector[1:3, i] = parts.z[i - 1], 1
                corrector[3 : 3 + len(nodes), i] = self._weights(parts, i - 1, nodes)
        row = make_table(now, after, [parts.z, *predictor], parts.noise)
        return CorrectorRow(*row, np.asarray(corrector.T, np.float32))

    def _nodes(self, now: Level, after: Level, i: int, count: int) -> np.ndarray:
        """Places of so many values at the beginning of step i and before, in units of it."""
        return earlier_nodes(now.log_snr, i, count, after.log_snr[i] - now.log_snr[i])

    def _weights(self, parts: Parts, i: int, nodes: np.ndarray) -> np.ndarray:
        m = moments(parts.h[i], 4)
        if len(nodes) == 2:
            m[1] = self.slope(parts.h[i], m)
        return parts.scale[i] * polynomial_weights(nodes, m)


@dataclass(frozen=True)
class UniPC(PredictorCorrector):
    """UniPC (Zhao et al. 2023, algorithms 5-8).

    Attributes:
      order: of the predictor, 1 to 3; the corrector's is one more.
      variant: ``bh1`` or ``bh2``; see the module.
      predicts: what is interpolated.
      lower_order_final: lower the order by one in each of the last steps, down to one.

    Raises:
      InputError: for an unknown order, variant or prediction.
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    predicts: Predicts = "x"
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        _check("order", self.order, 3)
        if self.variant not in ("bh1", "bh2"):
            raise InputError(f"variant is {self.variant!r}, expected bh1 or bh2")
        _check_predicts(self.predicts)

    @property
    def lags(self) -> int:
        """See `PredictorCorrector`."""
        return self.order + 1

    def slope(self, h: float, m: np.ndarray) -> float:
        """See the module; a step of infinite h takes bh2."""
        return m[0] / 2 if self.variant == "bh2" or math.isinf(h) else h / 2

    def table(self, levels: Level) -> CorrectorRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: where e is interpolated from pure noise or to clean data.
        """
        now, after = from_level_with_noise(levels)
        orders = _orders(self.order, self.lower_order_final, after)
        return self._table(now, after, 0.0, Plan(orders, [order + 1 for order in orders]))


@dataclass(frozen=True)
class SASolver(PredictorCorrector):
    """SA-Solver (Xue et al. 2023, algorithm 1): stochastic Adams methods.

    Attributes:
      predictor_order: values that the predictor interpolates through, 1 to 3.
      corrector_order: values that the corrector does, the new one included, 1 to 4.
      tau: how stochastic it is: 0 solves the ODE, 1 the usual SDE.
      low: least time at which tau holds; below, and above `high`, it is zero.
      high: the largest such time.
      predicts: what is interpolated.
      lower_order_final: lower the order by one in each of the last steps, down to one.

    Raises:
      InputError: for an unknown order or prediction, or a negative tau.
    """

    predictor_order: int = 2
    corrector_order: int = 2
    tau: float = 1.0
    low: float = 0.2
    high: float = 0.8
    predicts: Predicts = "x"
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        _check("predictor_order", self.predictor_order, 3)
        _check("corrector_order", self.corrector_order, 4)
        check_not_negative("tau", self.tau)
        _check_predicts(self.predicts)

    @property
    def lags(self) -> int:
        """See `PredictorCorrector`."""
        return max(self.predictor_order, self.corrector_order)

    @property
    def noisy(self) -> bool:
        """Always."""
        return True

    def slope(self, h: float, m: np.ndarray) -> float:
        """See the module; a step of infinite h takes m_1, and so does one with e^."""
        return m[1] if math.isinf(h) or self.predicts == "e" else h / 2

    def table(self, levels: Level) -> CorrectorRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: where e is interpolated from pure noise or to clean data.
        """
        now, after = from_noise_to_data(levels)
        tau = np.where((now.t >= self.low) & (now.t <= self.high), self.tau, 0.0)
        count = len(now.t)
        predictor = _orders(self.predictor_order, self.lower_order_final, after)
        corrector = [min(self.corrector_order, i + 2) for i in range(count)]
        if self.lower_order_final:
            corrector = [min(order, count - i + 1) for i, order in enumerate(corrector)]
        return self._table(now, after, tau, Plan(predictor, corrector))


def _sum(weights: Any, values: tuple[Array, ...]) -> Array:
    return sum((w * value for w, value in zip(weights, values, strict=False)), jnp.float32(0))


def _orders(order: int, lower_order_final: bool, after: Level) -> list[int]:
    last_ones = tuple(range(order, 0, -1)) if lower_order_final else ()
    return orders_of_steps(order, len(after.t), last_ones, after.s[-1] == 0)


def _check(name: str, order: int, highest: int) -> None:
    if order not in range(1, highest + 1):
        raise InputError(f"{name} is {order}, expected 1 to {highest}")


def _check_predicts(predicts: str) -> None:
    if predicts not in ("x", "e"):
        raise InputError(f"predicts is {predicts!r}, expected x or e")
