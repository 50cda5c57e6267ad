"""Attention over tokens: one function with several implementations, and the layers around it.

``softmax(q k^T / sqrt(K) + bias) v`` per head. Which tokens may see each other is said by *segment
ids*: a query sees the keys of its own segment (packed sequences put several examples in one row;
padding is a segment of its own); and by a *reach* along an axis (`jaxgen.nn.visibility`), of which
causal attention is a case. Logits and softmax are float32 in every implementation.

==========  ==================================================================================
plain       einsums, any backend; what the others are tested against
heads       one head after the other, so that its logits stay in the cache; derivatives as plain; no
            segment ids, bias or reach
blocks      skips blocks of keys that share no segment with the queries (`block_attention`);
            no bias, no forward-mode derivatives
cudnn       `jax.nn.dot_product_attention` with cuDNN's fused kernel: GPU, 16-bit types
pallas      the flash-attention kernel that JAX ships for TPU
auto        the fused one of the backend where it applies; on CPU "blocks" where there are segment
            ids, no bias and 512 keys or more, "heads" where there is none of both and nothing is
            sharded; otherwise plain
==========  ==================================================================================

**Isolation.** Where keys are hidden, a number that is not finite stays among those who see it, in
every implementation. A weight of 0 is not enough: 0 times nan is nan. So tokens whose q, k or v is
not finite are zeros in the products, and nan is written to the queries that see one afterwards: a
pass over q, k and v and one over the booleans [B, L, N], without heads.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError
from jaxgen.nn import attention_kernels
from jaxgen.nn.attention_edits import edit_at
from jaxgen.nn.block_attention import block_attention
from jaxgen.nn.dense import Dense, Dtype, xavier
from jaxgen.nn.key_values import KeyValues, Place
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.plain_attention import attention_by_heads, plain_attention
from jaxgen.nn.rotary import rotate
from jaxgen.nn.sequence_attention import over_sequence, to_context
from jaxgen.nn.visibility import Reach, Segments, View, causal_reach, check_reach, visible

Implementation = Literal["auto", "plain", "heads", "blocks", "cudnn", "pallas"]

Bias = Float[Array, "H L N"] | Float[Array, "B H L N"]

Angle = Float[Any, "#B L K2"] | Float[Any, "L K2"] | Float[Any, "#B L H K2"]

QKNorm = bool | Literal["all_heads"]

WeightEdit = Callable[[Float[Array, "B H L N"]], Float[Array, "B H L N"]]

FAR = -1e9
"""What is added to logits that are beyond reach, where there is no mask."""


def check_implementation(name: str) -> None:
    """Raises InputError unless it names an implementation of attention."""
    if name not in get_args(Implementation):
        raise InputError(f"attention is {name!r}, expected one of {get_args(Implementation)}")


def attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
    *,
    segments: Segments | None = None,
    bias: Bias | None = None,
    implementation: Implementation = "auto",
    reach: Reach | None = None,
    causal: bool = False,
    edit: WeightEdit | None = None,
) -> Float[Array, "B L H K"]:
    """``softmax(q k^T / sqrt(K) + bias) v`` for each head (Vaswani et al. 2017, equation 1).

    Args:
      q_BLHK: queries.
      k_BNHK: keys.
      v_BNHK: values.
      segments: ids [B, L] of the queries and [B, N] of the keys; a query sees the keys with its own
        id. None: all keys. A query without any key gets 0.
      bias: added to the logits: [H, L, N] for every example, or [B, H, L, N].
      implementation: see the table above.
      reach: how far before and behind itself on an axis a query sees; None without limit.
      causal: whether query l sees keys 0 to l alone, which is a reach too.
      edit: a change of the weights, whose rows add up to 1 before it; see
        `jaxgen.nn.attention_edits`. With one the implementation is "plain".

    Returns:
      [B, L, H, K] in the type of the values.

    Raises:
      InputError: for shapes that do not belong together, an implementation that this backend or
        type lacks, or causal attention with a reach.
    """
    _check_shapes(q_BLHK, k_BNHK, v_BNHK, segments, bias)
    if causal:
        if reach is not None or q_BLHK.shape[1] != k_BNHK.shape[1]:
            raise InputError(
                f"causal attention has {q_BLHK.shape[1]} queries, {k_BNHK.shape[1]} keys and "
                f"reach {reach}, expected equal numbers and no reach"
            )
        reach = causal_reach(q_BLHK.shape[1])
    check_reach(reach, len(q_BLHK), q_BLHK.shape[1], k_BNHK.shape[1])
    if bias is not None and bias.ndim == 3:
        bias = bias[None]
    seen_BLN = visible(segments, reach)
    chosen = attention_kernels.choose(
        implementation if edit is None else "plain",
        q_BLHK,
        k_BNHK,
        has_segments=segments is not None,
        has_bias=bias is not None,
        hides=seen_BLN is not None,
    )
    run = functools.partial(_run, chosen, segments=segments, bias_BHLN=bias, reach=reach, edit=edit)
    if seen_BLN is None:
        return run(q_BLHK, k_BNHK, v_BNHK)
    return _isolated(run, q_BLHK, k_BNHK, v_BNHK, seen_BLN)


def _run(
    chosen: str,
    q: Array,
    k: Array,
    v: Array,
    segments: Segments | None,
    bias_BHLN: Array | None,
    reach: Reach | None,
    edit: WeightEdit | None,
) -> Float[Array, "B L H K"]:
    """Attention of finite numbers by one of the implementations."""
    if chosen == "plain":
        return plain_attention(q, k, v, segments, bias_BHLN, reach, edit)
    if chosen == "heads":
        return attention_by_heads(q, k, v)
    if chosen == "cudnn":
        return attention_kernels.cudnn(q, k, v, visible(segments, reach), bias_BHLN)
    if chosen == "pallas":
        bias_BHLN = _with_reach(bias_BHLN, reach, q.shape[2])
        return attention_kernels.pallas(q, k, v, segments, bias_BHLN)
    if segments is None:
        batch = len(q)
        segments = jnp.zeros((batch, q.shape[1]), int), jnp.zeros((batch, k.shape[1]), int)
    return block_attention(q, k, v, segments, reach)


def _with_reach(bias_BHLN: Array | None, reach: Reach | None, heads: int) -> Array | None:
    """A bias that hides what is beyond reach, for the kernel that knows no masks."""
    seen_BLN = visible(None, reach)
    if seen_BLN is None:
        return bias_BHLN
    far_BHLN = jnp.repeat(jnp.where(seen_BLN, 0.0, FAR)[:, None], heads, axis=1)
    return far_BHLN if bias_BHLN is None else far_BHLN + bias_BHLN


def _isolated(
    run: Callable[..., Array], q: Array, k: Array, v: Array, seen_BLN: Bool[Array, "#B L N"]
) -> Float[Array, "B L H K"]:
    """Attention in which what is not finite reaches those alone who see it."""
    sound_BL, sound_BN = _is_sound(q), _is_sound(k) & _is_sound(v)
    q = jnp.where(sound_BL[..., None, None], q, 0)
    k, v = (jnp.where(sound_BN[..., None, None], x, 0) for x in (k, v))
    result_BLHK = run(q, k, v)
    spoiled_BL = ~sound_BL | jnp.any(seen_BLN & ~sound_BN[:, None], axis=-1)
    keyless_BL = ~jnp.any(seen_BLN, axis=-1)
    result_BLHK = jnp.where(keyless_BL[..., None, None], 0, result_BLHK)
    return jnp.where(spoiled_BL[..., None, None], jnp.nan, result_BLHK)


def _is_sound(x_BLHK: Float[Array, "B L H K"]) -> Bool[Array, "B L"]:
    """Whether all numbers of a token are finite."""
    return jnp.isfinite(x_BLHK).all(axis=(2, 3))


def _check_shapes(
    q: Array, k: Array, v: Array, segments: Segments | None, bias: Array | None
) -> None:
    """Refuses arrays that do not belong together."""
    batch, length, heads, size = q.shape
    if k.shape != v.shape or (k.shape[0], *k.shape[2:]) != (batch, heads, size):
        raise InputError(
            f"keys have shape {k.shape} and values {v.shape}, expected "
            f"[{batch}, N, {heads}, {size}] of both for queries of shape {q.shape}"
        )
    keys = k.shape[1]
    per_head = heads, length, keys
    if bias is not None and bias.shape not in (per_head, (1, *per_head), (batch, *per_head)):
        raise InputError(
            f"attention bias has shape {bias.shape}, expected [{heads}, {length}, {keys}] or "
            f"[{batch}, {heads}, {length}, {keys}]"
        )
    if segments is not None:
        shapes = tuple(ids.shape for ids in segments)
        if shapes != ((batch, length), (batch, keys)):
            raise InputError(
                f"segment ids have shapes {shapes}, expected [{batch}, {length}] of the queries "
                f"and [{batch}, {keys}] of the keys"
            )


def attention_of_views(
    q_BLHK: Float[Array, "B L H K"],
    k_BLHK: Float[Array, "B L H K"],
    v_BLHK: Float[Array, "B L H K"],
    views: Sequence[View],
    implementation: Implementation = "auto",
    edit: WeightEdit | None = None,
) -> Float[Array, "B L H K"]:
    """Attention of tokens to each other, in which the heads are shared out among views.

    Args:
      q_BLHK: queries.
      k_BLHK: keys.
      v_BLHK: values.
      views: what each share of the heads attends over.
      implementation: see `attention`.
      edit: see `attention`; of several views it is called for each.

    Raises:
      InputError: for views that do not divide the heads.
    """
    heads, count = q_BLHK.shape[2], len(views)
    if not count or heads % count:
        raise InputError(f"heads are {heads} for {count} views, expected a multiple of {count}")
    seen = []
    for i, view in enumerate(views):
        share = slice(i * heads // count, (i + 1) * heads // count)
        q, k, v = (x[:, :, share] for x in (q_BLHK, k_BLHK, v_BLHK))
        attend = functools.partial(_of_view, implementation=implementation, edit=edit)
        seen.append(over_sequence(attend, q, k, v, view))
    return seen[0] if count == 1 else jnp.concatenate(seen, axis=2)


def _of_view(
    q: Array,
    k: Array,
    v: Array,
    view: View,
    implementation: Implementation,
    edit: WeightEdit | None,
) -> Float[Array, "B L H K"]:
    """Attention over one view."""
    q, k, v = (view.fold(x) for x in (q, k, v))
    ids = view.segments_BL
    segments = None if ids is None else (ids, ids)
    seen = attention(
        q,
        k,
        v,
        segments=segments,
        reach=view.reach,
        implementation=implementation,
        edit=edit,
    )
    return view.unfold(seen)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other; heads are sharded over the mesh axis ``model``.

    Tokens may be spread over ``sequence`` (`jaxgen.nn.sequence_attention`), unless there is a bias.

    Attributes:
      heads: H; the head size is width / H.
      dtype: the compute dtype of products.
      qk_norm: whether queries and keys are normalised (`RMSNorm`): head by head, or with
        "all_heads" over the whole width (Wan).
      implementation: see `attention`.
      qkv_bias: whether q, k and v have biases.
      causal: whether a token sees those before it and itself alone.
      qkv_init: the initial projection to q, k and v.
      output_init: the initial output projection.
    """

    heads: int
    dtype: Dtype = "float32"
    qk_norm: QKNorm = False
    implementation: Implementation = "auto"
    qkv_bias: bool = True
    causal: bool = False
    qkv_init: Callable[..., Any] = xavier
    output_init: Callable[..., Any] = xavier

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        *,
        segments_BL: Int[Array, "B L"] | None = None,
        bias: Bias | None = None,
        added_BH3K: Float[Array, "B H 3 K"] | None = None,
        angle: Angle | None = None,
        views: Sequence[View] | None = None,
        past: KeyValues | None = None,
        place: Place = 0,
    ) -> Any:
        """[B, L, D] to [B, L, D] in ``dtype``.

        Args:
          x_BLD: tokens.
          segments_BL: segment ids; a token sees those of its own segment. None: all.
          bias: added to the logits, see `attention`.
          added_BH3K: added to q, k and v of every token: what depends on the example alone.
          angle: rotary positions, by which queries and keys are turned (`jaxgen.nn.rotary`).
          views: what the heads attend over, in place of ``segments_BL``: of n views the first H / n
            heads have the first, and so on.
          past: of earlier tokens, with room for these; each token then sees itself and those before
            it, and nothing else is said of what it sees.
          place: of the first of these tokens in ``past``.

        Returns:
          The tokens; with ``past`` they and what is kept for the next ones.

        Raises:
          InputError: for views that do not divide the heads, or come with a bias or to a causal
            layer; or for what is said of earlier tokens.
        """
        width = x_BLD.shape[-1]
        shape = self.heads, 3, width // self.heads
        axes = "embed", "heads", None, "kv"
        qkv = Dense(shape, axes, self.dtype, self.qkv_init, self.qkv_bias, name="qkv")(x_BLD)
        if added_BH3K is not None:
            qkv = qkv + added_BH3K[:, None].astype(self.dtype)
        q, k, v = split_parts(qkv)
        if self.qk_norm:
            norm = functools.partial(RMSNorm, 2 if self.qk_norm == "all_heads" else 1)
            q = norm(name="query_norm")(q).astype(self.dtype)
            k = norm(name="key_norm")(k).astype(self.dtype)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        output = output_projection(width, self.dtype, kernel_init=self.output_init)
        if past is not None:
            if not (segments_BL is None and bias is None and views is None):
                raise InputError(
                    "segment ids, a bias or views are given with earlier tokens, expected none"
                )
            past = past.written(k, v, place)
            before = past.reach(x_BLD.shape[1], place)
            return output(attention(q, *past, reach=before)), past
        if views is not None and (bias is not None or segments_BL is not None):
            raise InputError("views are given with a bias or segment ids, expected either")
        if views is not None and self.causal:
            raise InputError("views are given to causal attention, expected their own reach")
        edit = edit_at("self", self.path)
        if bias is None:
            reach = causal_reach(x_BLD.shape[1]) if self.causal else None
            views = [View(segments_BL=segments_BL, reach=reach)] if views is None else views
            seen_BLHK = attention_of_views(q, k, v, views, self.implementation, edit)
        else:
            segments = None if segments_BL is None else (segments_BL, segments_BL)
            how, causal = self.implementation, self.causal
            seen_BLHK = attention(
                q, k, v, segments=segments, bias=bias, implementation=how, causal=causal, edit=edit
            )
        return output(seen_BLHK)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to those of another sequence.

    Attributes: as those of `SelfAttention`, and
      output_init: the initial output projection.
    """

    heads: int
    dtype: Dtype = "float32"
    qk_norm: QKNorm = False
    implementation: Implementation = "auto"
    output_init: Callable[..., Any] = xavier
    qkv_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        context_BNC: Float[Array, "B N C"],
        *,
        segments: Segments | None = None,
    ) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D] in ``dtype``, from the tokens of ``context_BNC`` [B, N, C].

        Args:
          x_BLD: tokens that ask.
          context_BNC: tokens that answer; their width may differ.
          segments: ids of both, see `attention`.
        """
        width = x_BLD.shape[-1]
        head, size = self.heads, width // self.heads
        layer = functools.partial(Dense, dtype=self.dtype, bias=self.qkv_bias)
        q = layer((head, size), ("embed", "heads", "kv"), name="query")(x_BLD)
        axes = "embed", "heads", None, "kv"
        kv = layer((head, 2, size), axes, name="key_value")(context_BNC)
        k, v = split_parts(kv)
        if self.qk_norm:
            norm = functools.partial(RMSNorm, 2 if self.qk_norm == "all_heads" else 1)
            q = norm(name="query_norm")(q).astype(self.dtype)
            k = norm(name="key_norm")(k).astype(self.dtype)

        def attend(q: Array, k: Array, v: Array, segments: Segments | None) -> Array:
            how, edit = self.implementation, edit_at("cross", self.path)
            return attention(q, k, v, segments=segments, implementation=how, edit=edit)

        seen_BLHK = to_context(attend, q, k, v, segments)
        return output_projection(width, self.dtype, kernel_init=self.output_init)(seen_BLHK)


