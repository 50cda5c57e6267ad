"""Vector quantisation (VQ; van den Oord et al. 2017): a position becomes the nearest code.

With codes e_k [D], k = argmin_k |z - e_k|^2 and sg the stop of gradients::

    values = z + sg(e_k - z)                                   straight through
    L = beta mean |z - sg(e_k)|^2 + mean |sg(z) - e_k|^2       beta = 0.25

The second term is there for a codebook that is learned by gradient, a parameter. By default the
codebook is a moving average instead (`codebook_averages`), in Flax's collection ``codebook`` and
not among the parameters: updated where the collection is mutable, else only read::

    variables = {"codebook": ...}                              # of `init`, or of a checkpoint
    latent, variables = model.apply(
        {"params": params, **variables}, h, key, mutable=["codebook"]
    )

Codes may have fewer numbers than the encoder's channels (Yu et al. 2022, "factorised codes"):
linear layers then go to them and back.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Int32

from jaxgen.compressors.bottlenecks.codebook_averages import CodebookStatistics, update_codebook
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
from jaxgen.errors import InputError, check_not_negative
from jaxgen.nn.dense import Dense

CODEBOOK = "codebook"
"""The collection of a codebook's statistics; also the parameter of one learned by gradient."""


@dataclass(frozen=True)
class VQConfig:
    """Vector quantisation.

    Attributes:
      codebook_size: K.
      latent_channels: channels of encoder and decoder.
      code_channels: D, numbers of a code; None: latent_channels, without linear layers.
      commitment: beta.
      ema_decay: d of a codebook that is a moving average; None: it is learned by gradient.
      revive_below: codes with fewer positions per batch, on average, become random positions; 0:
        never. Of moving averages only. At most the positions of a batch over K.

    Raises:
      InputError: for values out of range, naming the field.
    """

    codebook_size: int = 1024
    latent_channels: int = 4
    code_channels: int | None = None
    commitment: float = 0.25
    ema_decay: float | None = 0.99
    revive_below: float = 2.0

    def __post_init__(self) -> None:
        check_codebook_size("codebook_size", self.codebook_size)
        for name in ("latent_channels", "code_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, expected 1 or more")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}, expected 0 <= ema_decay < 1, or None")
        check_not_negative("commitment", self.commitment)
        check_not_negative("revive_below", self.revive_below)

    @property
    def encoder_channels(self) -> int:
        """Those of the latents."""
        return self.latent_channels

    def make_model(self) -> "VectorQuantizer":
        """The module."""
        return VectorQuantizer(self)


class VectorQuantizer(nn.Module):
    """Positions to the nearest codes.

    Attributes:
      config: the options.
    """

    config: VQConfig

    def setup(self) -> None:
        """The codebook, and the layers around it."""
        c = self.config
        shape = c.codebook_size, c.code_channels or c.latent_channels
        if c.code_channels is not None:
            self.project_in = Dense((c.code_channels,), (None, None))
            self.project_out = Dense((c.latent_channels,), (None, None))
        if c.ema_decay is None:
            initial = nn.with_logical_partitioning(_initial_codebook, ("words", None))
            self.learned = self.param(CODEBOOK, initial, shape)
            return
        self.count = self.variable(CODEBOOK, "count", jnp.ones, shape[:1])
        self.total = self.variable(
            CODEBOOK, "total", lambda: _initial_codebook(self.make_rng("params"), shape)
        )

    def __call__(self, h: Float[Array, "B *positions C"], key: Array | None = None) -> Latent:
        """The quantised latents of h; where the collection ``codebook`` is mutable, its update too.

        Args:
          h: [B, ..., latent_channels].
          key: of the positions that dead codes become; needed for that alone.

        Raises:
          InputError: for another number of channels; for an update as `update_codebook`.
        """
        c = self.config
        h = as_encoding(h, c.encoder_channels)
        z = h if c.code_channels is None else self.project_in(h)
        codebook_KD = self._codebook()
        codes = nearest_codes(z, codebook_KD)
        quantized = codebook_KD[codes]
        commitment = commitment_of(z, quantized)
        loss = c.commitment * commitment
        if c.ema_decay is None:
            loss += mean_of_examples(jnp.square(quantized - jax.lax.stop_gradient(z)))
        elif self.is_mutable_collection(CODEBOOK) and not self.is_initializing():
            self._update(z, codes, key, c.ema_decay)
        counts_K = code_counts(codes, c.codebook_size)
        metrics = {
            "perplexity": codebook_perplexity(counts_K),
            "commitment": commitment.mean(),
        }
        return Latent(self._out(straight_through(z, quantized)), codes, loss, metrics)

    def values(self, codes: Int[Array, "*N"]) -> Float[Array, "*N C"]:
        """The values of codes, those of `__call__` bit for bit; NaN for codes outside the codebook.

        Raises:
          InputError: for codes outside the codebook where they can be looked at.
        """
        codes, size = jnp.asarray(codes), self.config.codebook_size
        check_codes(codes, size)
        return nan_outside(self._out(self._codebook()[codes]), codes, size)

    def _codebook(self) -> Float[Array, "K D"]:
        return self.learned if self.config.ema_decay is None else self._statistics().codebook_KD

    def _statistics(self) -> CodebookStatistics:
        return CodebookStatistics(self.count.value, self.total.value)

    def _update(self, z: Array, codes: Array, key: Array | None, decay: float) -> None:
        revive_below = self.config.revive_below
        new = update_codebook(
            self._statistics(), z, codes, key, decay=decay, revive_below=revive_below
        )
        self.count.value, self.total.value = new.count_K, new.total_KD

    def _out(self, values: Float[Array, "*N D"]) -> Float[Array, "*N C"]:
        return values if self.config.code_channels is None else self.project_out(values)


def nearest_codes(z: Float[Array, "*N D"], codebook_KD: Float[Array, "K D"]) -> Int32[Array, "*N"]:
    """The code whose vector is nearest, the first of equals: argmin of ``|e|^2 - 2 z . e``."""
    z, codebook_KD = jax.lax.stop_gradient((z, codebook_KD))
    products = jnp.matmul(z, codebook_KD.T, precision="highest")
    distances = jnp.square(codebook_KD).sum(-1) - 2 * products
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


def _initial_codebook(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Uniform in +-1/K."""
    return jax.random.uniform(key, shape, dtype, -1 / shape[0], 1 / shape[0])
