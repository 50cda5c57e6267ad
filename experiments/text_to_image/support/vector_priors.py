"""The priors of unCLIP as a program trains and asks them: flags, CLIP's vectors, candidates."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.shared.denoiser_sampling import make_draw
from experiments.shared.digests import params_digest
from experiments.shared.output import cached_arrays
from experiments.shared.training_runs import (
    OpenedModel,
    OptimizationFlags,
    TrainedModel,
    train_model,
)
from experiments.shared.unet_sizes import heads_of
from experiments.text_to_image.support.captioned_data import pictures_digest
from experiments.text_to_image.support.clip_scores import ClipScorer, vectors_of
from experiments.text_to_image.support.text_pairs import loss_on
from experiments.text_to_image.support.text_samples import as_texts
from experiments.text_to_image.support.text_training import start_with, text_to_image_loss
from jaxgen.data import BatchPlan, CaptionedSet, captioned_batch_at
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.diffusion.conditioning.image_vectors import closest_to_text
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.weightings import Constant
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.encoders import (
    CLIPConfig,
    CodePriorConfig,
    ImagePriorConfig,
    TextToVectorConfig,
    VectorCodes,
    code_prior_loss,
    draw_vectors,
    fit_vector_codes,
    to_unit_length,
)
from jaxgen.errors import InputError, check_share, check_sizes
from jaxgen.evaluation.features import apply_to_rows
from jaxgen.parallel import Layout
from jaxgen.training import make_optimizer, train_only
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

CANDIDATES = 2
"""Image vectors of a text, of which the one with the largest product with the text's is kept."""


@register_config("text_to_image.priors")
@dataclass(frozen=True, kw_only=True)
class PriorFlags:
    """Both priors, and how they are trained.

    Attributes:
      prior_width: of a token.
      prior_depth: blocks.
      prior_updates: of the diffusion prior.
      code_updates: of the autoregressive prior.
      prior_batch: texts of an update.
      prior_text_dropout: probability that a caption becomes the empty text.
      prior_steps: of DDIM, by which the diffusion prior is sampled.
      prior_guidance: w of its classifier-free guidance.
      codes: principal components that the autoregressive prior writes.
      buckets: values of each.
      products: values of the product of text and image.
    """

    prior_width: int = 128
    prior_depth: int = 2
    prior_updates: int = 600
    code_updates: int = 400
    prior_batch: int = 64
    prior_text_dropout: float = 0.1
    prior_steps: int = 25
    prior_guidance: float = 0.0
    codes: int = 20
    buckets: int = 32
    products: int = 16

    def __post_init__(self) -> None:
        heads_of(self.prior_width, "prior_width")
        check_sizes(self, "prior_depth", "prior_updates", "code_updates", "prior_batch")
        check_sizes(self, "prior_steps", "codes")
        check_sizes(self, "buckets", "products", least=2)
        check_share("prior_text_dropout", self.prior_text_dropout)

    def tower(self, clip: CLIPConfig) -> dict[str, Any]:
        """What both networks have in common, for the texts of a CLIP."""
        return {
            "width": self.prior_width,
            "depth": self.prior_depth,
            "heads": heads_of(self.prior_width, "prior_width"),
            "mlp_units": 4 * self.prior_width,
            "text_width": clip.text.width,
            "text_length": clip.text.length,
            "pooled_width": vector_width(clip),
        }

    def diffusion_prior(self, clip: CLIPConfig) -> TextToImageConfig:
        """The prior that takes the noise out of vectors."""
        network = ImagePriorConfig(**self.tower(clip))
        denoiser = DenoiserConfig(network, (network.pooled_width,), (), "x")
        drops = self.prior_text_dropout > 0
        return TextToImageConfig(
            denoiser, clip.text, null_text=drops, pooled_scale=vector_scale(clip)
        )

    def code_prior(self, clip: CLIPConfig) -> TextToVectorConfig:
        """The prior that writes vectors code by code."""
        sizes = {"codes": self.codes, "buckets": self.buckets, "products": self.products}
        network = CodePriorConfig(**self.tower(clip), **sizes)
        return TextToVectorConfig(network, clip.text, vector_scale(clip))

    def training(self, model: TextToImageConfig | TextToVectorConfig) -> OptimizationFlags:
        """How a prior is trained."""
        by_diffusion = isinstance(model, TextToImageConfig)
        steps = self.prior_updates if by_diffusion else self.code_updates
        return OptimizationFlags(training_steps=steps, ema_decay=0.99)


def vector_width(clip: CLIPConfig) -> int:
    """C, of the vectors that texts and images share.

    Raises:
      InputError: for towers that share none.
    """
    if clip.text.projection is None or clip.text.projection != clip.image.projection:
        raise InputError("CLIP has towers without one projection, expected vectors of both")
    return clip.text.projection


def vector_scale(clip: CLIPConfig) -> float:
    """sqrt(C), the length of vectors here."""
    return vector_width(clip) ** 0.5


