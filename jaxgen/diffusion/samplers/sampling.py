"""Sampling: one `jax.lax.scan` over a table of steps that was computed beforehand.

A *sampler* says what happens in a step; what it needs to know of the noise levels it has written
into a *table*, a tree of arrays with a leading axis N, in float64 on the host::

    levels = make_steps(schedule, 50, "trailing")
    sampler = DDIM(eta=0.5)
    table = sampler.table(levels)
    z = initial_noise(key, index_B, shape, levels)
    x = sample(sampler, denoiser, z, table, key, index_B)

Table, key, indices and whatever the denoiser closes over are values, not constants: under
`jax.jit` other steps (as many), seeds, guidance scales or etas run the compiled program. The cost
of a step does not depend on how many there are.

Randomness: example b draws from ``fold_in(key, index_b)``, in step i from ``fold_in(..., i)``, so
a sample depends on its key and index alone, not on batch, mesh or number of devices.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal, step_keys
from jaxgen.diffusion.process.levels import Level

Table = Any
"""A tree of arrays with leading axis N; its rows have the fields `now` and `next`, levels."""


class SampleState(NamedTuple):
    """Where a sample stands.

    Attributes:
      z: the latents, [B, ...].
      x: the latest estimate x^, a preview of the result, [B, ...].
      history: what the sampler remembers of earlier steps.
    """

    z: Array
    x: Array
    history: Any


class Sampler(Protocol):
    """What `sample` needs; frozen dataclasses in `jaxgen.diffusion.samplers`."""

    def table(self, levels: Level) -> Table:
        """The steps through levels [N + 1], computed in float64 and handed over as float32."""

    def start(self, z: Float[Array, "B ..."]) -> SampleState:
        """The state before the first step."""

    def step(
        self, denoiser: Denoiser, state: SampleState, row: Any, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """One row of the table; keys_B are the examples' keys for this step."""


def sample(
    sampler: Sampler,
    denoiser: Denoiser,
    z: Float[Array, "B ..."],
    table: Table,
    key: Key[Array, ""],
    index_B: Int[Array, "B"] | None = None,
    *,
    previews: bool = False,
) -> Any:
    """Takes latents through all the steps of a table.

    Args:
      sampler: the method.
      denoiser: what estimates data and noise.
      z: latents at the first level, from `initial_noise`.
      table: ``sampler.table(levels)``.
      key: the randomness of stochastic samplers.
      index_B: which example each is; 0 .. B-1 if not given.
      previews: whether x^ of every row is returned too.

    Returns:
      The latents at the last level, [B, ...]; with previews a pair of them and [N, B, ...].
    """
    keys_B = example_keys(key, example_indices(index_B, len(z)))
    count = len(jax.tree.leaves(table)[0])

    def step(state: SampleState, numbered: tuple[Array, Any]) -> tuple[SampleState, Any]:
        i, row = numbered
        state = sampler.step(denoiser, state, row, step_keys(keys_B, i))
        return state, state.x if previews else None

    rows = (jnp.arange(count), jax.tree.map(jnp.asarray, table))
    state, xs = jax.lax.scan(step, sampler.start(z), rows)
    return (state.z, xs) if previews else state.z


def initial_noise(
    key: Key[Array, ""], index_B: Int[Array, "B"], shape: tuple[int, ...], level: Level
) -> Float[Array, "B ..."]:
    """Latents at the noisiest level: normal with deviation sqrt(a^2 + s^2).

    That is the deviation of latents of data with unit variance; at the noise end of a schedule it
    is s, as far as it matters.

    Args:
      key: the randomness; the same key may go to `sample`, whose steps draw other numbers.
      index_B: which example each is.
      shape: of one example, without B.
      level: the first level ([]), or all the levels of a sampler ([N + 1]).

    Returns:
      [B, *shape].
    """
    deviation = jnp.hypot(*(jnp.ravel(jnp.asarray(value))[0] for value in (level.a, level.s)))
    return deviation.astype(jnp.float32) * normal(example_keys(key, index_B), shape)
