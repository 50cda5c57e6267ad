"""How many codes of a codebook are used: counts, and their perplexity.

With p_k the share of code k, the perplexity ``exp(-sum_k p_k log p_k)`` is K when all K codes are
used equally and 1 when one is. That of a batch is at most its number of positions; counts of many
batches are added, and give that of a data set.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Int64, Real

from jaxgen.errors import InputError


def code_counts(codes: Int[Array, "*N"], codebook_size: int) -> Int32[Array, "K"]:
    """How often each code occurs; of a batch that is sharded, in the whole batch."""
    return jnp.bincount(jnp.ravel(codes), length=codebook_size).astype(jnp.int32)


def total_code_counts(
    batches: Iterable[Int[Array, "*N"]], codebook_size: int
) -> Int64[np.ndarray, "K"]:
    """How often each code occurs in all batches of codes together.

    Raises:
      InputError: where there is no batch.
    """
    total_K, batch = np.zeros(codebook_size, np.int64), None
    for batch in batches:
        total_K += np.asarray(code_counts(batch, codebook_size))
    if batch is None:
        raise InputError("codes have 0 batches, expected one or more")
    return total_K


def codebook_perplexity(counts_K: Real[Array, "K"]) -> Float[Array, ""]:
    """``exp(-sum_k p_k log p_k)`` of counts, 1 to K; NaN where nothing was counted."""
    counts_K = jnp.asarray(counts_K, jnp.float32)
    return jnp.exp(jax.scipy.special.entr(counts_K / counts_K.sum()).sum())
