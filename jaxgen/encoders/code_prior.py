"""The autoregressive prior of unCLIP: CLIP's image vector of a text, code by code.

Ramesh et al. 2022, section 2.2. With W linear layers, p the code of the product of the text's and
the image's vector, and c_1 .. c_K the codes of the image's (`jaxgen.encoders.vector_codes`)::

    x       = [states W_s, text vector W_t, table[p], table[c_1], .., table[c_(K-1)]] + positions
    logits  = LN(blocks(x))[from p on] W,  of c_1 .. c_K, each token seeing those before it

In sampling p is drawn from the upper half of its buckets, then codes are written one by one
(`jaxgen.nn.decoding`). Padding of a text is a learnt vector for each place, its position, as in
GLIDE; so what was computed of the text is kept without a mask.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.encoders.encoded import TokenEmbedding
from jaxgen.encoders.prior_tokens import PriorTokens, PriorTowerConfig
from jaxgen.encoders.tower import continue_blocks, empty_past, normal
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.dense import Dense
from jaxgen.nn.key_values import KeyValues, Place


@dataclasses.dataclass(frozen=True)
class CodePriorConfig(PriorTowerConfig):
    """Options of an autoregressive prior; the defaults are the paper's, as far as it says.

    Attributes:
      width: as in `PriorTowerConfig`, as all others.
      codes: K, principal components of an image's vector.
      buckets: values of a code.
      products: values of the code of the product.
    """

    width: int = 2048
    depth: int = 24
    heads: int = 32
    mlp_units: int = 8192
    codes: int = 319
    buckets: int = 1024
    products: int = 64

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        check_sizes(self, "codes")
        check_sizes(self, "buckets", "products", least=2)
        if self.codes > self.pooled_width:
            raise InputError(
                f"codes is {self.codes}, expected at most pooled_width={self.pooled_width}"
            )

    @property
    def own_tokens(self) -> int:
        """The product and all codes but the last."""
        return self.codes

    def make_model(self) -> "CodePrior":
        """The network."""
        return CodePrior(self)

    def example(self) -> tuple[Array, ...]:
        """What the network takes of one text, in zeros."""
        states_1NC = jnp.zeros((1, self.text_length, self.text_width))
        mask_1N = jnp.ones((1, self.text_length), bool)
        ids_1K = jnp.zeros((1, self.codes), jnp.int32)
        return states_1NC, mask_1N, jnp.zeros((1, self.pooled_width)), ids_1K


class CodePrior(PriorTokens):
    """From texts and codes to the logits of the next codes.

    Ids are codes, from 0 on, and behind them those of products.

    Attributes:
      config: the options.
    """

    config: CodePriorConfig

    def setup(self) -> None:
        """Makes the tower, the table of codes and products, and the output layer."""
        super().setup()
        c = self.config
        self.table = TokenEmbedding(c.buckets + c.products, c.width, 0.02)
        init = normal(c.width**-0.5)
        self.output = Dense((c.buckets,), ("embed", "vocab"), c.dtype, init, bias=False)

    def __call__(
        self,
        text_BNC: Float[Array, "B N C2"],
        mask_BN: Bool[Array, "B N"],
        pooled_BC: Float[Array, "B C"],
        ids_BK: Int[Array, "B K"],
    ) -> Float[Array, "B K V"]:
        """Logits of all codes, float32.

        Args:
          text_BNC: states of the texts.
          mask_BN: True where a token is no padding.
          pooled_BC: the texts' vectors.
          ids_BK: the product and the codes but the last.

        Raises:
          InputError: for shapes that do not fit the network.
        """
        text_BLD = self._prefix(text_BNC, mask_BN, pooled_BC)
        x_BLD = jnp.concatenate([text_BLD, self.table(ids_BK)], axis=1) + self.positions
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self._logits(x_BLD[:, text_BLD.shape[1] :])

    def start(
        self,
        text_BNC: Float[Array, "B N C2"],
        mask_BN: Bool[Array, "B N"],
        pooled_BC: Float[Array, "B C"],
    ) -> tuple[KeyValues, ...]:
        """What `step` begins with: keys and values of the text."""
        text_BLD = self._prefix(text_BNC, mask_BN, pooled_BC)
        kept = empty_past(self.config, len(text_BLD), self.config.places)
        x_BLD = text_BLD + self.positions[: text_BLD.shape[1]]
        return continue_blocks(self.blocks, x_BLD, kept, 0)[1]

    def step(
        self, kept: tuple[KeyValues, ...], ids_B: Int[Array, "B"], place: Place
    ) -> tuple[Float[Array, "B V"], tuple[KeyValues, ...]]:
        """Logits behind one more token, and what is kept; see `jaxgen.nn.decoding`.

        Args:
          kept: of the text and of earlier tokens.
          ids_B: the token of each sequence.
          place: 0 for the product, k for code k.
        """
        at = place + self.config.text_length + 1
        x_B1D = self.table(ids_B[:, None]) + self.positions[jnp.asarray(at)]
        x_B1D, kept = continue_blocks(self.blocks, x_B1D, kept, at)
        return self._logits(x_B1D)[:, 0], kept

    def _prefix(self, text_BNC: Array, mask_BN: Array, pooled_BC: Array) -> Float[Array, "B L D"]:
        self.config.check_texts(text_BNC, mask_BN, pooled_BC, len(text_BNC))
        tokens_BLD = self.text_tokens(text_BNC, pooled_BC)
        shown_BL = jnp.pad(mask_BN, ((0, 0), (0, 1)), constant_values=True)
        return jnp.where(shown_BL[..., None], tokens_BLD, 0)

    def _logits(self, x_BLD: Array) -> Float[Array, "B L V"]:
        return self.output(self.final_norm(x_BLD)).astype(jnp.float32)
