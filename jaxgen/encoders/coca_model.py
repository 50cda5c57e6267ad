"""CoCa (Yu et al. 2022): contrastive vectors of images and texts, and captions of images.

The image side is `jaxgen.encoders.coca_image`, both halves of the text decoder are
`jaxgen.encoders.coca_text`, the loss `jaxgen.encoders.coca_loss`. With clips it is VideoCoCa.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from jaxgen.encoders.clip_model import INITIAL_LOGIT_SCALE, limited_scale
from jaxgen.encoders.coca_image import CoCaImageConfig
from jaxgen.encoders.coca_text import CaptionDecoder, CoCaTextConfig, DecoderPast
from jaxgen.encoders.encoded import Encoded, encoder_init
from jaxgen.encoders.tower import empty_past
from jaxgen.errors import InputError, check_kind
from jaxgen.nn.key_values import KeyValues, Place
from jaxgen.nn.norms import to_unit_length
from jaxgen.typing import Tree

_TEXT = {"shifted_mask": True}
_WIDE = {**_TEXT, "width": 768, "heads": 12, "mlp_units": 3072, "projection": 768}
_LARGE = {"width": 1024, "depth": 24, "heads": 16, "mlp_units": 4096, "projection": 768}
_OPEN_CLIP = {"queries": 255, "shared_pooler": True}
SIZES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "ViT-B-32": (_TEXT, {**_OPEN_CLIP, "patch": 32}),
    "ViT-L-14": (_WIDE, {**_LARGE, **_OPEN_CLIP, "patch": 14}),
}
"""Fields of the text and of the image side of open_clip's models."""


@dataclasses.dataclass(frozen=True)
class CoCaConfig:
    """Options of both sides.

    Attributes:
      text: the text decoder.
      image: the image side; both have one ``projection``.
    """

    text: CoCaTextConfig = dataclasses.field(default_factory=CoCaTextConfig)
    image: CoCaImageConfig = dataclasses.field(default_factory=CoCaImageConfig)

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_kind("text", self.text, CoCaTextConfig, "CoCaTextConfig()")
        check_kind("image", self.image, CoCaImageConfig, "CoCaImageConfig()")
        if self.text.projection != self.image.projection:
            raise InputError(
                f"projection is {self.text.projection} of texts and {self.image.projection} of "
                "images, expected one width of both"
            )

    @classmethod
    def named(cls, name: str, **changes: Any) -> "CoCaConfig":
        """A model of open_clip.

        Args:
          name: "ViT-B-32" or "ViT-L-14".
          **changes: fields of both sides that differ from it, ``dtype`` say.

        Raises:
          InputError: for any other name.
        """
        if name not in SIZES:
            raise InputError(f"model {name!r} is unknown, expected one of {', '.join(SIZES)}")
        text, image = SIZES[name]
        return cls(CoCaTextConfig(**{**text, **changes}), CoCaImageConfig(**{**image, **changes}))

    def example(self) -> tuple[Array, ...]:
        """What the network takes of one image, or clip, and one text."""
        (images,) = self.image.example()
        if self.image.frames is not None:
            images = jnp.repeat(images[:, None], self.image.frames, axis=1)
        return (images, *self.text.example())

    def make_model(self) -> "CoCa":
        """The network."""
        return CoCa(self)

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters``, with logical axes."""
        return encoder_init(self)


class CoCaOutput(NamedTuple):
    """What the losses are computed from.

    Attributes:
      image_BP: unit vectors of images.
      text_BP: unit vectors of texts.
      scale: s of their products, at most 100.
      logits_BLV: of the second token of each text, of the third, ..., of the last.
    """

    image_BP: Float[Array, "B P"]
    text_BP: Float[Array, "B P"]
    scale: Float[Array, ""]
    logits_BLV: Float[Array, "B L V"]


class CaptionPast(NamedTuple):
    """What is kept of an image and of the tokens of its caption so far.

    Attributes:
      first: of the first half's blocks.
      second: of the second half.
    """

    first: tuple[KeyValues, ...]
    second: DecoderPast


class CoCa(nn.Module):
    """Both sides, and the scale of the products of their vectors.

    Attributes:
      config: the options.
    """

    config: CoCaConfig

    def setup(self) -> None:
        """Makes both sides and the scale."""
        self.text = self.config.text.make_model()
        self.decoder = CaptionDecoder(self.config.text)
        self.image = self.config.image.make_model()
        initial = nn.initializers.constant(INITIAL_LOGIT_SCALE)
        self.logit_scale = self.param("logit_scale", initial, ())

    def encode_images(self, images: Shaped[Array, "B *T Y X C"]) -> Encoded:
        """Images or clips: tokens for captions and a vector, not of unit length."""
        return self.image(images)

    def encode_text(
        self, ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None = None
    ) -> Encoded:
        """Texts: states and a vector, not of unit length; arguments as of `CoCaTextEncoder`."""
        return self.text(ids_BL, mask_BL)

    def __call__(
        self,
        images: Shaped[Array, "B *T Y X C"],
        ids_BL: Int[Array, "B L"],
        mask_BL: Shaped[Array, "B L"] | None = None,
    ) -> CoCaOutput:
        """Vectors of images and texts, and logits of the captions.

        Args:
          images: images or clips, see `CoCaImageEncoder`.
          ids_BL: their texts.
          mask_BL: see `CoCaTextEncoder`.
        """
        image, text = self.image(images), self.text(ids_BL, mask_BL)
        logits_BLV = self.decoder(text.states_BLD[:, :-1], image.states_BLD)
        vectors = to_unit_length(image.pooled_BD), to_unit_length(text.pooled_BD)
        return CoCaOutput(*vectors, jnp.exp(limited_scale(self.logit_scale)), logits_BLV)

    def caption_logits(
        self, images: Shaped[Array, "B *T Y X C"], ids_BL: Int[Array, "B L"]
    ) -> Float[Array, "B L V"]:
        """Logits of the token behind each token; nothing is computed for the vectors."""
        self.config.text.check_input(ids_BL)
        return self.decoder(self.text.tokens(ids_BL), self.image.caption_tokens(images))

    def start(self, images: Shaped[Array, "B *T Y X C"], length: int) -> CaptionPast:
        """What `step` begins with, for captions of at most ``length`` tokens."""
        tokens_BQP = self.image.caption_tokens(images)
        first = empty_past(self.config.text, len(tokens_BQP), length)
        return CaptionPast(first, self.decoder.start(tokens_BQP, length))

    def step(
        self, kept: CaptionPast, ids_B: Int[Array, "B"], place: Place
    ) -> tuple[Float[Array, "B V"], CaptionPast]:
        """Logits behind one more token, and what is kept; see `jaxgen.nn.decoding`."""
        x_B1D, first = self.text.next_token(ids_B, kept.first, place)
        logits_B1V, second = self.decoder.step(x_B1D, kept.second, place)
        return logits_B1V[:, 0], CaptionPast(first, second)
