"""Tokens of texts beside those of videos: who sees which, and what stands for no text.

Texts come as the output of an encoder. A clip has a row of them and a mask; a pack has the texts of
its examples one after the other, with the segment ids of the examples. One learnt token stands for
no text; only examples without any see it.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

TextUse = Literal["cross", "in_context"]
"""Whether texts are attended to in each block, or are tokens beside those of the video."""

TextBlocks = Literal["all", "space"]
"""Which blocks attend to texts."""

HIDDEN = -1
"""The segment id of tokens that nobody sees."""


class TextContext(NamedTuple):
    """Tokens of texts, in the width of the network.

    Attributes:
      tokens_BND: the tokens.
      segment_BN: of packs e + 1 where a token is of the text of example e, of clips 0; HIDDEN where
        it is of none.
    """

    tokens_BND: Float[Array, "B N D"]
    segment_BN: Int[Array, "B N"]


def clip_context(
    text_BND: Float[Array, "B N D"],
    mask_BN: Bool[Array, "B N"] | None,
    null_D: Float[Array, "D"] | None,
) -> TextContext:
    """The texts of clips.

    Args:
      text_BND: tokens, N may be 0; finite where masked too (`without_padding`).
      mask_BN: True where there is a token; None for everywhere.
      null_D: what stands for no text, or None.
    """
    batch, length, width = text_BND.shape
    if mask_BN is None:
        mask_BN = jnp.ones((batch, length), bool)
    segment_BN = jnp.where(mask_BN, 0, HIDDEN)
    if null_D is None:
        return TextContext(text_BND, segment_BN)
    null_B1 = jnp.where(mask_BN.any(axis=1, keepdims=True), HIDDEN, 0)
    null_B1D = jnp.broadcast_to(null_D, (batch, 1, width))
    return TextContext(
        jnp.concatenate([text_BND, null_B1D], axis=1),
        jnp.concatenate([segment_BN, null_B1], axis=1),
    )


def pack_context(
    text_BND: Float[Array, "B N D"],
    segment_BN: Int[Array, "B N"],
    null_D: Float[Array, "D"] | None,
    examples: int,
) -> TextContext:
    """The texts of packed examples.

    Args:
      text_BND: tokens, N may be 0.
      segment_BN: e + 1 where a token is of the text of example e, 0 for padding.
      null_D: what stands for no text, or None.
      examples: E.
    """
    batch, _, width = text_BND.shape
    own_BN = jnp.where(segment_BN == 0, HIDDEN, segment_BN)
    text_BND = jnp.where(segment_BN[..., None] == 0, 0, text_BND)
    if null_D is None:
        return TextContext(text_BND, own_BN)
    id_E = jnp.arange(1, examples + 1)
    has_text_BE = (segment_BN[:, None] == id_E[:, None]).any(axis=-1)
    null_BE = jnp.where(has_text_BE, HIDDEN, id_E)
    null_BED = jnp.broadcast_to(null_D, (batch, examples, width))
    return TextContext(
        jnp.concatenate([text_BND, null_BED], axis=1), jnp.concatenate([own_BN, null_BE], axis=1)
    )
