"""Multistep methods with earlier estimates of the noise: LMS, PLMS, PNDM, iPNDM.

Symbols: sigma = s/a, and y = z/a, for which the probability-flow ODE is ``dy = e^ d sigma``. e^ is
replaced by a polynomial through its values at this step and earlier ones, k = 0, 1, ..::

    z' = (a'/a) z + a' sum_k w_k e_k
    "sigma"    w_k = int L_k d sigma, polynomials in sigma        LMS (Crowson 2022, k-diffusion)
    "steps"    w_k = c_k (sigma' - sigma), as if steps were even  PLMS (Liu et al. 2022, eq. 12)

with the coefficients c of Adams and Bashforth, (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24.
(Polynomials in log sigma are DEIS, which is ``DPMSolver(order, "exact", predicts="e")``.)

The first steps have fewer values to use. They are of lower order then, or the first is taken twice,
or they are steps of Runge and Kutta (PNDM: Liu et al. 2022, algorithm 2), with y_m in the middle ::

    y_1 = y + (sigma_m - sigma) e(y)          y_2 = y + (sigma_m - sigma) e(y_1)
    y_3 = y + (sigma' - sigma) e(y_2)         y' = y + (sigma' - sigma) / 6 (e(y) + 2 e(y_1)
                                                                      + 2 e(y_2) + e(y_3))
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.samplers.linear import (
    LinearSampler,
    Term,
    check_finite_sigma,
    from_level_with_noise,
    make_table,
)
from jaxgen.diffusion.samplers.sampling import SampleState
from jaxgen.errors import InputError

EVEN_STEPS = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2,
    np.array([23.0, -16.0, 5.0]) / 12,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24,
)
"""Adams and Bashforth's coefficients for orders 1 to 4."""


class AdamsRow(NamedTuple):
    """A row of `Adams`: as `LinearRow`, and whether its e^ is one of those that later steps use.

    Attributes:
      now: where the denoiser is evaluated.
      next: where the row ends.
      weights: of the terms, [T].
      noise: zero.
      begins: whether the row is the first of its step, [].
    """

    now: Level
    next: Level
    weights: Any
    noise: Any
    begins: Any


class Part(NamedTuple):
    """A row while the table is made: levels of numbers, and the weights of the terms."""

    now: Level
    next: Level
    weights: dict[Term, float]
    begins: bool


