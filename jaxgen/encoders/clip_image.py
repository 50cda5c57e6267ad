"""CLIP's image tower, a vision transformer (Dosovitskiy et al. 2021; Radford et al. 2021).

::

    x       = LN([class token, patches W] + positions)
    states  = blocks(x)
    pooled  = LN(states[class token]) W

Images are those of the whole library, of bytes or in [-1, 1]; the tower itself subtracts the mean
and divides by the deviation that its weights were trained with. `resize_and_crop` brings images of
other sizes to its own.

**Noisy images** (GLIDE, Nichol et al. 2022). With ``noisy`` images are latents a x + s e of a
diffusion process, and the tower takes their time as well. The class token depends on it; GLIDE's
code has a table of 1,000 tokens, here it is ::

    class token(t) = class token + MLP(waves(1000 t))
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from jaxgen.encoders.encoded import Encoded
from jaxgen.encoders.tower import (
    TowerConfig,
    positions_param,
    tower_blocks,
    tower_projection,
)
from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import TimeEmbedding
from jaxgen.nn.norms import LayerNorm
from jaxgen.nn.patches import patchify
from jaxgen.pixels import as_unit

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of pixels from 0 to 1 (openai/CLIP, ``clip/clip.py``)."""


@dataclasses.dataclass(frozen=True)
class CLIPImageConfig(TowerConfig):
    """Options of the image tower; the defaults are those of ViT-B/32.

    Attributes:
      size: pixels along the side of an image.
      patch: pixels along the side of a patch, which divides the size.
      mean: what is subtracted from pixels from 0 to 1; as many numbers as an image has channels.
      deviation: what they are divided by.
      noisy: whether images are noisy latents, any real numbers, of which the time is given as well.
    """

    width: int = 768
    heads: int = 12
    mlp_units: int = 3072
    size: int = 224
    patch: int = 32
    mean: tuple[float, ...] = CLIP_MEAN
    deviation: tuple[float, ...] = CLIP_DEVIATION
    noisy: bool = False

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        check_sizes(self, "size", "patch")
        if self.size % self.patch:
            raise InputError(f"size is {self.size}, expected a multiple of patch={self.patch}")
        if not self.mean or len(self.mean) != len(self.deviation) or min(self.deviation) <= 0:
            raise InputError(
                f"mean is {self.mean} and deviation {self.deviation}, expected one number for each "
                "channel, deviations above 0"
            )

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return len(self.mean)

    @property
    def tokens(self) -> int:
        """L: the class token, and the patches row by row."""
        return 1 + (self.size // self.patch) ** 2

    def check_input(
        self,
        images_BYXC: Shaped[Array, "B Y X C"],
        time_B: Shaped[Array, "..."] | None = None,
    ) -> None:
        """Refuses images that are not for this tower.

        Raises:
          InputError: for images of another size, or numbers that are no bytes and not in [-1, 1]
            (noisy images: not finite); for noisy images without times [B], or times of others.
        """
        if images_BYXC.shape[1:] != (self.size, self.size, self.channels):
            raise InputError(
                f"images have shape {images_BYXC.shape}, expected [B, {self.size}, {self.size}, "
                f"{self.channels}] (jaxgen.encoders.resize_and_crop)"
            )
        shape = None if time_B is None else time_B.shape
        wanted = images_BYXC.shape[:1] if self.noisy else None
        if shape != wanted:
            raise InputError(f"times have shape {shape}, expected {wanted} (noisy is {self.noisy})")
        self.pixels(images_BYXC)

    def pixels(self, images_BYXC: Shaped[Array, "B Y X C"]) -> Shaped[Array, "B Y X C"]:
        """Images in about [-1, 1]; noisy ones reach further.

        Raises:
          InputError: for other numbers.
        """
        return as_unit(images_BYXC, limit=math.inf) if self.noisy else as_unit(images_BYXC)

    def example(self) -> tuple[Array, ...]:
        """What the network takes of one image, in zeros; with its time, if it takes that."""
        images = jnp.zeros((1, self.size, self.size, self.channels))
        return (images, jnp.zeros(1)) if self.noisy else (images,)

    def make_model(self) -> "CLIPImageEncoder":
        """The network."""
        return CLIPImageEncoder(self)


class PatchTokens(nn.Module):
    """The vision transformer, from images to the states of its tokens.

    Attributes:
      config: the options.
    """

    config: CLIPImageConfig

    def setup(self) -> None:
        """Makes the embedding, the blocks and the first norm."""
        c = self.config
        scale = c.width**-0.5
        initial = nn.initializers.normal(scale)
        self.class_token = self.param(
            "class_token", nn.with_logical_partitioning(initial, ("embed",)), (c.width,)
        )
        if c.noisy:
            self.time = TimeEmbedding(c.width)
        self.patch_embedding = Dense((c.width,), ("patch", "embed"), c.dtype, bias=False)
        self.positions = positions_param(self, c.tokens, c.width, scale)
        self.input_norm = LayerNorm(c.epsilon)
        self.blocks = tower_blocks(c)

    def tokens(
        self,
        images_BYXC: Shaped[Array, "B Y X C"],
        time_B: Float[Array, "B"] | None = None,
    ) -> Float[Array, "B L D"]:
        """States of all tokens, the class token first.

        Args:
          images_BYXC: images of the tower's size in [-1, 1], or bytes; or noisy ones.
          time_B: of noisy images, 1,000 t.
        """
        c = self.config
        pixels = (jnp.asarray(c.pixels(images_BYXC)) + 1) / 2
        pixels = (pixels - jnp.asarray(c.mean)) / jnp.asarray(c.deviation)
        patches_BLD = self.patch_embedding(patchify(pixels, c.patch)).astype(jnp.float32)
        class_B1D = jnp.broadcast_to(self.class_token, (len(pixels), 1, c.width))
        if time_B is not None:
            class_B1D = class_B1D + self.time(time_B)[:, None]
        x_BLD = jnp.concatenate([class_B1D, patches_BLD], axis=1) + self.positions
        x_BLD = self.input_norm(x_BLD)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return x_BLD


class CLIPImageEncoder(PatchTokens):
    """From images to states and a pooled vector; attributes as those of `PatchTokens`."""

    def setup(self) -> None:
        """Makes the transformer, the second norm and the projection."""
        super().setup()
        self.output_norm = LayerNorm(self.config.epsilon)
        if self.config.projection is not None:
            self.projection = tower_projection(self.config)

    def __call__(
        self,
        images_BYXC: Shaped[Array, "B Y X C"],
        time_B: Float[Array, "B"] | None = None,
    ) -> Encoded:
        """States of all tokens, the class token first; and the pooled vector, projected where
        there is a projection.

        Args:
          images_BYXC: images of the tower's size in [-1, 1], or bytes; or noisy ones.
          time_B: of noisy images, 1,000 t.

        Raises:
          InputError: see `CLIPImageConfig.check_input`.
        """
        self.config.check_input(images_BYXC, time_B)
        x_BLD = self.tokens(images_BYXC, time_B)
        pooled_BD = self.output_norm(x_BLD[:, 0])
        if self.config.projection is not None:
            pooled_BD = self.projection(pooled_BD)
        return Encoded(x_BLD, jnp.ones(x_BLD.shape[:2], bool), pooled_BD)


def resize_and_crop(images_BYXC: Shaped[Array, "B Y X C"], size: int) -> Float[Array, "B Y2 X2 C"]:
    """Images in the size of a tower: the shorter side resized to it, then the middle cut out.

    Bicubic (Keys 1981, a = -1/2) and antialiased, clipped to [-1, 1]; differentiable. That is
    OpenAI's preparation, but for the rounding to bytes between and after its two passes.

    Args:
      images_BYXC: in [-1, 1], or bytes.
      size: of both sides of the result.

    Raises:
      InputError: for a size below 1, or images that are no such numbers [B, Y, X, C].
    """
    if size < 1 or images_BYXC.ndim != 4:
        raise InputError(
            f"size is {size} of images of shape {images_BYXC.shape}, expected 1 or more of "
            "images [B, Y, X, C]"
        )
    images = jnp.asarray(as_unit(images_BYXC), jnp.float32)
    batch, *sides, channels = images.shape
    scaled = [size * side // min(sides) for side in sides]
    if scaled != sides:
        images = jax.image.resize(images, (batch, *scaled, channels), "cubic")
        images = jnp.clip(images, -1, 1)
    top, left = ((side - size) // 2 for side in scaled)
    return images[:, top : top + size, left : left + size]
