"""What is done to a sampler's levels after they are made: starting later, other times, other ends.

All take and give levels [N + 1] from noise to data (`jaxgen.diffusion.process.step_levels`)::

    levels = skip_steps(make_steps(schedule, 50), 20)          30 steps are left
    z = start_from(x, noise, levels)                           data with the noise of the first one
    z = scale_noise(noise, levels)                             noise alone
    levels = with_times(levels, [999, 966, ...] / 1000)        times for the network alone
    levels = repeat_last(levels)                               ends where it was evaluated last
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import Level
from jaxgen.errors import InputError


def first_level(levels: Level) -> Level:
    """The noisiest of a sampler's levels, [], where its samples start."""
    return jax.tree.map(lambda value: np.float32(np.ravel(value)[0]), levels)


def skip_steps(levels: Level, count: int) -> Level:
    """The levels after a number of steps: what editing (SDEdit) and image-to-image begin at.

    Programs that ask for a *strength* of N steps mean ``count = N - int(strength N)``.

    Args:
      levels: [N + 1].
      count: steps left out, 0 to N - 1.

    Raises:
      InputError: for a count out of range.
    """
    steps = len(levels.t) - 1
    if not 0 <= count < steps:
        raise InputError(f"skipping {count} of {steps} steps, expected 0 to {steps - 1}")
    return Level(*(np.asarray(value)[count:] for value in levels))


def start_from(
    x: Float[Array, "B ..."], noise: Float[Array, "B ..."], levels: Level
) -> Float[Array, "B ..."]:
    """Latents at the first of some levels, of data and noise of one's own: ``a x + s noise``.

    Args:
      x: data, [B, ...].
      noise: standard normal numbers of the same shape.
      levels: [N + 1].

    Raises:
      InputError: where the shapes differ.
    """
    if jnp.shape(x) != jnp.shape(noise):
        raise InputError(f"noise has shape {jnp.shape(noise)}, expected {jnp.shape(x)}, the data's")
    return add_noise(jnp.asarray(x), jnp.asarray(noise), first_level(levels))


def scale_noise(noise: Float[Array, "B ..."], levels: Level) -> Float[Array, "B ..."]:
    """Noise of one's own as latents at the first of some levels, to sample from.

    Its deviation is that of `jaxgen.diffusion.initial_noise`, sqrt(a^2 + s^2).

    Args:
      noise: standard normal numbers, [B, ...].
      levels: [N + 1].
    """
    first = first_level(levels)
    return jnp.hypot(first.a, first.s) * jnp.asarray(noise)


def with_times(levels: Level, times: Any) -> Level:
    """Levels with the same noise, at which a network is conditioned on other times.

    Args:
      levels: [N + 1].
      times: t of the N levels where the network is evaluated, or of all N + 1. With the usual
        conditioning a network sees 1,000 t, with a table of T steps ``t T - 1``.

    Raises:
      InputError: for another number of times.
    """
    times, count = np.asarray(times, np.float64), len(levels.t)
    if times.shape == (count - 1,):
        times = np.append(times, levels.t[-1])
    if times.shape != (count,):
        raise InputError(f"times have shape {times.shape}, expected ({count - 1},) or ({count},)")
    return Level(times, *levels[1:])


def repeat_last(levels: Level) -> Level:
    """Levels that end at the last one where a network is evaluated, which is there twice.

    Some programs end so (``final_sigmas_type="sigma_min"``): the last step goes nowhere. Samplers
    leave such a step out, which changes nothing: a step of no length leaves latents as they are.

    Args:
      levels: [N + 1].
    """
    return Level(*(np.append(np.asarray(value)[:-1], value[-2]) for value in levels))
