"""The midpoint rule with the middle in logarithms: DPM-Solver-2 in sigma (k-diffusion's DPM2).

Symbols: sigma = s/a. Each step evaluates at sigma, goes to the geometric mean of sigma and where it
ends, evaluates there, and takes the whole step with that slope (Karras et al. 2022, appendix D.2,
describe the family). With eta, noise is put back as in `DDIM`: the step goes down to
``sqrt(sigma'^2 - d^2)``, and the mean is taken with that.
"""

from dataclasses import dataclass

import numpy as np

from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.samplers.ddim import posterior_share
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    check_finite_sigma,
    from_noise_to_data,
    make_table,
)
from jaxgen.errors import check_not_negative


@dataclass(frozen=True)
class Midpoint(LinearSampler):
    """Two rows and two evaluations per step, second order; a last step to clean data has one.

    Attributes:
      schedule: gives the time of the levels in between, for networks conditioned on the time.
      eta: 0 for the ODE; 1 for as much noise as in ancestral sampling.

    Raises:
      InputError: for a negative or infinite eta.
    """

    schedule: Schedule
    eta: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative("eta", self.eta)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("z", 0), ("z", 1), ("e", 0)

    @property
    def noisy(self) -> bool:
        """Whatever eta is, so that changing it does not recompile."""
        return True

    def table(self, levels: Level) -> LinearRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: for a first level without data, where sigma is infinite.
        """
        now, after = from_noise_to_data(levels)
        check_finite_sigma(now, self)
        share = np.minimum(self.eta * posterior_share(now, after), 1.0)
        sigma, down = now.s / now.a, after.s / after.a * np.sqrt(1 - share**2)
        # Where nothing of the old noise is left, one row goes all the way.
        whole = down == 0
        log_snr = np.where(whole, now.log_snr, -np.log(sigma) - np.log(np.where(whole, 1, down)))
        middle = self.schedule.at_log_snr(log_snr)
        half = Level(*(np.where(whole, b, m) for b, m in zip(after, middle, strict=True)))
        down_half = np.where(whole, 0.0, middle.s / middle.a)
        zero, noise = np.zeros_like(sigma), after.s * share
        first = [half.a / now.a, zero, half.a * (down_half - sigma), np.where(whole, noise, 0.0)]
        second = [zero, after.a / now.a, after.a * (down - sigma), noise]

        def interleave(one: np.ndarray, other: np.ndarray) -> np.ndarray:
            """Two rows for each step, but one where that goes all the way."""
            return np.stack([one, other], -1)[np.stack([~zero.astype(bool), ~whole], -1)]

        columns = [interleave(*pair) for pair in zip(first, second, strict=True)]
        evaluated = Level(*(interleave(*pair) for pair in zip(now, half, strict=True)))
        ends = Level(*(interleave(*pair) for pair in zip(half, after, strict=True)))
        return make_table(evaluated, ends, columns[:3], columns[3])
