"""An autoregressive prior from texts to image vectors: the encoder, the network, the codes.

The network is `jaxgen.encoders.code_prior`, the codes `jaxgen.encoders.vector_codes`; the encoder
is CLIP's text tower, which stays as it is. With i and t unit vectors of an image and its text and
r = sqrt(C), vectors are r i and r t here (``pooled_scale``), and the product is <i, t>::

    vectors = draw_vectors(config, params, ids_BL, mask_BL, keys_B)     # [B, C], of length r
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.encoders.clip_text import CLIPTextConfig
from jaxgen.encoders.coca_loss import next_token_loss
from jaxgen.encoders.code_prior import CodePriorConfig
from jaxgen.encoders.encoded import encoder_init
from jaxgen.encoders.vector_codes import VectorCodes
from jaxgen.errors import InputError, check_positive
from jaxgen.nn.decoding import Decoding, write_texts
from jaxgen.nn.norms import to_unit_length
from jaxgen.nn.written_texts import Marks, Prompt
from jaxgen.typing import Batch, Tree

NO_END = Marks(end=-1)
"""No code ends a sequence: all have the same length."""


@dataclasses.dataclass(frozen=True)
class TextToVectorConfig:
    """An autoregressive prior with the encoder of its texts and the meaning of its codes.

    Attributes:
      prior: the network.
      encoder: CLIP's text tower.
      pooled_scale: the length of vectors of texts and images.

    Raises:
      InputError: for a prior that is not for this encoder.
    """

    prior: CodePriorConfig
    encoder: CLIPTextConfig
    pooled_scale: float

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_positive("pooled_scale", self.pooled_scale)
        given = self.encoder.width, self.encoder.length, self.encoder.projection
        taken = self.prior.text_width, self.prior.text_length, self.prior.pooled_width
        if given != taken:
            raise InputError(
                f"prior has text_width, text_length, pooled_width {taken}, expected the encoder's "
                f"{given}"
            )

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> {"prior", "encoder", "codes"}``, with logical axes; the codes are zeros."""
        encoder, prior = encoder_init(self.encoder), encoder_init(self.prior)

        def init(key: Array) -> Tree:
            first, second = jax.random.split(key)
            codes = VectorCodes.empty(
                self.prior.pooled_width, self.prior.codes, self.prior.products
            )
            return {
                "prior": prior(first),
                "encoder": encoder(second),
                "codes": codes._asdict(),
            }

        return init

    def encode(
        self, params: Tree, ids_BL: Int[Array, "B L"], mask_BL: Bool[Array, "B L"]
    ) -> tuple[Array, Array, Array]:
        """States, mask and scaled vectors of texts."""
        model, variables = self.encoder.make_model(), {"params": params["encoder"]}
        states_BLD, _, pooled_BC = model.apply(variables, ids_BL, mask_BL)
        return states_BLD, mask_BL != 0, self.pooled_scale * to_unit_length(pooled_BC)

    def codes(self, params: Tree) -> VectorCodes:
        """What codes mean."""
        return VectorCodes(**params["codes"])

    def tokens(
        self, params: Tree, image_BC: Float[Array, "B C"], pooled_BC: Float[Array, "B C"]
    ) -> Int[Array, "B L"]:
        """The product and the codes of images, [B, 1 + K].

        Args:
          params: with the meaning of codes.
          image_BC: the images' vectors, of length ``pooled_scale``.
          pooled_BC: those of their texts.
        """
        codes = self.codes(params)
        product_B = (image_BC * pooled_BC).sum(axis=-1) / self.pooled_scale**2
        first_B1 = self.prior.buckets + codes.encode_products(product_B)[:, None]
        return jnp.concatenate([first_B1, codes.encode(image_BC, self.prior.buckets)], axis=1)


def code_prior_loss(config: TextToVectorConfig) -> Callable[..., Any]:
    """The loss that trains the network of an autoregressive prior.

    Returns:
      ``loss_fn(params, batch, key) -> (loss in nats a code, {"codes"})`` for batches of ``"image"``
      (vectors [B, C]), ``"text_ids"`` and ``"text_mask"``; the metric is the share of codes that
      are the likeliest.
    """
    model = config.prior.make_model()

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, Mapping[str, Array]]:
        text = config.encode(params, batch["text_ids"], batch["text_mask"])
        ids_BL = config.tokens(params, batch["image"], text[2])
        logits_BKV = model.apply({"params": params["prior"]}, *text, ids_BL[:, :-1])
        counted_BK = jnp.ones(ids_BL[:, 1:].shape, bool)
        loss, share = next_token_loss(logits_BKV, ids_BL[:, 1:], counted_BK)
        return loss, {"codes": share}

    return loss_fn


@functools.partial(jax.jit, static_argnames=("config", "how"))
def draw_vectors(
    config: TextToVectorConfig,
    params: Tree,
    ids_BL: Int[Array, "B L"],
    mask_BL: Bool[Array, "B L"],
    key_B: Key[Array, "B"],
    how: Decoding = Decoding("nucleus", top_p=1.0),
) -> Float[Array, "B C"]:
    """Image vectors of texts, of length ``pooled_scale``.

    Args:
      config: the prior.
      params: of network, encoder and codes.
      ids_BL: the texts.
      mask_BL: True where a token is no padding.
      key_B: a key for each, on which alone its vector depends.
      how: the method by which codes are written.
    """
    c = config.prior
    text = config.encode(params, ids_BL, mask_BL)
    keys_B2 = jax.vmap(lambda key: jax.random.split(key, 2))(key_B)
    upper = jax.vmap(lambda key: jax.random.randint(key, (), c.products // 2, c.products))
    first_B = c.buckets + upper(keys_B2[:, 0])
    model, variables = c.make_model(), {"params": params["prior"]}
    kept = model.apply(variables, *text, method=model.start)
    prompt = Prompt.first(len(ids_BL), 1 + c.codes, 0)
    prompt = prompt._replace(ids_BL=prompt.ids_BL.at[:, 0].set(first_B))
    step = functools.partial(model.apply, variables, method=model.step)
    found = write_texts(step, kept, prompt, NO_END, how, keys_B2[:, 1])
    vectors_BC = config.codes(params).decode(found.ids_BL[:, 1:], c.buckets)
    return config.pooled_scale * to_unit_length(vectors_BC)
