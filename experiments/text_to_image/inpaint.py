"""A text-to-image model trained on to fill in what is missing, against guidance without training.

``python -m experiments.text_to_image.inpaint --run runs/text_to_image``

Takes a run of ``experiments.text_to_image.train`` on captioned shapes. Its network gets the known
part of a picture and the mask beside z, 2 C + 1 channels in all, of which it ignores the new ones
at first, and is trained on with random holes (Nichol et al. 2022, GLIDE, section 2.4). Then holes
in test pictures are filled by their captions: by this model; and by the model it came from, with
reconstruction guidance and the replacement of what is known, with the caption and without. In the
working folder:

  filled.png     pictures, what was left of them, and what each way made of them
  curves.png     losses of the training, and by noise level
  table.md       PSNR of the known part in dB, attributes as asked, Fréchet distance
  metrics.json   the same and more, by name
  tokenizer/, checkpoints/   the model, as those of the run that it came from

Started again with the same working folder it resumes.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.shared.denoiser_sampling import draw_in_parts, put_samples
from experiments.shared.figure_tables import write_rows
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, run
from experiments.shared.training_runs import (
    OpenedModel,
    TrainedModel,
    open_trained_model,
    plot_training,
    train_model,
)
from experiments.shared.widened_models import widened_params
from experiments.shared.workdir import check_checkpoints
from experiments.text_to_image.support.attribute_evaluator import (
    AttributeEvaluator,
    make_attribute_evaluator,
)
from experiments.text_to_image.support.captioned_data import (
    loss_of_validation,
    pictures_digest,
    plan_batches,
)
from experiments.text_to_image.support.filling import filling_config, filling_loss
from experiments.text_to_image.support.masked_psnr import masked_psnr
from experiments.text_to_image.support.stored_texts import check_run_of_shapes
from experiments.text_to_image.support.text_samples import as_texts, prompts_of_part, sample_key
from experiments.text_to_image.support.text_training import TextTrainingFlags, training_parts
from jaxgen.data import (
    CaptionedSet,
    load_captioned,
    to_unit,
    tokenise_captions,
)
from jaxgen.data.captions.caption_batches import NULL_CAPTION
from jaxgen.data.tokenizers import Tokenizer, open_tokenizer, save_tokenizer
from jaxgen.diffusion import Denoiser, clip_x
from jaxgen.diffusion.conditioning.inpainting import Replacement
from jaxgen.diffusion.conditioning.masks import known_channels, random_boxes
from jaxgen.diffusion.conditioning.reconstruction import masked, reconstruction_guidance
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.diffusion.process.level_lists import first_level
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.diffusion.samplers.sampling import Sampler, initial_noise, sample_with_table
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.errors import InputError
from jaxgen.parallel import gather_fsdp, is_main_process, replicated
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Tree

MODEL = "inpainting model"
WITH_TEXT, WITHOUT = "guidance, with text", "guidance, without text"
HOLE = 0.5, 0.8
"""Sides of the holes of test pictures, as shares of the picture's."""
SHOWN, PER_CALL = 10, 32
"""Pictures that are shown, and that are filled at a time."""
PSNR = "PSNR of what is known, dB"


@register_config("text_to_image.inpainting_training")
@dataclass(frozen=True, kw_only=True)
class InpaintingTrainingFlags(TextTrainingFlags):
    """As `TextTrainingFlags`.

    Attributes:
      training_steps: updates, beside those of the run.
      text_dropout: probability that a caption becomes the empty text.
    """

    training_steps: int = 500
    text_dropout: float = 0.2


