"""Lookup-free quantisation (LFQ; Yu et al. 2023): every number becomes its sign, a bit.

The value of z is c = sign(z) in {-1, 1}, with -1 at 0; its bits, the first number most significant,
are the code. The codebook has all 2^b sign vectors and nothing is looked up. The loss makes single
choices certain and the choices of a batch diverse; i are positions, p_i codes::

    L = w (mean_i H(p_i) - gamma H(mean_i p_i)) + beta mean |z - sg(c)|^2
    p_i(c) = softmax_c(2 z_i . c / tau)

The bits of p_i are independent, with odds exp(4 z / tau). So H(p_i) is a sum over bits, and the
mean of p_i over positions is one product of matrices: with the bits cut into two halves,
``mean_i p_i(c, c') = (1/N) sum_i p_i(c) p_i(c')``. No [positions, codes] array is made. There is
no activation before the sign.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.compressors.bottlenecks.codebook_usage import code_counts, codebook_perplexity
from jaxgen.compressors.bottlenecks.latent import (
    Latent,
    as_encoding,
    check_codebook_size,
    check_codes,
    commitment_of,
    mean_of_examples,
    nan_outside,
    straight_through,
)
from jaxgen.errors import InputError, check_not_negative, check_positive

TINY = 1e-30
"""Below it a probability's logarithm is not taken: its gradient would be infinite."""


@dataclass(frozen=True)
class LFQConfig:
    """Lookup-free quantisation; temperature and weights are those of the open implementation.

    Attributes:
      bits: b; 2^b codes.
      entropy_weight: w.
      diversity: gamma, of the entropy of the batch.
      temperature: tau.
      commitment: beta.

    Raises:
      InputError: for values out of range, naming the field.
    """

    bits: int = 10
    entropy_weight: float = 0.1
    diversity: float = 1.0
    temperature: float = 0.01
    commitment: float = 0.25

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise InputError(f"bits is {self.bits}, expected 1 or more")
        check_codebook_size("2 ** bits", self.codebook_size)
        check_positive("temperature", self.temperature)
        for name in ("entropy_weight", "diversity", "commitment"):
            check_not_negative(name, getattr(self, name))

    @property
    def latent_channels(self) -> int:
        """A channel for each bit."""
        return self.bits

    @property
    def encoder_channels(self) -> int:
        """The same."""
        return self.bits

    @property
    def codebook_size(self) -> int:
        """2^b."""
        return 2**self.bits

    def make_model(self) -> "LookupFreeQuantizer":
        """The module."""
        return LookupFreeQuantizer(self)


class LookupFreeQuantizer(nn.Module):
    """Numbers to signs; without parameters.

    Attributes:
      config: the options.
    """

    config: LFQConfig

    def __call__(self, h: Float[Array, "B *positions C"], key: Array | None = None) -> Latent:
        """The quantised latents of h [B, ..., bits]; nothing is random.

        The entropy of the batch is one number, which every example's loss has in it.

        Raises:
          InputError: for another number of channels.
        """
        c = self.config
        z = as_encoding(h, c.encoder_channels)
        signs = jnp.where(z > 0, 1.0, -1.0)
        codes = jnp.sum((z > 0) * self._places, axis=-1, dtype=jnp.int32)
        logits = 4 * z / c.temperature
        certainty = mean_of_examples(bit_entropies(logits).sum(-1))
        diversity = mean_code_entropy(logits.reshape(-1, c.bits))
        commitment = commitment_of(z, signs)
        entropy_loss = certainty - c.diversity * diversity
        metrics = {
            "perplexity": codebook_perplexity(code_counts(codes, c.codebook_size)),
            "code_entropy": certainty.mean(),
            "batch_entropy": diversity,
            "commitment": commitment.mean(),
        }
        loss = c.entropy_weight * entropy_loss + c.commitment * commitment
        return Latent(straight_through(z, signs), codes, loss, metrics)

    def values(self, codes: Int[Array, "*N"]) -> Float[Array, "*N C"]:
        """The signs of codes; NaN for codes outside the codebook.

        Raises:
          InputError: for codes outside the codebook where they can be looked at.
        """
        codes, size = jnp.asarray(codes), self.config.codebook_size
        check_codes(codes, size)
        signs = jnp.where(codes[..., None] & self._places, 1.0, -1.0)
        return nan_outside(signs, codes, size)

    @property
    def _places(self) -> np.ndarray:
        """What each bit adds to the code, the first most."""
        return 2 ** np.arange(self.config.bits - 1, -1, -1, dtype=np.int32)


def bit_entropies(logits: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
    """The entropy in nats of a bit of log-odds l: log(1 + exp(-|l|)) + |l| / (1 + exp |l|)."""
    size = jnp.abs(logits)
    return jnp.log1p(jnp.exp(-size)) + size * jax.nn.sigmoid(-size)


def mean_code_entropy(logits_NC: Float[Array, "N C"]) -> Float[Array, ""]:
    """H(mean_i p_i) in nats over all 2^C codes, of the log-odds of their bits."""
    half = logits_NC.shape[1] // 2
    first_NK, second_NK = (
        _all_code_probabilities(part) for part in (logits_NC[:, :half], logits_NC[:, half:])
    )
    mean_KK = jnp.matmul(first_NK.T, second_NK, precision="highest") / len(logits_NC)
    return -jnp.sum(mean_KK * jnp.log(jnp.maximum(mean_KK, TINY)))


def _all_code_probabilities(logits_NC: Float[Array, "N C"]) -> Float[Array, "N K"]:
    """The probabilities of all 2^C codes, by code."""
    probabilities = jnp.ones((len(logits_NC), 1))
    for logits_N in logits_NC.T:
        bit = jax.nn.sigmoid(jnp.stack([-logits_N, logits_N], axis=-1))
        probabilities = (probabilities[:, :, None] * bit[:, None]).reshape(len(logits_NC), -1)
    return probabilities
