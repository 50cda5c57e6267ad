"""From prompts to what the encoder of a pipeline gives of them."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.data.tokenizers import Tokenizer, encode_weighted
from jaxgen.encoders import make_encoder
from jaxgen.encoders.word_weights import weigh_states
from jaxgen.pretrained.networks import LoadedNetwork


def encode_texts(
    tokenizer: Tokenizer,
    encoder: LoadedNetwork,
    texts: Sequence[str],
    *,
    weighted: bool = False,
    windows: int = 1,
    truncate: bool = False,
) -> tuple[Float[Array, "B N C"], Float[Array, "B C2"]]:
    """States of texts, those of several windows side by side, and the vectors of the first window.

    Args:
      tokenizer: of the texts.
      encoder: their encoder.
      texts: B texts.
      weighted: whether brackets in them weigh words.
      windows: see `Tokenizer.encode`.
      truncate: likewise.

    Raises:
      InputError: for texts that are too long.
    """
    options: dict[str, Any] = {"windows": windows, "truncate": truncate}
    rows = len(texts) * windows
    if weighted:
        tokens, weights_BN = encode_weighted(tokenizer, texts, **options)
    else:
        tokens = tokenizer.encode(texts, **options)
    states, _, pooled = make_encoder(*encoder)(tokens.ids.reshape(rows, -1))
    if weighted:
        states = weigh_states(states, jnp.asarray(weights_BN.reshape(rows, -1)))
    return states.reshape(len(texts), -1, states.shape[-1]), pooled[::windows]
