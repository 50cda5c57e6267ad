"""Texts as a U-Net reads them: states of tokens and which of them are padding."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError

TextReading = Literal["cross", "beside"]


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


def check_unet_text(
    batch: int,
    text_width: int,
    pooled_width: int,
    text_BNC: Float[Array, "B N C"] | None,
    text_mask_BN: Bool[Array, "B N"] | None,
    pooled_BC: Float[Array, "B C2"] | None,
) -> None:
    """Refuses texts that do not fit the network, or that it does not read.

    Args:
      batch: B, examples.
      text_width: C of the states; 0 for a network that reads none.
      pooled_width: C2 of the pooled vector; 0 likewise.
      text_BNC: the states.
      text_mask_BN: True where a token is.
      pooled_BC: the pooled vectors.

    Raises:
      InputError: naming the array, its shape and what was expected.
    """
    for name, array, width, axes in (
        ("text_BNC", text_BNC, text_width, "N, "),
        ("pooled_BC", pooled_BC, pooled_width, ""),
    ):
        expected = f"[{batch}, {axes}{width}]" if width else "None: the network reads none"
        shape = None if array is None else array.shape
        fits = shape is not None and (len(shape), shape[0], shape[-1]) == (
            3 if axes else 2,
            batch,
            width,
        )
        if not (fits if width else shape is None):
            given = "None" if shape is None else f"of shape {shape}"
            raise InputError(f"{name} is {given}, expected {expected}")
    if text_mask_BN is None:
        return
    tokens = None if text_BNC is None else text_BNC.shape[:2]
    if text_mask_BN.shape != tokens:
        raise InputError(
            f"text_mask_BN has shape {text_mask_BN.shape}, expected {tokens}, that of the tokens"
        )
