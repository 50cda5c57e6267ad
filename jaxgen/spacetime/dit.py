"""The diffusion transformer (Peebles & Xie 2023): patches as tokens, conditioned by adaptive norms.

    tokens = patches W + b + positions          fixed sines and cosines, width before height
    c      = time embedding + class embedding
    tokens = block(tokens, c)                   `depth` times, see `transformer_blocks`
    output = unpatchify(final layer(tokens, c))

Texts, as an encoder gives them, are attended to in each block or are tokens beside the patches; the
one vector of a text or image is added to c (`jaxgen.spacetime.text_context`).

Twelve sizes are published: S, B, L, XL with patches of 8, 4, 2 on latents of 32 x 32 x 4, 1000
classes and a null class, and twice the channels at the output for learnt variances. Positions are
computed for the grid at hand, so every network takes images of any size that its patch divides.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError
from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import Condition, TextEmbedding
from jaxgen.nn.norms import EPSILON
from jaxgen.nn.patches import patchify, unpatchify
from jaxgen.nn.positions import sincos_grid
from jaxgen.nn.text_inputs import (
    check_pooled,
    check_text_mask,
    check_text_tokens,
    check_text_widths,
    without_padding,
)
from jaxgen.spacetime.text_context import TextContext, TextUse, clip_context
from jaxgen.spacetime.transformer_blocks import Conditioning, DiTBlock, FinalLayer
from jaxgen.spacetime.transformer_config import (
    TransformerConfig,
    check_wave_width,
    published_fields,
)

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
"""Depth, width and heads (Peebles & Xie 2023, table 1)."""

PATCHES = (8, 4, 2)


@dataclasses.dataclass(frozen=True)
class DiTConfig(TransformerConfig):
    """Options of a DiT; the defaults are those of DiT-S/2.

    Attributes:
      conditioning: which of the four blocks: "adaln_zero", "adaln", "cross", "in_context".
      frequency_shift: see `jaxgen.nn.time_frequencies`; the networks of diffusers have 1.
      mlp_norm_epsilon: added to the variance in the norm before the MLP of adaptive blocks; the
        networks of diffusers have 1e-5.
      own_embeddings: whether every adaptive block embeds time and class by itself, and the final
        layer has the condition of the first, as in networks that were trained with diffusers.
      text_width: C, of the tokens of texts; 0 for a network without texts.
      text: whether texts are attended to in each block ("cross") or are tokens beside the patches
        ("in_context").
      pooled_width: of the one vector of a text or image; 0 for a network without.
    """

    conditioning: Conditioning = "adaln_zero"
    frequency_shift: float = 0.0
    mlp_norm_epsilon: float = EPSILON
    own_embeddings: bool = False
    text_width: int = 0
    text: TextUse = "cross"
    pooled_width: int = 0

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        for name, literal in (("conditioning", Conditioning), ("text", TextUse)):
            if getattr(self, name) not in get_args(literal):
                expected = ", ".join(get_args(literal))
                raise InputError(f"{name} is {getattr(self, name)!r}, expected one of {expected}")
        check_text_widths(self)
        if self.own_embeddings and self.conditioning not in ("adaln_zero", "adaln"):
            raise InputError(
                f"own_embeddings is True with conditioning {self.conditioning!r}, expected "
                "adaptive norms (adaln_zero or adaln)"
            )
        check_wave_width(self.width)

    @classmethod
    def named(cls, name: str, **changes: Any) -> "DiTConfig":
        """A published network.

        Args:
          name: "DiT-S/2" and so on: size S, B, L or XL, then the patch size 8, 4 or 2.
          **changes: fields that differ from it.

        Raises:
          InputError: for any other name.

        Example:
          >>> config = DiTConfig.named("DiT-XL/2")
          >>> config.depth, config.width, config.patch
          (28, 1152, 2)
        """
        return cls(**{**published_fields(name, "DiT", SIZES, PATCHES), **changes})

    def make_model(self) -> "DiT":
        """The network."""
        return DiT(self)


class DiT(nn.Module):
    """A denoiser: noisy images, times and labels to predictions.

    Attributes:
      config: the options.
    """

    config: DiTConfig

    def setup(self) -> None:
        """Makes the embeddings, the blocks and the final layer."""
        c = self.config
        self.patch_embedding = Dense((c.width,), ("patch", "embed"), c.dtype)
        embeddings = functools.partial(
            Condition,
            c.width,
            c.num_classes,
            c.null_class,
            c.class_dropout,
            c.frequency_shift,
            has_vector=c.pooled_width > 0,
        )
        if c.text_width:
            self.text = TextEmbedding(c.width, null=False, dtype=c.dtype)
        if c.own_embeddings:
            self.conditions = [embeddings() for _ in range(c.depth)]
        else:
            self.condition = embeddings()
        block = nn.remat(DiTBlock) if c.remat else DiTBlock
        crosses = c.text_width > 0 and c.text == "cross"
        options = c, c.conditioning, c.mlp_norm_epsilon
        self.blocks = [block(*options, attends_to_text=crosses) for _ in range(c.depth)]
        self.final = FinalLayer(c, adaptive=c.conditioning in ("adaln", "adaln_zero"))

    def __call__(
        self,
        z_BYXC: Float[Array, "B Y X C"],
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None = None,
        *,
        text_BNC: Float[Array, "B N C2"] | None = None,
        text_mask_BN: Bool[Array, "B N"] | None = None,
        pooled_BC: Float[Array, "B C3"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B Y X C_out"]:
        """The per-pixel prediction, [B, Y, X, out_channels] in float32.

        Args:
          z_BYXC: [B, Y, X, in_channels] noisy images.
          time_B: [B] times; the frequencies are made for 0 to 1000.
          label_B: [B] class ids, ``num_classes`` for the null class; None without classes.
          text_BNC: tokens of texts; None for a network without.
          text_mask_BN: True where there is a token; None for everywhere.
          pooled_BC: one vector of a text or image for each example; None for a network without.
          train: whether labels are dropped, which needs the random stream "dropout".

        Raises:
          InputError: for shapes that do not fit the network.
        """
        c = self.config
        grid = c.check_input(z_BYXC, time_B, label_B)
        text = self._text_context(text_BNC, text_mask_BN, len(time_B))
        check_pooled(c, pooled_BC, time_B.shape)
        given = time_B, label_B, None, pooled_BC
        x_BLD = self.patch_embedding(patchify(z_BYXC, c.patch)).astype(jnp.float32)
        x_BLD = x_BLD + sincos_grid(grid, c.width)
        if c.own_embeddings:
            own = [condition.sum(*given, train=train) for condition in self.conditions]
            x_BLD = self._blocks(x_BLD, own, text)[:, : grid[0] * grid[1]]
            return unpatchify(self.final(x_BLD, own[0]), grid, c.patch)
        conditions = self.condition.each(*given, train=train)
        condition_BD = sum(conditions[1:], conditions[0])
        condition: Array | None = condition_BD
        if c.conditioning == "cross":
            condition = jnp.stack(conditions, axis=1)
        elif c.conditioning == "in_context":
            x_BLD = jnp.concatenate([x_BLD, jnp.stack(conditions, axis=1)], axis=1)
            condition = None
        x_BLD = self._blocks(x_BLD, [condition] * c.depth, text)[:, : grid[0] * grid[1]]
        outputs_BLF = self.final(x_BLD, condition_BD)
        return unpatchify(outputs_BLF, grid, c.patch)

    def _text_context(
        self, text_BNC: Array | None, mask_BN: Array | None, batch: int
    ) -> TextContext | None:
        """The texts in the width of the network; None for a network without."""
        check_text_tokens(self.config, text_BNC, batch)
        check_text_mask(mask_BN, text_BNC)
        if text_BNC is None:
            return None
        text_BND, null_D = self.text(without_padding(text_BNC, mask_BN))
        return clip_context(text_BND, mask_BN, null_D)

    def _blocks(
        self, x_BLD: Array, conditions: Sequence[Array | None], text: TextContext | None
    ) -> Float[Array, "B L D"]:
        """All blocks, each with its condition and the texts in the form that it takes."""
        options: dict[str, Any] = {}
        if text is not None:
            own_BL = jnp.zeros(x_BLD.shape[:2], jnp.int32)
            if self.config.text == "cross":
                options["text_BND"] = text.tokens_BND
                options["text_segments"] = own_BL, text.segment_BN
            else:
                x_BLD = jnp.concatenate([x_BLD, text.tokens_BND], axis=1)
                options["segments_BL"] = jnp.concatenate([own_BL, text.segment_BN], axis=1)
        for block, condition in zip(self.blocks, conditions, strict=True):
            x_BLD = block(x_BLD, condition, **options)
        return x_BLD
