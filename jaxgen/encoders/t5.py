"""The encoder of T5, version 1.1 (Raffel et al. 2020; Shazeer 2020 for the gated MLP).

::

    x       = table[ids]
    x      += W_o Attention(norm(x)),  logits  <q, k> + bias[bucket of the offset]
    x      += W_o (gelu(W_0 y) * W_1 y),  y = norm(x)
    states  = norm(x)

norm(x) is ``x / sqrt(mean(x^2) + 1e-6)`` times a scale. Logits are not divided by sqrt(K). There
are no biases and no positions but the offsets, whose bias all blocks share. GELU is the hyperbolic
form. Initial deviations, with D the width, F the hidden units: 1 for the table, (D K)^-.5 for
queries, (H K)^-.5 and F^-.5 for outputs, D^-.5 for everything else (mesh-tensorflow's, as
transformers has them).

Published weights have states far beyond what float16 holds, so the stream x, the norms and the
output layer of the MLP are float32 whatever the compute dtype is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from jaxgen.encoders.encoded import Encoded, TokenEmbedding, check_token_ids, text_mask
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.attention import Implementation, attention, check_implementation, split_parts
from jaxgen.nn.dense import Dense, Dtype, check_dtype
from jaxgen.nn.mlp import gelu_tanh
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.relative import BucketBias, check_buckets
from jaxgen.nn.visibility import Segments

SIZES: Mapping[str, tuple[int, int, int, int]] = {
    "t5-v1_1-small": (512, 1024, 8, 6),
    "t5-v1_1-base": (768, 2048, 12, 12),
    "t5-v1_1-large": (1024, 2816, 24, 16),
    "t5-v1_1-xl": (2048, 5120, 24, 32),
    "t5-v1_1-xxl": (4096, 10_240, 24, 64),
}
"""Width, hidden units, depth and heads of the published models."""

normal = nn.initializers.normal


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Options of the encoder; the defaults are those of t5-v1_1-small.

    Attributes:
      vocabulary: V, rows of the table of tokens; published tables have more rows than pieces.
      width: D, of a token.
      mlp_units: F, hidden units of a block's MLP.
      depth: blocks.
      heads: H, attention heads.
      head_size: K; H K need not be D.
      buckets: of offsets, see `jaxgen.nn.relative`.
      largest_distance: from which on all offsets of one sign share a bucket.
      dtype: the compute dtype of matrix products, but for the MLP's output layer.
      remat: whether a block's activations are recomputed in the backward pass.
      attention: implementation of attention, see `jaxgen.nn.attention`.
    """

    vocabulary: int = 32_128
    width: int = 512
    mlp_units: int = 1024
    depth: int = 8
    heads: int = 6
    head_size: int = 64
    buckets: int = 32
    largest_distance: int = 128
    dtype: Dtype = "float32"
    remat: bool = False
    attention: Implementation = "auto"

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_sizes(self, "vocabulary", "width", "mlp_units", "depth", "heads", "head_size")
        check_buckets(self.buckets, self.largest_distance)
        check_dtype(self.dtype)
        check_implementation(self.attention)

    @classmethod
    def named(cls, name: str, **changes: Any) -> "T5Config":
        """A published encoder.

        Args:
          name: "t5-v1_1-small", "-base", "-large", "-xl" or "-xxl".
          **changes: fields that differ from it.

        Raises:
          InputError: for any other name.
        """
        if name not in SIZES:
            raise InputError(f"model {name!r} is unknown, expected one of {', '.join(SIZES)}")
        width, units, depth, heads = SIZES[name]
        sizes = {"width": width, "mlp_units": units, "depth": depth, "heads": heads}
        return cls(**{**sizes, **changes})

    def check_input(
        self, ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None = None
    ) -> None:
        """Refuses texts that are not for this encoder.

        Raises:
          InputError: for ids outside the table, or a mask of another shape.
        """
        check_token_ids(ids_BL, mask_BL, self.vocabulary)

    def example(self) -> tuple[Array, ...]:
        """What the network takes of one text, in zeros."""
        return (jnp.zeros((1, 1), jnp.int32),)

    def make_model(self) -> "T5Encoder":
        """The network."""
        return T5Encoder(self)


