"""The last term of the variational bound: how likely the data are, given their least noisy latent.

Symbols: z = a x + s e at the least noisy level of a process. A *decoder* is a callable ``(x, z,
estimate, level) -> log p(x | z)`` in nats, summed over the numbers of an example, where `estimate`
is the denoiser's estimate from z; a decoder that does not use it costs no evaluation under
`jax.jit`.

8-bit images are expected as ``x = 2 k / 255 - 1`` for k = 0 .. 255.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from jaxgen.diffusion.denoiser import Estimate
from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.errors import InputError

Decoder = Callable[[Array, Array, Estimate, Level], Array]
"""``(x [B, ...], z [B, ...], estimate, level of [B] each) -> log p(x | z) [B]``."""


def continuous_decoder(
    x: Float[Array, "B ..."], z: Float[Array, "B ..."], estimate: Estimate, level: Level
) -> Float[Array, "B"]:
    """A density of real numbers: N(x; z / a, (s / a)^2).

    It is q(x | z) for a flat prior, so the smaller s, the tighter the bound that it gives.
    """
    log_deviation = -expand(jnp.asarray(level.log_snr), x) / 2
    error = (x - z / expand(level.a, x)) * jnp.exp(-log_deviation)
    return -total(error**2 / 2 + log_deviation + math.log(2 * math.pi) / 2)


def categorical_decoder(count: int = 256) -> Decoder:
    """p(k | z) in proportion to q(z | x_k) (Kingma et al. 2021, section 4 and appendix).

    Args:
      count: how many values a number can have, evenly spaced from -1 to 1.

    Raises:
      InputError: for fewer than two.
    """
    _check_count(count)

    def decoder(x: Array, z: Array, estimate: Estimate, level: Level) -> Float[Array, "B"]:
        values_V = jnp.asarray(np.linspace(-1, 1, count), jnp.float32)
        snr = jnp.exp(expand(jnp.asarray(level.log_snr), x))
        centre = z / expand(level.a, x)
        logits_V = -snr[..., None] / 2 * (centre[..., None] - values_V) ** 2
        return total(-snr / 2 * (centre - x) ** 2 - jax.nn.logsumexp(logits_V, axis=-1))

    return decoder


def cell_decoder(low: float, high: float | None = None, count: int = 256) -> Decoder:
    """The mass of N(x^, d^2) in the cell around x, the outer cells open (Ho et al. 2020, eq. 13).

    Args:
      low: d; or, with `high`, its lower bound.
      high: where d = low^(1 - f) high^f with the fraction f that the denoiser estimates (Nichol &
        Dhariwal 2021, equation 15), its upper bound.
      count: how many values a number can have, evenly spaced from -1 to 1.

    Raises:
      InputError: for fewer than two values, or deviations that are not positive; when called, for
        an estimate without a fraction where one is needed.
    """
    _check_count(count)
    if not 0 < low < math.inf or not (high is None or low <= high < math.inf):
        raise InputError(f"low is {low}, high is {high}, expected 0 < low <= high")

    def decoder(x: Array, z: Array, estimate: Estimate, level: Level) -> Float[Array, "B"]:
        log_deviation = jnp.full((), math.log(low), jnp.float32)
        if high is not None:
            if estimate.fraction is None:
                raise InputError(
                    f"high is {high} with a denoiser that estimates no fraction, expected one made "
                    "with learned_variance=True"
                )
            log_deviation = log_deviation + estimate.fraction * math.log(high / low)
        return total(log_cell_mass(x, estimate.x, log_deviation, count))

    return decoder


def log_cell_mass(
    x: Float[Array, "..."], mean: Float[Array, "..."], log_deviation: Array, count: int
) -> Float[Array, "..."]:
    """log of the mass that N(mean, d^2) has within 1 / (count - 1) of x, of the shape of x.

    Below the second value and above the last but one the cells have no end. Values and gradients
    stay finite far out, where differences of the cumulative distribution would vanish.
    """
    half = 1 / (count - 1)
    scale = jnp.exp(-log_deviation)
    centre = (x - mean) * scale
    # The normal distribution is symmetric: on the left side its logarithms keep their digits.
    upper = log_ndtr(half * scale - jnp.abs(centre))
    lower = log_ndtr(-half * scale - jnp.abs(centre))
    inner = upper + jnp.log(-jnp.expm1(jnp.minimum(lower - upper, -1e-7)))
    first = log_ndtr(centre + half * scale)
    last = log_ndtr(half * scale - centre)
    return jnp.where(x < -1 + half, first, jnp.where(x > 1 - half, last, inner))


def total(value: Float[Array, "B ..."]) -> Float[Array, "B"]:
    """The sum over each example's numbers."""
    return value.sum(tuple(range(1, value.ndim)))


def _check_count(count: int) -> None:
    if count < 2:
        raise InputError(f"count is {count}, expected at least 2 values")
