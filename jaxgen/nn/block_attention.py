"""Attention of packs whose cost follows the examples: blocks that share no segment are skipped.

Queries and keys are cut into blocks of tokens. A block of queries meets only the blocks of keys
whose segment ids can be among its own (their ranges of ids overlap) and that are within reach; the
softmax is put together block by block (Milakov & Gimelshein 2018; Dao et al. 2022)::

    m' = max(m, max_n l_n)    s' = s e^(m - m') + sum_n e^(l_n - m')    o' = o e^(m - m') + ...

The backward pass computes the weights again from the logarithm of their sum. How many blocks are
met is found as the program runs, so no maximum has to be known, and nothing is ever left out.
Nothing of size [L, N] is stored. Ids that grow along the sequence, as those of packs do, cost
least; other ids give the same result and skip less.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.nn.visibility import Reach, Segments, visible

BLOCK = 128
"""Tokens of a block."""

LOWEST = float(jnp.finfo(jnp.float32).min)
UNSEEN_QUERY, UNSEEN_KEY = -(2**31) + 1, -(2**31) + 2


def block_attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
    segments: Segments,
    reach: Reach | None = None,
    block: int = BLOCK,
) -> Float[Array, "B L H K"]:
    """`jaxgen.nn.attention.attention` without a bias, skipping blocks that share no segment.

    Args:
      q_BLHK: queries.
      k_BNHK: keys.
      v_BNHK: values.
      segments: ids of the queries and of the keys.
      reach: a limit along an axis.
      block: tokens of a block.

    Returns:
      [B, L, H, K] in the type of the values; 0 for a query without any key.
    """
    length, size = q_BLHK.shape[1], q_BLHK.shape[-1]
    q_BIHLK, k_BJHNK, v_BJHNK = (_blocks(x, block) for x in (q_BLHK * size**-0.5, k_BNHK, v_BNHK))
    order = None
    if reach is not None:
        batch = len(q_BLHK)
        order = tuple(
            _cut(jnp.broadcast_to(x, (batch, x.shape[1])), block, 0)
            for x in (reach.of_queries_BL, reach.of_keys_BN)
        )
        order = *order, reach.before, reach.after
    ids = _cut(segments[0], block, UNSEEN_QUERY), _cut(segments[1], block, UNSEEN_KEY)
    seen_BIHLK = _attend(q_BIHLK, k_BJHNK, v_BJHNK, ids, order)
    seen_BLHK = seen_BIHLK.transpose(0, 1, 3, 2, 4).reshape(len(q_BLHK), -1, *q_BLHK.shape[2:])
    return seen_BLHK[:, :length].astype(v_BNHK.dtype)


def _blocks(x_BLHK: Array, block: int) -> Array:
    """[B, L, H, K] in blocks, padded: [B, I, H, block, K]."""
    batch, length, heads, size = x_BLHK.shape
    x = jnp.pad(x_BLHK, ((0, 0), (0, -length % block), (0, 0), (0, 0)))
    return x.reshape(batch, -1, block, heads, size).transpose(0, 1, 3, 2, 4)


def _cut(ids_BL: Int[Array, "B L"], block: int, padding: int) -> Array:
    """[B, L] in blocks: [B, I, block]."""
    ids = jnp.asarray(ids_BL, jnp.int32)
    ids = jnp.pad(ids, ((0, 0), (0, -ids.shape[1] % block)), constant_values=padding)
    return ids.reshape(len(ids), -1, block)


def _met(ids: Any, order: Any) -> tuple[Int[Array, "B I J"], Int[Array, "I"]]:
    """For every block of queries, the blocks of keys that it may see, first; and how many.

    A row may have fewer than the number says: what it then meets shares nothing with it.
    """
    q, k = ids
    least = jnp.where(k == UNSEEN_KEY, 2**31 - 1, k).min(-1)
    low = jnp.where(q == UNSEEN_QUERY, 2**31 - 1, q).min(-1)
    met_BIJ = (low[:, :, None] <= k.max(-1)[:, None]) & (least[:, None] <= q.max(-1)[:, :, None])
    if order is not None:
        at_q, at_k, before, after = order
        if before is not None:
            met_BIJ &= at_q.min(-1)[:, :, None] - at_k.max(-1)[:, None] <= before
        if after is not None:
            met_BIJ &= at_k.min(-1)[:, None] - at_q.max(-1)[:, :, None] <= after
    return jnp.argsort(~met_BIJ, axis=-1, stable=True), met_BIJ.sum(-1).max(0)


def _pair(ids: Any, order: Any, i: Array, of_keys: tuple[Array, Array]) -> Bool[Array, "B 1 L N"]:
    """Whether the queries of block i see the keys of a block of each row."""
    reach = None
    if order is not None:
        reach = Reach(order[0][:, i], order[1][of_keys], order[2], order[3])
    seen_BLN = visible((ids[0][:, i], ids[1][of_keys]), reach)
    assert seen_BLN is not None
    return seen_BLN[:, None]


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, ids: Any, order: Any) -> Float[Array, "B I H L K"]:
    """Attention of scaled queries, all in blocks, in float32."""
    return _forward(q, k, v, ids, order)[0]


def _forward(
    q_BIHLK: Array, k_BJHNK: Array, v_BJHNK: Array, ids: Any, order: Any
) -> tuple[Array, Array]:
    """What is seen [B, I, H, L, K], and the logarithms of the sums of weights [B, I, H, L]."""
    batch, _, heads, block, size = q_BIHLK.shape
    which_BIJ, count_I = _met(ids, order)
    rows_B = jnp.arange(batch)

    def of_queries(_: None, i: Array) -> tuple[None, tuple[Array, Array]]:
        q_BHLK = q_BIHLK[:, i]

        def meet(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            highest_BHL, sum_BHL, seen_BHLK = carry
            at = rows_B, which_BIJ[:, i, j]
            seen = _pair(ids, order, i, at)
            logits_BHLN = _product("BHLK,BHNK->BHLN", q_BHLK, k_BJHNK[at])
            logits_BHLN = jnp.where(seen, logits_BHLN, LOWEST)
            new_BHL = jnp.maximum(highest_BHL, logits_BHLN.max(-1))
            weights_BHLN = jnp.where(seen, jnp.exp(logits_BHLN - new_BHL[..., None]), 0.0)
            shrink_BHL = jnp.exp(highest_BHL - new_BHL)
            added = _product("BHLN,BHNK->BHLK", weights_BHLN.astype(v_BJHNK.dtype), v_BJHNK[at])
            return (
                new_BHL,
                sum_BHL * shrink_BHL + weights_BHLN.sum(-1),
                seen_BHLK * shrink_BHL[..., None] + added,
            )

        start = (
            jnp.full((batch, heads, block), LOWEST, jnp.float32),
            jnp.zeros((batch, heads, block), jnp.float32),
            jnp.zeros((batch, heads, block, size), jnp.float32),
        )
        highest_BHL, sum_BHL, seen_BHLK = jax.lax.fori_loop(0, count_I[i], meet, start)
        keyless_BHL = sum_BHL == 0
        sum_BHL = jnp.where(keyless_BHL, 1.0, sum_BHL)
        log_BHL = jnp.where(keyless_BHL, 0.0, highest_BHL + jnp.log(sum_BHL))
        return None, (seen_BHLK / sum_BHL[..., None], log_BHL)

    _, (seen, log) = jax.lax.scan(of_queries, None, jnp.arange(q_BIHLK.shape[1]))
    return seen.swapaxes(0, 1), log.swapaxes(0, 1)


def _attend_forward(q: Array, k: Array, v: Array, ids: Any, order: Any) -> tuple[Array, Any]:
    seen, log = _forward(q, k, v, ids, order)
    return seen, (q, k, v, ids, order, seen, log)


def _attend_backward(
    kept: Any, d_BIHLK: Float[Array, "B I H L K"]
) -> tuple[Array, Array, Array, None, None]:
    """``dv = p^T d``, ``dl = p (d v^T - d . seen)``, ``dq = dl k``, ``dk = dl^T q``."""
    q_BIHLK, k_BJHNK, v_BJHNK, ids, order, seen_BIHLK, log_BIHL = kept
    which_BIJ, count_I = _met(ids, order)
    rows_B = jnp.arange(len(q_BIHLK))
    own_BIHL = jnp.sum(d_BIHLK * seen_BIHLK, axis=-1)

    def of_queries(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
        q_BHLK, d_BHLK = q_BIHLK[:, i], d_BIHLK[:, i].astype(v_BJHNK.dtype)
        log_BHL1, own_BHL1 = log_BIHL[:, i, ..., None], own_BIHL[:, i, ..., None]

        def meet(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_BHLK, dk, dv = carry
            at = rows_B, which_BIJ[:, i, j]
            logits_BHLN = _product("BHLK,BHNK->BHLN", q_BHLK, k_BJHNK[at])
            seen = _pair(ids, order, i, at)
            p_BHLN = jnp.where(seen, jnp.exp(logits_BHLN - log_BHL1), 0.0)
            dp_BHLN = _product("BHLK,BHNK->BHLN", d_BHLK, v_BJHNK[at])
            dl_BHLN = (p_BHLN * (dp_BHLN - own_BHL1)).astype(q_BIHLK.dtype)
            p_BHLN = p_BHLN.astype(v_BJHNK.dtype)
            dq_BHLK += _product("BHLN,BHNK->BHLK", dl_BHLN, k_BJHNK[at])
            dk = dk.at[at].add(_product("BHLN,BHLK->BHNK", dl_BHLN, q_BHLK))
            dv = dv.at[at].add(_product("BHLN,BHLK->BHNK", p_BHLN, d_BHLK))
            return dq_BHLK, dk, dv

        start = jnp.zeros(q_BHLK.shape, jnp.float32), *carry
        dq_BHLK, dk, dv = jax.lax.fori_loop(0, count_I[i], meet, start)
        return (dk, dv), dq_BHLK

    zeros = jnp.zeros(k_BJHNK.shape, jnp.float32), jnp.zeros(v_BJHNK.shape, jnp.float32)
    (dk, dv), dq = jax.lax.scan(of_queries, zeros, jnp.arange(q_BIHLK.shape[1]))
    given = zip((dq.swapaxes(0, 1), dk, dv), (q_BIHLK, k_BJHNK, v_BJHNK), strict=True)
    dq, dk, dv = (gradient.astype(x.dtype) for gradient, x in given)
    return dq, dk, dv, None, None


_attend.defvjp(_attend_forward, _attend_backward)
