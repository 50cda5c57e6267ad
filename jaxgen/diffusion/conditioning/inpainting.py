"""Inpainting with an unconditional denoiser: replacement, and RePaint's resampling on top of it.

Symbols: z = a x + s e; z_k the latents at level k of a sampler's N + 1, from noise (0) to data (N);
m a mask, 1 where x is known. After every step the known part is replaced by noisy data::

    z_{k+1} = m (a x + s e) + (1 - m) z_{k+1}          Lugmayr et al. 2022, equation 8

The two parts are then marginally right but do not fit each other. RePaint goes back and forth: from
level k it adds the noise of j levels and comes down again, r times in all::

    z_{k-j} = (a_{k-j} / a_k) z_k + sqrt(s_{k-j}^2 - (a_{k-j} / a_k)^2 s_k^2) e

Both are samplers around a sampler: `sample` runs them as one scan over a table, in which the way
back is part of the next row. They are trees of arrays (x, m), so they may be arguments of jitted
functions. What replacement gets wrong, and what does it right, is in
`jaxgen.diffusion.conditioning.reconstruction`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from jaxgen.diffusion.conditioning.masks import keep_known, known_data
from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.example_keys import normal, step_keys
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level, broadcast_level
from jaxgen.diffusion.samplers.sampling import Sampler, SampleState, Table
from jaxgen.errors import InputError

REPLACED, BACK = 1 << 30, (1 << 30) + 1
"""What is folded into a step's keys for noise of one's own; the sampler takes small numbers."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["known", "x"], meta_fields=["sampler"]
)
@dataclasses.dataclass(frozen=True)
class Replacement:
    """A sampler whose latents hold noisy data wherever they are known.

    The result holds x itself there, if the last level is clean data.

    Attributes:
      sampler: makes the steps.
      known: m, broadcasts against the latents (a box, strokes, frames of a video); values between
        0 and 1 blend noisy data and latents in these shares.
      x: the data, [B, ...], images as uint8 or in [-1, 1]; what is not known may be anything, even
        nan.
    """

    sampler: Sampler
    known: Any
    x: Any

    def table(self, levels: Level) -> Table:
        """That of the sampler."""
        return self.sampler.table(levels)

    def start(self, z: Float[Array, "B ..."]) -> SampleState:
        """That of the sampler."""
        return self.sampler.start(z)

    def step(
        self, denoiser: Denoiser, state: SampleState, row: Any, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """A step of the sampler, then the replacement."""
        state = self.sampler.step(denoiser, state, row, keys_B)
        z = replace_known(state.z, self.known, self.x, row.next, step_keys(keys_B, REPLACED))
        return state._replace(z=z)


def replace_known(
    z: Float[Array, "B ..."],
    known: Float[Array, "..."],
    x: Shaped[Array, "B ..."],
    level: Level,
    keys_B: Key[Array, "B"],
) -> Float[Array, "B ..."]:
    """Latents whose known part is ``a x + s e`` with new noise.

    Args:
      z: latents.
      known: the mask.
      x: data.
      level: of the latents, [] or [B].
      keys_B: the examples' keys.

    Raises:
      InputError: for data of another shape than the latents.
    """
    if jnp.shape(x) != z.shape:
        raise InputError(
            f"x has shape {jnp.shape(x)} for latents of shape {z.shape}, expected same"
        )
    x = known_data(known, x)
    noisy = add_noise(x, normal(keys_B, z.shape[1:]), broadcast_level(level, len(z)))
    return keep_known(known, noisy.astype(z.dtype), z)


class RePaintRow(NamedTuple):
    """One row of RePaint's table.

    Attributes:
      now: the level where the denoiser is evaluated.
      next: where the row ends.
      row: the sampler's row.
      keep: what the latents are multiplied by before, to go back; 1 to stay.
      noise: deviation of the noise that is added before; 0 to stay.
    """

    now: Level
    next: Level
    row: Any
    keep: Any
    noise: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["known", "x"],
    meta_fields=["sampler", "jump_length", "resamplings"],
)
@dataclasses.dataclass(frozen=True)
class RePaint(Replacement):
    """Replacement with resampling (Lugmayr et al. 2022, algorithm 1 and section 4.2).

    The levels to go back from are those of the paper's code: N - 1, N - 1 - j, and so on down to j;
    never clean data. With the paper's N = 250, j = r = 10 there are 2,410 steps.

    Attributes:
      sampler: makes the steps; it must not remember earlier ones (DDIM, ancestral).
      known: as in `Replacement`.
      x: as there.
      jump_length: j, levels to go back.
      resamplings: r, how often each stretch is gone through; 1 is plain replacement.

    Raises:
      InputError: for a jump length or resamplings below 1.
    """

    jump_length: int = 10
    resamplings: int = 10

    def __post_init__(self) -> None:
        for name in ("jump_length", "resamplings"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")

    def table(self, levels: Level) -> RePaintRow:
        """The sampler's rows in the order of their visits, and the noise of each jump back.

        Raises:
          InputError: for a sampler with several rows per step, for jumps as long as all steps
            together, which never happen, or as the sampler's table.
        """
        rows = self.sampler.table(levels)
        count = len(np.asarray(levels.t)) - 1
        if len(jax.tree.leaves(rows)[0]) != count:
            raise InputError(
                f"{type(self.sampler).__name__} has several rows per step: RePaint expects a "
                "sampler that evaluates once per step and has no memory, such as DDIM"
            )
        if self.resamplings > 1 and self.jump_length >= count:
            raise InputError(
                f"jump_length is {self.jump_length} for {count} steps: nothing would be resampled, "
                f"expected less than {count}, or resamplings=1"
            )
        order = np.array(visits(count, self.jump_length, self.resamplings))
        left = np.concatenate([[0], order[:-1] + 1])  # the level that the row before ended at
        a, s = (np.asarray(value, np.float64) for value in (levels.a, levels.s))
        # A row that stays may start at a = 0; one that goes back never does.
        keep = np.divide(a[order], a[left], out=np.ones(len(order)), where=left != order)
        noise = np.sqrt(np.maximum(s[order] ** 2 - (keep * s[left]) ** 2, 0.0))
        row = jax.tree.map(lambda value: np.asarray(value)[order], rows)
        return RePaintRow(row.now, row.next, row, np.float32(keep), np.float32(noise))

    def start(self, z: Float[Array, "B ..."]) -> SampleState:
        """That of the sampler.

        Raises:
          InputError: for a sampler that remembers earlier steps.
        """
        state = self.sampler.start(z)
        if jax.tree.leaves(state.history):
            raise InputError(
                f"{type(self.sampler).__name__} remembers earlier steps, which resampling undoes, "
                "expected a sampler without memory, such as DDIM"
            )
        return state

    def step(
        self, denoiser: Denoiser, state: SampleState, row: RePaintRow, keys_B: Key[Array, "B"]
    ) -> SampleState:
        """Noise back up to the jump's level, if there is one, then a step with replacement."""
        e = normal(step_keys(keys_B, BACK), state.z.shape[1:])
        state = state._replace(z=row.keep * state.z + row.noise * e)
        return super().step(denoiser, state, row.row, keys_B)


def visits(count: int, jump_length: int, resamplings: int) -> list[int]:
    """The steps in the order in which RePaint takes them; step k goes from level k to k + 1.

    Args:
      count: N, steps without resampling.
      jump_length: j.
      resamplings: r.

    Returns:
      N + j (r - 1) times the number of levels to go back from.
    """
    left = dict.fromkeys(range(count - 1, jump_length - 1, -jump_length), resamplings - 1)
    order, k = [], 0
    while k < count:
        order.append(k)
        k += 1
        if left.get(k, 0):
            left[k] -= 1
            k -= jump_length
    return order
