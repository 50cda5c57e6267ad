"""The diffusion transformer (Peebles & Xie 2023): patches as tokens, conditioned by adaptive norms.

    tokens = patches W + b + positions          fixed sines and cosines, width before height
    c      = time embedding + class embedding
    tokens = block(tokens, c)                   `depth` times, see `transformer_blocks`
    output = unpatchify(final layer(tokens, c))

Twelve sizes are published: S, B, L, XL with patches of 8, 4, 2 on latents of 32 x 32 x 4, 1000
classes and a null class, and twice the channels at the output for learnt variances. Positions are
computed for the grid at hand, so every network takes images of any size that its patch divides.
"""

import dataclasses
import functools
from typing import Any, get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError
from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import Condition
from jaxgen.nn.norms import EPSILON
from jaxgen.nn.patches import patchify, unpatchify
from jaxgen.nn.positions import sincos_grid
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
    """

    conditioning: Conditioning = "adaln_zero"
    frequency_shift: float = 0.0
    mlp_norm_epsilon: float = EPSILON
    own_embeddings: bool = False

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        if self.conditioning not in get_args(Conditioning):
            raise InputError(
                f"conditioning is {self.conditioning!r}, "
                f"expected one of {', '.join(get_args(Conditioning))}"
            )
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
            Condition, c.width, c.num_classes, c.null_class, c.class_dropout, c.frequency_shift
        )
        if c.own_embeddings:
            self.conditions = [embeddings() for _ in range(c.depth)]
        else:
            self.condition = embeddings()
        block = nn.remat(DiTBlock) if c.remat else DiTBlock
        self.blocks = [block(c, c.conditioning, c.mlp_norm_epsilon) for _ in range(c.depth)]
        self.final = FinalLayer(c, adaptive=c.conditioning in ("adaln", "adaln_zero"))

    def __call__(
        self,
        z_BYXC: Float[Array, "B Y X C"],
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B Y X C_out"]:
        """The per-pixel prediction, [B, Y, X, out_channels] in float32.

        Args:
          z_BYXC: [B, Y, X, in_channels] noisy images.
          time_B: [B] times; the frequencies are made for 0 to 1000.
          label_B: [B] class ids, ``num_classes`` for the null class; None without classes.
          train: whether labels are dropped, which needs the random stream "dropout".

        Raises:
          InputError: for shapes that do not fit the network.
        """
        c = self.config
        grid = c.check_input(z_BYXC, time_B, label_B)
        x_BLD = self.patch_embedding(patchify(z_BYXC, c.patch)).astype(jnp.float32)
        x_BLD = x_BLD + sincos_grid(grid, c.width)
        if c.own_embeddings:
            own = [condition.sum(time_B, label_B, train=train) for condition in self.conditions]
            for block, condition_BD in zip(self.blocks, own, strict=True):
                x_BLD = block(x_BLD, condition_BD)
            return unpatchify(self.final(x_BLD, own[0]), grid, c.patch)
        conditions = self.condition.each(time_B, label_B, train=train)
        condition_BD = sum(conditions[1:], conditions[0])
        x_BLD = self._blocks(x_BLD, conditions, condition_BD)
        outputs_BLF = self.final(x_BLD, condition_BD)
        return unpatchify(outputs_BLF, grid, c.patch)

    def _blocks(
        self, x_BLD: Array, conditions: list[Array], condition_BD: Array
    ) -> Float[Array, "B L D"]:
        """All blocks, each with the condition in the form that it takes."""
        length = x_BLD.shape[1]
        condition: Array | None = condition_BD
        if self.config.conditioning == "cross":
            condition = jnp.stack(conditions, axis=1)
        elif self.config.conditioning == "in_context":
            x_BLD = jnp.concatenate([x_BLD, jnp.stack(conditions, axis=1)], axis=1)
            condition = None
        for block in self.blocks:
            x_BLD = block(x_BLD, condition)
        return x_BLD[:, :length]
