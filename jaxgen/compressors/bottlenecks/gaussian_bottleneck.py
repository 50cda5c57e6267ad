"""Latents drawn from a Gaussian whose divergence from N(0, 1) is paid for (KL).

The encoder gives means m and log-variances v of all numbers; with e from N(0, 1)::

    z = m + exp(v / 2) e
    KL(N(m, exp v) || N(0, 1)) = sum (m^2 + exp(v) - 1 - v) / 2

(Kingma & Welling 2014, appendix B). As in Rombach et al. (2022) v is clipped to [-30, 20] and the
loss is the sum over the numbers of an example; its weight there, about 1e-6, belongs to a
reconstruction loss that is summed over numbers too.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.compressors.bottlenecks.latent import Latent, as_encoding
from jaxgen.errors import InputError

LOG_VARIANCES = -30.0, 20.0
"""Where log-variances are clipped."""


@dataclass(frozen=True)
class KLConfig:
    """A Gaussian bottleneck.

    Attributes:
      latent_channels: numbers of a latent position.

    Raises:
      InputError: for values out of range, naming the field.
    """

    latent_channels: int = 4

    def __post_init__(self) -> None:
        if self.latent_channels < 1:
            raise InputError(f"latent_channels is {self.latent_channels}, expected 1 or more")

    @property
    def encoder_channels(self) -> int:
        """A mean and a log-variance for each number."""
        return 2 * self.latent_channels

    @property
    def codebook_size(self) -> None:
        """None: latents are continuous."""
        return None

    def make_model(self) -> "KLBottleneck":
        """The module."""
        return KLBottleneck(self)


class KLBottleneck(nn.Module):
    """Moments to latents; without parameters.

    Attributes:
      config: the options.
    """

    config: KLConfig

    def __call__(self, h: Float[Array, "B *positions C"], key: Array | None = None) -> Latent:
        """The latents of moments h.

        Args:
          h: [B, ..., 2 latent_channels], means first.
          key: of the noise; None: the means.

        Raises:
          InputError: for another number of channels.
        """
        mean, log_variance = gaussian_moments(as_encoding(h, self.config.encoder_channels))
        values = mean
        if key is not None:
            noise = jax.random.normal(key, mean.shape)
            values = mean + jnp.exp(log_variance / 2) * noise
        loss = kl_to_standard_normal(mean, log_variance)
        return Latent(values, None, loss, {"kl": loss.mean()})


def gaussian_moments(
    h: Float[Array, "*N C2"],
) -> tuple[Float[Array, "*N C"], Float[Array, "*N C"]]:
    """Means and clipped log-variances, the two halves of h's channels."""
    mean, log_variance = jnp.split(h, 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCES)


def kl_to_standard_normal(
    mean: Float[Array, "B *N"], log_variance: Float[Array, "B *N"]
) -> Float[Array, "B"]:
    """``KL(N(m, exp v) || N(0, 1))`` of each example, summed over its numbers, in nats."""
    excess = jnp.expm1(log_variance) - log_variance  # exp(v) - 1 - v, exact for small v
    return jnp.sum(jnp.square(mean) + excess, axis=tuple(range(1, mean.ndim))) / 2