class Vectors(NamedTuple):
    """A captioned set with CLIP's vectors, of length sqrt(C).

    Attributes:
      pictures: the set.
      tokens: of its captions.
      image_NC: the vectors of all pictures.
      text_NC: those of their captions.
      clip: the towers.
    """

    pictures: CaptionedSet
    tokens: CaptionTokens
    image_NC: Float[np.ndarray, "N C"]
    text_NC: Float[np.ndarray, "N C"]
    clip: ClipScorer

    def batch_at(
        self, plan: BatchPlan, step: int, rows: Any, text_dropout: float
    ) -> dict[str, np.ndarray]:
        """`captioned_batch_at` with ``"vector"``, the image vectors."""
        batch = captioned_batch_at(
            self.pictures, self.tokens, plan, step, text_dropout=text_dropout, rows=rows
        )
        chosen = plan.positions(step)
        return {**batch, "vector": self.image_NC[chosen if rows is None else chosen[rows]]}

    def texts(self, captions: Sequence[str]) -> Float[np.ndarray, "M C"]:
        """The vectors of any texts."""
        return self.length * self.clip.text_vectors(captions)

    @property
    def length(self) -> float:
        """Of every vector."""
        return vector_scale(self.clip.config)

    def of_part(self, part: str, rows: np.ndarray) -> Float[np.ndarray, "M C"]:
        """The image vectors of some pictures of a part."""
        return self.image_NC[self.pictures.parts[part][0] + rows]


def find_vectors(
    pictures: CaptionedSet, tokens: CaptionTokens, clip: ClipScorer, path: pathlib.Path
) -> Vectors:
    """The vectors of a set; those of pictures are kept in a file.

    Args:
      pictures: the set.
      tokens: of its captions, by CLIP's tokenizer.
      clip: the towers.
      path: the ``.npz`` file.
    """

    def compute() -> dict[str, np.ndarray]:
        image_NC = vectors_of(clip.config.image, clip.params["image"], pictures.images)
        text_KC = vectors_of(clip.config.text, clip.params["text"], tokens.ids, tokens.mask)
        return {"image": image_NC, "text": text_KC}

    made_of = [pictures_digest(pictures), params_digest(clip.params)]
    found, scale = cached_arrays(path, compute, made_of=made_of), vector_scale(clip.config)
    text_NC = scale * found["text"][tokens.caption]
    return Vectors(pictures, tokens, scale * found["image"], text_NC, clip)


def train_prior(
    model: TextToImageConfig | TextToVectorConfig,
    vectors: Vectors,
    folder: pathlib.Path,
    flags: PriorFlags,
    seed: int,
) -> TrainedModel:
    """Trains the diffusion prior or the autoregressive one, or resumes; CLIP stays as it is.

    Args:
      model: the prior.
      vectors: what is learned from; the part "train".
      folder: the prior's own.
      flags: of both.
      seed: of all randomness.
    """
    span = vectors.pictures.parts["train"]
    given: dict[str, Tree] = {"encoder": vectors.clip.params["text"]}
    make_loss: Callable[[Layout], LossFn]
    if isinstance(model, TextToImageConfig):
        own, make_loss = "^denoiser/", functools.partial(text_to_image_loss, model, Constant())
    else:
        own, loss_fn = "^prior/", code_prior_loss(model)
        make_loss = functools.partial(loss_on, loss_fn=loss_fn)
        given["codes"] = codes_of_vectors(model, vectors)[0]._asdict()
    plan = BatchPlan(*span, flags.prior_batch, seed=seed, name=vectors.pictures.name)

    def data(step: int, rows: Any) -> Batch:
        batch = vectors.batch_at(plan, step, rows, flags.prior_text_dropout)
        return {
            "image": batch["vector"],
            "text_ids": batch["text_ids"],
            "text_mask": batch["text_mask"],
        }

    training = flags.training(model)
    return train_model(
        model,
        data,
        folder,
        training,
        make_loss,
        batch_size=flags.prior_batch,
        make_evaluation=lambda loss_fn: None,
        seed=seed,
        start=start_with(model, seed, **given),
        tx=train_only(make_optimizer(training.optimizer()), own),
    )


def codes_of_vectors(model: TextToVectorConfig, vectors: Vectors) -> tuple[VectorCodes, float]:
    """What codes mean, by the part "train", and the share of the variance that they keep."""
    rows = slice(*vectors.pictures.parts["train"])
    image_NC, text_NC = vectors.image_NC[rows], vectors.text_NC[rows]
    product_N = (image_NC * text_NC).sum(axis=1) / model.pooled_scale**2
    return fit_vector_codes(image_NC, product_N, model.prior.codes, model.prior.products)


def draw_candidates(
    prior: OpenedModel,
    vectors: Vectors,
    flags: PriorFlags,
    captions: Sequence[str],
    key: Key[Array, ""],
) -> Float[np.ndarray, "N C"]:
    """The better of two image vectors of each text, by either prior, of length sqrt(C).

    Args:
      prior: of `train_prior`.
      vectors: whose CLIP it was trained with.
      flags: how it is sampled.
      captions: the texts.
      key: randomness.
    """
    tokenizer, count = vectors.clip.tokenizer, len(captions)
    several = as_texts(tokenizer, list(captions) * CANDIDATES)
    if isinstance(prior.config, TextToImageConfig):
        draw = make_draw(prior.config, prior.layout, clip=False)
        levels = make_steps(prior.config.schedule, flags.prior_steps)
        guidance = flags.prior_guidance
        drawn_MC = draw(
            prior.params, DDIM(), levels, several, key, guidance=guidance, name="image vectors"
        )
    else:

        def forward(params: Tree, inputs: tuple[Array, ...]) -> Array:
            ids, mask, index = inputs
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
            return draw_vectors(prior.config, params, ids, mask, keys)

        index = np.arange(len(several.ids_BL), dtype=np.int32)
        rows = several.ids_BL, several.mask_BL, index
        drawn_MC = apply_to_rows(forward, prior.params, rows, 256)
    # What takes noise out of vectors need not leave their length as it is.
    drawn_MC = vectors.length * np.asarray(to_unit_length(jnp.asarray(drawn_MC)))
    drawn_SNC = drawn_MC.reshape(CANDIDATES, count, -1)
    return np.asarray(closest_to_text(drawn_SNC, vectors.texts(captions)))
