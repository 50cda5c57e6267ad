"""CoCa's image side (Yu et al. 2022): a vision transformer, read by learned queries.

::

    x        = vision transformer(image) [L, D]
    pool(q)  = Attention(LN(q), LN(x)),  q learned
    tokens   = LN(pool(Q queries))       for the captions
    vector   = LN(pool(1 query)) W       for the contrastive loss

Each pooler has queries, norms and projections of its own. In open_clip's weights there is one
(``shared_pooler``), whose first query gives the vector and whose others the tokens.

**Clips** (VideoCoCa, Yan et al. 2022). Each of T frames goes through the transformer alone, the
T L tokens are laid in one sequence, and the poolers read that; the weights are those of the image
model. To a pooler a sequence is a set, so the result does not depend on the order of the frames,
and which way something moves cannot be told. The paper has no positions of frames. With ``frames``
there is a learned vector for each frame, added to its tokens; they start at zero, where the network
is the paper's.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from jaxgen.encoders.clip_image import CLIPImageConfig, PatchTokens
from jaxgen.encoders.encoded import Encoded
from jaxgen.encoders.tower import Activation, normal, tower_projection
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.attention import AttentionToKeys
from jaxgen.nn.norms import LayerNorm


@dataclasses.dataclass(frozen=True)
class CoCaImageConfig(CLIPImageConfig):
    """Options of the image side; the defaults are those of ViT-B/32.

    Attributes:
      projection: P, the width of tokens for captions and of the vector.
      activation: exact GELU by default.
      queries: Q, tokens for captions.
      pooler_heads: attention heads of the poolers; they divide P.
      shared_pooler: whether the vector is that of the first of Q + 1 queries of one pooler.
      frames: T of clips whose frames have learned positions; None: there are none, and clips may
        have any number of frames.
    """

    activation: Activation = "gelu"
    queries: int = 256
    pooler_heads: int = 8
    shared_pooler: bool = False
    frames: int | None = None

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        check_sizes(self, "queries", "pooler_heads")
        if self.noisy:
            raise InputError("noisy is True, expected False: captioners take no time")
        if self.projection is None or self.projection % self.pooler_heads:
            raise InputError(
                f"projection is {self.projection}, expected a multiple of "
                f"pooler_heads={self.pooler_heads}"
            )
        if self.frames is not None:
            check_sizes(self, "frames", least=2)

    @property
    def pooled_width(self) -> int:
        """P."""
        assert self.projection is not None
        return self.projection

    def check_input(
        self, images_BYXC: Shaped[Array, "B *T Y X C"], time_B: Shaped[Array, "..."] | None = None
    ) -> None:
        """Refuses images or clips that are not for this network.

        Raises:
          InputError: for images of another size, clips of another length, or numbers that are no
            bytes and not in [-1, 1].
        """
        if images_BYXC.ndim == 5:
            if self.frames not in (None, images_BYXC.shape[1]):
                raise InputError(
                    f"clips have shape {images_BYXC.shape}, expected {self.frames} frames, for "
                    "which there are positions"
                )
            images_BYXC = images_BYXC.reshape(-1, *images_BYXC.shape[2:])
        super().check_input(images_BYXC, time_B)

    def make_model(self) -> "CoCaImageEncoder":
        """The network."""
        return CoCaImageEncoder(self)


class AttentionPooler(nn.Module):
    """Tokens from the outputs of learned queries.

    Attributes:
      config: the options.
      queries: how many.
    """

    config: CoCaImageConfig
    queries: int

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B Q P"]:
        """[B, L, D] to [B, Q, P], before the last norm."""
        c = self.config
        width = c.pooled_width
        named = nn.with_logical_partitioning(normal(1.0), ("positions", "embed"))
        query_QP = self.param("queries", named, (self.queries, width))
        q_QP = LayerNorm(c.epsilon, name="query_norm")(query_QP)
        attention = AttentionToKeys(
            width, c.pooler_heads, c.dtype, implementation=c.attention, name="attention"
        )
        keys = attention.keys(LayerNorm(c.epsilon, name="context_norm")(x_BLD))
        q_BQP = jnp.broadcast_to(q_QP, (len(x_BLD), *q_QP.shape))
        return attention(q_BQP, keys).astype(jnp.float32)


class CoCaImageEncoder(PatchTokens):
    """From images or clips to tokens for captions and a pooled vector.

    Attributes:
      config: the options.
    """

    config: CoCaImageConfig

    def setup(self) -> None:
        """Makes the transformer, the poolers, the norm behind them and the projection."""
        super().setup()
        c = self.config
        self.pooler = AttentionPooler(c, c.queries + c.shared_pooler)
        if not c.shared_pooler:
            self.vector_pooler = AttentionPooler(c, 1)
        self.output_norm = LayerNorm(c.epsilon)
        self.projection = tower_projection(c)
        if c.frames is not None:
            named = nn.with_logical_partitioning(nn.initializers.zeros, ("positions", "embed"))
            self.frame_positions = self.param("frame_positions", named, (c.frames, c.width))

    def __call__(self, images: Shaped[Array, "B *T Y X C"]) -> Encoded:
        """Tokens for captions, and the vector, not yet of unit length.

        Args:
          images: images or clips in [-1, 1], or bytes.

        Raises:
          InputError: see `CoCaImageConfig.check_input`.
        """
        x_BLD = self.sequence(images)
        tokens_BQP = self.pooler(x_BLD)
        if self.config.shared_pooler:
            vector_B1P, tokens_BQP = jnp.split(tokens_BQP, [1], axis=1)
        else:
            vector_B1P = self.vector_pooler(x_BLD)
        pooled_BP = self.projection(self.output_norm(vector_B1P[:, 0]))
        return self._encoded(tokens_BQP, pooled_BP)

    def caption_tokens(self, images: Shaped[Array, "B *T Y X C"]) -> Float[Array, "B Q P"]:
        """The tokens alone; nothing is computed for the vector."""
        tokens_BQP = self.pooler(self.sequence(images))
        return self.output_norm(tokens_BQP[:, int(self.config.shared_pooler) :])

    def sequence(self, images: Shaped[Array, "B *T Y X C"]) -> Float[Array, "B L D"]:
        """What the poolers read: tokens of an image, or of all frames of a clip."""
        c = self.config
        c.check_input(images)
        if images.ndim == 4:
            return self.tokens(images)
        batch, frames = images.shape[:2]
        x_BTLD = self.tokens(images.reshape(-1, *images.shape[2:]))
        x_BTLD = x_BTLD.reshape(batch, frames, c.tokens, c.width)
        if c.frames is not None:
            x_BTLD = x_BTLD + self.frame_positions[:, None]
        return x_BTLD.reshape(batch, frames * c.tokens, c.width)

    def _encoded(self, tokens_BQP: jax.Array, pooled_BP: jax.Array) -> Encoded:
        tokens_BQP = self.output_norm(tokens_BQP)
        return Encoded(tokens_BQP, jnp.ones(tokens_BQP.shape[:2], bool), pooled_BP)
