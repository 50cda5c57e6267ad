"""Adjusted DDIM: DDIM whose latents keep their length (Heek et al. 2024, section 3.3, algorithm 3).

Symbols: z = a x + s e now, a' and s' next, D numbers in an example. What is left of x unknown,
``x - x^``, reaches z' through both terms of DDIM, with the factor ``a' - s' a / s``; putting x^
for x makes z' shorter by its variance v times the square of that. Analytic-DDIM (`AnalyticDPM`)
adds noise of this variance; here, without any randomness, e^ is made longer by it::

    z' = a' x^ + sqrt(s'^2 + (a' - s' a / s)^2 v D / |e^|^2) e^

v is the share c of what it would be for independent numbers of variance 1/2: ``c / (2 + a^2/s^2)``.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.diffusion.denoiser import Denoiser, Estimate
from jaxgen.diffusion.objectives.losses import mean_square
from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.diffusion.process.predictions import divide
from jaxgen.diffusion.samplers.linear import LinearSampler, Term, from_noise_to_data, make_table
from jaxgen.diffusion.samplers.sampling import SampleState
from jaxgen.errors import check_not_negative


class AdjustedRow(NamedTuple):
    """One row of a table: as `LinearRow`, with what e^ is to be made longer by.

    Attributes:
      now: where the denoiser is evaluated.
      next: where the row ends.
      weights: of x and e, [2].
      noise: 0.
      lost: (a' / s' - a / s)^2 v, the variance that latents of DDIM lack, in units of s'^2, [].
    """

    now: Level
    next: Level
    weights: Any
    noise: Any
    lost: Any


@dataclass(frozen=True)
class AdjustedDDIM(LinearSampler):
    """The sampler of Heek et al. (2024), made for teachers of few steps.

    A last step to clean data returns x^: what is lost there is not wanted back as noise. (By the
    letter of the algorithm it is; ask for ``make_steps(..., final="first")`` to have that.)

    Attributes:
      share: c; 0 is `DDIM`, the paper's 0.1 suits images.

    Raises:
      InputError: for a share that is negative or infinite.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        check_not_negative("share", self.share)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See `LinearSampler`."""
        return ("x", 0), ("e", 0)

    def table(self, levels: Level) -> Any:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`."""
        now, after = from_noise_to_data(levels)
        gap = after.a * now.s / np.where(after.s == 0, np.inf, after.s) - now.a
        lost = self.share * np.where(after.s == 0, 0.0, gap) ** 2 / (2 * now.s**2 + now.a**2)
        return AdjustedRow(*make_table(now, after, [after.a, after.s]), lost.astype(np.float32))

    def step(
        self, denoiser: Denoiser, state: SampleState, row: Any, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """DDIM's, with every example's e^ made longer."""

        def stretched(z: Float[Array, "B ..."], level: Level) -> Estimate:
            estimate = denoiser(z, level)
            factor_B = jnp.sqrt(1 + divide(row.lost, mean_square(estimate.e)))
            return estimate._replace(e=expand(factor_B, z) * estimate.e)

        return super().step(stretched, state, row, keys_B)
