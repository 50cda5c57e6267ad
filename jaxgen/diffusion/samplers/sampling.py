"""Sampling: one `jax.lax.scan` over a table of steps that was computed beforehand.

A *sampler* says what happens in a step; what it needs to know of the noise levels it has written
into a *table*, a tree of arrays with a leading axis N, in float64 on the host::

    levels = make_steps(schedule, 50, "trailing")
    z = initial_noise(key, index_B, shape, levels)
    x = sample(DDIM(eta=0.5), denoiser, z, levels, key, index_B)

Where one compiled program is to serve other steps (as many), seeds, guidance scales or etas, the
table is made outside of it and handed over as a value, as key, indices and whatever the denoiser
closes over are::

    run = jax.jit(lambda table, key: sample_with_table(sampler, denoiser, z, table, key))
    x = run(sampler.table(levels), key)

For any number of steps it takes a table that is filled up with rows that are not run::

    go = functools.partial(sample_with_table, sampler, denoiser, z)
    run = jax.jit(lambda table, rows: go(table, key, rows=rows))
    x = run(*fill_up(sampler.table(levels), 64))

The cost of a step does not depend on how many there are.

Randomness: example b draws from ``fold_in(key, index_b)``, in step i from ``fold_in(..., i)``, so
a sample depends on its key and index alone, not on batch, mesh or number of devices.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.denoiser import Denoiser, visiting
from jaxgen.diffusion.process.example_keys import (
    OwnNoise,
    example_indices,
    example_keys,
    normal,
    step_keys,
)
from jaxgen.diffusion.process.levels import Level
from jaxgen.errors import InputError, can_be_checked

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
    levels: Level,
    key: Key[Array, ""],
    index_B: Int[Array, "B"] | None = None,
    *,
    noise: Float[Array, "R B ..."] | None = None,
    previews: bool = False,
) -> Any:
    """Takes latents through levels, from noise to data (or to noise, for encoding).

    Args:
      sampler: the method.
      denoiser: what estimates data and noise.
      z: latents at the first level, from `initial_noise`.
      levels: [N + 1], from `make_steps`; numbers, no traced arrays.
      key: the randomness of stochastic samplers.
      index_B: which example each is; 0 .. B-1 if not given.
      noise: numbers for the noise of each row of the sampler's table, in place of random ones.
      previews: whether x^ of every row of the sampler's table is returned too.

    Returns:
      The latents at the last level, [B, ...]; with previews a pair of them and [N, B, ...].

    Raises:
      InputError: for levels that are none (a table is for `sample_with_table`) or that are traced,
        that do not go from noise to data, or that the denoiser cannot begin at
        (`jaxgen.diffusion.denoiser.check_level_fits`).
    """
    table = sampler.table(_known_levels(levels))
    return sample_with_table(
        sampler, denoiser, z, table, key, index_B, noise=noise, previews=previews
    )


def _known_levels(levels: Level) -> Level:
    if not isinstance(levels, Level):
        raise InputError(
            f"levels is a {type(levels).__name__}, expected a Level of [N + 1], such as "
            "make_steps(schedule, 50); a sampler's table goes to sample_with_table"
        )
    if not can_be_checked(*levels):
        raise InputError(
            "levels are traced, expected numbers: make the sampler's table outside of the jitted "
            "function and hand it to sample_with_table"
        )
    return levels


def sample_with_table(
    sampler: Sampler,
    denoiser: Denoiser,
    z: Float[Array, "B ..."],
    table: Table,
    key: Key[Array, ""],
    index_B: Int[Array, "B"] | None = None,
    *,
    noise: Float[Array, "R B ..."] | None = None,
    previews: bool = False,
    rows: Int[Array, ""] | None = None,
) -> Any:
    """`sample` through the rows of a table, which may be traced: one program for many tables.

    Args:
      sampler: the method.
      denoiser: what estimates data and noise.
      z: latents at the first level, from `initial_noise`.
      table: ``sampler.table(levels)``.
      key: as in `sample`.
      index_B: as there.
      noise: as there.
      previews: as there.
      rows: how many rows of the table are run, as `fill_up` gives it; None: all. Such a loop has no
        gradient.

    Returns:
      As `sample`.

    Raises:
      InputError: where the table can be looked at, for a first level that the denoiser cannot begin
        at; for noise of another shape; for previews with a number of rows.
    """
    if previews and rows is not None:
        raise InputError("previews are asked for with rows, expected one of them")
    keys_B = example_keys(key, example_indices(index_B, len(z)))
    count = len(jax.tree.leaves(table)[0])
    if noise is not None and jnp.shape(noise) != (count, *z.shape):
        raise InputError(f"noise has shape {jnp.shape(noise)}, expected {(count, *z.shape)}")

    def step(state: SampleState, numbered: tuple[Array, Any, Any]) -> tuple[SampleState, Any]:
        i, row, own = numbered
        keys: Any = step_keys(keys_B, i) if own is None else OwnNoise(own)
        state = sampler.step(denoiser, state, row, keys)
        return state, state.x if previews else None

    own = None if noise is None else jnp.asarray(noise)
    numbered = (jnp.arange(count), jax.tree.map(jnp.asarray, table), own)
    with visiting(table.now):
        if rows is None:
            state, xs = jax.lax.scan(step, sampler.start(z), numbered)
            return (state.z, xs) if previews else state.z

        def at(i: Array, state: SampleState) -> SampleState:
            return step(state, jax.tree.map(lambda values: values[i], numbered))[0]

        return jax.lax.fori_loop(0, rows, at, sampler.start(z)).z


def fill_up(table: Table, multiple: int) -> tuple[Table, Int[np.ndarray, ""]]:
    """A table whose number of rows is a multiple of some number, and how many of them are its own.

    Args:
      table: ``sampler.table(levels)``.
      multiple: the number; those that are added repeat the last row, for `sample_with_table` not to
        run.
    """
    count = len(jax.tree.leaves(table)[0])
    index = np.minimum(np.arange(count + -count % multiple), count - 1)
    filled = jax.tree.map(lambda values: np.asarray(values)[index], table)
    return filled, np.asarray(count, np.int32)


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
