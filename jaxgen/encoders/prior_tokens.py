"""What the priors of unCLIP have in common: a causal tower that begins with a text.

A *prior* makes CLIP's image vector of a caption (Ramesh et al. 2022, "Hierarchical text-conditional
image generation with CLIP latents"). Both of the paper's are the tower of CLIP's texts
(`jaxgen.encoders.tower`) on a sequence that begins with the states of the text and its vector::

    x      = [states W_s, vector W_t, ...] + positions
    states = LN(blocks(x)),  each token seeing those before it and itself
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxgen.encoders.tower import Activation, TowerConfig, positions_param, tower_blocks
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.dense import Dense
from jaxgen.nn.norms import LayerNorm
from jaxgen.nn.text_inputs import check_pooled, check_text_mask, check_text_tokens


@dataclasses.dataclass(frozen=True)
class PriorTowerConfig(TowerConfig):
    """Options of a prior's tower.

    Attributes:
      projection: None: what comes out is the prior's own.
      text_width: of the states of a text.
      text_length: N, the tokens of every text, padding among them.
      pooled_width: C, of the vectors of texts and of images.
    """

    activation: Activation = "gelu"
    projection: int | None = None
    text_width: int = 768
    text_length: int = 77
    pooled_width: int = 768

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        check_sizes(self, "text_width", "text_length", "pooled_width")
        if self.projection is not None:
            raise InputError(f"projection is {self.projection}, expected None: it is pooled_width")

    @property
    def places(self) -> int:
        """Rows of the table of positions: the text's, its vector's and one for each other token."""
        return self.text_length + 1 + self.own_tokens

    @property
    def own_tokens(self) -> int:
        """The tokens behind the text's vector."""
        raise NotImplementedError

    def check_texts(
        self,
        text_BNC: Float[Array, "B N C"] | None,
        mask_BN: Bool[Array, "B N"] | None,
        pooled_BC: Float[Array, "B C2"] | None,
        batch: int,
    ) -> None:
        """Refuses texts that are not for this prior.

        Raises:
          InputError: with the shape and what was expected.
        """
        check_text_tokens(self, text_BNC, batch)
        check_text_mask(mask_BN, text_BNC)
        check_pooled(self, pooled_BC, (batch,))
        assert text_BNC is not None
        if text_BNC.shape[1] != self.text_length:
            raise InputError(
                f"text has shape {text_BNC.shape}, expected {self.text_length} tokens, for which "
                "the prior has positions"
            )


class PriorTokens(nn.Module):
    """The tower, and what it reads of a text.

    Attributes:
      config: the options.
    """

    config: PriorTowerConfig

    def setup(self) -> None:
        """Makes the embeddings of the text, the positions, the blocks and the norm."""
        c = self.config
        self.text_states = Dense((c.width,), (None, "embed"), c.dtype)
        self.text_vector = Dense((c.width,), (None, "embed"), c.dtype)
        self.positions = positions_param(self, c.places, c.width, 0.01)
        self.blocks = tower_blocks(c, causal=True)
        self.final_norm = LayerNorm(c.epsilon)

    def text_tokens(
        self, text_BNC: Float[Array, "B N C"], pooled_BC: Float[Array, "B C2"]
    ) -> Float[Array, "B L D"]:
        """States and vector of texts in the width of the tower, without positions."""
        states_BND = self.text_states(text_BNC)
        vector_B1D = self.text_vector(pooled_BC)[:, None]
        return jnp.concatenate([states_BND, vector_B1D], axis=1).astype(jnp.float32)
