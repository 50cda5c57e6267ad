"""CLIP (Radford et al. 2021): a text tower and an image tower whose vectors are compared.

With unit vectors i of images and t of texts and a learnt scale s, the logits of all pairs are
``s <i, t>``; `jaxgen.encoders.contrastive` has the loss. Each tower returns `Encoded`, so it is the
condition of another network as well.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from jaxgen.encoders.clip_image import CLIPImageConfig
from jaxgen.encoders.clip_text import CLIPTextConfig
from jaxgen.encoders.encoded import Encoded, encoder_init
from jaxgen.errors import InputError, check_kind
from jaxgen.nn.norms import to_unit_length
from jaxgen.typing import Tree

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
LARGEST_LOGIT_SCALE = math.log(100)
"""Of ``logit_scale``, the logarithm of s (Radford et al. 2021, section 2.5)."""

_TEXT = {"projection": 512}
_TEXT_768 = {"width": 768, "heads": 12, "mlp_units": 3072, "projection": 768}
_LARGE = {"width": 1024, "depth": 24, "heads": 16, "mlp_units": 4096, "projection": 768}
SIZES: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]] = {
    "ViT-B/32": (_TEXT, {"patch": 32}),
    "ViT-B/16": (_TEXT, {"patch": 16}),
    "ViT-L/14": (_TEXT_768, {**_LARGE, "patch": 14}),
    "ViT-L/14@336": (_TEXT_768, {**_LARGE, "patch": 14, "size": 336}),
}
"""Fields of both towers of the published models (Radford et al. 2021, table 20)."""


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Options of both towers.

    Attributes:
      text: the text tower; its projection has the width of the image tower's.
      image: the image tower.
    """

    text: CLIPTextConfig = dataclasses.field(default_factory=CLIPTextConfig)
    image: CLIPImageConfig = dataclasses.field(default_factory=CLIPImageConfig)

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_kind("text", self.text, CLIPTextConfig, "CLIPTextConfig()")
        check_kind("image", self.image, CLIPImageConfig, "CLIPImageConfig()")
        if self.text.projection is None or self.text.projection != self.image.projection:
            raise InputError(
                f"projection is {self.text.projection} in the text tower and "
                f"{self.image.projection} in the image tower, expected one width in both"
            )

    @classmethod
    def named(cls, name: str, **changes: Any) -> "CLIPConfig":
        """A published model.

        Args:
          name: "ViT-B/32", "ViT-B/16", "ViT-L/14" or "ViT-L/14@336".
          **changes: fields of both towers that differ from it, ``dtype`` say.

        Raises:
          InputError: for any other name.
        """
        if name not in SIZES:
            raise InputError(f"model {name!r} is unknown, expected one of {', '.join(SIZES)}")
        text, image = SIZES[name]
        return cls(CLIPTextConfig(**{**text, **changes}), CLIPImageConfig(**{**image, **changes}))

    def example(self) -> tuple[Array | None, ...]:
        """What the network takes of one image and one text."""
        image, *time = self.image.example()
        texts = self.text.example()
        return (image, *texts, None, *time) if time else (image, *texts)

    def make_model(self) -> "CLIP":
        """The network."""
        return CLIP(self)

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters``, with logical axes."""
        return encoder_init(self)


class CLIP(nn.Module):
    """Both towers and the scale of their products; ``params["text"]`` alone is a text tower's.

    Attributes:
      config: the options.
    """

    config: CLIPConfig

    def setup(self) -> None:
        """Makes the towers and the scale."""
        self.text = self.config.text.make_model()
        self.image = self.config.image.make_model()
        initial = nn.initializers.constant(INITIAL_LOGIT_SCALE)
        self.logit_scale = self.param("logit_scale", initial, ())

    def encode_text(
        self, ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None = None
    ) -> Encoded:
        """Texts; arguments as those of `CLIPTextEncoder`."""
        return self.text(ids_BL, mask_BL)

    def encode_images(
        self,
        images_BYXC: Shaped[Array, "B Y X C"],
        time_B: Float[Array, "B"] | None = None,
    ) -> Encoded:
        """Images; arguments as those of `CLIPImageEncoder`."""
        return self.image(images_BYXC, time_B)

    def __call__(
        self,
        images_BYXC: Shaped[Array, "B Y X C"],
        ids_BL: Int[Array, "M L"],
        mask_BL: Shaped[Array, "M L"] | None = None,
        time_B: Float[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B D"], Float[Array, "M D"], Float[Array, ""]]:
        """Unit vectors of images and of texts, and s, at most 100.

        Args:
          images_BYXC: see `CLIPImageEncoder`.
          ids_BL: see `CLIPTextEncoder`; texts need not be as many as images.
          mask_BL: see there.
          time_B: of noisy images, see `CLIPImageEncoder`.
        """
        image_BD = to_unit_length(self.image(images_BYXC, time_B).pooled_BD)
        text_BD = to_unit_length(self.text(ids_BL, mask_BL).pooled_BD)
        return image_BD, text_BD, jnp.exp(limited_scale(self.logit_scale))


def limited_scale(logit_scale: Float[Array, ""]) -> Float[Array, ""]:
    """``min(logit_scale, ln 100)``, whose gradient is that of ``logit_scale`` everywhere.

    So a parameter above the limit can come back; `limit_logit_scale` keeps it from getting there.
    """
    limited = jnp.minimum(logit_scale, LARGEST_LOGIT_SCALE)
    return logit_scale + jax.lax.stop_gradient(limited - logit_scale)


def limit_logit_scale(params: Tree) -> Tree:
    """Parameters with ``logit_scale`` at most ln 100, as OpenAI has it after every update."""
    return {**params, "logit_scale": jnp.minimum(params["logit_scale"], LARGEST_LOGIT_SCALE)}
