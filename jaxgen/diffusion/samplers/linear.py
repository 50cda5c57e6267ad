"""Most samplers are tables: each step is a weighted sum of what is known, and perhaps noise.

Symbols: z_k, x_k, e_k are the latents at which the network was evaluated k rows ago, and its
estimates of data and noise there (k = 0: in this row). One row of a table is one evaluation of the
denoiser and then ::

    z' = sum_j w_j q_j + n noise,        q_j one of z_0, z_1, .., x_0, x_1, .., e_0, e_1, ..

A method is its list of quantities q and the formula of its weights, which is numpy in float64 and
runs once, on the host. Methods with several evaluations per step (Heun) have several rows per step.
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.diffusion.denoiser import Denoiser, Estimate
from jaxgen.diffusion.process.example_keys import normal
from jaxgen.diffusion.process.levels import Level, broadcast_level
from jaxgen.diffusion.process.step_levels import pair_levels
from jaxgen.diffusion.samplers.sampling import SampleState
from jaxgen.errors import InputError

Term = tuple[str, int]
"""A quantity: "z", "x" or "e", and how many rows ago."""


class LinearRow(NamedTuple):
    """One row of a table, or with a leading axis N all of them.

    Attributes:
      now: where the denoiser is evaluated.
      next: where the row ends.
      weights: of the sampler's terms, [T].
      noise: the deviation of the noise that is added, []. A factor on it (s_noise in k-diffusion
        and diffusers) is one on the table: ``table._replace(noise=factor * table.noise)``.
    """

    now: Level
    next: Level
    weights: Any
    noise: Any


class LinearSampler(abc.ABC):
    """Samplers that are tables; sub-classes name their `terms` and write `table`."""

    @property
    @abc.abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """The quantities that enter the sums."""

    @property
    def noisy(self) -> bool:
        """Whether noise is added."""
        return False

    @abc.abstractmethod
    def table(self, levels: Level) -> LinearRow:
        """The rows through levels [N + 1]."""

    def start(self, z: Float[Array, "B ..."]) -> SampleState:
        """Nothing is known yet; latents are kept in float32 at least."""
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        lags = {name: max(lag for n, lag in self.terms if n == name) for name, _ in self.terms}
        history = {name: (jnp.zeros_like(z),) * lag for name, lag in lags.items()}
        return SampleState(z, jnp.zeros_like(z), history)

    def step(
        self, denoiser: Denoiser, state: SampleState, row: LinearRow, keys_B: Any
    ) -> SampleState:
        """Evaluates the denoiser at ``row.now``, then sums.

        ``keys_B``, the examples' keys [B], may be None where nothing is drawn.
        """
        estimate = denoiser(state.z, broadcast_level(row.now, len(state.z)))
        x, e = estimate.x.astype(state.z.dtype), estimate.e.astype(state.z.dtype)
        latest = {"z": state.z, "x": x, "e": e}
        known = {name: (latest[name], *past) for name, past in state.history.items()}
        z = sum(
            w * known[name][lag] for w, (name, lag) in zip(row.weights, self.terms, strict=True)
        )
        deviation = self.deviation(row, estimate)
        if deviation is not None:
            z = z + deviation * normal(keys_B, z.shape[1:])
        history = {name: values[: len(values) - 1] for name, values in known.items()}
        return SampleState(z.astype(x.dtype), x, history)

    def deviation(self, row: LinearRow, estimate: Estimate) -> Any:
        """Of the noise that a row adds; None for a sampler that adds none."""
        return row.noise if self.noisy else None


def make_table(
    now: Level,
    after: Level,
    weights: list[Any],
    noise: Any = 0.0,
) -> LinearRow:
    """A table from float64 columns; single numbers hold for all rows.

    Args:
      now: where each row evaluates the denoiser, [N].
      after: where it ends, [N].
      weights: of each term, [N] or [].
      noise: deviation of the noise, [N] or [].

    Returns:
      numpy float32, with leading axis N.
    """
    count = len(now.t)
    columns = [np.broadcast_to(np.asarray(w, np.float64), (count,)) for w in weights]
    row = LinearRow(now, after, np.stack(columns, -1), np.broadcast_to(noise, (count,)))
    return jax.tree.map(lambda value: np.asarray(value, np.float32), row)


def from_noise_to_data(levels: Level) -> tuple[Level, Level]:
    """Where each step begins and ends, [N] each, for samplers that only take noise away.

    Raises:
      InputError: for levels that go the other way.
    """
    now, after = pair_levels(levels)
    if now.log_snr[0] > after.log_snr[0]:
        raise InputError("levels from data to noise: this sampler only goes from noise to data")
    return now, after


def from_level_with_noise(levels: Level) -> tuple[Level, Level]:
    """Where each step begins and ends, [N] each, for samplers of the ODE, in both directions.

    Raises:
      InputError: where the first level is clean data: there is no noise to be estimated.
    """
    now, after = pair_levels(levels)
    if now.s[0] == 0:
        raise InputError(
            "levels from clean data: no noise can be estimated there, expected a first level with "
            "some (make_steps with final='first'), or DDIM"
        )
    return now, after


def check_finite_sigma(now: Level, sampler: LinearSampler) -> None:
    """Refuses to begin at pure noise.

    Raises:
      InputError: where a is zero, which is infinite noise for methods that work with s / a.
    """
    if (now.a == 0).any():
        raise InputError(
            f"{type(sampler).__name__} cannot begin at infinite s / a (log-SNR -inf), expected a "
            "first level with some data, or a sampler that works in the scaling vp or flow"
        )
