"""CLIP on captioned pictures: which text belongs to which picture (Radford et al. 2021).

``python -m experiments.text_to_image.clip``

Trains both towers, by default on captioned shapes with 320 different captions, of which the
combinations of attributes that are tested are not among those trained on. Then the test pictures
are looked for by their captions, and the captions by the pictures. In the working folder:

  retrieval.png      test pictures, each with the caption that is nearest to it
  curves.png         loss and accuracy in the course of training
  table.md           retrieval, CLIP score, R-precision, zero-shot accuracy
  metrics.json       the same by name
  tokenizer/         the vocabulary (jaxgen.data.tokenizers.open_tokenizer opens it)
  checkpoints/       both towers (jaxgen.training.load_model opens them)

``--data mnist`` trains on captions of classes, made by templates; zero-shot classification then
averages over the same templates. ``--noisy`` trains on pictures with noise, a time drawn for each,
as guidance wants it (Nichol et al. 2022, GLIDE); retrieval is then reported by time too, and there
is another picture, noise.png. Started again with the same working folder it resumes.
"""

import pathlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import format_table, three_decimals, write_text
from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    TrainedModel,
    check_layout,
    train_model,
)
from experiments.shared.unet_sizes import heads_of
from experiments.shared.workdir import check_checkpoints
from experiments.text_to_image.support.caption_plots import (
    plot_by_time,
    plot_captions,
    plot_contrastive,
)
from experiments.text_to_image.support.captioned_data import (
    evenly_spread,
    loss_of_validation,
    make_tokenizer,
    pictures_digest,
    plan_batches,
    prompts_of,
)
from experiments.text_to_image.support.clip_scores import vectors_of
from experiments.text_to_image.support.noisy_clip import TIMES, noisy_clip_loss, vectors_by_time
from experiments.text_to_image.support.text_pairs import (
    PairTrainingFlags,
    loss_on,
    to_batch,
)
from jaxgen.data import (
    CaptionedSet,
    captioned_batch_at,
    load_captioned,
    tokenise_captions,
)
from jaxgen.data.captions.captioned_set import CaptionKind
from jaxgen.data.captions.class_captions import CLASS, TEMPLATES
from jaxgen.data.tokenizers import Tokenizer, save_tokenizer
from jaxgen.encoders import (
    CLIPConfig,
    CLIPImageConfig,
    CLIPTextConfig,
    clip_loss,
)
from jaxgen.encoders.clip_model import limited_scale
from jaxgen.errors import InputError
from jaxgen.evaluation import (
    class_accuracy,
    class_vectors,
    clip_score,
    r_precision,
    text_image_retrieval,
    zero_shot_probabilities,
)
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config

SHOWN = 16
OTHERS = 99
"""Captions that an image's own is compared with for R-precision."""


@register_config("text_to_image.clip_network")
@dataclass(frozen=True, kw_only=True)
class ClipNetworkFlags:
    """Both towers.

    Attributes:
      width: of a token.
      depth: blocks of each tower.
      patch: pixels along the side of a patch.
      projection: width of the vectors that are compared.
      dtype: the compute dtype of products.
    """

    width: int = 128
    depth: int = 4
    patch: int = 8
    projection: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"

    def config(
        self, pictures: CaptionedSet, tokenizer: Tokenizer, *, noisy: bool = False
    ) -> CLIPConfig:
        """The towers for a set and its vocabulary.

        Args:
          pictures: the set.
          tokenizer: of the texts.
          noisy: whether pictures are noisy ones.

        Raises:
          InputError: for pictures that are not square, and sizes that do not fit each other.
        """
        height, width, channels = pictures.images.shape[1:]
        if height != width:
            raise InputError(f"{pictures.name}: images of {height}x{width}, expected squares")
        both: dict[str, Any] = {
            "width": self.width,
            "depth": self.depth,
            "heads": heads_of(self.width),
            "mlp_units": 4 * self.width,
            "projection": self.projection,
            "dtype": self.dtype,
        }
        half = (0.5,) * channels
        return CLIPConfig(
            CLIPTextConfig(
                vocabulary=tokenizer.size, length=tokenizer.length, end_id=tokenizer.end, **both
            ),
            CLIPImageConfig(
                size=height, patch=self.patch, mean=half, deviation=half, noisy=noisy, **both
            ),
        )


@register_config("text_to_image.clip_training")
@dataclass(frozen=True, kw_only=True)
class ClipTrainingFlags(PairTrainingFlags):
    """As `PairTrainingFlags`.

    Attributes:
      training_steps: updates.
    """

    training_steps: int = 2000


@register_config("text_to_image.clip")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      data: "shapes"; "digits", "mnist" or "cifar10" with captions of their classes; "tiles" or
        "emoji"; "tfds:NAME"; or a folder or archive of pictures with captions.
      size: resize and crop pictures to so many pixels; None keeps them as they are (shapes: 32).
      captions: which captions are trained on.
      noisy: train on pictures with noise, for guidance.
      network: both towers.
      training: how they are trained.
      seed: all randomness follows from it.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/clip")
    data: str = "shapes"
    size: int | None = None
    captions: CaptionKind = "descriptive"
    noisy: bool = False
    network: ClipNetworkFlags = ClipNetworkFlags()
    training: ClipTrainingFlags = ClipTrainingFlags()
    seed: int = 0


