"""Keys and values that are computed once and attended to by many queries, of tokens yet to come.

A causal network that writes a text token by token computes q, k and v of the new token alone. Those
of earlier tokens are kept: an array as long as the longest text, written at the place of the token,
of which a query sees what is at its own place and before. Keys and values of another sequence, an
image's tokens say, are the same for every token of the text.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.nn.visibility import Reach

Place = int | Int[Array, ""]
"""The number of tokens before the first of those that are given."""


class KeyValues(NamedTuple):
    """Keys and values of N tokens.

    Attributes:
      keys_BNHK: keys.
      values_BNHK: values.
    """

    keys_BNHK: Float[Array, "B N H K"]
    values_BNHK: Float[Array, "B N H K"]

    @classmethod
    def empty(cls, batch: int, length: int, heads: int, size: int, dtype: Any) -> "KeyValues":
        """Room for so many tokens."""
        zeros = jnp.zeros((batch, length, heads, size), dtype)
        return cls(zeros, zeros)

    def written(
        self, k_BLHK: Float[Array, "B L H K"], v_BLHK: Float[Array, "B L H K"], place: Place
    ) -> "KeyValues":
        """The same with L new tokens at ``place``, ``place + 1``, ..."""
        write = jax.lax.dynamic_update_slice_in_dim
        pairs = zip(self, (k_BLHK, v_BLHK), strict=True)
        return KeyValues(*(write(old, new.astype(old.dtype), place, 1) for old, new in pairs))

    def reach(self, length: int, place: Place) -> Reach:
        """What tokens at ``place``, ``place + 1``, ... see: themselves and those before."""
        of_queries_1L = (place + jnp.arange(length))[None]
        return Reach(of_queries_1L, jnp.arange(self.keys_BNHK.shape[1])[None], after=0)
