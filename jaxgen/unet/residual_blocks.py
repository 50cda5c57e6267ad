"""The parts of the U-Net: residual blocks, attention over pixels, changes of resolution.

A residual block maps x to ``(skip(x) + h) / d`` with, f the activation and c the condition's
embedding (Dhariwal & Nichol 2021, section 3; Ho et al. 2020, appendix B)::

    h = conv1(resample(f(GN(x))))
    h = GN(h) (1 + scale(c)) + shift(c)        adaptive group norm
    h = GN(h + shift(c))                       otherwise
    h = conv2(dropout(f(h)))

``resample`` repeats pixels, averages 2 x 2 of them, or does nothing, to x as well; ``skip`` is a
1 x 1 convolution where the number of channels changes. conv2 and the output of attention start at
zero, so that at first a block hands on its input. Group norms are computed in float32.

Of the two convolutions the first puts its output channels on the mesh axis ``model`` and the second
takes its input channels from there, as the two layers of a transformer's MLP do.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.attention import Implementation, attention
from jaxgen.nn.attention_edits import edit_at
from jaxgen.nn.convolutions import average_pixels, conv, group_norm, repeat_pixels, uniform
from jaxgen.nn.dense import Dense, Dtype, zeros
from jaxgen.nn.embeddings import time_frequencies
from jaxgen.unet.text_states import TextStates

Activation = Literal["silu", "gelu", "relu", "mish"]
Resample = Literal["", "up", "down"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": nn.relu,
    "mish": jax.nn.mish,
}


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a U-Net have in common; `UNetConfig` has the same fields and says more.

    Attributes:
      adaptive_norm: whether the condition scales and shifts the second norm.
      activation: f.
      groups: channel groups of the norms.
      norm_epsilon: added to variances.
      dropout: probability that a number is left out before the second convolution.
      heads: attention heads; None if ``head_size`` says it.
      head_size: K, channels of a head; None if ``heads`` says it.
      dtype: compute dtype of products and convolutions.
      attention: implementation of attention, see `jaxgen.nn.attention`.
    """

    adaptive_norm: bool
    activation: Activation
    groups: int
    norm_epsilon: float
    dropout: float
    heads: int | None
    head_size: int | None
    dtype: Dtype
    attention: Implementation

    def heads_at(self, channels: int) -> int:
        """Heads of an attention layer of that many channels."""
        if self.heads is not None:
            return self.heads
        assert self.head_size is not None  # `UNetConfig` has checked it
        return channels // self.head_size


RESAMPLE: dict[str, Callable[[Array], Array]] = {
    "": lambda x: x,
    "up": repeat_pixels,
    "down": average_pixels,
}


class WaveEmbedding(nn.Module):
    """Frequencies of a number per example, then ``output(silu(hidden(.)))``, in float32.

    Attributes:
      frequencies: channels of the frequency embedding.
      width: D, channels of the output.
      shift: s in the frequencies ``10000^(-i / (n - s))``.
      cosine_first: the order of cosines and sines.
    """

    frequencies: int
    width: int
    shift: float
    cosine_first: bool

    @nn.compact
    def __call__(self, number_B: Float[Array, "B"]) -> Float[Array, "B D"]:
        """[B] numbers (made for 0 to 1000) to [B, D]."""
        half = self.frequencies // 2
        waves_BD = time_frequencies(number_B, self.frequencies, shift=self.shift)
        if not self.cosine_first:
            cosines, sines, rest = jnp.split(waves_BD, (half, 2 * half), axis=-1)
            waves_BD = jnp.concatenate([sines, cosines, rest], axis=-1)
        width = (self.width,)
        hidden = Dense(width, (None, "embed"), kernel_init=uniform, name="hidden")
        output = Dense(width, ("embed", "hidden"), kernel_init=uniform, name="output")
        return output(nn.silu(hidden(waves_BD)))