@register_config("text_to_image.inpaint")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: all randomness follows from it.
      run: the folder of a run of experiments.text_to_image.train.
      training: how the model is trained on.
      count: test pictures to fill in.
      steps: of DDIM.
      guidance: w of classifier-free guidance, of ways with text.
      weight: w of reconstruction guidance.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/inpaint")
    run: str
    training: InpaintingTrainingFlags = InpaintingTrainingFlags()
    count: int = 128
    steps: int = 30
    guidance: float = 1.0
    weight: float = 2.0

    def __post_init__(self) -> None:
        for name in ("count", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")


def main(config: Config) -> dict[str, Any]:
    """Trains on, fills in, evaluates, shows."""
    source = pathlib.Path(config.run)
    base = open_trained_model(source, TextToImageConfig, "a text-to-image model")
    check_run_of_shapes(source)
    tokenizer = open_tokenizer(source / "tokenizer")
    pictures = load_captioned("shapes", size=base.config.image_shape[0])
    filling = filling_config(base.config)
    folder = open_workdir(
        config,
        may_differ=("count", "steps", "guidance", "weight"),
        data={pictures.name: pictures_digest(pictures)},
        check=lambda folder: check_checkpoints(folder, filling),
    )
    if is_main_process():
        save_tokenizer(tokenizer, folder / "tokenizer")
    trained = train_filling(config, filling, base, pictures, tokenizer, folder)
    plot_training(folder / "curves.png", trained)
    evaluator = make_attribute_evaluator(pictures, source / "evaluator")
    assert evaluator is not None
    asked = prompts_of_part(pictures, "test", "descriptive", config.count, shapes=False)
    assert asked.wanted_NF is not None
    x = to_unit(pictures.part("test").images[asked.row_N])
    known = holes_of_test(len(x), x.shape[1:3], config.seed)
    ways = fill_in(trained, base, tokenizer, asked.texts, x, known, config)
    rows = {
        way: fill_figures(evaluator, made, x, known, asked.wanted_NF) for way, made in ways.items()
    }
    write_rows(folder / "table.md", "filled by", rows)
    show_filled(folder / "filled.png", x, known, ways)
    return {**rows, "updates": trained.steps, "training seconds": trained.seconds}


def train_filling(
    config: Config,
    filling: TextToImageConfig,
    base: OpenedModel,
    pictures: CaptionedSet,
    tokenizer: Tokenizer,
    folder: pathlib.Path,
) -> TrainedModel:
    """Trains the widened model on, or resumes."""
    tokens = tokenise_captions(pictures.captions("descriptive"), tokenizer)
    plan = plan_batches(pictures, config.training.batch_size, config.seed)
    parts = training_parts(
        *(filling, pictures, tokens, plan, config.training), weighting="snr_plus_one"
    )
    return train_model(
        filling,
        parts.data,
        folder,
        config.training,
        lambda layout: filling_loss(parts.make_loss_fn(layout)),
        batch_size=config.training.batch_size,
        make_evaluation=lambda loss_fn: loss_of_validation(
            loss_fn, pictures, tokens, plan.batch_size
        ),
        seed=config.seed,
        tensorboard=config.launch.tensorboard,
        start=widened_params(base, filling),
        single_steps=parts.single_steps,
    )


def holes_of_test(count: int, size: tuple[int, int], seed: int) -> Float[np.ndarray, "N Y X 1"]:
    """A box to fill in each of some pictures."""
    keys = example_keys(sample_key(seed), jnp.arange(count))
    return np.asarray(random_boxes(keys, size, *HOLE))


def fill_in(
    trained: OpenedModel,
    base: OpenedModel,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    x: Float[np.ndarray, "N Y X C"],
    known: Float[np.ndarray, "N Y X 1"],
    config: Config,
) -> dict[str, Float[np.ndarray, "N Y X C"]]:
    """Pictures filled in by each way, from the same noise."""
    levels = make_steps(base.config.schedule, config.steps)
    table, noisiest = DDIM().table(levels), first_level(levels)
    key = sample_key(config.seed)

    @functools.partial(jax.jit, static_argnums=0, out_shardings=replicated(base.layout.mesh))
    def sampled(way: str, params: Tree, batch: Any) -> Array:
        texts, x, known = batch["condition"]
        z = initial_noise(key, batch["index"], base.config.image_shape, noisiest)
        sampler: Sampler = DDIM()
        if way == MODEL:
            whole = gather_fsdp(params, trained.layout)
            texts = texts._replace(beside=known_channels(x, known))
            denoiser = trained.config.make_denoiser(whole, texts, config.guidance)
        else:
            whole = gather_fsdp(params, base.layout)
            w = config.guidance if way == WITH_TEXT else None
            plain = base.config.make_denoiser(whole, texts, w, clip=False)
            denoiser = reconstructing(plain, x, known, config.weight)
            sampler = Replacement(sampler, known, x)
        return sample_with_table(sampler, denoiser, z, table, key, batch["index"])

    ways: dict[str, tuple[OpenedModel, Sequence[str]]] = {
        MODEL: (trained, captions),
        WITH_TEXT: (base, captions),
        WITHOUT: (base, [NULL_CAPTION] * len(captions)),
    }

    def drawn(way: str) -> Float[np.ndarray, "N Y X C"]:
        model, read = ways[way]
        condition = (as_texts(tokenizer, read), x, known)

        def part(index_B: Int[np.ndarray, "B"]) -> Array:
            return sampled(way, model.params, put_samples(index_B, condition))

        return draw_in_parts(part, len(x), PER_CALL, way, "image")

    return {way: drawn(way) for way in ways}


def reconstructing(
    denoiser: Denoiser, x: Float[Array, "B Y X C"], known: Float[Array, "B Y X 1"], w: float
) -> Denoiser:
    """A denoiser that is led to what is known; clipped last, for clipping has no gradient."""
    return clip_x(reconstruction_guidance(denoiser, masked(known), known * x, w))


def fill_figures(
    evaluator: AttributeEvaluator,
    made: Float[np.ndarray, "N Y X C"],
    x: Float[np.ndarray, "N Y X C"],
    known: Float[np.ndarray, "N Y X 1"],
    wanted_NF: Int[np.ndarray, "N F"],
) -> dict[str, float]:
    """How close the known part is, and what the whole picture shows.

    Args:
      evaluator: of attributes.
      made: pictures filled in.
      x: the pictures themselves.
      known: their masks.
      wanted_NF: codes of the attributes of the captions.
    """
    return {PSNR: float(masked_psnr(made, x, known).mean()), **evaluator.figures(made, wanted_NF)}


def show_filled(
    path: pathlib.Path,
    x: Float[np.ndarray, "N Y X C"],
    known: Float[np.ndarray, "N Y X 1"],
    ways: Mapping[str, Float[np.ndarray, "N Y X C"]],
) -> None:
    """Pictures, what is known of them with the hole in grey, and what each way made of them."""
    rows = {"picture": x, "known": known * x, **ways}
    images = np.stack([row[:SHOWN] for row in rows.values()])
    plot_images(path, images, "Holes filled by captions", rows=list(rows))


if __name__ == "__main__":
    run(main, Config)
