"""One vector for each example of a pack: the mean over its tokens, or by attention.

Dehghani et al. 2023, "Patch n' Pack", section 2: masked pooling.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.nn.packs import own_tokens


def pooled_mean(
    x_BLD: Float[Array, "B L D"], segment_BL: Int[Array, "B L"], examples: int
) -> Float[Array, "B E D"]:
    """The mean of the tokens of each example, in float32; 0 where there is none.

    Args:
      x_BLD: tokens; those of padding may be anything.
      segment_BL: e + 1 where a token is of example e, 0 for padding.
      examples: E.
    """
    own_BEL = own_tokens(segment_BL, examples).swapaxes(1, 2)
    # Chosen rather than multiplied: 0 times nan of another example would be nan.
    chosen_BELD = jnp.where(own_BEL[..., None], x_BLD[:, None].astype(jnp.float32), 0)
    count_BE1 = jnp.maximum(own_BEL.sum(axis=-1, keepdims=True), 1)
    return chosen_BELD.sum(axis=2) / count_BE1


def pooled_by_attention(
    x_BLD: Float[Array, "B L D"],
    logit_BL: Float[Array, "B L"],
    segment_BL: Int[Array, "B L"],
    examples: int,
) -> Float[Array, "B E D"]:
    """The mean weighted by a softmax of logits within each example, in float32.

    Args:
      x_BLD: tokens.
      logit_BL: such as the product of a token with a learnt query.
      segment_BL: e + 1 where a token is of example e, 0 for padding.
      examples: E.
    """
    own_BEL = own_tokens(segment_BL, examples).swapaxes(1, 2)
    logit_BEL = jnp.where(own_BEL, logit_BL[:, None].astype(jnp.float32), -jnp.inf)
    highest_BE1 = jnp.max(logit_BEL, axis=-1, keepdims=True)
    highest_BE1 = jnp.where(jnp.isneginf(highest_BE1), 0, highest_BE1)
    weight_BEL = jnp.exp(logit_BEL - highest_BE1)
    weight_BEL = weight_BEL / jnp.maximum(weight_BEL.sum(axis=-1, keepdims=True), 1e-30)
    chosen_BELD = jnp.where(own_BEL[..., None], x_BLD[:, None].astype(jnp.float32), 0)
    return jnp.einsum("BEL,BELD->BED", weight_BEL, chosen_BELD)
