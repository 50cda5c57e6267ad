"""CoCa's text decoder (Yu et al. 2022): a half that reads texts alone, a half that sees the image.

::

    x          = table[ids] + positions,  a class token at the end
    x          = blocks(x),  each token seeing those before it     first half
    vector     = LN(x[class]) W                                    of the contrastive loss
    x         += Attention(LN(x));  x += MLP(LN(x))                second half, without the class
    x         += Attention(LN(x), LN(image tokens));  x += MLP(LN(x))
    logits     = LN(x) W_v

The class token stands at the end, so tokens of the text do not see it, and it sees all of them but
padding. It has the last position, however short texts are.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxgen.encoders.causal_text import CausalTokens, TextTowerConfig, word_layer
from jaxgen.encoders.encoded import Encoded, text_mask
from jaxgen.encoders.tower import (
    Activation,
    TowerConfig,
    continue_blocks,
    empty_past,
    initial_outputs,
    normal,
    tower_blocks,
    tower_mlp,
    tower_projection,
)
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.attention import FAR, AttentionToKeys
from jaxgen.nn.key_values import KeyValues, Place
from jaxgen.nn.norms import LayerNorm


@dataclasses.dataclass(frozen=True)
class CoCaTextConfig(TextTowerConfig):
    """Options of both halves; the defaults are those of ViT-B/32.

    Attributes:
      length: the longest text, in tokens, the class token not among them.
      activation: exact GELU by default.
      depth: blocks of the first half.
      image_depth: blocks of the second half, each with two attentions and two MLPs.
      shifted_mask: whether padding is hidden one place late, and the class token of a padded text
        from itself, as open_clip's published weights were trained (its mask has the class token in
        front).
    """

    length: int = 76
    activation: Activation = "gelu"
    image_depth: int = 12
    shifted_mask: bool = False

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        check_sizes(self, "image_depth")
        if self.projection is None:
            raise InputError("projection is None, expected the width of the contrastive vectors")

    @property
    def places(self) -> int:
        """Rows of the table of positions: one more, of the class token."""
        return self.length + 1

    @property
    def second_half(self) -> TowerConfig:
        """Options of the blocks of the second half."""
        return dataclasses.replace(self, depth=self.image_depth)

    def example(self) -> tuple[Array, ...]:
        """What the networks take of one text, in zeros."""
        return (jnp.zeros((1, 2), jnp.int32),)

    def make_model(self) -> "CoCaTextEncoder":
        """The first half, which is an encoder of texts."""
        return CoCaTextEncoder(self)


class CoCaTextEncoder(CausalTokens):
    """The first half.

    Attributes:
      config: the options.
    """

    config: CoCaTextConfig

    def setup(self) -> None:
        """Makes the tower, the class token, the norm and the projection."""
        super().setup()
        c = self.config
        named = nn.with_logical_partitioning(normal(0.01), ("embed",))
        self.class_token = self.param("class_token", named, (c.width,))
        self.final_norm = LayerNorm(c.epsilon)
        self.projection = tower_projection(c)

    def __call__(
        self, ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None = None
    ) -> Encoded:
        """States without the class token and without a norm; and the vector of the class token.

        Args:
          ids_BL: token ids.
          mask_BL: 0 or False for padding, which follows a text. None: there is none.

        Raises:
          InputError: see `TextTowerConfig.check_input`.
        """
        c = self.config
        c.check_input(ids_BL, mask_BL)
        seen_BL = text_mask(ids_BL, mask_BL)
        x_BLD = self.token_embedding(ids_BL) + self.positions[: ids_BL.shape[1]]
        class_D = self.class_token + self.positions[-1]
        class_B1D = jnp.broadcast_to(class_D, (len(x_BLD), 1, c.width))
        x_BLD = jnp.concatenate([x_BLD, class_B1D], axis=1)
        segments_BL, bias = self._hidden(seen_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, segments_BL, bias)
        pooled_BP = self.projection(self.final_norm(x_BLD[:, -1]))
        return Encoded(x_BLD[:, :-1], seen_BL, pooled_BP)

    def _hidden(
        self, seen_BL: Bool[Array, "B L"]
    ) -> tuple[Int[Array, "B L2"] | None, Float[Array, "B H L2 L2"] | None]:
        """What hides padding: segment ids, or a bias of the logits."""
        if not self.config.shifted_mask:
            ids_BL = jnp.pad(seen_BL.astype(jnp.int32), ((0, 0), (0, 1)), constant_values=1)
            return ids_BL, None
        seen_BN = jnp.pad(seen_BL, ((0, 0), (1, 0)), constant_values=True)
        batch, length = seen_BN.shape
        bias_B11N = jnp.where(seen_BN, 0.0, FAR)[:, None, None]
        return None, jnp.broadcast_to(bias_B11N, (batch, self.config.heads, length, length))


class ImageBlock(nn.Module):
    """A block that sees the image's tokens.

    Attributes:
      config: the options.
    """

    config: TowerConfig

    def setup(self) -> None:
        """Makes the attention, the MLP and the norms."""
        c = self.config
        self.query_norm, self.context_norm = LayerNorm(c.epsilon), LayerNorm(c.epsilon)
        inputs, outputs = normal(c.width**-0.5), initial_outputs(c)
        self.attention = AttentionToKeys(
            c.width, c.heads, c.dtype, c.attention, qkv_init=inputs, output_init=outputs
        )
        self.mlp_norm, self.mlp = LayerNorm(c.epsilon), tower_mlp(c)

    def keys(self, tokens_BQP: Float[Array, "B Q P"]) -> KeyValues:
        """Keys and values of an image's tokens."""
        return self.attention.keys(self.context_norm(tokens_BQP))

    def __call__(self, x_BLD: Float[Array, "B L D"], keys: KeyValues) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D]."""
        x_BLD = x_BLD + self.attention(self.query_norm(x_BLD), keys)
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))


class DecoderPast(NamedTuple):
    """What the second half keeps of the tokens before, and of the image.

    Attributes:
      text: of each block's attention to the text.
      image: of each block's attention to the image.
    """

    text: tuple[KeyValues, ...]
    image: tuple[KeyValues, ...]


class CaptionDecoder(nn.Module):
    """The second half.

    Attributes:
      config: the options.
    """

    config: CoCaTextConfig

    def setup(self) -> None:
        """Makes the blocks, the norm and the output layer."""
        c = self.config.second_half
        self.blocks = tower_blocks(c, causal=True)
        self.image_blocks = [ImageBlock(c) for _ in range(c.depth)]
        self.final_norm = LayerNorm(c.epsilon)
        self.words = word_layer(self.config)

    def __call__(
        self, x_BLD: Float[Array, "B L D"], tokens_BQP: Float[Array, "B Q P"]
    ) -> Float[Array, "B L V"]:
        """Logits of the token behind each token, in float32.

        Args:
          x_BLD: states of the first half; padding may follow a text.
          tokens_BQP: of the images.
        """
        for block, image_block in zip(self.blocks, self.image_blocks, strict=True):
            x_BLD = image_block(block(x_BLD), image_block.keys(tokens_BQP))
        return self._logits(x_BLD)

    def start(self, tokens_BQP: Float[Array, "B Q P"], length: int) -> DecoderPast:
        """What `step` begins with, for texts of at most ``length`` tokens."""
        image = tuple(block.keys(tokens_BQP) for block in self.image_blocks)
        return DecoderPast(empty_past(self.config.second_half, len(tokens_BQP), length), image)

    def step(
        self, x_B1D: Float[Array, "B 1 D"], past: DecoderPast, place: Place
    ) -> tuple[Float[Array, "B 1 V"], DecoderPast]:
        """Logits behind one more token, and what is kept for the next one."""
        kept: list[KeyValues] = []
        layers: Sequence = tuple(zip(self.blocks, self.image_blocks, *past, strict=True))
        for block, image_block, before, keys in layers:
            x_B1D, after = continue_blocks([block], x_B1D, [before], place)
            x_B1D = image_block(x_B1D, keys)
            kept += after
        return self._logits(x_B1D), DecoderPast(tuple(kept), past.image)

    def _logits(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        return self.words(self.final_norm(x_BLD)).astype(jnp.float32)
