"""Texts as a U-Net reads them: states of tokens and which of them are padding."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

TextReading = Literal["cross", "beside", "alone"]


class TextStates(NamedTuple):
    """Texts, one for each row of features.

    Attributes:
      states_BNC: a vector for each token.
      mask_BN: True where a token is; None: everywhere.
    """

    states_BNC: Float[Array, "B N C"]
    mask_BN: Bool[Array, "B N"] | None = None

    def segments(self, pixels: int) -> tuple[Int[Array, "B L"], Int[Array, "B N"]] | None:
        """Segment ids of so many pixels and of the tokens: pixels see tokens that are no padding.

        Returns:
          Ids for `jaxgen.nn.attention.attention`; None where all tokens are seen.
        """
        if self.mask_BN is None:
            return None
        ones_BL = jnp.ones((len(self.mask_BN), pixels), jnp.int32)
        return ones_BL, (jnp.asarray(self.mask_BN) != 0).astype(jnp.int32)

    def segments_beside(self, pixels: int) -> tuple[Int[Array, "B L"], Int[Array, "B M"]] | None:
        """The same, where the keys are the tokens and then the pixels, M = N + L."""
        segments = self.segments(pixels)
        if segments is None:
            return None
        return segments[0], jnp.concatenate([segments[1], segments[0]], axis=1)
