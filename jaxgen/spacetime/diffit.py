"""DiffiT (Hatamizadeh et al. 2024): attention whose queries, keys and values depend on the time.

With tokens x and the time token c (the embedding of the time, plus that of the class)::

    q = W_qs x + W_qc c,   k = W_ks x + W_kc c,   v = W_vs x + W_vc c        (equations 3 to 5)
    TMSA(x, c) = softmax(q k^T / sqrt(K) + b) v                              (equation 6)
    x += TMSA(LN(x), c);   x += MLP(LN(x))                                   (equations 7 and 8)

b is a learnt number for each head and each offset between two patches. The time changes what
attends to what, and there are no adaptive norms; hence fewer parameters than DiT at equal depth.
This is the network on latents; positions are DiT's, the output layer is ``W silu(LN(x)) + b``.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.attention import SelfAttention
from jaxgen.nn.dense import Dense, zeros
from jaxgen.nn.embeddings import Condition
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norms import layer_norm
from jaxgen.nn.patches import patchify, unpatchify
from jaxgen.nn.positions import sincos_grid
from jaxgen.nn.relative import RelativeBias
from jaxgen.spacetime.transformer_config import GridConfig, check_wave_width, published_fields


@dataclasses.dataclass(frozen=True)
class DiffiTConfig(GridConfig):
    """Options of a DiffiT; the defaults but for the published "DiffiT-XL/2" are DiT-S/2's."""

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        check_wave_width(self.width)

    @classmethod
    def named(cls, name: str, **changes: Any) -> "DiffiTConfig":
        """The published network on latents, "DiffiT-XL/2": depth 28, width 1152, 16 heads.

        Args:
          name: its name.
          **changes: fields that differ from it.

        Raises:
          InputError: for any other name.
        """
        return cls(**{**published_fields(name, "DiffiT", {"XL": (28, 1152, 16)}, [2]), **changes})

    def make_model(self) -> "DiffiT":
        """The network."""
        return DiffiT(self)


class DiffiTBlock(nn.Module):
    """Time-dependent self-attention and an MLP.

    Attributes:
      config: the network's options.
    """

    config: DiffiTConfig

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], condition_BD: Float[Array, "B D"]
    ) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D].

        Args:
          x_BLD: tokens.
          condition_BD: the time token.
        """
        c = self.config
        shape, axes = (c.heads, 3, c.width // c.heads), ("embed", "heads", None, "kv")
        of_time_BH3K = Dense(shape, axes, c.dtype, name="time_qkv")(condition_BD)
        bias_HLL = RelativeBias(c.heads, c.grid, name="relative")()
        attention = SelfAttention(c.heads, c.dtype, c.qk_norm, c.attention, name="attention")
        x_BLD = x_BLD + attention(layer_norm(x_BLD), bias=bias_HLL, added_BH3K=of_time_BH3K)
        return x_BLD + MLP(c.mlp_units, c.dtype, name="mlp")(layer_norm(x_BLD))


class DiffiT(nn.Module):
    """A denoiser: noisy images, times and labels to predictions.

    Attributes:
      config: the options.
    """

    config: DiffiTConfig

    def setup(self) -> None:
        """Makes the embeddings, the blocks and the output layer."""
        c = self.config
        self.patch_embedding = Dense((c.width,), ("patch", "embed"), c.dtype)
        self.condition = Condition(c.width, c.num_classes, c.null_class, c.class_dropout)
        block = nn.remat(DiffiTBlock) if c.remat else DiffiTBlock
        self.blocks = [block(c) for _ in range(c.depth)]
        self.output = Dense((c.patch_outputs,), ("embed", "patch"), c.dtype, kernel_init=zeros)

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
          z_BYXC: [B, Y, X, in_channels] noisy images of the size ``input_size``.
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
        condition_BD = self.condition.sum(time_B, label_B, train=train)
        for block in self.blocks:
            x_BLD = block(x_BLD, condition_BD)
        outputs_BLF = self.output(nn.silu(layer_norm(x_BLD))).astype(jnp.float32)
        return unpatchify(outputs_BLF, grid, c.patch)
