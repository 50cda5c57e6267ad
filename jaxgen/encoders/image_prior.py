"""The diffusion prior of unCLIP: a denoiser of CLIP's image vectors that reads a text.

Ramesh et al. 2022, section 2.2. With W linear layers, q learnt, z the noisy image vector::

    x      = [states W_s, text vector W_t, time embedding, z W_z, q] + positions
    output = LN(blocks(x))[last] W_o,  each token seeing those before it and itself

The output is the *clean* vector: the target of the denoiser is "x", the loss its mean squared
error. Padding is hidden. A vector is data of one axis, ``image_shape=(C,)`` of a
`jaxgen.diffusion.model.DenoiserConfig`, so processes, losses, samplers and guidance are those of
images; `jaxgen.diffusion.text_to_image.TextToImageConfig` adds the encoder of the text. Numbers of
a unit vector are too small beside noise of deviation one, so vectors are multiplied by sqrt(C)
(``pooled_scale`` there).
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxgen.encoders.prior_tokens import PriorTokens, PriorTowerConfig
from jaxgen.encoders.tower import normal
from jaxgen.errors import InputError
from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import TimeEmbedding

HIDDEN = -1
"""The segment id of padding."""


@dataclasses.dataclass(frozen=True)
class ImagePriorConfig(PriorTowerConfig):
    """Options of a diffusion prior; the defaults are those of diffusers' ``PriorTransformer``.

    Attributes:
      width: as in `PriorTowerConfig`, as all others.
    """

    width: int = 2048
    depth: int = 20
    heads: int = 32
    mlp_units: int = 8192
    num_classes = 0
    null_class = False

    @property
    def own_tokens(self) -> int:
        """The time, the noisy vector and the query."""
        return 3

    def make_model(self) -> "ImagePrior":
        """The network."""
        return ImagePrior(self)


class ImagePrior(PriorTokens):
    """Noisy vectors, times and texts to clean vectors.

    Attributes:
      config: the options.
    """

    config: ImagePriorConfig

    def setup(self) -> None:
        """Makes the tower, the embeddings of time and vector, the query and the output layer."""
        super().setup()
        c = self.config
        self.time = TimeEmbedding(c.width, c.width)
        self.noisy_vector = Dense((c.width,), (None, "embed"), c.dtype)
        query = nn.with_logical_partitioning(normal(0.02), ("embed",))
        self.query = self.param("query", query, (c.width,))
        self.output = Dense((c.pooled_width,), ("embed", "hidden"), c.dtype)

    def __call__(
        self,
        z_BC: Float[Array, "B C"],
        time_B: Float[Array, "B"],
        label_B: None = None,
        *,
        text_BNC: Float[Array, "B N C2"] | None = None,
        text_mask_BN: Bool[Array, "B N"] | None = None,
        pooled_BC: Float[Array, "B C"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B C"]:
        """The clean vectors, float32.

        Args:
          z_BC: noisy image vectors.
          time_B: times; the frequencies are made for 0 to 1000.
          label_B: None: there are no classes.
          text_BNC: states of the texts.
          text_mask_BN: True where a token is no padding; None for everywhere.
          pooled_BC: the texts' vectors.
          train: of no meaning here; nothing is dropped.

        Raises:
          InputError: for shapes that do not fit the network.
        """
        c, batch = self.config, len(z_BC)
        if z_BC.shape != (batch, c.pooled_width) or time_B.shape != (batch,):
            raise InputError(
                f"vectors have shape {z_BC.shape} and times {time_B.shape}, expected "
                f"[B, {c.pooled_width}] and [B]"
            )
        c.check_texts(text_BNC, text_mask_BN, pooled_BC, batch)
        assert text_BNC is not None
        assert pooled_BC is not None
        own = [
            self.time(time_B),
            self.noisy_vector(z_BC),
            jnp.broadcast_to(self.query, (batch, c.width)),
        ]
        own_B3D = jnp.stack([vector.astype(jnp.float32) for vector in own], axis=1)
        x_BLD = jnp.concatenate([self.text_tokens(text_BNC, pooled_BC), own_B3D], axis=1)
        x_BLD = x_BLD + self.positions
        segments_BL = None
        if text_mask_BN is not None:
            padding_BN = jnp.where(text_mask_BN, 0, HIDDEN)
            segments_BL = jnp.pad(padding_BN, ((0, 0), (0, 1 + c.own_tokens)))
        for block in self.blocks:
            x_BLD = block(x_BLD, segments_BL)
        return self.output(self.final_norm(x_BLD[:, -1])).astype(jnp.float32)
