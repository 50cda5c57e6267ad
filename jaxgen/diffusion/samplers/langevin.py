"""Langevin steps that correct what another sampler predicts (Song et al. 2021b, algorithms 2-5).

At a noise level with score -e^/s, steps of size d (in units of s^2 / 2) leave the distribution of
latents as it is, up to the error of the discretisation, whatever came before::

    z <- z - d/2 s e^ + sqrt(d) s noise

With the signal-to-noise rule ``d = 4 (r |noise| / |e^|)^2`` for each example (there with means over
the batch, which would make a sample depend on its neighbours), but at most one, since |e^| of few
numbers may be as small as one likes; or d fixed (Ho et al. 2022, "Video
diffusion models", appendix B: 0.1). The score of a guided denoiser is that of the guided
distribution, so correctors serve any condition.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.example_keys import normal, step_keys
from jaxgen.diffusion.process.levels import Level, broadcast_level, expand
from jaxgen.diffusion.process.predictions import divide
from jaxgen.diffusion.samplers.sampling import Sampler, SampleState
from jaxgen.errors import InputError, check_positive


class CorrectedRow(NamedTuple):
    """A row of the predictor and the size of the steps before it.

    Attributes:
      row: of the predictor.
      size: r or d, [].
    """

    row: Any
    size: Any

    @property
    def now(self) -> Level:
        """Where the corrector and the predictor evaluate."""
        return self.row.now

    @property
    def next(self) -> Level:
        """Where the predictor ends."""
        return self.row.next


@dataclass(frozen=True)
class LangevinCorrector:
    """So many Langevin steps at each level, then a step of the predictor.

    Attributes:
      predictor: the sampler between the levels, with one evaluation per row and no memory of
        earlier ones (`Ancestral`, `DDIM`, `Euler`).
      size: r of the signal-to-noise rule, or d.
      count: Langevin steps at each level.
      rule: ``snr`` or ``fixed``.

    Raises:
      InputError: unless size > 0 and count >= 1, or for an unknown rule, a predictor with memory,
        or one that is a corrector itself (and would draw the same noise).
    """

    predictor: Sampler
    size: float = 0.16
    count: int = 1
    rule: Literal["snr", "fixed"] = "snr"

    def __post_init__(self) -> None:
        check_positive("size", self.size)
        if self.count < 1:
            raise InputError(f"count is {self.count}, expected at least 1")
        if self.rule not in ("snr", "fixed"):
            raise InputError(f"rule is {self.rule!r}, expected snr or fixed")
        if isinstance(self.predictor, LangevinCorrector):
            raise InputError(
                "predictor is LangevinCorrector, expected a sampler that is no corrector; more "
                "steps are evaluated for by count"
            )
        if any(lag for _, lag in getattr(self.predictor, "terms", ())):
            raise self._remembers()

    def table(self, levels: Level) -> CorrectedRow:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`."""
        rows = self.predictor.table(levels)
        return CorrectedRow(rows, np.full(len(rows.now.t), self.size, np.float32))

    def start(self, z: Float[Array, "B ..."]) -> SampleState:
        """That of the predictor.

        Raises:
          InputError: for a predictor with memory.
        """
        state = self.predictor.start(z)
        if jax.tree.leaves(state.history):
            raise self._remembers()
        return state

    def step(
        self, denoiser: Denoiser, state: SampleState, row: Any, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """Corrects at ``row.now``, then predicts."""
        z = state.z
        for i in range(self.count):
            z = self._correct(denoiser, z, row, step_keys(keys_B, jnp.asarray(i)))
        return self.predictor.step(denoiser, state._replace(z=z), row.row, keys_B)

    def _remembers(self) -> InputError:
        """What is wrong with a predictor that remembers."""
        return InputError(
            f"predictor is {type(self.predictor).__name__}, expected one without memory of earlier "
            "rows, since the corrector moves the latents in between"
        )

    def _correct(
        self,
        denoiser: Denoiser,
        z: Float[Array, "B ..."],
        row: CorrectedRow,
        keys_B: Key[Array, "B"],
    ) -> Float[Array, "B ..."]:
        """One Langevin step."""
        e = denoiser(z, broadcast_level(row.now, len(z))).e
        noise = normal(keys_B, z.shape[1:])
        d = row.size
        if self.rule == "snr":
            axes = tuple(range(1, z.ndim))
            ratio = divide(jnp.sum(noise**2, axes), jnp.sum(e**2, axes))
            d = expand(jnp.minimum(4 * row.size**2 * ratio, 1.0), z)
        return (z + row.now.s * (jnp.sqrt(d) * noise - d / 2 * e)).astype(z.dtype)
