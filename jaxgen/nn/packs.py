"""Which tokens of a pack are of which example, and values of examples as those of their tokens.

A pack is a sequence that several examples share (Dehghani et al. 2023, "Patch n' Pack"); segment
e + 1 marks the tokens of example e, 0 is padding.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped


def own_tokens(segment_BL: Int[Array, "B L"], examples: int) -> Bool[Array, "B L E"]:
    """Whether a token is of an example.

    Args:
      segment_BL: e + 1 where a token is of example e, 0 for padding.
      examples: E.
    """
    return segment_BL[..., None] == jnp.arange(1, examples + 1)


def of_tokens(
    value_BE: Shaped[Array, "B E *A"], segment_BL: Int[Array, "B L"]
) -> Shaped[Array, "B L *A"]:
    """Values of examples as those of their tokens; padding has those of the first."""
    at = jnp.maximum(segment_BL - 1, 0).reshape(*segment_BL.shape, *(1,) * (value_BE.ndim - 2))
    return jnp.take_along_axis(value_BE, at, axis=1)