@dataclass(frozen=True)
class Adams(LinearSampler):
    """Adams-Bashforth methods in sigma.

    Attributes:
      order: values of e^ that are used, 1 to 4; as many as there are in the first steps.
      variable: ``sigma`` (LMS) or ``steps`` (PLMS, PNDM and iPNDM); see the module.
      repeat_first: take the first step twice, the second time with the mean of e^ at both ends
        (PLMS in the programs for latent diffusion). Adds a row.
      runge_kutta: if given, the first `order` - 1 steps are Runge and Kutta's, of fourth order and
        with four rows each (PNDM), but for one to clean data. The schedule says where their middle
        is: half way in sigma, or for ``steps`` in time, as in the paper, which is not of fourth
        order.

    Raises:
      InputError: for an unknown order or variable, or another start in first order, or two of them.
    """

    order: int = 4
    variable: Literal["sigma", "steps"] = "sigma"
    repeat_first: bool = False
    runge_kutta: Schedule | None = None

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise InputError(f"order is {self.order}, expected 1 to 4")
        for name in ("repeat_first", "runge_kutta"):
            if getattr(self, name) and self.order == 1:
                raise InputError(f"{name} with order=1, expected an order of at least 2")
        if self.repeat_first and self.runge_kutta:
            raise InputError("repeat_first with runge_kutta, expected one of them at most")
        if self.variable not in ("sigma", "steps"):
            raise InputError(f"variable is {self.variable!r}, expected sigma or steps")

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`; e^ of earlier steps, but z of earlier rows."""
        lags = {"z": 4 if self.runge_kutta else 1 + self.repeat_first, "e": self.order}
        return tuple((name, lag) for name in "ze" for lag in range(lags[name]))

    def table(self, levels: Level) -> Any:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: for a first or last level without data.
        """
        now, after = from_level_with_noise(levels)
        check_finite_sigma(now, self)
        if after.a[-1] == 0:
            raise InputError("Adams cannot end at infinite s / a (log-SNR -inf), where it encodes")
        parts = []
        for i in range(len(now.t)):
            here, there = (Level(*(float(value[i]) for value in level)) for level in (now, after))
            if self.runge_kutta and i < self.order - 1 and there.s > 0:
                parts += self._runge_kutta(here, there, self.runge_kutta)
                continue
            parts.append(Part(here, there, self._weights(i, now, there), True))
            if self.repeat_first and i == 0 and len(now.t) > 1:
                parts.append(_repeated(here, there))
        evaluated, ends = (
            _stack([part.now for part in parts]),
            _stack([part.next for part in parts]),
        )
        weights = [[part.weights.get(term, 0.0) for part in parts] for term in self.terms]
        begins = np.array([part.begins for part in parts])
        return AdamsRow(*make_table(evaluated, ends, weights), begins)

    def step(
        self, denoiser: Denoiser, state: SampleState, row: Any, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """As `LinearSampler.step`, but e^ is remembered only where a step begins."""
        after = super().step(denoiser, state, row, keys_B)
        if not (self.repeat_first or self.runge_kutta):
            return after
        kept = jax.tree.map(
            lambda new, old: jnp.where(row.begins, new, old), after.history["e"], state.history["e"]
        )
        return after._replace(history={**after.history, "e": kept})

    def _weights(self, step: int, now: Level, after: Level) -> dict[Term, float]:
        """The weights of the terms in a step."""
        sigma = (now.s / now.a)[step::-1][: self.order]
        found = self._integrals(sigma, after.s / after.a)
        of_e: dict[Term, float] = {("e", lag): after.a * w for lag, w in enumerate(found)}
        return {("z", 0): after.a / now.a[step], **of_e}

    def _runge_kutta(self, now: Level, after: Level, schedule: Schedule) -> list[Part]:
        """Four rows; e^ of the first three is in the latents that the next ones evaluate."""
        sigma, end = now.s / now.a, after.s / after.a
        if self.variable == "sigma":
            middle = schedule.at_log_snr(-2 * np.log((sigma + end) / 2))
        else:
            middle = schedule.at((now.t + after.t) / 2)
        half, whole = middle.s / middle.a - sigma, end - sigma
        r = whole / (6 * half)
        last: dict[Term, float] = {
            ("z", 0): 1 / 3,
            ("z", 1): after.a * 2 * r / middle.a,
            ("z", 2): after.a * r / middle.a,
            ("z", 3): after.a * (2 / 3 - 3 * r) / now.a,
            ("e", 0): after.a * whole / 6,
        }
        return [
            Part(now, middle, _euler(0, now, middle), True),
            Part(middle, middle, _euler(1, now, middle), False),
            Part(middle, after, _euler(2, now, after), False),
            Part(after, after, last, False),
        ]

    def _integrals(self, sigma_K: np.ndarray, end: float) -> np.ndarray:
        """w_k for values at sigma_K, latest first, up to `end`."""
        count, width = len(sigma_K), end - sigma_K[0]
        if self.variable == "steps":
            return width * EVEN_STEPS[count - 1]
        # Gauss and Legendre's rule with as many nodes is exact.
        nodes, rule = np.polynomial.legendre.leggauss(count)
        places = sigma_K[0] + width * (nodes + 1) / 2
        return np.array([width / 2 * rule @ _lagrange(sigma_K, k, places) for k in range(count)])


def _stack(levels: list[Level]) -> Level:
    """Levels of numbers as one of arrays, [N]."""
    return Level(*(np.array(column) for column in zip(*levels, strict=True)))


def _euler(lag: int, now: Level, after: Level) -> dict[Term, float]:
    """A whole step with the latest e^, from the latents of so many rows ago."""
    width = after.s / after.a - now.s / now.a
    return {("z", lag): after.a / now.a, ("e", 0): after.a * width}


def _repeated(now: Level, after: Level) -> Part:
    """The first step once more: from where it began, with the mean of e^ at both ends."""
    width = after.s / after.a - now.s / now.a
    half = after.a * width / 2
    weights: dict[Term, float] = {("z", 1): after.a / now.a, ("e", 0): half, ("e", 1): half}
    return Part(after, after, weights, False)


def _lagrange(nodes_K: np.ndarray, k: int, places: np.ndarray) -> np.ndarray:
    """The polynomial that is one at node k and zero at the others."""
    others = np.delete(nodes_K, k)
    return np.prod((places[:, None] - others) / (nodes_K[k] - others), axis=1)
