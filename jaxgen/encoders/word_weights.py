"""Weights of words on the states of a text encoder.

As the web interface of AUTOMATIC1111 does it (``modules/sd_emphasis.py``, "Original"), for which
people write "a (red:1.3) cube"::

    h' = w h        h <- h' mean(h) / mean(h')      means over all numbers of a text

so that a word counts more and the numbers together are as large as the network knows them. Where
the mean of a text's states is next to zero the factor is anything; CLIP's states are not such.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import InputError


def weigh_states(
    states_BLD: Float[Array, "B L D"], weights_BL: Float[Array, "B L"]
) -> Float[Array, "B L D"]:
    """States with some tokens stressed, and the mean that they had.

    Args:
      states_BLD: of an encoder; of long prompts, a row for each window.
      weights_BL: of tokens (`jaxgen.data.tokenizers.encode_weighted`); a text whose weights are all
        one stays as it is.

    Raises:
      InputError: for weights of other texts.
    """
    if jnp.shape(weights_BL) != states_BLD.shape[:2]:
        raise InputError(
            f"weights have shape {jnp.shape(weights_BL)}, expected {states_BLD.shape[:2]}, one of "
            "each state"
        )
    weights_BL = jnp.asarray(weights_BL, states_BLD.dtype)
    weighted_BLD = weights_BL[..., None] * states_BLD
    before_B11, after_B11 = (x.mean((1, 2), keepdims=True) for x in (states_BLD, weighted_BLD))
    factor_B11 = before_B11 / after_B11
    plain_B11 = (weights_BL == 1).all(1)[:, None, None]
    return jnp.where(plain_B11, states_BLD, weighted_BLD * factor_B11)
