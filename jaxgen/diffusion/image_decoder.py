"""The decoder of unCLIP: a text-to-image model that is also given an image's vector.

Ramesh et al. 2022, section 2.1. With i the vector (of CLIP's image tower, made by a prior or of an
image that is there), T = 4 and c the states of a caption::

    added to the time embedding:  the network's embedding of i
    tokens that are attended to:  [T tokens, linear in i, c]

In training the vector is 0 for a tenth of the images and the caption empty for half of them, so
guidance compares with neither, and an image can be asked for by its vector alone. A vector and
noise belong to an image: `jaxgen.diffusion.conditioning.editing.encode` finds the noise, and the
same vector with other noise makes variations.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.conditioning.guidance import GuidanceWeight
from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.model import Conditions
from jaxgen.diffusion.process.predictions import TargetName
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.errors import InputError, check_positive, check_sizes
from jaxgen.nn.dense import Dense
from jaxgen.typing import Tree


class VectorsAndTexts(NamedTuple):
    """What some samples shall show.

    Attributes:
      vector_BC: image vectors; 0 for none.
      texts: their captions, and those of no caption.
    """

    vector_BC: Float[Array, "B C"]
    texts: Texts


@dataclasses.dataclass(frozen=True)
class ImageDecoderConfig:
    """A text-to-image model that is given image vectors too.

    Attributes:
      base: denoiser and encoder; the network's ``pooled_width`` is that of image vectors, of which
        the encoder's own pooled vector takes no part.
      vector_scale: the length of image vectors: sqrt(C) as a prior gives them.
      context_tokens: T.

    Raises:
      InputError: for a network that does not take tokens and a vector.
    """

    base: TextToImageConfig
    vector_scale: float
    context_tokens: int = 4

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_sizes(self, "context_tokens")
        check_positive("vector_scale", self.vector_scale)
        for name in ("text_width", "pooled_width"):
            if not getattr(self.network, name, 0):
                raise InputError(
                    f"network has {name} 0, expected one that takes tokens and a vector"
                )

    @property
    def network(self) -> Any:
        """The configuration of the network."""
        return self.base.network

    @property
    def target(self) -> TargetName:
        """What the network predicts."""
        return self.base.target

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.base.image_shape

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.base.schedule

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> {"denoiser", "encoder", "context"}``, with logical axes."""
        base, context = self.base.make_init(), self._context()
        vector_1C = jnp.zeros((1, self.network.pooled_width))

        def init(key: Array) -> Tree:
            first, second = jax.random.split(key)
            return {**base(first), "context": context.init(second, vector_1C)["params"]}

        return init

    def encode(self, params: Tree, given: VectorsAndTexts) -> Conditions:
        """Vectors and captions as the network takes them.

        Args:
          params: of denoiser, encoder and context.
          given: both.

        Raises:
          InputError: for vectors of another width.
        """
        texts, vector_BC = given.texts, given.vector_BC
        width = self.network.pooled_width
        if vector_BC.shape != (len(texts.ids_BL), width):
            raise InputError(
                f"image vectors have shape {vector_BC.shape}, expected "
                f"[{len(texts.ids_BL)}, {width}]"
            )
        found: dict[str, Any] = dict(self.base.encode(params, texts.ids_BL, texts.mask_BL))
        tokens_BF = self._context().apply({"params": params["context"]}, vector_BC)
        shape = len(vector_BC), self.context_tokens, self.network.text_width
        found["text_BNC"] = jnp.concatenate([tokens_BF.reshape(shape), found["text_BNC"]], axis=1)
        if "text_mask_BN" in found:
            before = (0, 0), (self.context_tokens, 0)
            found["text_mask_BN"] = jnp.pad(found["text_mask_BN"], before, constant_values=True)
        return {**found, "pooled_BC": vector_BC}

    def make_denoiser(
        self,
        params: Tree,
        given: VectorsAndTexts,
        guidance: GuidanceWeight | None = None,
        *,
        clip: bool = True,
    ) -> Denoiser:
        """The denoiser of images of some vectors and captions.

        Args:
          params: of denoiser, encoder and context.
          given: a vector and a caption for each sample.
          guidance: w of ``(1 + w) e(z, i, c) - w e(z, 0, null)``; None: without guidance.
          clip: whether x^ is kept within [-1, 1], and e^ recomputed from it.

        Raises:
          InputError: for guidance without null texts.
        """
        texts, nulls = given.texts, None
        if guidance is not None:
            if texts.null_ids_BL is None or texts.null_mask_BL is None:
                raise InputError("guidance is given without null texts, expected null_ids_BL")
            null_texts = Texts(texts.null_ids_BL, texts.null_mask_BL)
            nothing = VectorsAndTexts(jnp.zeros_like(given.vector_BC), null_texts)
            nulls = self.encode(params, nothing)
        return self.base.denoiser.make_denoiser(
            params["denoiser"],
            None,
            guidance,
            conditions=self.encode(params, given),
            nulls=nulls,
            clip=clip,
        )

    def _context(self) -> Dense:
        width = self.context_tokens * self.network.text_width
        return Dense((width,), (None, "embed"))
