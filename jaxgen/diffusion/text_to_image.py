"""A denoiser with the encoder of the texts that it reads: from token ids to samples.

The encoder is any network ``(ids, mask) -> states, mask, pooled`` (`jaxgen.encoders`). It is
trained with the denoiser, as in GLIDE (Nichol et al. 2022), or was trained before and stays as it
is, as CLIP's text tower in latent diffusion (Rombach et al. 2022) and T5 in Imagen (Saharia et al.
2022).
The empty text stands for no text: guidance is ``(1 + w) e(z, text) - w e(z, "")``, or another text
in place of "", one that samples shall not show::

    model = jaxgen.training.load_model(folder)
    texts = Texts(ids_BL, mask_BL, *null_texts)
    denoiser = model.config.make_denoiser(model.params, texts, guidance=2.0)

A super-resolver of a cascade (Ho et al. 2022; Saharia et al. 2022) is the same with one more input,
`Texts.beside`: the small image, made by its `augmentation`.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.diffusion.conditioning.diffusion_classifier import LabelledDenoiser
from jaxgen.diffusion.conditioning.guidance import GuidanceWeight
from jaxgen.diffusion.conditioning.noise_augmentation import Augmentation
from jaxgen.diffusion.denoiser import Denoiser, Estimate, make_denoiser
from jaxgen.diffusion.model import Conditions, DenoiserConfig
from jaxgen.diffusion.process.levels import Level
from jaxgen.diffusion.process.predictions import TargetName
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.errors import InputError, check_positive
from jaxgen.nn.norms import to_unit_length
from jaxgen.typing import Tree


class Texts(NamedTuple):
    """The texts of some samples as token ids, and what else they are made from.

    Attributes:
      ids_BL: token ids.
      mask_BL: True where a token is no padding.
      null_ids_BL: those of the empty text, or of what a sample shall not show; None where nothing
        is guided.
      null_mask_BL: its mask.
      beside: what is laid beside the latents, with text and without; None for networks that take
        nothing there.
    """

    ids_BL: Int[Array, "B L"]
    mask_BL: Bool[Array, "B L"]
    null_ids_BL: Int[Array, "B L"] | None = None
    null_mask_BL: Bool[Array, "B L"] | None = None
    beside: Float[Array, "B *sizes C"] | None = None


@dataclasses.dataclass(frozen=True)
class TextToImageConfig:
    """A denoiser of images that reads texts, and the encoder of the texts.

    Attributes:
      denoiser: the denoiser, of a network with ``text_width`` or ``pooled_width``.
      encoder: the configuration of the encoder, with ``make_model()`` and ``example()``; None where
        texts come as its states (`conditions_of`), and it is not among the parameters.
      masked: whether padding is hidden from encoder and denoiser; Stable Diffusion lets it be seen.
      null_text: whether the empty text was among those trained on, which guidance compares with.
      augmentation: of a super-resolver, what makes the condition ``beside`` from small images.
      pooled_scale: the length of the pooled vectors that the network is given, such as sqrt(C) of
        C numbers for a prior of image vectors of that length (`jaxgen.encoders.image_prior`); None:
        they are as the encoder gives them.

    Raises:
      InputError: for a network that reads no texts, or has no room for what augmentation makes; for
        a length that is none.
    """

    denoiser: DenoiserConfig
    encoder: Any
    masked: bool = True
    null_text: bool = True
    augmentation: Augmentation | None = None
    pooled_scale: float | None = None

    def __post_init__(self) -> None:
        """Validates the fields."""
        if self.pooled_scale is not None:
            check_positive("pooled_scale", self.pooled_scale)
        if not self.denoiser.reads_texts:
            raise InputError(
                "network has text_width 0 and pooled_width 0, expected a network that reads texts"
            )
        if self.augmentation is not None:
            channels = self.augmentation.condition_channels(self.image_shape[-1])
            if self.denoiser.beside_channels != channels:
                raise InputError(
                    f"beside_channels is {self.denoiser.beside_channels}, expected {channels} for "
                    "a small image and its noise level"
                )

    @property
    def network(self) -> Any:
        """The configuration of the network that reads the texts."""
        return self.denoiser.network

    @property
    def target(self) -> TargetName:
        """What the network predicts."""
        return self.denoiser.target

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.denoiser.image_shape

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.denoiser.schedule

    def make_model(self) -> nn.Module:
        """The network of the denoiser."""
        return self.denoiser.make_model()

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> {"denoiser", "encoder"}``, with logical axes."""
        if self.encoder is None:
            return lambda key: {"denoiser": self.denoiser.make_init()(jax.random.split(key)[0])}
        encoder, example = self.encoder.make_model(), self.encoder.example()

        def init(key: Array) -> Tree:
            first, second = jax.random.split(key)
            return {
                "denoiser": self.denoiser.make_init()(first),
                "encoder": encoder.init(second, *example)["params"],
            }

        return init

    def encode(
        self, params: Tree, ids_BL: Int[Array, "B L"], mask_BL: Bool[Array, "B L"]
    ) -> Conditions:
        """Texts as the network takes them.

        Args:
          params: of denoiser and encoder.
          ids_BL: token ids.
          mask_BL: True where a token is no padding.

        Raises:
          InputError: for a model without an encoder.
        """
        if self.encoder is None:
            raise InputError("encoder is None, expected the encoder whose states were trained on")
        given = (ids_BL, mask_BL) if self.masked else (ids_BL,)
        states_BLD, _, pooled_BD = self.encoder.make_model().apply(
            {"params": params["encoder"]}, *given
        )
        return self.conditions_of(states_BLD, mask_BL, pooled_BD)

    def conditions_of(
        self,
        states_BLD: Float[Array, "B L D"],
        mask_BL: Bool[Array, "B L"],
        pooled_BD: Float[Array, "B D2"],
    ) -> Conditions:
        """What an encoder gives as the network takes it, in float32.

        Args:
          states_BLD: a vector for each token.
          mask_BL: True where a token is no padding.
          pooled_BD: one vector for each text.
        """
        found: dict[str, Array] = {}
        if getattr(self.network, "text_width", 0):
            found["text_BNC"] = jnp.asarray(states_BLD, jnp.float32)
            if self.masked:
                found["text_mask_BN"] = mask_BL
        if getattr(self.network, "pooled_width", 0):
            scale, pooled_BD = self.pooled_scale, jnp.asarray(pooled_BD, jnp.float32)
            found["pooled_BC"] = pooled_BD if scale is None else scale * to_unit_length(pooled_BD)
        return found

    def make_denoiser(
        self,
        params: Tree,
        texts: Texts,
        guidance: GuidanceWeight | None = None,
        *,
        clip: bool = True,
    ) -> Denoiser:
        """The denoiser of images of some texts.

        Args:
          params: of denoiser and encoder.
          texts: a text for each sample.
          guidance: w of ``(1 + w) e(z, text) - w e(z, null)``; None: without guidance. The input of
            a network that was distilled to one evaluation for every w.
          clip: whether x^ is kept within [-1, 1], and e^ recomputed from it.

        Raises:
          InputError: for guidance without null texts.
        """
        beside = {} if texts.beside is None else {"beside": texts.beside}
        conditions = {**self.encode(params, texts.ids_BL, texts.mask_BL), **beside}
        nulls = None
        if guidance is not None and not self.denoiser.guidance_channels:
            if texts.null_ids_BL is None or texts.null_mask_BL is None:
                raise InputError("guidance is given without null texts, expected null_ids_BL")
            if not self.null_text:
                warnings.warn(
                    "guidance with a model that was trained without the empty text (text dropout "
                    "0): what it predicts without a text means little",
                    stacklevel=2,
                )
            nulls = {**self.encode(params, texts.null_ids_BL, texts.null_mask_BL), **beside}
        return self.denoiser.make_denoiser(
            params["denoiser"], None, guidance, conditions=conditions, nulls=nulls, clip=clip
        )

    def make_caption_denoiser(self, params: Tree, candidates: Texts) -> LabelledDenoiser:
        """The denoiser of images of one of some texts, by the number of the text.

        With it `jaxgen.diffusion.classify` tells which of the texts an image shows (Li et al. 2023,
        "Your diffusion model is secretly a zero-shot classifier").

        Args:
          params: of denoiser and encoder.
          candidates: K texts.
        """
        conditions = self.encode(params, candidates.ids_BL, candidates.mask_BL)
        network = self.denoiser.make_network(params["denoiser"])

        def denoiser(z: Array, level: Level, number_B: Array) -> Estimate:
            own = jax.tree.map(lambda given: jnp.asarray(given)[number_B], conditions)
            return make_denoiser(lambda z, time: network(z, time, None, **own), self.target)(
                z, level
            )

        return denoiser
