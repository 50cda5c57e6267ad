"""unCLIP's decoder as a program trains, samples and edits with it."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.shared.denoiser_sampling import SamplingFlags, make_draw, put_samples
from experiments.shared.training_runs import OpenedModel, TrainedModel, train_model
from experiments.text_to_image.support.attribute_evaluator import AttributeEvaluator
from experiments.text_to_image.support.text_networks import TextNetworkFlags
from experiments.text_to_image.support.text_samples import as_texts
from experiments.text_to_image.support.text_training import TextTrainingFlags, conditioned_loss
from experiments.text_to_image.support.vector_priors import Vectors, vector_scale, vector_width
from jaxgen.data import BatchPlan
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.diffusion.conditioning.editing import encode
from jaxgen.diffusion.image_decoder import ImageDecoderConfig, VectorsAndTexts
from jaxgen.diffusion.objectives.weightings import Weighting
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import Table, sample_with_table
from jaxgen.diffusion.text_to_image import Texts
from jaxgen.encoders import CLIPConfig
from jaxgen.parallel import Layout, gather_fsdp, replicated
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree


class UnclipModels(NamedTuple):
    """Everything that was trained.

    Attributes:
      vectors: the set with CLIP's vectors.
      priors: both priors, by name.
      decoder: the decoder.
      evaluator: of attributes.
    """

    vectors: Vectors
    priors: Mapping[str, TrainedModel]
    decoder: TrainedModel
    evaluator: AttributeEvaluator


def decoder_config(
    flags: TextNetworkFlags,
    shape: tuple[int, ...],
    target: str,
    tokenizer: Tokenizer,
    clip: CLIPConfig,
) -> ImageDecoderConfig:
    """The decoder of images of a shape, with a text transformer of its own; of a DiT.

    Raises:
      InputError: for sizes that do not fit each other.
    """
    base = flags.config(shape, target, flags.encoder(tokenizer))
    network = dataclasses.replace(base.network, pooled_width=vector_width(clip))
    denoiser = dataclasses.replace(base.denoiser, network=network)
    base = dataclasses.replace(base, denoiser=denoiser)
    return ImageDecoderConfig(base, vector_scale(clip))


def image_decoder_loss(
    config: ImageDecoderConfig, weighting: Weighting, vector_dropout: float, layout: Layout
) -> LossFn:
    """The mean loss of a batch of ``"image"``, ``"vector"``, ``"text_ids"`` and ``"text_mask"``.

    Args:
      config: the decoder.
      weighting: the weight of |x - x^|^2.
      vector_dropout: probability that a vector becomes 0.
      layout: of the parameters.
    """
    loss_of = conditioned_loss(config.base.denoiser, weighting)

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        params = gather_fsdp(params, layout)
        key, own = jax.random.split(key)
        kept_B = jax.random.bernoulli(own, 1 - vector_dropout, batch["vector"].shape[:1])
        vector_BC = jnp.where(kept_B[:, None], batch["vector"], 0)
        texts = Texts(batch["text_ids"], batch["text_mask"])
        conditions = config.encode(params, VectorsAndTexts(vector_BC, texts))
        return loss_of(params["denoiser"], batch["image"], conditions, key)

    return loss_fn


def train_decoder(
    config: ImageDecoderConfig,
    vectors: Vectors,
    folder: pathlib.Path,
    flags: TextTrainingFlags,
    weighting: Weighting,
    vector_dropout: float,
    seed: int,
) -> TrainedModel:
    """Trains the decoder on the part "train", or resumes; arguments as those above."""
    span = vectors.pictures.parts["train"]
    plan = BatchPlan(*span, flags.batch_size, seed=seed, name=vectors.pictures.name)

    def data(step: int, rows: Any) -> Batch:
        return vectors.batch_at(plan, step, rows, flags.text_dropout)

    return train_model(
        config,
        data,
        folder,
        flags,
        functools.partial(image_decoder_loss, config, weighting, vector_dropout),
        batch_size=flags.batch_size,
        make_evaluation=lambda loss_fn: None,
        seed=seed,
    )


def picture_drawer(
    decoder: OpenedModel, tokenizer: Tokenizer, flags: SamplingFlags, key: Key[Array, ""]
) -> Callable[..., Float[np.ndarray, "N Y X C"]]:
    """``draw(vectors [N, C], captions=None)``: a picture of each image vector.

    Args:
      decoder: of `train_decoder`.
      tokenizer: of its captions; without captions all are the empty text.
      flags: sampler, steps and guidance.
      key: randomness, the same for all calls.
    """
    draw = make_draw(decoder.config, decoder.layout, clip=flags.clip)
    how = flags.method(decoder.config), flags.levels(decoder.config)

    def pictures(
        vector_NC: Float[np.ndarray, "N C"], captions: Sequence[str] | None = None
    ) -> Float[np.ndarray, "N Y X C"]:
        texts = as_texts(tokenizer, [""] * len(vector_NC) if captions is None else captions)
        given = VectorsAndTexts(vector_NC, texts)
        options = {"guidance": flags.guidance, "name": "pictures"}
        return draw(decoder.params, *how, given, key, **options)

    return pictures


class PictureEditor:
    """Pictures through their noise: from a picture and its vector to noise, and back with others.

    Every method takes the same number of pictures, and is one program.
    """

    def __init__(self, decoder: OpenedModel, tokenizer: Tokenizer, steps: int) -> None:
        """Makes the programs.

        Args:
          decoder: of `train_decoder`.
          tokenizer: of its captions.
          steps: of DDIM, both ways.
        """
        self._decoder, self._tokenizer = decoder, tokenizer
        self._levels = make_steps(decoder.config.schedule, steps)
        whole = replicated(decoder.layout.mesh)
        self._invert = jax.jit(self._to_noise, out_shardings=whole)
        self._draw = jax.jit(self._to_picture, out_shardings=whole)

    def invert(
        self, x: Float[np.ndarray, "N Y X C"], vector_NC: Float[np.ndarray, "N C"]
    ) -> Float[np.ndarray, "N Y X C"]:
        """The noise of which DDIM makes pictures with their vectors."""
        return np.asarray(self._invert(self._decoder.params, x, self._given(vector_NC)))

    def draw(
        self,
        z: Float[np.ndarray, "N Y X C"],
        vector_NC: Float[np.ndarray, "N C"],
        eta: float = 0.0,
        seed: int = 0,
    ) -> Float[np.ndarray, "N Y X C"]:
        """Pictures of noise and vectors.

        Args:
          z: the noise.
          vector_NC: the vectors.
          eta: how much of the noise is resampled on the way; 0: none of it.
          seed: of what is resampled.
        """
        given, key = self._given(vector_NC), jax.random.key(seed)
        table = DDIM(eta=eta).table(self._levels)
        return np.asarray(self._draw(self._decoder.params, z, given, table, key))

    def _given(self, vector_NC: np.ndarray) -> Any:
        texts = as_texts(self._tokenizer, [""] * len(vector_NC))
        given = VectorsAndTexts(vector_NC, texts)
        return put_samples(np.arange(len(vector_NC)), given)["condition"]

    def _denoiser(self, params: Tree, given: Any) -> Any:
        params = gather_fsdp(params, self._decoder.layout)
        return self._decoder.config.make_denoiser(params, given)

    def _to_noise(self, params: Tree, x: Array, given: Any) -> Array:
        return encode(self._denoiser(params, given), x, self._levels)

    def _to_picture(self, params: Tree, z: Array, given: Any, table: Table, key: Array) -> Array:
        return sample_with_table(DDIM(), self._denoiser(params, given), z, table, key)
