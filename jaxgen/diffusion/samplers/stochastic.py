"""The stochastic sampler of Karras et al. (2022, algorithm 2): noise is added, then more removed.

Symbols: sigma = s/a. Before each step of Heun's or Euler's method noise is added up to the level ::

    sigma~ = sigma (1 + g),    g = min(churn / N, sqrt(2) - 1) where low <= sigma <= high, else 0
    z~ = (a~/a) z + a~ sqrt(sigma~^2 - sigma^2) inflation noise

and the step goes from there. Steps are straight in sigma, whatever the latents' scaling.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Key

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.example_keys import normal
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.samplers.linear import (
    LinearSampler,
    Term,
    check_finite_sigma,
    from_noise_to_data,
)
from jaxgen.diffusion.samplers.ode import heun_table
from jaxgen.diffusion.samplers.sampling import SampleState
from jaxgen.errors import InputError, check_not_negative


class ChurnRow(NamedTuple):
    """A row of `StochasticKarras`: as `LinearRow`, and what happens before.

    Attributes:
      now: where the denoiser is evaluated, the churned level.
      next: where the row ends.
      weights: of the terms, [T].
      noise: zero.
      scale: what z is multiplied by before, [].
      churn: deviation of the noise that is added before, [].
    """

    now: Level
    next: Level
    weights: Any
    noise: Any
    scale: Any
    churn: Any


@dataclass(frozen=True)
class StochasticKarras(LinearSampler):
    """Algorithm 2 of Karras et al. (2022); by default as for ImageNet-64 there (table 5).

    Attributes:
      schedule: gives the time of the levels in between, for networks conditioned on the time.
      churn: S_churn, how much noise is added in all; zero for none.
      low: S_tmin, the least sigma at which noise is added.
      high: S_tmax, the largest.
      inflation: S_noise, the deviation of the added noise.
      second_order: Heun's method (two rows per step), else Euler's.

    Raises:
      InputError: for negative numbers, or low above high.
    """

    schedule: Schedule
    churn: float = 40.0
    low: float = 0.05
    high: float = 50.0
    inflation: float = 1.003
    second_order: bool = True

    def __post_init__(self) -> None:
        for name in ("churn", "low", "inflation"):
            check_not_negative(name, getattr(self, name))
        if not self.low <= self.high:
            raise InputError(f"low is {self.low}, high is {self.high}, expected low <= high")

    @property
    def terms(self) -> tuple[Term, ...]:
        """Those of `Heun`."""
        return tuple((name, lag) for name in "zxe" for lag in (0, 1))

    def table(self, levels: Level) -> Any:
        """See `jaxgen.diffusion.samplers.sampling.Sampler`.

        Raises:
          InputError: for a first level without data, where sigma is infinite.
        """
        now, after = from_noise_to_data(levels)
        check_finite_sigma(now, self)
        sigma = now.s / now.a
        g = np.where(
            (sigma >= self.low) & (sigma <= self.high),
            min(self.churn / len(sigma), math.sqrt(2) - 1),
            0.0,
        )
        churned = self._churned(now, g)
        row, begins = heun_table(self, churned, after, "ve", second_order=self.second_order)
        scale, churn = np.ones(len(begins), np.float32), np.zeros(len(begins), np.float32)
        scale[begins] = churned.a / now.a
        churn[begins] = self.inflation * churned.a * sigma * np.sqrt(g * (2 + g))
        return ChurnRow(*row, scale, churn)

    def step(
        self, denoiser: Denoiser, state: SampleState, row: Any, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """Adds noise, then steps as `LinearSampler.step`."""
        z = row.scale * state.z + row.churn * normal(keys_B, state.z.shape[1:])
        return super().step(denoiser, state._replace(z=z), row, keys_B)

    def _churned(self, now: Level, g: np.ndarray) -> Level:
        """Levels with sigma (1 + g); those without churn are left as they are."""
        more = self.schedule.at_log_snr(now.log_snr - 2 * np.log1p(g))
        return Level(*(np.where(g > 0, new, old) for new, old in zip(more, now, strict=True)))
