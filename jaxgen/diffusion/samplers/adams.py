"""Multistep methods with earlier estimates of the noise: LMS, PLMS (PNDM), iPNDM.

Symbols: sigma = s/a, and y = z/a, for which the probability-flow ODE is ``dy = e^ d sigma``. e^ is
replaced by a polynomial through its values at this step and earlier ones, k = 0, 1, ..::

    z' = (a'/a) z + a' sum_k w_k e_k
    "sigma"    w_k = int L_k d sigma, polynomials in sigma        LMS (Crowson 2022, k-diffusion)
    "steps"    w_k = c_k (sigma' - sigma), as if steps were even  PLMS (Liu et al. 2022, eq. 12)

with the coefficients c of Adams and Bashforth, (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24.
(Polynomials in log sigma are DEIS, which is ``DPMSolver(order, "exact", predicts="e")``.)
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxgen.diffusion.levels import Level
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    check_finite_sigma,
    from_level_with_noise,
    make_table,
)
from jaxgen.errors import InputError

EVEN_STEPS = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2,
    np.array([23.0, -16.0, 5.0]) / 12,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24,
)
"""Adams and Bashforth's coefficients for orders 1 to 4."""


@dataclass(frozen=True)
class Adams(LinearSampler):
    """Adams-Bashforth methods in sigma.

    Attributes:
      order: values of e^ that are used, 1 to 4; as many as there are in the first steps.
      variable: ``sigma`` (LMS) or ``steps`` (PLMS, and iPNDM); see the module.
      repeat_first: take the first step twice, the second time with the mean of e^ at both ends
        (PLMS in the programs for latent diffusion). Adds a row.

    Raises:
      InputError: for an unknown order or variable, or a repeated step in first order.
    """

    order: int = 4
    variable: Literal["sigma", "steps"] = "sigma"
    repeat_first: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise InputError(f"order={self.order}: expected 1 to 4")
        if self.repeat_first and self.order == 1:
            raise InputError("repeat_first with order=1: expected an order of at least 2")
        if self.variable not in ("sigma", "steps"):
            raise InputError(f"variable={self.variable!r}: expected sigma or steps")

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`; with a repeated first step one row more lies in between."""
        lags = {"z": 1 + self.repeat_first, "e": self.order + self.repeat_first}
        return tuple((name, lag) for name in "ze" for lag in range(lags[name]))

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.sampling.Sampler`.

        Raises:
          InputError: for a first level without data.
        """
        now, after = from_level_with_noise(levels)
        check_finite_sigma(now, self)
        rows = [self._row(i, now, after) for i in range(len(now.t))]
        asked = list(range(len(rows)))
        if self.repeat_first and len(rows) > 1:
            rows.insert(1, self._repeated(now, after))
            asked.insert(1, 1)
        ends = np.array(asked)
        if len(rows) > len(now.t):
            ends[1] = 0  # a step that is repeated ends where it did before
        begins = Level(*(value[asked] for value in now))
        return make_table(
            begins, Level(*(value[ends] for value in after)), list(np.stack(rows, -1))
        )

    def _row(self, step: int, now: Level, after: Level) -> np.ndarray:
        """The weights of the terms in a step."""
        sigma = (now.s / now.a)[step::-1][: self.order]
        found = self._integrals(sigma, after.s[step] / after.a[step])
        rows_ago = np.arange(len(found))
        if self.repeat_first and step and len(found) == step + 1:
            rows_ago[-1] += 1  # the row in between is not used again
        weights = np.zeros(len(self.terms))
        weights[0] = after.a[step] / now.a[step]
        weights[1 + self.repeat_first + rows_ago] = after.a[step] * found
        return weights

    def _repeated(self, now: Level, after: Level) -> np.ndarray:
        """The first step once more: from where it began, with the mean slope."""
        width = after.s[0] / after.a[0] - now.s[0] / now.a[0]
        weights = np.zeros(len(self.terms))
        weights[1] = after.a[0] / now.a[0]
        weights[2:4] = after.a[0] * width / 2
        return weights

    def _integrals(self, sigma_K: np.ndarray, end: float) -> np.ndarray:
        """w_k for values at sigma_K, latest first, up to `end`."""
        count, width = len(sigma_K), end - sigma_K[0]
        if self.variable == "steps":
            return width * EVEN_STEPS[count - 1]
        # Gauss and Legendre's rule with as many nodes is exact.
        nodes, rule = np.polynomial.legendre.leggauss(count)
        places = sigma_K[0] + width * (nodes + 1) / 2
        return np.array([width / 2 * rule @ _lagrange(sigma_K, k, places) for k in range(count)])


def _lagrange(nodes_K: np.ndarray, k: int, places: np.ndarray) -> np.ndarray:
    """The polynomial that is one at node k and zero at the others."""
    others = np.delete(nodes_K, k)
    return np.prod((places[:, None] - others) / (nodes_K[k] - others), axis=1)
