"""Layer norm and its adaptive forms: shift, scale and gate come from a condition.

``LN(x) = (x - mean) / sqrt(variance + 1e-6)`` over the last axis. Adaptive layer norm (Perez et al.
2018, Peebles & Xie 2023) is ``LN(x) (1 + scale) + shift`` with shift and scale linear in silu of
the condition's embedding; adaLN-Zero adds a gate on the residual branch and starts all of them at
zero, so that a block starts as the identity. Statistics and modulation are computed in float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.dense import Dense, Dtype, zeros

EPSILON = 1e-6


def layer_norm(x: Float[Array, "*B D"], epsilon: float = EPSILON) -> Float[Array, "*B D"]:
    """``(x - mean) / sqrt(variance + epsilon)`` over the last axis, in float32."""
    return _normalise(x.astype(jnp.float32), epsilon)


def to_unit_length(vectors: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """``v / |v|`` along the last axis, in float32; 0 stays 0."""
    vectors = vectors.astype(jnp.float32)
    square = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.where(square == 0, 1.0, square))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalise(x: Array, epsilon: float) -> Array:
    """`layer_norm` of float32 numbers."""
    return _normalised_and_scale(x, epsilon)[0]


@_normalise.defjvp
def _normalise_jvp(
    epsilon: float, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    """``dy = t - mean(t) - y mean(y t)`` with ``t = dx / sqrt(variance + epsilon)``.

    So written, both means of the backward pass come of one pass over memory; derived step by step,
    the second waits for the first.
    """
    y, scale = _normalised_and_scale(primals[0], epsilon)
    t = tangents[0] * scale
    mean = functools.partial(jnp.mean, axis=-1, keepdims=True)
    return y, t - mean(t) - y * mean(y * t)


def _normalised_and_scale(x: Array, epsilon: float) -> tuple[Array, Array]:
    """`layer_norm` of float32 numbers, and what it multiplied the centred ones by."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(variance + epsilon)
    return centred * scale, scale


PerExample = Float[Array, "B D"] | Float[Array, "B L D"]
"""A vector for all tokens of an example, or one for each token."""


def modulate(
    x_BLD: Float[Array, "B L D"], shift: PerExample, scale: PerExample
) -> Float[Array, "B L D"]:
    """``x (1 + scale) + shift``, with one shift and scale for an example or for each token."""
    return x_BLD * (1 + for_tokens(scale)) + for_tokens(shift)


def for_tokens(vector: PerExample) -> Float[Array, "B #L D"]:
    """A vector of each example, [B, D], as one that broadcasts over its tokens, [B, 1, D]."""
    return vector[:, None] if vector.ndim == 2 else vector


class LayerNorm(nn.Module):
    """`layer_norm` with learnt scale and bias, in float32.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Normalises the last axis."""
        named = nn.with_logical_partitioning
        size = x.shape[-1:]
        scale_D = self.param("scale", named(nn.initializers.ones, ("embed",)), size)
        bias_D = self.param("bias", named(zeros, ("embed",)), size)
        return layer_norm(x, self.epsilon) * scale_D + bias_D


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + 1e-6)`` times a learnt scale, over the last axis, in float32.

    For queries and keys (Dehghani et al. 2023; Esser et al. 2024): it bounds the logits of
    attention, which otherwise grow in long bfloat16 runs.

    Attributes:
      axes: 1 for one head at a time; 2 for all heads together, with a scale [H, K].
    """

    axes: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "*B K"]) -> Float[Array, "*B K"]:
        """Normalises the last axis, or the last two."""
        names = ("heads", "kv")[-self.axes :]
        scale = self.param(
            "scale",
            nn.with_logical_partitioning(nn.initializers.ones, names),
            x.shape[-self.axes :],
        )
        x = x.astype(jnp.float32)
        over = tuple(range(-self.axes, 0))
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), over, keepdims=True) + EPSILON) * scale


def modulation(parts: int, width: int, dtype: Dtype = "float32") -> Dense:
    """The layer that makes ``parts`` vectors of a block (shifts, scales, gates); starts at zero.

    Args:
      parts: how many vectors.
      width: D.
      dtype: the compute dtype of the product.
    """
    return Dense((parts, width), ("embed", None, "modulation"), dtype, kernel_init=zeros)


def modulation_parts(
    layer: Callable[[Array], Array],
    condition: Float[Array, "B D"] | Float[Array, "B E D"],
    example_BLE: Float[Array, "B L E"] | None = None,
) -> tuple[PerExample, ...]:
    """``silu(c) W + b``, cut into its vectors in float32.

    Args:
      layer: what `modulation` returned.
      condition: c, the embedding of the condition, [B, D]; of each example of a pack, [B, E, D].
      example_BLE: of packs, 1 where a token is of an example, else 0.

    Returns:
      Vectors [B, D]; of packs [B, L, D], those of the example that a token is of (zeros where it is
      of none).
    """
    return spread_parts(layer(nn.silu(condition)).astype(jnp.float32), example_BLE)


def spread_parts(
    parts: Float[Array, "*B P D"], example_BLE: Float[Array, "B L E"] | None = None
) -> tuple[PerExample, ...]:
    """The vectors of examples, or of rows of examples, handed to their tokens.

    Args:
      parts: P vectors of each example [B, P, D], of each token [B, L, P, D], or of each row of a
        pack [B, E, P, D].
      example_BLE: of packs, 1 where a token is of a row, else 0.

    Returns:
      P vectors, as those of `modulation_parts`.
    """
    if example_BLE is not None:
        # A product rather than a look-up, whose gradient would be a scatter.
        parts = jnp.einsum("BLE,BEPD->BLPD", example_BLE, parts, precision="highest")
    return tuple(parts[..., i, :] for i in range(parts.shape[-2]))


class ModulationTable(nn.Module):
    """Vectors of a block that are added to those that all blocks share (Wan; Chen et al. 2023).

    Attributes:
      parts: how many vectors.
      width: D.
    """

    parts: int
    width: int

    @nn.compact
    def __call__(self, shared: Float[Array, "*B P D"]) -> Float[Array, "*B P2 D"]:
        """The first ``parts`` of the shared vectors plus the table, in float32."""
        initial = nn.initializers.normal(self.width**-0.5)
        named = nn.with_logical_partitioning(initial, (None, "modulation"))
        table_PD = self.param("table", named, (self.parts, self.width))
        return shared.astype(jnp.float32)[..., : self.parts, :] + table_PD
