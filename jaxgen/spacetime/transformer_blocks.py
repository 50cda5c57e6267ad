"""The four transformer blocks of DiT (Peebles & Xie 2023, figure 3), which differ in conditioning.

``c`` is the sum of the embeddings of time and class::

    adaln_zero   x += gate_1 Attention(LN(x) (1 + scale_1) + shift_1);  the same with an MLP and _2
    adaln        the same without gates
    cross        x += Attention(LN(x));  x += CrossAttention(LN(x), [time, class]);  x += MLP(LN(x))
    in_context   x += Attention(LN(x));  x += MLP(LN(x)); time and class are two more tokens

Shifts, scales and gates are linear in silu(c) and start at zero. LN has parameters of its own in
the last two only. The stream x is float32; the branches are computed in ``config.dtype``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.attention import Bias, CrossAttention, SelfAttention
from jaxgen.nn.dense import Dense, zeros
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norms import (
    EPSILON,
    LayerNorm,
    for_tokens,
    layer_norm,
    modulate,
    modulation,
    modulation_parts,
)
from jaxgen.spacetime.transformer_config import TransformerConfig

Conditioning = Literal["adaln_zero", "adaln", "cross", "in_context"]


class DiTBlock(nn.Module):
    """One block.

    Attributes:
      config: the network's options.
      conditioning: which of the four.
      mlp_norm_epsilon: added to the variance in the norm before the MLP of adaptive blocks.
    """

    config: TransformerConfig
    conditioning: Conditioning = "adaln_zero"
    mlp_norm_epsilon: float = EPSILON

    def setup(self) -> None:
        """Makes attention and MLP, and what the conditioning needs."""
        c = self.config
        self.attention = SelfAttention(c.heads, c.dtype, c.qk_norm, c.attention)
        self.mlp = MLP(c.mlp_units, c.dtype)
        if self.conditioning == "adaln_zero":
            self.modulation = modulation(6, c.width, c.dtype)
        elif self.conditioning == "adaln":
            self.modulation = modulation(4, c.width, c.dtype)
        else:
            self.attention_norm, self.mlp_norm = LayerNorm(), LayerNorm()
        if self.conditioning == "cross":
            self.cross_norm = LayerNorm()
            self.cross_attention = CrossAttention(c.heads, c.dtype, c.qk_norm, c.attention)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        condition: Any,
        segments_BL: Int[Array, "B L"] | None = None,
        bias: Bias | None = None,
        angle: Float[Any, "#B L K2"] | Float[Any, "L K2"] | None = None,
        example_BLE: Float[Array, "B L E"] | None = None,
    ) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D].

        Args:
          x_BLD: tokens.
          condition: the embedding for adaln and adaln_zero, [B, D], of packs [B, E, D]; tokens
            [B, N, D] for cross; None for in_context.
          segments_BL: segment ids for attention, see `jaxgen.nn.attention`.
          bias: added to the logits of attention.
          angle: rotary positions, see `jaxgen.nn.rotary`.
          example_BLE: of packs, 1 where a token is of an example, else 0.
        """

        def attention(y_BLD: Array) -> Array:
            return self.attention(y_BLD, segments_BL=segments_BL, bias=bias, angle=angle)

        if self.conditioning in ("adaln", "adaln_zero"):
            parts = modulation_parts(self.modulation, condition, example_BLE)
            return self._adaptive(x_BLD, parts, attention)
        x_BLD = x_BLD + attention(self.attention_norm(x_BLD))
        if self.conditioning == "cross":
            x_BLD = x_BLD + self.cross_attention(self.cross_norm(x_BLD), condition)
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))

    def _adaptive(
        self, x_BLD: Array, parts: Sequence[Array], attention: Callable[[Array], Array]
    ) -> Float[Array, "B L D"]:
        half = len(parts) // 2
        shift, scale, *gate = parts[:half]
        y_BLD = modulate(layer_norm(x_BLD), shift, scale)
        x_BLD = _add(x_BLD, attention(y_BLD), gate)
        shift, scale, *gate = parts[half:]
        y_BLD = modulate(layer_norm(x_BLD, self.mlp_norm_epsilon), shift, scale)
        return _add(x_BLD, self.mlp(y_BLD), gate)


def _add(x_BLD: Array, branch_BLD: Array, gate: list[Array]) -> Array:
    """x plus a branch, through its gate where it has one."""
    branch_BLD = branch_BLD.astype(jnp.float32)
    return x_BLD + (for_tokens(gate[0]) * branch_BLD if gate else branch_BLD)


class FinalLayer(nn.Module):
    """From tokens to the numbers of their patches, in float32.

    Layer norm (adaptive where the blocks are), then a linear layer that starts at zero.

    Attributes:
      config: the network's options.
      adaptive: whether shift and scale come from the condition.
    """

    config: TransformerConfig
    adaptive: bool = True

    def setup(self) -> None:
        """Makes the norm and the linear layer."""
        c = self.config
        if self.adaptive:
            self.modulation = modulation(2, c.width, c.dtype)
        else:
            self.norm = LayerNorm()
        shape, axes = (c.patch_outputs,), ("embed", "patch")
        self.output = Dense(shape, axes, c.dtype, kernel_init=zeros)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        condition: Float[Array, "B D"] | Float[Array, "B E D"],
        example_BLE: Float[Array, "B L E"] | None = None,
    ) -> Float[Array, "B L F"]:
        """[B, L, D] to [B, L, P P C_out]; without an adaptive norm the condition is not used.

        Args:
          x_BLD: tokens.
          condition: its embedding, [B, D], of packs [B, E, D].
          example_BLE: of packs, 1 where a token is of an example, else 0.
        """
        if self.adaptive:
            shift, scale = modulation_parts(self.modulation, condition, example_BLE)
            y_BLD = modulate(layer_norm(x_BLD), shift, scale)
        else:
            y_BLD = self.norm(x_BLD)
        return self.output(y_BLD).astype(jnp.float32)