class T5Block(nn.Module):
    """One block.

    Attributes:
      config: the options.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        bias_HLL: Float[Array, "H L L"],
        segments: Segments | None,
    ) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D].

        Args:
          x_BLD: tokens.
          bias_HLL: of the logits.
          segments: ids of queries and of keys, see `jaxgen.nn.attention`; None without padding.
        """
        c = self.config
        scale = c.width**-0.5
        qkv = Dense(
            (c.heads, 3, c.head_size),
            ("embed", "heads", None, "kv"),
            c.dtype,
            _initial_qkv(c),
            bias=False,
            name="qkv",
        )
        q, k, v = split_parts(qkv(RMSNorm(name="attention_norm")(x_BLD)))
        q = q * c.head_size**0.5  # which the function divides by
        seen_BLHK = attention(q, k, v, segments=segments, bias=bias_HLL, implementation=c.attention)
        output_init = normal((c.heads * c.head_size) ** -0.5)
        axes = "heads", "kv", "embed"
        output = Dense((c.width,), axes, c.dtype, output_init, bias=False, name="output")
        x_BLD = x_BLD + output(seen_BLHK).astype(jnp.float32)

        def layer(name: str) -> Dense:
            shape, axes = (c.mlp_units,), ("embed", "mlp")
            return Dense(shape, axes, c.dtype, normal(scale), bias=False, name=name)

        y_BLD = RMSNorm(name="mlp_norm")(x_BLD)
        hidden_BLF = gelu_tanh(layer("gate")(y_BLD)) * layer("hidden")(y_BLD)
        down_init = normal(c.mlp_units**-0.5)
        down = Dense((c.width,), ("mlp", "embed"), "float32", down_init, bias=False, name="down")
        return x_BLD + down(hidden_BLF)


def _initial_qkv(config: T5Config) -> Any:
    """Normal numbers of deviation D^-.5, smaller by sqrt(K) for queries."""

    def initial(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        values = normal(config.width**-0.5)(key, shape, dtype)
        parts = values.reshape(-1, config.heads, 3, config.head_size)
        return parts.at[:, :, 0].multiply(config.head_size**-0.5).reshape(shape)

    return initial


class T5Encoder(nn.Module):
    """From token ids to states.

    Attributes:
      config: the options.
    """

    config: T5Config

    def setup(self) -> None:
        """Makes the table, the bias and the blocks."""
        c = self.config
        self.token_embedding = TokenEmbedding(c.vocabulary, c.width, 1.0)
        self.bias = BucketBias(c.heads, c.buckets, c.largest_distance, normal(c.width**-0.5))
        block = nn.remat(T5Block) if c.remat else T5Block
        self.blocks = [block(c) for _ in range(c.depth)]
        self.final_norm = RMSNorm()

    def __call__(
        self, ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None = None
    ) -> Encoded:
        """States behind the final norm; pooled is their mean without padding.

        Args:
          ids_BL: token ids, the end token among them; any length.
          mask_BL: 0 or False for padding, which no token sees. None: there is none.

        Raises:
          InputError: see `T5Config.check_input`.
        """
        self.config.check_input(ids_BL, mask_BL)
        seen_BL = text_mask(ids_BL, mask_BL)
        segments = None
        if mask_BL is not None:  # padding sees the text too, so its states are those of others
            segments = jnp.ones(seen_BL.shape, jnp.int32), seen_BL.astype(jnp.int32)
        bias_HLL = self.bias(ids_BL.shape[1])
        x_BLD = self.token_embedding(ids_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, bias_HLL, segments)
        states_BLD = self.final_norm(x_BLD)
        kept_BLD = jnp.where(seen_BL[..., None], states_BLD, 0)
        count_B1 = jnp.maximum(seen_BL.sum(axis=1, keepdims=True), 1)
        return Encoded(states_BLD, seen_BL, kept_BLD.sum(axis=1) / count_B1)
