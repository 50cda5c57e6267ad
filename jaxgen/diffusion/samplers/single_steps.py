"""One step of a sampler, for examples that stand at different levels: what a teacher does.

Sampling takes all examples through the same rows of a table, one after the other. Training a
student draws a step for each example, and the teacher takes just that one::

    steps = single_steps(DDIM(), levels)           N steps, on the host in float64, once
    z = take_step(DDIM(), teacher, z, rows_at(steps, step_B))

The arithmetic is the samplers' own: a row whose fields have one number for each example.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.objectives.time_distributions import Times
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal
from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.diffusion.samplers.ddim import DDIM, AngularDDIM
from jaxgen.diffusion.samplers.linear import (
    LinearRow,
    LinearSampler,
    Term,
    from_noise_to_data,
)
from jaxgen.diffusion.samplers.ode import Euler
from jaxgen.diffusion.samplers.sampling import SampleState
from jaxgen.errors import InputError
from jaxgen.pixels import as_data

TreeT = TypeVar("TreeT")


class SingleSteps(NamedTuple):
    """Steps of a sampler, each by itself; [N] for all of a table, [B] for one of each example.

    Attributes:
      now: where a step begins, [N].
      after: where it ends, [N].
      rows: the sampler's rows for it, [N, R]; R is the number of evaluations of the denoiser.
    """

    now: Level
    after: Level
    rows: LinearRow


@dataclass(frozen=True)
class Noiseless(LinearSampler):
    """A deterministic sampler, without drawing the noise that it would weigh by zero.

    Attributes:
      sampler: whose steps need nothing of earlier ones: DDIM, AngularDDIM, Euler or Heun.

    Raises:
      InputError: for another sampler.
    """

    sampler: LinearSampler

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, DDIM | AngularDDIM | Euler):
            raise InputError(
                f"sampler is {type(self.sampler).__name__}, expected one whose steps stand alone, "
                "DDIM, AngularDDIM, Euler or Heun"
            )

    @property
    def terms(self) -> tuple[Term, ...]:
        """The sampler's."""
        return self.sampler.terms

    def table(self, levels: Level) -> LinearRow:
        """The sampler's.

        Raises:
          InputError: where it adds noise.
        """
        table = self.sampler.table(levels)
        if table.noise.any():
            raise InputError(f"sampler is {self.sampler}, expected one that adds no noise")
        return table

    def step(
        self, denoiser: Denoiser, state: SampleState, row: LinearRow, keys_B: Any = None
    ) -> SampleState:
        """The sampler's; there are no keys to give."""
        return super().step(denoiser, state, row, keys_B)


def single_steps(sampler: LinearSampler, levels: Level) -> SingleSteps:
    """The steps of a sampler through levels, as steps of their own.

    Args:
      sampler: DDIM without noise, AngularDDIM, Euler or Heun.
      levels: [N + 1], from noise to data.

    Returns:
      N steps, in numpy float32.

    Raises:
      InputError: for a sampler with noise or memory, and for levels that do not go from noise to
        data.
    """
    sampler = Noiseless(sampler)
    now, after = from_noise_to_data(levels)
    table = sampler.table(levels)
    # Rows that belong to one step end at the same level.
    ends = table.next.log_snr
    begins = np.flatnonzero(np.append(True, ends[1:] != ends[:-1]))
    counts = np.diff(np.append(begins, len(ends)))
    # As many rows for every step, so that one program serves all: Heun's last step has one less.
    rows = [_row_of_steps(sampler, table, begins, counts, i) for i in range(counts.max())]
    stacked = jax.tree.map(lambda *values: np.stack(values, 1), *rows)
    return jax.tree.map(
        lambda value: np.asarray(value, np.float32), SingleSteps(now, after, stacked)
    )


def _row_of_steps(
    sampler: LinearSampler, table: LinearRow, begins: np.ndarray, counts: np.ndarray, i: int
) -> LinearRow:
    """Row i of every step; one that keeps z where a step has no such row."""
    there = i < counts
    row = jax.tree.map(lambda value: value[begins + np.where(there, i, 0)], table)
    keep = np.array([term == ("z", 0) for term in sampler.terms], np.float32)
    return row._replace(weights=np.where(there[:, None], row.weights, keep))


def rows_at(tree: TreeT, step_B: Int[Array, "B"]) -> TreeT:
    """The rows of arrays [N, ...] with the examples' numbers: arrays [B, ...]."""
    return jax.tree.map(lambda value: jnp.asarray(value)[step_B], tree)


def take_step(
    sampler: LinearSampler, denoiser: Denoiser, z: Float[Array, "B ..."], step: SingleSteps
) -> Float[Array, "B ..."]:
    """Takes every example through its own step.

    Args:
      sampler: the one that the steps were made for.
      denoiser: what estimates data and noise.
      z: latents at ``step.now``, [B, ...].
      step: of each example, picked from `single_steps`.

    Returns:
      The latents at ``step.after``, [B, ...].
    """
    sampler = Noiseless(sampler)
    state = sampler.start(z)
    for i in range(step.rows.noise.shape[1]):
        row = jax.tree.map(lambda value, i=i: value[:, i], step.rows)
        # Weights [B, T] as T arrays that broadcast against latents: each example has its own row.
        weights = [expand(weight_B, z) for weight_B in row.weights.T]
        state = sampler.step(denoiser, state, row._replace(weights=weights))
    return state.z


def draw_steps(u_B: Float[Array, "B"], count: int) -> Int[Array, "B"]:
    """Which of N steps, numbered from noise to data, from times u in [0, 1].

    Step n begins at level n: with levels even in time at ``t = (N - n) / N``, and n is that of the
    first such t above u, so uniform times give uniform steps.
    """
    return count - 1 - jnp.clip(jnp.floor(u_B * count).astype(int), 0, count - 1)


def draw_examples(
    x: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    count: int,
    times: Times,
    index_B: Int[Array, "B"] | None,
) -> tuple[Int[Array, "B"], Array, Array]:
    """What a loss over steps draws: for every example the number of a step, and noise.

    Args:
      x: data, [B, ...].
      key: randomness.
      count: N, how many steps there are.
      times: of which the step is drawn.
      index_B: example indices, folded into the key; places in the batch if None.

    Returns:
      The steps [B], the data in float32, and noise of their shape.
    """
    x = as_data(x).astype(jnp.float32)
    index_B = example_indices(index_B, len(x))
    time_key, noise_key = jax.random.split(key)
    step_B = draw_steps(times.draw(time_key, index_B), count)
    return step_B, x, normal(example_keys(noise_key, index_B), x.shape[1:])
