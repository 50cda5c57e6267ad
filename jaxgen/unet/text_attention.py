"""Text in a U-Net: transformer blocks in place of attention over pixels (Rombach et al. 2022).

The attention block of Stable Diffusion, with c the states of a text (appendix E.2.1 there)::

    h = project_in(GN(x))                         pixels as tokens
    depth x:  h += attention(LN(h))               pixels to each other
              h += attention(LN(h), c)            pixels to the text
              h += W2 (a gelu(b)),  (a, b) = W1 LN(h)
    x + project_out(h)

Queries, keys and values have no biases. project_out starts at zero. Projections are linear layers
or convolutions of 1 x 1, which are the same numbers under other names and shapes. The other way to
read a text, keys and values beside those of the pixels, is `PixelAttention`'s.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.attention import CrossAttention, SelfAttention
from jaxgen.nn.convolutions import conv, group_norm, uniform
from jaxgen.nn.dense import Dense, Dtype, zeros
from jaxgen.nn.mlp import gelu_exact
from jaxgen.nn.norms import LayerNorm
from jaxgen.unet.residual_blocks import BlockOptions
from jaxgen.unet.text_states import TextStates

GROUP_EPSILON = 1e-6
TOKEN_EPSILON = 1e-5
"""Added to variances in the group norm and in the layer norms, whatever a network's other norms."""

MLP_RATIO = 4


class GEGLU(nn.Module):
    """``W2 (a gelu(b))`` with (a, b) = W1 x (Shazeer 2020, "GLU variants improve transformer").

    Attributes:
      units: F, of a and of b.
      dtype: compute dtype of products.
    """

    units: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D] in ``dtype``."""
        axes = "embed", "mlp", None
        parts_BLFN = Dense((self.units, 2), axes, self.dtype, uniform, name="hidden")(x_BLD)
        gated_BLF = parts_BLFN[..., 0] * gelu_exact(parts_BLFN[..., 1])
        width = (x_BLD.shape[-1],)
        return Dense(width, ("mlp", "embed"), self.dtype, uniform, name="output")(gated_BLF)


class TextBlock(nn.Module):
    """One block of the equations above.

    Attributes:
      options: those of all blocks of the U-Net.
    """

    options: BlockOptions

    @nn.compact
    def __call__(self, h_BLD: Float[Array, "B L D"], text: TextStates) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D] in float32.

        Args:
          h_BLD: pixels.
          text: what they read.
        """
        o = self.options
        heads = o.heads_at(h_BLD.shape[-1])

        def norm(name: str) -> LayerNorm:
            return LayerNorm(TOKEN_EPSILON, name=name)

        inner = SelfAttention(
            heads,
            o.dtype,
            implementation=o.attention,
            qkv_bias=False,
            qkv_init=uniform,
            output_init=uniform,
            name="pixels",
        )
        outer = CrossAttention(
            heads,
            o.dtype,
            implementation=o.attention,
            output_init=uniform,
            qkv_bias=False,
            name="text",
        )
        h_BLD = h_BLD + inner(norm("pixels_norm")(h_BLD))
        segments = text.segments(h_BLD.shape[1])
        h_BLD = h_BLD + outer(norm("text_norm")(h_BLD), text.states_BNC, segments=segments)
        mlp = GEGLU(MLP_RATIO * h_BLD.shape[-1], o.dtype, name="mlp")
        return h_BLD + mlp(norm("mlp_norm")(h_BLD)).astype(jnp.float32)


class TextTransformer(nn.Module):
    """The attention block of the equations above.

    Attributes:
      options: those of all blocks.
      depth: how many transformer blocks.
      linear: whether projections are linear layers; False: convolutions of 1 x 1.
    """

    options: BlockOptions
    depth: int
    linear: bool

    @nn.compact
    def __call__(
        self, x_BYXC: Float[Array, "B Y X C"], text: TextStates
    ) -> Float[Array, "B Y X C"]:
        """[B, Y, X, C] to the same shape in float32.

        Args:
          x_BYXC: the image's features.
          text: what pixels read.
        """
        o, shape = self.options, x_BYXC.shape
        h = group_norm(o.groups, GROUP_EPSILON, name="input_norm")(x_BYXC)
        h = self._project(h, "in").astype(jnp.float32)
        h_BLC = h.reshape(shape[0], -1, shape[-1])
        for i in range(self.depth):
            h_BLC = TextBlock(o, name=f"blocks_{i}")(h_BLC, text)
        h = self._project(h_BLC.reshape(shape), "out")
        return x_BYXC.astype(jnp.float32) + h.astype(jnp.float32)

    def _project(self, x: Array, way: str) -> Array:
        o, channels, axes = self.options, x.shape[-1], ("embed", "hidden")
        init = zeros if way == "out" else uniform
        if self.linear:
            return Dense((channels,), axes, o.dtype, init, name=f"linear_{way}")(x)
        return conv(channels, axes, o.dtype, name=f"conv_{way}", size=1, init=init)(x)