class AttentionToKeys(nn.Module):
    """`CrossAttention` in two steps: keys of a sequence once, then any number of queries.

    Attributes: as those of `CrossAttention`, and
      width: D, of the queries.
      qkv_init: the initial projections to q, k and v.
    """

    width: int
    heads: int
    dtype: Dtype = "float32"
    implementation: Implementation = "auto"
    qkv_init: Callable[..., Any] = xavier
    output_init: Callable[..., Any] = xavier

    def setup(self) -> None:
        """Makes the projections."""
        size, init = self.width // self.heads, self.qkv_init
        axes = "embed", "heads", "kv"
        self.query = Dense((self.heads, size), axes, self.dtype, init)
        shape, axes_of_two = (self.heads, 2, size), ("embed", "heads", None, "kv")
        self.key_value = Dense(shape, axes_of_two, self.dtype, init)
        self.output = output_projection(
            self.width, self.dtype, name=None, kernel_init=self.output_init
        )

    def keys(self, context_BNC: Float[Array, "B N C"]) -> KeyValues:
        """Keys and values of a sequence."""
        return KeyValues(*split_parts(self.key_value(context_BNC)))

    def __call__(self, x_BLD: Float[Array, "B L D"], keys: KeyValues) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D] in ``dtype``, from what `keys` returned."""
        seen_BLHK = attention(self.query(x_BLD), *keys, implementation=self.implementation)
        return self.output(seen_BLHK)


def split_parts(parts_BLHPK: Float[Array, "B L H P K"]) -> list[Float[Array, "B L H K"]]:
    """The P parts of a joint projection.

    By `jax.lax.split`, whose backward pass writes the parts side by side; that of indexing pads
    each to the whole and adds them up (on a GPU, 2.5 times as long as it takes to read and write
    them).
    """
    count = parts_BLHPK.shape[-2]
    return [part[..., 0, :] for part in jax.lax.split(parts_BLHPK, (1,) * count, axis=-2)]


def output_projection(
    width: int, dtype: Dtype, name: str | None = "output", kernel_init: Callable[..., Any] = xavier
) -> Dense:
    """The layer from heads [..., H, K] back to the width D."""
    axes = "heads", "kv", "embed"
    return Dense((width,), axes, dtype, name=name, kernel_init=kernel_init)
