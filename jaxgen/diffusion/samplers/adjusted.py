"""Adjusted DDIM: DDIM whose latents keep their length (Heek et al. 2024, section 3.3, algorithm 3).

Symbols: z = a x + s e now, a' and s' next, D numbers in an example. What is left of x unknown,
``x - x^``, reaches z' through both terms of DDIM, with the factor ``a' - s' a / s``; putting x^
for x makes z' shorter by its variance v times the square of that. Analytic-DDIM (`AnalyticDPM`)
adds noise of this variance; here, without any randomness, e^ is made longer by it::

    z' = a' x^ + sqrt(s'^2 + (a' - s' a / s)^2 v D / |e^|^2) e^

v is the share c of what it would be for independent numbers of variance 1/2: ``c / (2 + a^2/s^2)``.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.levels import Level, broadcast_level, expand
from jaxgen.diffusion.losses import mean_square
from jaxgen.diffusion.predictions import divide
from jaxgen.diffusion.samplers.linear import from_noise_to_data
from jaxgen.diffusion.sampling import SampleState
from jaxgen.errors import InputError


class AdjustedRow(NamedTuple):
    """One row of a table, or with a leading axis N all of them.

    Attributes:
      now: where the denoiser is asked.
      next: where the row ends.
      lost: (a' - s' a / s)^2 v, the variance that DDIM's latents lack, [].
    """

    now: Level
    next: Level
    lost: Any


@dataclass(frozen=True)
class AdjustedDDIM:
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
        if not 0 <= self.share < math.inf:
            raise InputError(f"share={self.share}: expected a finite number >= 0")

    def table(self, levels: Level) -> AdjustedRow:
        """See `jaxgen.diffusion.sampling.Sampler`."""
        now, after = from_noise_to_data(levels)
        lost = self.share * (after.a * now.s - after.s * now.a) ** 2 / (2 * now.s**2 + now.a**2)
        row = AdjustedRow(now, after, np.where(after.s == 0, 0.0, lost))
        return jax.tree.map(lambda value: np.asarray(value, np.float32), row)

    def start(self, z: Float[Array, "B ..."]) -> SampleState:
        """Latents are kept in float32 at least; nothing is remembered."""
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        return SampleState(z, jnp.zeros_like(z), ())

    def step(
        self, denoiser: Denoiser, state: SampleState, row: AdjustedRow, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """The formula of the module, with each example's own |e^|; no randomness."""
        estimate = denoiser(state.z, broadcast_level(row.now, len(state.z)))
        x, e = estimate.x.astype(state.z.dtype), estimate.e.astype(state.z.dtype)
        square_B = row.next.s**2 + divide(row.lost, mean_square(e))
        # The root of zero, in a last step to clean data, has no derivative.
        length_B = jnp.where(square_B == 0, 0.0, jnp.sqrt(jnp.where(square_B == 0, 1.0, square_B)))
        return SampleState((row.next.a * x + expand(length_B, e) * e).astype(x.dtype), x, ())