class ResidualBlock(nn.Module):
    """One residual block, see the equations above.

    Attributes:
      options: those of all blocks.
      features: output channels.
      resample: "up" or "down" where it changes the resolution.
      divisor: d.
    """

    options: BlockOptions
    features: int
    resample: Resample = ""
    divisor: float = 1.0

    @nn.compact
    def __call__(
        self, x_BYXC: Float[Array, "B Y X C"], c_BD: Float[Array, "B D"], train: bool
    ) -> Float[Array, "B Y2 X2 F"]:
        """[B, Y, X, C] to [B, Y', X', features] in float32.

        Args:
          x_BYXC: the image's features.
          c_BD: c.
          train: whether dropout is on.
        """
        o = self.options
        f, resample = ACTIVATIONS[o.activation], RESAMPLE[self.resample]
        h = resample(f(group_norm(o.groups, o.norm_epsilon, name="norm1")(x_BYXC)))
        h = conv(self.features, ("embed", "mlp"), o.dtype, name="conv1")(h).astype(jnp.float32)
        h = f(self._conditioned(h, f(c_BD)))
        h = nn.Dropout(o.dropout)(h, deterministic=not train)
        h = conv(self.features, ("mlp", "embed"), o.dtype, name="conv2", init=zeros)(h)
        x = resample(x_BYXC)
        if x.shape[-1] != self.features:
            x = conv(self.features, ("embed", "hidden"), o.dtype, name="skip", size=1)(x)
        return (x.astype(jnp.float32) + h.astype(jnp.float32)) / self.divisor

    def _conditioned(self, h: Array, c_BD: Array) -> Array:
        """The second norm with the condition."""
        o = self.options
        parts = 2 if o.adaptive_norm else 1
        axes = "embed", "mlp", None
        layer = Dense((self.features, parts), axes, o.dtype, uniform, name="condition")
        parts_BYXCN = layer(c_BD).astype(jnp.float32)[:, None, None]
        norm = group_norm(o.groups, o.norm_epsilon, name="norm2", axis="mlp")
        if not o.adaptive_norm:
            return norm(h + parts_BYXCN[..., 0])
        return norm(h) * (1 + parts_BYXCN[..., 0]) + parts_BYXCN[..., 1]


class PixelAttention(nn.Module):
    """``(x + attention of all pixels to each other, after a group norm) / d``.

    Where there is a text, its keys and values, of a layer of their own, stand beside the pixels' in
    one softmax (Nichol et al. 2022, section 3; GLIDE), or there are no others (the last stage of
    Saharia et al. 2022; Imagen).

    Attributes:
      options: those of all blocks.
      groups: channel groups of the norm; 0: no norm.
      divisor: d.
      alone: whether pixels read the text alone, and not each other.
    """

    options: BlockOptions
    groups: int
    divisor: float = 1.0
    alone: bool = False

    @nn.compact
    def __call__(
        self, x_BYXC: Float[Array, "B Y X C"], text: TextStates | None = None
    ) -> Float[Array, "B Y X C"]:
        """[B, Y, X, C] to the same shape in float32.

        Args:
          x_BYXC: the image's features.
          text: what pixels read beside each other; None for a network without.
        """
        o = self.options
        batch, height, width, channels = x_BYXC.shape
        h = x_BYXC
        if self.groups:
            h = group_norm(self.groups, o.norm_epsilon, name="norm")(h)
        h_BLC = h.reshape(batch, height * width, channels)
        heads = o.heads_at(channels)

        def project(x: Array, parts: int, name: str) -> list[Array]:
            shape, axes = (heads, parts, channels // heads), ("embed", "heads", None, "kv")
            layer = Dense(shape, axes, o.dtype, uniform, name=name)
            return [part[..., 0, :] for part in jnp.split(layer(x), parts, axis=-2)]

        segments = None
        if self.alone:
            assert text is not None  # `UNetConfig` has checked it
            (q,) = project(h_BLC, 1, "q")
            k, v = project(text.states_BNC, 2, "text")
            segments = text.segments(height * width)
        else:
            q, k, v = project(h_BLC, 3, "qkv")
        if text is not None and not self.alone:
            keys = project(text.states_BNC, 2, "text")
            k, v = (jnp.concatenate(pair, axis=1) for pair in zip(keys, (k, v), strict=True))
            segments = text.segments_beside(height * width)
        edit = edit_at("cross" if self.alone else "self", self.path)
        seen = attention(q, k, v, segments=segments, implementation=o.attention, edit=edit)
        axes_out = "heads", "kv", "embed"
        h_BLC = Dense((channels,), axes_out, o.dtype, zeros, name="output")(seen)
        h = h_BLC.reshape(x_BYXC.shape).astype(jnp.float32)
        return (x_BYXC.astype(jnp.float32) + h) / self.divisor


class Resampling(nn.Module):
    """A change of resolution by a convolution.

    Attributes:
      kind: "conv", "conv_end" (on the way down) or "conv_first" (on the way up), see `UNetConfig`.
      direction: "down" or "up".
      dtype: compute dtype.
    """

    kind: str
    direction: Resample
    dtype: Dtype

    @nn.compact
    def __call__(self, x_BYXC: Float[Array, "B Y X C"]) -> Float[Array, "B Y2 X2 C"]:
        """[B, Y, X, C] to half or twice the resolution, in float32."""
        features, axes = x_BYXC.shape[-1], ("embed", "hidden")
        if self.direction == "up":
            layer = conv(features, axes, self.dtype, name="conv")
            if self.kind == "conv_first":
                return repeat_pixels(layer(x_BYXC)).astype(jnp.float32)
            return layer(repeat_pixels(x_BYXC)).astype(jnp.float32)
        padding = (0, 1) if self.kind == "conv_end" else (1, 1)
        layer = conv(features, axes, self.dtype, name="conv", stride=2, padding=padding)
        return layer(x_BYXC).astype(jnp.float32)
