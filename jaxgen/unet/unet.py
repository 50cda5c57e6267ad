"""The ablated diffusion model: a U-Net with attention (Dhariwal & Nichol 2021, section 3).

Down through the levels, each at half the resolution of the one before; through the middle; and up
again, where every block also reads what its counterpart on the way down handed on::

    x = conv(z);                         stack = [x]
    down, level 0 to last:   blocks x (residual block [, attention]), each pushed on the stack;
                             then half the resolution (but at the last level), pushed too
    middle:                  residual block, attention, residual block
    up, level last to 0:     (blocks + 1) x (residual block of [x, popped] [, attention]);
                             then twice the resolution (but at level 0)
    output = conv(silu(GN(x)))

The condition is the sum of the embeddings of time and label. The network of the DDPM paper (Ho et
al. 2020) and the U-Nets of diffusers' ``UNet2DModel`` are other settings of the same options;
`jaxgen.interop.unet_weights` reads and writes their weights.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.dense import zeros
from jaxgen.nn.embeddings import LabelEmbedding
from jaxgen.unet.residual_blocks import (
    PixelAttention,
    Resample,
    Resampling,
    ResidualBlock,
    WaveEmbedding,
    conv,
    group_norm,
)
from jaxgen.unet.unet import UNetConfig


class UNet(nn.Module):
    """A denoiser: noisy images, times and labels to predictions.

    Attributes:
      config: the options.
    """

    config: UNetConfig

    @nn.compact
    def __call__(
        self,
        z_BYXC: Float[Array, "B Y X C"],
        time_B: Float[Array, " B"],
        label_B: Int[Array, " B"] | Float[Array, " B"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B Y X C_out"]:
        """What the network says about each pixel, [B, Y, X, out_channels] in float32.

        Args:
          z_BYXC: [B, Y, X, in_channels] noisy images; 2^(levels - 1) divides height and width.
          time_B: [B] times; the frequencies are made for 0 to 1000.
          label_B: [B] class ids, ``num_classes`` for the null class; or numbers, where the config
            says that labels are; None for a network without labels.
          train: whether dropout is on and labels are dropped; needs the random stream "dropout".

        Raises:
          InputError: for shapes that do not fit the network.
        """
        c = self.config
        c.check_input(z_BYXC, time_B, label_B)
        c_BD = self._condition(time_B, label_B, train)
        x = conv(c.channels[0], (None, "embed"), c, name="conv_in")(z_BYXC).astype(jnp.float32)
        x, stack = self._down(x, c_BD, train)
        x = self._middle(x, c_BD, train)
        x = self._up(x, stack, c_BD, train)
        x = nn.silu(group_norm(c, name="norm_out")(x))
        output = conv(c.out_channels, ("embed", None), c, name="conv_out", init=zeros)
        return output(x).astype(jnp.float32)

    def _condition(self, time_B: Array, label_B: Array | None, train: bool) -> Float[Array, "B D"]:
        """The embedding of the time, plus that of the label where there is one."""
        c = self.config
        c_BD = WaveEmbedding(c, name="time")(time_B)
        if c.labels == "numbers":
            return c_BD + WaveEmbedding(c, name="label")(label_B)
        if not c.num_classes:
            return c_BD
        label = LabelEmbedding(
            c.num_classes, c.embedding_width, c.null_class, c.class_dropout, name="label"
        )
        return c_BD + label(label_B, train=train)

    def _down(self, x: Array, c_BD: Array, train: bool) -> tuple[Array, list[Array]]:
        """Through the levels to the lowest; what the way up will read, last first to be read."""
        c = self.config
        stack = [x]
        for level, features in enumerate(c.channels):
            for i in range(c.blocks):
                x = self._block(features, f"down_{level}_block_{i}")(x, c_BD, train)
                if level in c.attention_levels:
                    x = self._attention(f"down_{level}_attention_{i}", c.groups)(x)
                stack.append(x)
            if level < c.levels - 1:
                x = self._resample(x, c_BD, train, f"down_{level}", c.down_kinds[level], "down")
                stack.append(x)
        return x, stack

    def _middle(self, x: Array, c_BD: Array, train: bool) -> Array:
        c = self.config
        divisor = c.middle_skip_divisor
        x = self._block(c.channels[-1], "middle_block_0", divisor)(x, c_BD, train)
        if c.middle_attention:
            groups = c.groups if c.middle_groups is None else c.middle_groups
            x = self._attention("middle_attention_0", groups, divisor)(x)
        return self._block(c.channels[-1], "middle_block_1", divisor)(x, c_BD, train)

    def _up(self, x: Array, stack: list[Array], c_BD: Array, train: bool) -> Array:
        """Back to the full resolution; step 0 is the lowest level."""
        c = self.config
        for step, features in enumerate(reversed(c.channels)):
            for i in range(c.blocks + 1):
                x = jnp.concatenate([x, stack.pop()], axis=-1)
                x = self._block(features, f"up_{step}_block_{i}")(x, c_BD, train)
                if c.levels - 1 - step in c.attention_levels_up:
                    x = self._attention(f"up_{step}_attention_{i}", c.groups)(x)
            if step < c.levels - 1:
                x = self._resample(x, c_BD, train, f"up_{step}", c.up_kinds[step], "up")
        return x

    def _block(
        self, features: int, name: str, divisor: float | None = None, resample: Resample = ""
    ) -> nn.Module:
        c = self.config
        # Argument 3, train, is a Python value (0 is the module itself).
        make = nn.remat(ResidualBlock, static_argnums=(3,)) if c.remat else ResidualBlock
        return make(c, features, resample, divisor or c.skip_divisor, name=name)

    def _attention(self, name: str, groups: int, divisor: float | None = None) -> nn.Module:
        c = self.config
        make = nn.remat(PixelAttention) if c.remat else PixelAttention
        return make(c, groups, divisor or c.skip_divisor, name=name)

    def _resample(
        self, x: Array, c_BD: Array, train: bool, place: str, kind: str, direction: Resample
    ) -> Array:
        """Half or twice the resolution, as the config says for the place."""
        name = f"{place}_resample"
        if kind == "residual":
            return self._block(x.shape[-1], name, resample=direction)(x, c_BD, train)
        return Resampling(self.config, kind, direction, name=name)(x)
