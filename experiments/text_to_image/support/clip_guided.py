"""A text-to-image model under CLIP guidance, as the programs sample models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.shared.training_runs import OpenedModel, plan_layout_of
from experiments.text_to_image.support.clip_scores import ClipScorer, open_clip_run
from experiments.text_to_image.support.noisy_clip import SCHEDULE, noisy_vectors
from jaxgen.diffusion import Denoiser, clip_x
from jaxgen.diffusion.conditioning.clip_guidance import clip_guidance
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.encoders import CLIPConfig
from jaxgen.encoders.clip_model import limited_scale
from jaxgen.errors import InputError
from jaxgen.typing import Tree


class GuidedTexts(NamedTuple):
    """The texts of some samples, as the model and as CLIP reads them.

    Attributes:
      texts: for the model; empty ones for samples that CLIP alone guides.
      vector_BD: unit vectors, of CLIP.
    """

    texts: Texts
    vector_BD: Float[Any, "B D"]


@dataclass(frozen=True)
class ClipGuided:
    """A text-to-image model and the CLIP of noisy pictures that guides it.

    Attributes:
      model: the model.
      clip: both towers.
    """

    model: TextToImageConfig
    clip: CLIPConfig

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.model.image_shape

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.model.schedule

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> {"model", "clip"}``, with logical axes."""
        model, clip = self.model.make_init(), self.clip.make_init()
        return lambda key: {"model": model(key), "clip": clip(key)}

    def make_denoiser(
        self,
        params: Tree,
        condition: GuidedTexts,
        guidance: Any = None,
        *,
        clip: bool = True,
    ) -> Denoiser:
        """The denoiser of pictures of some texts; x^ is clipped after guidance.

        Args:
          params: of model and CLIP.
          condition: a text for each sample.
          guidance: the weight of CLIP's gradient; None: without.
          clip: whether x^ is kept within [-1, 1], and e^ recomputed from it.
        """
        texts, vector_BD = condition
        denoiser = self.model.make_denoiser(params["model"], texts, clip=False)
        if guidance is not None:
            vectors = noisy_vectors(self.clip.image, params["clip"]["image"])
            scale = jnp.exp(limited_scale(params["clip"]["logit_scale"]))
            denoiser = clip_guidance(denoiser, vectors, vector_BD, guidance, scale=scale)
        return clip_x(denoiser) if clip else denoiser


def guide_by_clip(model: OpenedModel, path: str) -> tuple[OpenedModel, ClipScorer]:
    """A model that a run of CLIP guides, over the current mesh.

    Args:
      model: a text-to-image model.
      path: the working folder of ``experiments.text_to_image.clip --noisy``.

    Raises:
      InputError: another model, pictures of another size, or of another process than the model's.
    """
    clip = ClipScorer(*open_clip_run(path, model.config.image_shape, noisy=True))
    if model.config.schedule != SCHEDULE:
        raise InputError(
            f"the schedule is {model.config.schedule}, expected {SCHEDULE}, under which CLIP was "
            "trained"
        )
    config = ClipGuided(model.config, clip.config)
    layout = plan_layout_of(config)
    params = {"model": model.params, "clip": jax.device_put(clip.params, layout.shardings["clip"])}
    return OpenedModel(config, params, layout), clip
