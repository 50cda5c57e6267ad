"""Texts whose tokens see those before them: what CLIP's text tower, captioners and language models
have in common; and the language model.

::

    x       = table[ids] + positions
    states  = blocks(x),  each token seeing those before it and itself
    logits  = LN(states) W,  of the token that follows

`CausalText` is a small language model (Radford et al. 2018). Given the beginning of a text it
writes the rest (`jaxgen.nn.decoding`), so one that was trained on "short caption, mark, descriptive
caption" expands prompts.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from jaxgen.encoders.encoded import TokenEmbedding, check_token_ids, encoder_init
from jaxgen.encoders.tower import (
    TowerConfig,
    continue_blocks,
    empty_past,
    normal,
    positions_param,
    tower_blocks,
)
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.dense import Dense
from jaxgen.nn.key_values import KeyValues, Place
from jaxgen.nn.norms import LayerNorm
from jaxgen.typing import Tree


@dataclasses.dataclass(frozen=True)
class TextTowerConfig(TowerConfig):
    """Options of a tower of texts.

    Attributes:
      vocabulary: V, rows of the table of tokens.
      length: the longest text, in tokens.
    """

    vocabulary: int = 49_408
    length: int = 77

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        check_sizes(self, "vocabulary", "length")

    @property
    def places(self) -> int:
        """Rows of the table of positions."""
        return self.length

    def check_input(
        self, ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None = None
    ) -> None:
        """Refuses texts that are not for this tower.

        Raises:
          InputError: for ids outside the table, a text that is too long, or a mask of another
            shape.
        """
        check_token_ids(ids_BL, mask_BL, self.vocabulary, self.length)


class CausalTokens(nn.Module):
    """From ids to states, of whole texts or of the tokens that follow others.

    Attributes:
      config: the options.
    """

    config: TextTowerConfig

    def setup(self) -> None:
        """Makes the table, the positions and the blocks."""
        c = self.config
        self.token_embedding = TokenEmbedding(c.vocabulary, c.width, 0.02)
        self.positions = positions_param(self, c.places, c.width, 0.01)
        self.blocks = tower_blocks(c, causal=True)

    def tokens(
        self, ids_BL: Int[Array, "B L"], segments_BL: Int[Array, "B L"] | None = None
    ) -> Float[Array, "B L D"]:
        """States of whole texts; ``segments_BL`` as in `jaxgen.nn.attention`."""
        return self.last_two(ids_BL, segments_BL)[1]

    def last_two(
        self, ids_BL: Int[Array, "B L"], segments_BL: Int[Array, "B L"] | None = None
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"]]:
        """States before the last block and behind it."""
        before_BLD = x_BLD = self.token_embedding(ids_BL) + self.positions[: ids_BL.shape[1]]
        for block in self.blocks:
            before_BLD, x_BLD = x_BLD, block(x_BLD, segments_BL)
        return before_BLD, x_BLD

    def next_token(
        self, ids_B: Int[Array, "B"], past: Sequence[KeyValues], place: Place
    ) -> tuple[Float[Array, "B 1 D"], tuple[KeyValues, ...]]:
        """The state of one more token of each text, and what is kept for the next one.

        Args:
          ids_B: the tokens.
          past: what each block has kept.
          place: how many tokens come before it.
        """
        x_B1D = self.token_embedding(ids_B[:, None]) + self.positions[jnp.asarray(place)]
        return continue_blocks(self.blocks, x_B1D, past, place)


@dataclasses.dataclass(frozen=True)
class CausalTextConfig(TextTowerConfig):
    """Options of a language model; a small one by default.

    Attributes:
      width: as in `TowerConfig`, as all others.
      projection: None: there is no pooled vector.
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_units: int = 512
    projection: int | None = None

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        if self.projection is not None:
            raise InputError(f"projection is {self.projection}, expected None: nothing is pooled")

    def example(self) -> tuple[Array, ...]:
        """What the network takes of one text, in zeros."""
        return (jnp.zeros((1, 1), jnp.int32),)

    def make_model(self) -> "CausalText":
        """The network."""
        return CausalText(self)

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters``, with logical axes."""
        return encoder_init(self)


class CausalText(CausalTokens):
    """A language model: logits of the next token.

    Attributes:
      config: the options.
    """

    config: CausalTextConfig

    def setup(self) -> None:
        """Makes the tower, the norm and the output layer."""
        super().setup()
        self.final_norm = LayerNorm(self.config.epsilon)
        self.words = word_layer(self.config)

    def __call__(self, ids_BL: Int[Array, "B L"]) -> Float[Array, "B L V"]:
        """Logits of the token behind each token, in float32.

        Raises:
          InputError: see `TextTowerConfig.check_input`.
        """
        self.config.check_input(ids_BL)
        return self._logits(self.tokens(ids_BL))

    def start(self, batch: int, length: int) -> tuple[KeyValues, ...]:
        """What `step` begins with, for texts of at most ``length`` tokens."""
        return empty_past(self.config, batch, length)

    def step(
        self, kept: tuple[KeyValues, ...], ids_B: Int[Array, "B"], place: Place
    ) -> tuple[Float[Array, "B V"], tuple[KeyValues, ...]]:
        """Logits behind one more token, and what is kept; see `jaxgen.nn.decoding`."""
        x_B1D, kept = self.next_token(ids_B, kept, place)
        return self._logits(x_B1D)[:, 0], kept

    def _logits(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        return self.words(self.final_norm(x_BLD)).astype(jnp.float32)


def word_layer(config: TextTowerConfig) -> Dense:
    """The layer from states to logits of V tokens; no bias."""
    init = normal(config.width**-0.5)
    return Dense((config.vocabulary,), ("embed", "vocab"), config.dtype, init, bias=False)