def main(config: Config) -> dict[str, float]:
    """Trains, evaluates, shows."""
    pictures = load_captioned(config.data, size=config.size)
    plan = plan_batches(pictures, config.training.batch_size, config.seed)
    tokenizer = make_tokenizer([*pictures.distinct(config.captions), *prompts_of(pictures)])
    tokens = tokenise_captions(pictures.captions(config.captions), tokenizer)
    model = config.network.config(pictures, tokenizer, noisy=config.noisy)
    check_layout(model)
    folder = open_workdir(config, data={pictures.name: pictures_digest(pictures)})
    check_checkpoints(folder / "checkpoints", model)
    if is_main_process():
        save_tokenizer(tokenizer, folder / "tokenizer")
    report(pictures.describe())
    make_loss = noisy_clip_loss if config.noisy else clip_loss
    trained = train_model(
        model,
        lambda step, rows: to_batch(captioned_batch_at(pictures, tokens, plan, step, rows=rows)),
        folder,
        config.training,
        lambda layout: loss_on(layout, make_loss(model)),
        batch_size=config.training.batch_size,
        make_evaluation=lambda loss_fn: loss_of_validation(
            loss_fn, pictures, tokens, plan.batch_size, to_batch
        ),
        seed=config.seed,
        tensorboard=config.launch.tensorboard,
    )
    curves = {name: trained.curve(name) for name in ("train/loss", VALIDATION_LOSS)}
    plot_contrastive(folder / "curves.png", curves, trained.curve("train/accuracy"))
    figures = evaluate(trained, tokenizer, pictures, config, folder)
    figures |= {"parameters": parameter_count(trained.params), "seconds": trained.seconds}
    table = format_table(("figure", "value"), [(k, three_decimals(v)) for k, v in figures.items()])
    write_text(folder / "table.md", table)
    report("\n" + table)
    return figures


def evaluate(
    trained: TrainedModel,
    tokenizer: Tokenizer,
    pictures: CaptionedSet,
    config: Config,
    folder: pathlib.Path,
) -> dict[str, float]:
    """Figures of the test part, see `jaxgen.evaluation.text_image`; and some pictures of it.

    Those of a CLIP of noisy pictures are of pictures at time 0, but for what is said by time.

    Args:
      trained: both towers.
      tokenizer: of the texts.
      pictures: the whole set, whose captions are all looked through.
      config: of the run.
      folder: of the pictures: with the captions that are nearest, and by noise.
    """
    test, known = pictures.part("test"), pictures.distinct(config.captions)
    prompts, own = prompts_of(pictures), test.captions(config.captions)
    texts = tokenizer.encode([*known, *prompts])
    model, params = trained.config, trained.params
    times = (0.0, *TIMES) if config.noisy else ()
    by_time = vectors_by_time(model.image, params["image"], test.images, times)
    image_ND = by_time.get(0.0)
    if image_ND is None:
        image_ND = vectors_of(model.image, params["image"], test.images)
    text_KD, prompt_PD = np.split(
        vectors_of(model.text, params["text"], texts.ids, texts.mask), [len(known)]
    )
    scale = float(np.exp(limited_scale(params["logit_scale"])))
    number = {caption: i for i, caption in enumerate(known)}
    answer_N = np.array([number[caption] for caption in own])
    tested_M, meaning_N = np.unique(answer_N, return_inverse=True)
    text_MD = text_KD[tested_M]
    found = text_image_retrieval(image_ND, text_MD, meaning_N, np.arange(len(tested_M)), at=(1, 5))
    figures = {
        **{f"text of image, at {k}": v for k, v in found.text_of_image.items()},
        **{f"image of text, at {k}": v for k, v in found.image_of_text.items()},
    }
    among = zero_shot_probabilities(image_ND, text_KD, scale)
    figures[f"caption among all {len(known):,}"] = class_accuracy(among, answer_N)
    shares = {
        time: class_accuracy(zero_shot_probabilities(vectors_ND, text_KD, scale), answer_N)
        for time, vectors_ND in by_time.items()
    }
    figures |= {f"the same at t = {time:g}": shares[time] for time in times[1:]}
    if shares:
        plot_by_time(folder / "noise.png", shares, len(known))
    figures["CLIP score"] = clip_score(image_ND, text_KD[answer_N])
    if len(tested_M) > 1:
        others = min(OTHERS, len(tested_M) - 1)
        figures[f"R-precision, {others} others"] = r_precision(
            image_ND, text_KD[answer_N], meaning_N, others=others
        )
    if prompts:
        rows = prompt_PD.reshape(-1, len(TEMPLATES), text_KD.shape[1])
        of_class = zero_shot_probabilities(image_ND, class_vectors(rows), scale)
        figures["zero-shot accuracy"] = class_accuracy(of_class, test.attribute_of(CLASS))
    chosen = evenly_spread(len(test), SHOWN)
    nearest = [known[i] for i in among[chosen].argmax(axis=1)]
    right = [own[i] for i in chosen]
    path = folder / "retrieval.png"
    plot_captions(path, test.images[chosen], nearest, right, "Nearest captions of test pictures")
    return figures


if __name__ == "__main__":
    run(main, Config)
