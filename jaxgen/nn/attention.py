"""Attention over tokens: one function with several implementations, and the layers around it.

``softmax(q k^T / sqrt(K) + bias) v`` per head. Which tokens may see each other is said by *segment
ids*: a query sees the keys of its own segment (packed sequences put several examples in one row;
padding is a segment of its own). Logits and softmax are float32 in every implementation.

==========  ==================================================================================
plain       einsums, any backend; what the others are tested against
cudnn       `jax.nn.dot_product_attention` with cuDNN's fused kernel: GPU, 16-bit types
pallas      the flash-attention kernel that JAX ships for TPU
auto        the fused one of the backend where it applies, otherwise plain
==========  ==================================================================================
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError
from jaxgen.nn import attention_kernels
from jaxgen.nn.dense import Dense, Dtype
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.rotary import rotate

Implementation = Literal["auto", "plain", "cudnn", "pallas"]

Segments = tuple[Int[Array, "B L"], Int[Array, "B N"]]
"""Segment ids of the queries and of the keys."""

Bias = Float[Array, "H L N"] | Float[Array, "B H L N"]


def attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
    *,
    segments: Segments | None = None,
    bias: Bias | None = None,
    implementation: Implementation = "auto",
) -> Float[Array, "B L H K"]:
    """``softmax(q k^T / sqrt(K) + bias) v`` for each head (Vaswani et al. 2017, equation 1).

    Args:
      q_BLHK: queries.
      k_BNHK: keys.
      v_BNHK: values.
      segments: ids [B, L] of the queries and [B, N] of the keys; a query sees the keys with its own
        id. None: all keys. A query without any key gets the mean of all values.
      bias: added to the logits: [H, L, N] for every example, or [B, H, L, N].
      implementation: see the table above.

    Returns:
      [B, L, H, K] in the type of the values.

    Raises:
      InputError: for shapes that do not belong together, or an implementation that this backend or
        type lacks.
    """
    _check_shapes(q_BLHK, k_BNHK, v_BNHK, segments, bias)
    if bias is not None and bias.ndim == 3:
        bias = bias[None]
    chosen = attention_kernels.choose(implementation, q_BLHK, k_BNHK)
    if chosen == "cudnn":
        return attention_kernels.cudnn(q_BLHK, k_BNHK, v_BNHK, segments, bias)
    if chosen == "pallas":
        return attention_kernels.pallas(q_BLHK, k_BNHK, v_BNHK, segments, bias)
    return plain_attention(q_BLHK, k_BNHK, v_BNHK, segments, bias)


def plain_attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
    segments: Segments | None = None,
    bias_BHLN: Float[Array, "#B H L N"] | None = None,
) -> Float[Array, "B L H K"]:
    """`attention` by einsums; arguments as there.

    The weights are divided by their sum after they have met the values: K divisions for a query,
    not N, and a pass less over [B, H, L, N] numbers, the slowest part of attention on CPU.
    """
    scale = q_BLHK.shape[-1] ** -0.5
    q_BHLK, k_BHNK, v_BHNK = (x.swapaxes(1, 2) for x in (q_BLHK * scale, k_BNHK, v_BNHK))
    f32 = {"preferred_element_type": jnp.float32}
    logits_BHLN = jnp.einsum("BHLK,BHNK->BHLN", q_BHLK, k_BHNK, **f32)
    if bias_BHLN is not None:
        logits_BHLN = logits_BHLN + bias_BHLN.astype(jnp.float32)
    if segments is not None:
        seen_BHLN = same_segment(*segments)[:, None]
        logits_BHLN = jnp.where(seen_BHLN, logits_BHLN, jnp.finfo(jnp.float32).min)
    highest_BHL1 = jax.lax.stop_gradient(jnp.max(logits_BHLN, axis=-1, keepdims=True))
    weights_BHLN = jnp.exp(logits_BHLN - highest_BHL1)
    sums_BHL1 = jnp.sum(weights_BHLN, axis=-1, keepdims=True)
    weights_BHLN = weights_BHLN.astype(v_BNHK.dtype)
    seen_BHLK = jnp.einsum("BHLN,BHNK->BHLK", weights_BHLN, v_BHNK, **f32) / sums_BHL1
    return seen_BHLK.astype(v_BNHK.dtype).swapaxes(1, 2)


def same_segment(of_queries_BL: Int[Array, "B L"], of_keys_BN: Int[Array, "B N"]) -> "Array":
    """Whether a query and a key are of one segment: booleans [B, L, N]."""
    return of_queries_BL[:, :, None] == of_keys_BN[:, None, :]


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


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other; heads are sharded over the mesh axis ``model``.

    Attributes:
      heads: H; the head size is width / H.
      dtype: the compute dtype of products.
      qk_norm: whether queries and keys are normalised (`RMSNorm`).
      implementation: see `attention`.
      qkv_bias: whether q, k and v have biases.
    """

    heads: int
    dtype: Dtype = "float32"
    qk_norm: bool = False
    implementation: Implementation = "auto"
    qkv_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        *,
        segments_BL: Int[Array, "B L"] | None = None,
        bias: Bias | None = None,
        added_BH3K: Float[Array, "B H 3 K"] | None = None,
        angle: Float[Any, "#B L K2"] | Float[Any, "L K2"] | None = None,
    ) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D] in ``dtype``.

        Args:
          x_BLD: tokens.
          segments_BL: segment ids; a token sees those of its own segment. None: all.
          bias: added to the logits, see `attention`.
          added_BH3K: added to q, k and v of every token: what depends on the example alone.
          angle: rotary positions, by which queries and keys are turned (`jaxgen.nn.rotary`).
        """
        width = x_BLD.shape[-1]
        shape = self.heads, 3, width // self.heads
        axes = "embed", "heads", None, "kv"
        qkv = Dense(shape, axes, self.dtype, bias=self.qkv_bias, name="qkv")(x_BLD)
        if added_BH3K is not None:
            qkv = qkv + added_BH3K[:, None].astype(self.dtype)
        q, k, v = split_parts(qkv)
        if self.qk_norm:
            q = RMSNorm(name="query_norm")(q).astype(self.dtype)
            k = RMSNorm(name="key_norm")(k).astype(self.dtype)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        segments = None if segments_BL is None else (segments_BL, segments_BL)
        seen_BLHK = attention(
            q, k, v, segments=segments, bias=bias, implementation=self.implementation
        )
        return output_projection(width, self.dtype)(seen_BLHK)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to those of another sequence.

    Attributes: as those of `SelfAttention`.
    """

    heads: int
    dtype: Dtype = "float32"
    qk_norm: bool = False
    implementation: Implementation = "auto"

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
        head = self.heads, width // self.heads
        q = Dense(head, ("embed", "heads", "kv"), self.dtype, name="query")(x_BLD)
        axes = "embed", "heads", None, "kv"
        kv = Dense((head[0], 2, head[1]), axes, self.dtype, name="key_value")(context_BNC)
        k, v = split_parts(kv)
        if self.qk_norm:
            q = RMSNorm(name="query_norm")(q).astype(self.dtype)
            k = RMSNorm(name="key_norm")(k).astype(self.dtype)
        seen_BLHK = attention(q, k, v, segments=segments, implementation=self.implementation)
        return output_projection(width, self.dtype)(seen_BLHK)


def split_parts(parts_BLHPK: Float[Array, "B L H P K"]) -> list[Float[Array, "B L H K"]]:
    """The P parts of a joint projection.

    By `jax.lax.split`, whose backward pass writes the parts side by side; that of indexing pads
    each to the whole and adds them up (on a GPU, 2.5 times as long as it takes to read and write
    them).
    """
    count = parts_BLHPK.shape[-2]
    return [part[..., 0, :] for part in jax.lax.split(parts_BLHPK, (1,) * count, axis=-2)]


def output_projection(width: int, dtype: Dtype, name: str = "output") -> Dense:
    """The layer from heads [..., H, K] back to the width D."""
    return Dense((width,), ("heads", "kv", "embed"), dtype, name=name)
