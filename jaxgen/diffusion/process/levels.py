"""Noise levels: how much of a latent is data and how much is noise.

Symbols: x data, e ~ N(0, 1) noise, t in [0, 1] time (0 data, 1 noise), and the latent ::

    z_t = a_t x + s_t e,        lambda_t = log(a_t^2 / s_t^2)        the log-SNR

The log-SNR alone says how hard it is to tell x from z; a and s follow from it once it is known how
latents are scaled, which is called the *scaling* here::

    "vp"    a^2 + s^2 = 1     a = sqrt(sigmoid(lambda))     variance preserving
    "ve"    a = 1             s = exp(-lambda / 2)          variance exploding
    "flow"  a + s = 1         a = sigmoid(lambda / 2)       straight lines from data to noise

Everything takes numpy or Python numbers and then computes in numpy and float64, so tables of steps
are made on the host without loss; or JAX arrays, and then computes in JAX.
"""

from types import ModuleType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

Scaling = Literal["vp", "ve", "flow"]

ArrayLike = Array | np.ndarray | float
"""A JAX array (computed with in JAX), or numpy or Python numbers (in numpy, float64)."""


class Level(NamedTuple):
    """One noise level, or many: four arrays of the same shape.

    That is [], [B] for a batch, [N] for steps, or [B, T] where parts of examples (frames) have
    levels of their own.

    Attributes:
      t: time in [0, 1].
      log_snr: lambda, infinite where a or s is zero.
      a: the scale of the data.
      s: the scale of the noise.
    """

    t: Any
    log_snr: Any
    a: Any
    s: Any


def namespace(*values: Any) -> ModuleType:
    """`jax.numpy` where one of the values is a JAX array, else numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def as_numbers(value: ArrayLike) -> Any:
    """The value as an array of its shape: JAX arrays as they are (reals), all else in float64."""
    if isinstance(value, jax.Array):
        return value.astype(jnp.promote_types(value.dtype, jnp.float32))
    return np.asarray(value, np.float64)


def scales(log_snr: ArrayLike, scaling: Scaling) -> tuple[Any, Any]:
    """a and s of a log-SNR, exact to rounding at both ends, infinities included.

    Args:
      log_snr: lambda, of any shape.
      scaling: how latents are scaled.

    Returns:
      a and s, of the same shape.
    """
    half = as_numbers(log_snr) / 2
    xp = namespace(half)
    match scaling:
        case "vp":
            return xp.sqrt(sigmoid(2 * half)), xp.sqrt(sigmoid(-2 * half))
        case "ve":
            return xp.ones_like(half), xp.exp(-half)
        case "flow":
            return sigmoid(half), sigmoid(-half)


def log_snr_of(a: ArrayLike, s: ArrayLike) -> Any:
    """lambda = log(a^2 / s^2), of the shape of a and s: infinite where s or a is zero."""
    a, s = as_numbers(a), as_numbers(s)
    xp = namespace(a, s)
    with np.errstate(divide="ignore"):
        return 2 * (xp.log(a) - xp.log(s))


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) without overflow, of the same shape."""
    if isinstance(x, jax.Array):
        return jax.nn.sigmoid(x)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def softplus(x: Any) -> Any:
    """log(1 + exp(x)) without overflow, of the same shape."""
    return namespace(x).logaddexp(x, 0.0)


def broadcast_level(level: Level, batch: int) -> Level:
    """A single level ([] each) for every one of B examples ([B] each).

    Levels that examples already have, one each or one for each of their parts ([B, T]), stay.
    """

    def spread(value: Any) -> Array:
        value = jnp.asarray(value)
        return jnp.broadcast_to(value, (batch, *value.shape[1:]))

    return Level(*(spread(value) for value in level))


def expand(value_B: Shaped[Array, "..."], like: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """[B] with as many trailing dimensions of size one as `like` has: [B, 1, ..., 1].

    A scalar stays one, and what each part of an example has ([B, T]) becomes [B, T, 1, ..., 1].
    """
    value_B = jnp.asarray(value_B)
    return value_B.reshape(value_B.shape + (1,) * (like.ndim - value_B.ndim) * (value_B.ndim > 0))
