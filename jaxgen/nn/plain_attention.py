"""Attention by einsums, of finite numbers; and head by head, for long sequences on CPU."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.nn.visibility import Reach, Segments, visible


def plain_attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
    segments: Segments | None = None,
    bias_BHLN: Float[Array, "#B H L N"] | None = None,
    reach: Reach | None = None,
    edit: Callable[[Float[Array, "B H L N"]], Float[Array, "B H L N"]] | None = None,
) -> Float[Array, "B L H K"]:
    """`attention` by einsums, of finite numbers; arguments as there.

    The weights are divided by their sum after they have met the values: K divisions for a query,
    not N, and a pass less over [B, H, L, N] numbers, the slowest part of attention on CPU. A query
    without any key gets the mean of all values. Weights that are edited are divided before.
    """
    scale = q_BLHK.shape[-1] ** -0.5
    q_BHLK, k_BHNK, v_BHNK = (x.swapaxes(1, 2) for x in (q_BLHK * scale, k_BNHK, v_BNHK))
    f32 = {"preferred_element_type": jnp.float32}
    logits_BHLN = jnp.einsum("BHLK,BHNK->BHLN", q_BHLK, k_BHNK, **f32)
    if bias_BHLN is not None:
        logits_BHLN = logits_BHLN + bias_BHLN.astype(jnp.float32)
    seen_BLN = visible(segments, reach)
    if seen_BLN is not None:
        logits_BHLN = jnp.where(seen_BLN[:, None], logits_BHLN, jnp.finfo(jnp.float32).min)
    highest_BHL1 = jax.lax.stop_gradient(jnp.max(logits_BHLN, axis=-1, keepdims=True))
    weights_BHLN = jnp.exp(logits_BHLN - highest_BHL1)
    sums_BHL1 = jnp.sum(weights_BHLN, axis=-1, keepdims=True)
    if edit is not None:
        weights_BHLN, sums_BHL1 = edit(weights_BHLN / sums_BHL1), jnp.ones_like(sums_BHL1)
    weights_BHLN = weights_BHLN.astype(v_BNHK.dtype)
    seen_BHLK = jnp.einsum("BHLN,BHNK->BHLK", weights_BHLN, v_BHNK, **f32) / sums_BHL1
    return seen_BHLK.astype(v_BNHK.dtype).swapaxes(1, 2)


@jax.custom_jvp
def attention_by_heads(
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
) -> Float[Array, "B L H K"]:
    """`plain_attention` of one head of one example after the other; no ids, bias or reach.

    The logits of a head stay in the cache of a core. Forward, on one core, 2 examples of 6 heads of
    64: 51 ms become 23 with 512 tokens (1 of 1024: 77 become 46; 8 of 256: 22 become 26). With
    derivatives there is nothing to gain (89 and 96 ms), so those, and results where they are asked
    for, are `plain_attention`'s.
    """
    batch, length, heads, _ = q_BLHK.shape
    scale = q_BLHK.shape[-1] ** -0.5
    f32 = {"preferred_element_type": jnp.float32}

    def of_head(parts: tuple[Array, Array, Array]) -> Float[Array, "L K"]:
        q_LK, k_NK, v_NK = parts
        logits_LN = jnp.einsum("LK,NK->LN", q_LK, k_NK, **f32)
        weights_LN = jnp.exp(logits_LN - logits_LN.max(axis=-1, keepdims=True))
        sums_L1 = weights_LN.sum(axis=-1, keepdims=True)
        seen_LK = jnp.einsum("LN,NK->LK", weights_LN.astype(v_NK.dtype), v_NK, **f32)
        return (seen_LK / sums_L1).astype(v_NK.dtype)

    def by_head(x_BLHK: Array) -> Array:
        return x_BLHK.swapaxes(1, 2).reshape(-1, x_BLHK.shape[1], x_BLHK.shape[3])

    parts = by_head(q_BLHK * scale), by_head(k_BNHK), by_head(v_BNHK)
    seen_GLK = jax.lax.map(of_head, parts)
    return seen_GLK.reshape(batch, heads, length, -1).swapaxes(1, 2)


@attention_by_heads.defjvp
def _derivatives(
    given: tuple[Array, Array, Array], changes: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    return jax.jvp(plain_attention, given, changes)
