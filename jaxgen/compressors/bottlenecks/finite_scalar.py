"""Finite scalar quantisation (FSQ; Mentzer et al. 2023): every number is rounded to a few levels.

For a number z with L levels, h = (L - 1) (1 + 1e-3) / 2, o = 1/2 for even L and 0 for odd, and
shift = atanh(o / h)::

    bound(z) = tanh(z + shift) h - o        bound(0) = 0
    value    = round(bound(z)) / floor(L/2)
    code     = sum_i (value_i floor(L_i/2) + floor(L_i/2)) prod_{j<i} L_j

so values of even L are -1, ..., 1 - 2/L. Rounding passes gradients straight through. Nothing is
learned and there is no loss: 8, 5, 5, 5 levels are 1,000 codes; 8, 8, 8, 5, 5, 5 are 64,000.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Int32

from jaxgen.compressors.bottlenecks.codebook_usage import code_counts, codebook_perplexity
from jaxgen.compressors.bottlenecks.latent import (
    Latent,
    as_encoding,
    check_codebook_size,
    check_codes,
    nan_outside,
    straight_through,
)
from jaxgen.errors import InputError

MARGIN = 1e-3
"""How much wider than its levels a number's range is, so that the outer ones are reached."""

MAX_LEVELS = 1000
"""From 1,001 on the margin may be one more level."""


@dataclass(frozen=True)
class FSQConfig:
    """Finite scalar quantisation.

    Attributes:
      levels: L of each number of a latent position.

    Raises:
      InputError: for levels out of range, or a codebook that is too large.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if not self.levels or not all(2 <= level <= MAX_LEVELS for level in self.levels):
            raise InputError(f"levels is {self.levels}, expected numbers from 2 to {MAX_LEVELS}")
        check_codebook_size("codebook_size", self.codebook_size)

    @property
    def latent_channels(self) -> int:
        """A channel for each number."""
        return len(self.levels)

    @property
    def encoder_channels(self) -> int:
        """The same."""
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        """The product of levels."""
        return math.prod(self.levels)

    def make_model(self) -> "FiniteScalarQuantizer":
        """The module."""
        return FiniteScalarQuantizer(self)


class FiniteScalarQuantizer(nn.Module):
    """Numbers to levels; without parameters.

    Attributes:
      config: the options.
    """

    config: FSQConfig

    def __call__(self, h: Float[Array, "B *positions C"], key: Array | None = None) -> Latent:
        """The quantised latents of h [B, ..., number of levels]; nothing is random.

        Raises:
          InputError: for another number of channels.
        """
        z = as_encoding(h, self.config.encoder_channels)
        bounded = bound_to_levels(z, self.config.levels)
        steps = straight_through(bounded, jnp.round(bounded))
        codes = self._codes(steps)
        counts_K = code_counts(codes, self.config.codebook_size)
        metrics = {"perplexity": codebook_perplexity(counts_K)}
        return Latent(steps / self._halves, codes, jnp.zeros(len(z)), metrics)

    def values(self, codes: Int[Array, "*N"]) -> Float[Array, "*N C"]:
        """The values of codes, those of `__call__` bit for bit; NaN for codes outside the codebook.

        Raises:
          InputError: for codes outside the codebook where they can be looked at.
        """
        codes, size = jnp.asarray(codes), self.config.codebook_size
        check_codes(codes, size)
        digits = codes[..., None] // self._places % np.array(self.config.levels, np.int32)
        values = (digits - self._halves).astype(jnp.float32) / self._halves
        return nan_outside(values, codes, size)

    def _codes(self, steps: Float[Array, "*N C"]) -> Int32[Array, "*N"]:
        """The code of whole numbers of steps from the middle level."""
        digits = steps.astype(jnp.int32) + self._halves
        return jnp.sum(digits * self._places, axis=-1, dtype=jnp.int32)

    @property
    def _halves(self) -> np.ndarray:
        """floor(L/2)."""
        return np.array(self.config.levels, np.int32) // 2

    @property
    def _places(self) -> np.ndarray:
        """What one level of a number adds to the code: the product of earlier L."""
        return np.cumprod([1, *self.config.levels[:-1]], dtype=np.int32)


def bound_to_levels(z: Float[Array, "*N C"], levels: tuple[int, ...]) -> Float[Array, "*N C"]:
    """``bound(z)`` of the module's equation, whose rounded values are the levels."""
    levels_C = np.array(levels)
    half_C = (levels_C - 1) * (1 + MARGIN) / 2
    offset_C = np.where(levels_C % 2, 0.0, 0.5)
    shift_C = np.arctanh(offset_C / half_C)
    half, offset, shift = (x.astype(np.float32) for x in (half_C, offset_C, shift_C))
    return jnp.tanh(z + shift) * half - offset
