"""The transformer blocks of images and videos, which differ in conditioning.

Four are DiT's (Peebles & Xie 2023, figure 3), the fifth that of PixArt (Chen et al. 2023) and Wan.
``c`` is the sum of the embeddings of time and class::

    adaln_zero   x += gate_1 Attention(LN(x) (1 + scale_1) + shift_1);  the same with an MLP and _2
    adaln        the same without gates
    cross        x += Attention(LN(x));  x += CrossAttention(LN(x), [time, class]);  x += MLP(LN(x))
    in_context   x += Attention(LN(x));  x += MLP(LN(x)); time and class are two more tokens
    adaln_shared as adaln_zero; the vectors of all blocks are one linear map of silu(c), and each
                 block adds a learnt table to them

Shifts, scales and gates are linear in silu(c) and start at zero. LN has parameters of its own in
cross and in_context only. The stream x is float32; the branches are computed in ``config.dtype``.

**Videos** (Arnab et al. 2021, "ViViT"; Ma et al. 2024, "Latte"). What a block attends over is a
`jaxgen.nn.visibility.View`, of which its heads can have several. A factorised block has a second
attention, in time, behind the first, with a norm, modulation and gate of its own::

    x += gate_1 Attention(LN(x) (1 + scale_1) + shift_1)                in space
    x += gate_t Attention(LN(x) (1 + scale_t) + shift_t + waves(t))     in time

**Texts** are attended to behind that, ``x += CrossAttention(LN(x), text)``, through an output
projection that starts at zero, as in PixArt.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.attention import Angle, Bias, CrossAttention, SelfAttention
from jaxgen.nn.dense import Dense, zeros
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norms import (
    EPSILON,
    LayerNorm,
    ModulationTable,
    for_tokens,
    layer_norm,
    modulate,
    modulation,
    modulation_parts,
    spread_parts,
)
from jaxgen.nn.visibility import Segments, View
from jaxgen.spacetime.transformer_config import TransformerConfig

Conditioning = Literal["adaln_zero", "adaln", "cross", "in_context"]

VideoConditioning = Literal[Conditioning, "adaln_shared"]

PARTS = {"adaln_zero": 6, "adaln": 4, "adaln_shared": 6}
"""Vectors of a block with adaptive norms: shift, scale and, where there are any, gate; twice."""


class DiTBlock(nn.Module):
    """One block.

    Attributes:
      config: the network's options.
      conditioning: which of the five.
      mlp_norm_epsilon: added to the variance in the norm before the MLP of adaptive blocks.
      attends_in_time: whether there is a second attention, in time.
      attends_to_text: whether there is an attention to the tokens of a text.
      norm_before_text: whether there is a norm in front of it.
    """

    config: TransformerConfig
    conditioning: VideoConditioning = "adaln_zero"
    mlp_norm_epsilon: float = EPSILON
    attends_in_time: bool = False
    attends_to_text: bool = False
    norm_before_text: bool = True

    def setup(self) -> None:
        """Makes attention and MLP, and what the conditioning needs."""
        c = self.config
        self.attention = SelfAttention(c.heads, c.dtype, c.qk_norm, c.attention)
        self.mlp = MLP(c.mlp_units, c.dtype)
        parts = PARTS.get(self.conditioning)
        if parts is None:
            self.attention_norm, self.mlp_norm = LayerNorm(), LayerNorm()
        else:
            self.modulation = self._make_modulation(parts)
        if self.conditioning == "cross":
            self.cross_norm = LayerNorm()
            self.cross_attention = CrossAttention(c.heads, c.dtype, c.qk_norm, c.attention)
        if self.attends_in_time:
            self.time_attention = SelfAttention(c.heads, c.dtype, c.qk_norm, c.attention)
            if parts is None:
                self.time_norm = LayerNorm()
            else:
                self.time_modulation = self._make_modulation(parts // 2)
        if self.attends_to_text:
            if self.norm_before_text:
                self.text_norm = LayerNorm()
            self.text_attention = CrossAttention(c.heads, c.dtype, c.qk_norm, c.attention, zeros)

    def _make_modulation(self, parts: int) -> Callable[[Array], Array]:
        if self.conditioning == "adaln_shared":
            return ModulationTable(parts, self.config.width)
        return modulation(parts, self.config.width, self.config.dtype)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        condition: Any,
        segments_BL: Int[Array, "B L"] | None = None,
        bias: Bias | None = None,
        angle: Angle | None = None,
        example_BLE: Float[Array, "B L E"] | None = None,
        *,
        views: Sequence[View] | None = None,
        time_views: Sequence[View] | None = None,
        time_waves: Float[Any, "#B L D"] | Float[Any, "L D"] | None = None,
        cross_segments: Segments | None = None,
        text_BND: Float[Array, "B N D"] | None = None,
        text_segments: Segments | None = None,
    ) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D].

        Args:
          x_BLD: tokens.
          condition: the embedding for adaln and adaln_zero, [B, D], of packs [B, E, D]; the shared
            vectors [B, 6, D] or [B, E, 6, D] for adaln_shared; tokens [B, N, D] for cross; None for
            in_context.
          segments_BL: segment ids for attention, see `jaxgen.nn.attention`.
          bias: added to the logits of attention.
          angle: rotary positions, see `jaxgen.nn.rotary`.
          example_BLE: of packs, 1 where a token is of an example, else 0.
          views: what attention goes over, in place of ``segments_BL``.
          time_views: what the attention in time goes over.
          time_waves: added to what attends in time: the second attention, or else the first.
          cross_segments: of cross, segment ids of tokens and of the condition's tokens.
          text_BND: tokens of texts.
          text_segments: segment ids of tokens and of the texts' tokens.
        """

        def attention(y_BLD: Array) -> Array:
            if time_waves is not None and not self.attends_in_time:
                y_BLD = y_BLD + time_waves
            return self.attention(
                y_BLD, segments_BL=segments_BL, bias=bias, angle=angle, views=views
            )

        def in_time(y_BLD: Array) -> Array:
            y_BLD = y_BLD if time_waves is None else y_BLD + time_waves
            return self.time_attention(y_BLD, angle=angle, views=time_views)

        def between(x_BLD: Array) -> Array:
            if not self.attends_to_text:
                return x_BLD
            y_BLD = self.text_norm(x_BLD) if self.norm_before_text else x_BLD
            seen_BLD = self.text_attention(y_BLD, text_BND, segments=text_segments)
            return x_BLD + seen_BLD.astype(jnp.float32)

        if self.conditioning in PARTS:
            vectors = self._vectors(self.modulation, condition, example_BLE)
            half = len(vectors) // 2
            x_BLD = self._adaptive(x_BLD, vectors[:half], attention)
            if self.attends_in_time:
                own = self._vectors(self.time_modulation, condition, example_BLE)
                x_BLD = self._adaptive(x_BLD, own, in_time)
            return self._adaptive(between(x_BLD), vectors[half:], self.mlp, self.mlp_norm_epsilon)
        x_BLD = x_BLD + attention(self.attention_norm(x_BLD))
        if self.attends_in_time:
            x_BLD = x_BLD + in_time(self.time_norm(x_BLD))
        if self.conditioning == "cross":
            y_BLD = self.cross_norm(x_BLD)
            x_BLD = x_BLD + self.cross_attention(y_BLD, condition, segments=cross_segments)
        x_BLD = between(x_BLD)
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))

    def _vectors(
        self, layer: Callable[[Array], Array], condition: Array, example_BLE: Array | None
    ) -> tuple[Array, ...]:
        """Shifts, scales and gates of this block, for tokens."""
        if self.conditioning == "adaln_shared":
            return spread_parts(layer(condition), example_BLE)
        return modulation_parts(layer, condition, example_BLE)

    def _adaptive(
        self,
        x_BLD: Array,
        vectors: Sequence[Array],
        branch: Callable[[Array], Array],
        epsilon: float = EPSILON,
    ) -> Float[Array, "B L D"]:
        """x plus a branch behind an adaptive norm, through its gate where it has one."""
        shift, scale, *gate = vectors
        y_BLD = branch(modulate(layer_norm(x_BLD, epsilon), shift, scale)).astype(jnp.float32)
        return x_BLD + (for_tokens(gate[0]) * y_BLD if gate else y_BLD)


class FinalLayer(nn.Module):
    """From tokens to the numbers of their patches, in float32.

    Layer norm (adaptive where the blocks are), then a linear layer that starts at zero.

    Attributes:
      config: the network's options.
      adaptive: whether shift and scale come from the condition.
      shared: whether they are the condition plus a learnt table (adaln_shared), not linear in it.
    """

    config: TransformerConfig
    adaptive: bool = True
    shared: bool = False

    def setup(self) -> None:
        """Makes the norm and the linear layer."""
        c = self.config
        if self.shared:
            self.modulation = ModulationTable(2, c.width)
        elif self.adaptive:
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
            if self.shared:
                twice = jnp.repeat(condition[..., None, :], 2, axis=-2)
                shift, scale = spread_parts(self.modulation(twice), example_BLE)
            else:
                shift, scale = modulation_parts(self.modulation, condition, example_BLE)
            y_BLD = modulate(layer_norm(x_BLD), shift, scale)
        else:
            y_BLD = self.norm(x_BLD)
        return self.output(y_BLD).astype(jnp.float32)
