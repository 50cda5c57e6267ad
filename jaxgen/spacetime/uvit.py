"""U-ViT (Bao et al. 2023): time, class and patches are all tokens; long skips join the depths.

    tokens  = [time, class, patches W + b] + learnt positions
    tokens  = blocks of the first half, each one's output kept
    tokens  = middle block
    tokens  = blocks of the second half; before each, W [tokens, output of its mirror] + b
    output  = conv3x3(unpatchify(W LN(patch tokens) + b))

Texts, as an encoder gives them, are further tokens in front of the patches (section 4.2).

``depth`` counts the blocks of both halves and the middle, which the paper calls layers: 13, 17, 21,
29. As there, the time token is made of cosines and sines alone, attention has no biases in q, k, v,
and GELU is the exact one.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError
from jaxgen.nn.attention import SelfAttention
from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import LabelEmbedding, time_frequencies
from jaxgen.nn.mlp import MLP, gelu_exact
from jaxgen.nn.norms import LayerNorm
from jaxgen.nn.patches import patchify, unpatchify
from jaxgen.nn.text_inputs import check_text_mask, check_text_tokens, without_padding
from jaxgen.spacetime.text_context import HIDDEN
from jaxgen.spacetime.transformer_config import GridConfig, published_fields

SIZES = {
    "S": (13, 512, 8),
    "S-Deep": (17, 512, 8),
    "M": (17, 768, 12),
    "L": (21, 1024, 16),
    "H": (29, 1152, 16),
}
"""Depth, width and heads (Bao et al. 2023, table 1)."""

PATCHES = (4, 2)


@dataclasses.dataclass(frozen=True)
class UViTConfig(GridConfig):
    """Options of a U-ViT; the defaults are those of U-ViT-S/2 on latents of 32 x 32 x 4.

    Attributes:
      text_width: C, of the tokens of texts; 0 for a network without texts.
      text_length: N, of texts, whose positions are learnt too (77 for CLIP's).
    """

    out_channels: int = 4
    width: int = 512
    depth: int = 13
    heads: int = 8
    text_width: int = 0
    text_length: int = 0

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        if min(self.text_width, self.text_length) < 0 or bool(self.text_width) != bool(
            self.text_length
        ):
            raise InputError(
                f"text_width is {self.text_width} and text_length {self.text_length}, expected 1 "
                "or more of both, or 0 of both"
            )
        if self.depth % 2 == 0:
            raise InputError(
                f"depth is {self.depth}, expected an odd number: two halves and a middle block"
            )

    @classmethod
    def named(cls, name: str, **changes: Any) -> "UViTConfig":
        """A published network.

        Args:
          name: "U-ViT-S/2" and so on: size S, S-Deep, M, L or H, then the patch size 4 or 2.
          **changes: fields that differ from it.

        Raises:
          InputError: for any other name.
        """
        return cls(**{**published_fields(name, "U-ViT", SIZES, PATCHES), **changes})

    def make_model(self) -> "UViT":
        """The network."""
        return UViT(self)


class UViTBlock(nn.Module):
    """``x += Attention(LN(x)); x += MLP(LN(x))``, after a long skip where there is one.

    Attributes:
      config: the network's options.
    """

    config: UViTConfig

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        segments_BL: Int[Array, "B L"] | None,
        skip_BLD: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D].

        Args:
          x_BLD: tokens.
          segments_BL: segment ids for attention, see `jaxgen.nn.attention`.
          skip_BLD: the output of the block's mirror in the first half; None in the first half.
        """
        c = self.config
        if skip_BLD is not None:
            both_BLD = jnp.concatenate([x_BLD, skip_BLD], axis=-1)
            x_BLD = Dense((c.width,), ("embed", "hidden"), c.dtype, name="skip")(both_BLD)
            x_BLD = x_BLD.astype(jnp.float32)
        attention = SelfAttention(
            c.heads, c.dtype, c.qk_norm, c.attention, qkv_bias=False, name="attention"
        )
        y_BLD = LayerNorm(name="attention_norm")(x_BLD)
        x_BLD = x_BLD + attention(y_BLD, segments_BL=segments_BL)
        mlp = MLP(c.mlp_units, c.dtype, gelu_exact, name="mlp")
        return x_BLD + mlp(LayerNorm(name="mlp_norm")(x_BLD))


class UViT(nn.Module):
    """A denoiser: noisy images, times and labels to predictions.

    Attributes:
      config: the options.
    """

    config: UViTConfig

    def setup(self) -> None:
        """Makes the embeddings, the blocks and the output layers."""
        c = self.config
        named = nn.with_logical_partitioning
        self.patch_embedding = Dense((c.width,), ("patch", "embed"), c.dtype)
        if c.num_classes:
            self.label = LabelEmbedding(c.num_classes, c.width, c.null_class, c.class_dropout)
        if c.text_width:
            self.text = Dense((c.width,), (None, "embed"), c.dtype)
        rows, columns = c.grid
        self.positions = self.param(
            "positions",
            named(nn.initializers.truncated_normal(0.02), ("positions", "embed")),
            (1 + bool(c.num_classes) + c.text_length + rows * columns, c.width),
        )
        block = nn.remat(UViTBlock) if c.remat else UViTBlock
        half = c.depth // 2
        self.first = [block(c) for _ in range(half)]
        self.middle = block(c)
        self.second = [block(c) for _ in range(half)]
        self.norm = LayerNorm()
        self.output = Dense((c.patch_outputs,), ("embed", "patch"), c.dtype)
        self.smooth = nn.Conv(
            c.out_channels,
            (3, 3),
            kernel_init=named(nn.initializers.lecun_normal(), (None,) * 4),
            bias_init=named(nn.initializers.zeros, (None,)),
        )

    def __call__(
        self,
        z_BYXC: Float[Array, "B Y X C"],
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None = None,
        *,
        text_BNC: Float[Array, "B N C2"] | None = None,
        text_mask_BN: Bool[Array, "B N"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B Y X C_out"]:
        """The per-pixel prediction, [B, Y, X, out_channels] in float32.

        Args:
          z_BYXC: [B, Y, X, in_channels] noisy images of the size ``input_size``.
          time_B: [B] times; the frequencies are made for 0 to 1000.
          label_B: [B] class ids, ``num_classes`` for the null class; None without classes.
          text_BNC: tokens of texts, N the network's; None for a network without.
          text_mask_BN: True where there is a token; None for everywhere.
          train: whether labels are dropped, which needs the random stream "dropout".

        Raises:
          InputError: for shapes that do not fit the network.
        """
        c = self.config
        grid = c.check_input(z_BYXC, time_B, label_B)
        self._check_text(text_BNC, text_mask_BN, len(time_B))
        tokens = [time_frequencies(time_B, c.width)[:, None]]
        if label_B is not None:
            tokens.append(self.label(label_B, train=train)[:, None])
        if text_BNC is not None:
            tokens.append(self._text_tokens(text_BNC, text_mask_BN))
        extra = sum(token.shape[1] for token in tokens)
        tokens.append(self.patch_embedding(patchify(z_BYXC, c.patch)).astype(jnp.float32))
        x_BLD = jnp.concatenate(tokens, axis=1) + self.positions
        segments_BL = None
        if text_mask_BN is not None:
            seen_BN = jnp.where(text_mask_BN, 0, HIDDEN)
            first, last = extra - c.text_length, x_BLD.shape[1] - extra
            segments_BL = jnp.pad(seen_BN, [(0, 0), (first, last)])
        x_BLD = self._blocks(x_BLD, segments_BL)
        outputs_BLF = self.output(self.norm(x_BLD[:, extra:])).astype(jnp.float32)
        return self.smooth(unpatchify(outputs_BLF, grid, c.patch))

    def _check_text(self, text_BNC: Array | None, mask_BN: Array | None, batch: int) -> None:
        c = self.config
        check_text_tokens(c, text_BNC, batch)
        check_text_mask(mask_BN, text_BNC)
        if text_BNC is not None and text_BNC.shape[1] != c.text_length:
            raise InputError(
                f"text has shape {text_BNC.shape}, expected [{batch}, {c.text_length}, "
                f"{c.text_width}]: positions are learnt for that length"
            )

    def _text_tokens(self, text_BNC: Array, mask_BN: Array | None) -> Float[Array, "B N D"]:
        """Texts as tokens; what is masked may be anything."""
        return self.text(without_padding(text_BNC, mask_BN)).astype(jnp.float32)

    def _blocks(
        self, x_BLD: Float[Array, "B L D"], segments_BL: Int[Array, "B L"] | None
    ) -> Float[Array, "B L D"]:
        """Both halves; the last output of the first half is the first to be read by the second."""
        outputs = []
        for block in self.first:
            x_BLD = block(x_BLD, segments_BL)
            outputs.append(x_BLD)
        x_BLD = self.middle(x_BLD, segments_BL)
        for block in self.second:
            x_BLD = block(x_BLD, segments_BL, outputs.pop())
        return x_BLD
