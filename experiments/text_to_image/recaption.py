"""A set relabelled by a captioner, and short captions expanded (Betker et al. 2023).

``python -m experiments.text_to_image.recaption``

Trains a captioner (CoCa, Yu et al. 2022) on the pictures of a set whose captions are clean, by
default half of the captioned shapes. The captions of the other half have half of their attributes
missing and a fifth wrong, as those of the web; the captioner writes new ones. Then a small language
model learns to make descriptive captions of short ones. In the working folder:

  recaptioned/      the relabelled pictures and captions.jsonl (jaxgen.data.load_captioned opens it)
  captions.png      test pictures with the captions that were written, wrong ones in red
  curves.png        losses and next words in the course of training
  expanded.md       short captions and what became of them
  table.md          how many captions and attributes are right, before and after
  metrics.json      the same by name
  tokenizer/        the vocabulary (jaxgen.data.tokenizers.open_tokenizer opens it)
  captioner/        metrics, and checkpoints/ (jaxgen.training.load_model opens them)
  still_captioner/  of clips, a captioner of their middle frames, which show no motion
  expander/         of the language model

``--data moving_shapes`` does the same with clips (VideoCoCa). Started again with the same working
folder it resumes, also in the middle of relabelling.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.shared.denoiser_sampling import draw_in_parts
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import format_table, progress_bar, three_decimals, write_text
from experiments.shared.training_runs import VALIDATION_LOSS, TrainedModel, check_layout
from experiments.shared.workdir import check_checkpoints
from experiments.text_to_image.support.caption_plots import plot_captions, plot_losses_and_shares
from experiments.text_to_image.support.captioned_data import (
    evenly_spread,
    make_tokenizer,
    pictures_digest,
    plan_examples,
    told_by,
)
from experiments.text_to_image.support.captioners import (
    CaptionerFlags,
    CaptionerTrainingFlags,
    caption_writer,
    exact_share,
    train_captioner,
)
from experiments.text_to_image.support.prompt_expander import (
    expander_config,
    expansion_figures,
    prompt_expander,
    train_expander,
)
from jaxgen.data import CaptionedSet, load_captioned, tokenise_captions
from jaxgen.data.captions.caption_damage import with_damaged_captions
from jaxgen.data.captions.captioned_shapes import make_captioned_shapes
from jaxgen.data.captions.recaptions import Recaption, read_recaptions, recaption
from jaxgen.data.captions.shape_captions import caption_accuracy
from jaxgen.data.captions.shape_vocabulary import ShapeVocabulary
from jaxgen.data.images.image_set import part_span
from jaxgen.data.tokenizers import Tokenizer, save_tokenizer
from jaxgen.encoders import CausalTextConfig, CoCaConfig
from jaxgen.errors import InputError, check_not_negative, check_share
from jaxgen.nn.counting import parameter_count
from jaxgen.nn.decoding import Decoding
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config

AT_A_TIME, SHOWN, DRAWS = 250, 16, 16
"""Pictures of a call, pictures that are shown, expansions of a short caption."""

DIRECTION = "direction"

OF_SHAPES = {"shapes": ShapeVocabulary(), "moving_shapes": ShapeVocabulary().moving()}
"""Sets that are drawn; of one object, since either of two may come first in a right caption."""


@register_config("text_to_image.recaption")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      data: "shapes"; "moving_shapes", clips; or another set of `jaxgen.data.load_captioned`, whose
        captions are taken to be right.
      size: resize and crop pictures to so many pixels; None keeps them as they are (shapes: 32).
      frames: of clips of shapes.
      clean: share of the part for training whose captions the captioner learns from; the others
        are relabelled.
      missing: share of the attributes that are missing in the captions of the others.
      wrong: share that are wrong.
      mix: share of the relabelled pictures whose caption is the captioner's.
      network: the captioner.
      training: how it is trained.
      decoding: how captions are written where a set is relabelled.
      expander_steps: updates of the prompt expander; 0: there is none.
      seed: all randomness follows from it.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/recaption")
    data: str = "shapes"
    size: int | None = None
    frames: int = 3
    clean: float = 0.5
    missing: float = 0.5
    wrong: float = 0.2
    mix: float = 0.95
    network: CaptionerFlags = CaptionerFlags()
    training: CaptionerTrainingFlags = CaptionerTrainingFlags()
    decoding: Decoding = Decoding()
    expander_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clean", "missing", "wrong", "mix"):
            check_share(name, getattr(self, name))
        check_not_negative("expander_steps", self.expander_steps)


class Data(NamedTuple):
    """A set in two halves.

    Attributes:
      clean: what captioners learn from, with its parts "train", "validation" and "test".
      others: what is relabelled.
      vocabulary: of captioned shapes; None of other sets.
    """

    clean: CaptionedSet
    others: CaptionedSet
    vocabulary: ShapeVocabulary | None


def main(config: Config) -> dict[str, float]:
    """Trains, relabels, expands, shows."""
    data = load_data(config)
    tokenizer = make_tokenizer([*data.clean.distinct("descriptive"), *data.clean.distinct("short")])
    views = {"captioner": data.clean}
    if data.clean.frames is not None:
        views["still_captioner"] = data.clean.stills()
    models = {name: config.network.config(view, tokenizer) for name, view in views.items()}
    plan = plan_examples(data.clean, config.training.batch_size, config.seed)
    folder = open_run(config, data, models, expander_config(tokenizer))
    if is_main_process():
        save_tokenizer(tokenizer, folder / "tokenizer")
    report(data.clean.describe())
    common: dict[str, Any] = {"seed": config.seed, "tensorboard": config.launch.tensorboard}
    trained = {}
    for name, view in views.items():
        tokens = tokenise_captions(view.descriptive, tokenizer)
        report(f"training {name} ...")
        trained[name] = train_captioner(
            models[name], view, tokens, plan, folder / name, config.training, **common
        )
    found = written_captions(trained, views, tokenizer, config)
    test = data.clean.part("test")
    right = told_by(tokenizer, test.descriptive)
    figures = caption_figures(data, right, found)
    show_written(folder / "captions.png", test, right, found["captioner"])
    write = writer_of(trained["captioner"], tokenizer, config.decoding)
    rows = relabelled(folder / "recaptioned", data.others, write, config)
    figures |= relabelling_figures(data, rows)
    if steps := config.expander_steps:
        report("training expander ...")
        expander = train_expander(data.clean, tokenizer, folder / "expander", steps, **common)
        path = folder / "expanded.md"
        figures |= expand_captions(expander, data, tokenizer, path, config.seed)
        trained["expander"] = expander
    plot_captioners(folder / "curves.png", trained)
    for name, model in trained.items():
        figures |= {f"{name}: parameters": parameter_count(model.params)}
        figures |= {f"{name}: seconds": model.seconds}
    table = format_table(("figure", "value"), map(_row, figures.items()))
    write_text(folder / "table.md", table)
    report("\n" + table)
    return figures


def relabelled(
    folder: pathlib.Path, others: CaptionedSet, write: Callable[..., list[str]], config: Config
) -> list[Recaption]:
    """The rows of the set that is relabelled, or of what is left of it, under a bar."""
    report(f"relabelling {len(others):,} ...")
    left = len(others) - len(read_recaptions(folder))
    with progress_bar("relabelling", "picture", left) as advance:

        def captioner(images: np.ndarray, first: int) -> list[str]:
            found = write(images, first)
            advance(len(images))
            return found

        options: dict[str, Any] = {"mix": config.mix, "seed": config.seed, "at_a_time": AT_A_TIME}
        return recaption(folder, others, captioner, **options, write=is_main_process())


def _row(figure: tuple[str, float]) -> tuple[str, str | None]:
    """A row of the table: counts in whole numbers."""
    name, value = figure
    return name, f"{value:,}" if isinstance(value, int) else three_decimals(value)


def show_written(
    path: pathlib.Path, test: CaptionedSet, right: Sequence[str], found: Sequence[str]
) -> None:
    """Some pictures of the test part with what was written of them."""
    chosen = evenly_spread(len(test), SHOWN)
    own = [right[i] for i in chosen]
    shown = side_by_side(test.images[chosen])
    plot_captions(path, shown, [found[i] for i in chosen], own, "Captions of test pictures")


def load_data(config: Config) -> Data:
    """The set in two random halves; the second has damaged captions where it is of shapes.

    Raises:
      InputError: for a set without the parts "train" and "test", or a half that is empty.
    """
    vocabulary = OF_SHAPES.get(config.data)
    if vocabulary is None:
        pictures = load_captioned(config.data, size=config.size)
    else:
        frames = config.frames if vocabulary.directions else None
        pictures = make_captioned_shapes(vocabulary, side=config.size or 32, frames=frames)
    pictures.part("test")
    start, stop = part_span(pictures.name, pictures.parts, "train")
    if vocabulary is None:  # files lie in the order of their names, which are much of the captions
        order = np.arange(len(pictures))
        np.random.default_rng(config.seed).shuffle(order[start:stop])
        pictures = pictures.reordered(order)
    cut = start + round(config.clean * (stop - start))
    if not start < cut < stop:
        raise InputError(
            f"clean is {config.clean} of {stop - start} pictures, expected some to learn from and "
            "some to relabel"
        )
    clean = replace(pictures, parts={**pictures.parts, "train": (start, cut)})
    others = replace(pictures, parts={"others": (cut, stop)}).part("others")
    if vocabulary is not None:
        others = with_damaged_captions(
            others, vocabulary, missing=config.missing, wrong=config.wrong, seed=config.seed
        )
    return Data(clean, others, vocabulary)


def open_run(
    config: Config, data: Data, models: Mapping[str, CoCaConfig], expander: CausalTextConfig
) -> pathlib.Path:
    """The working folder, where nothing is left of another run.

    Raises:
      InputError: for a network that the mesh cannot share, or a folder of another run.
    """
    everything = {**models, **({"expander": expander} if config.expander_steps else {})}
    for model in everything.values():
        check_layout(model)
    folder = open_workdir(config, data={data.clean.name: pictures_digest(data.clean)})
    for name, model in everything.items():
        check_checkpoints(folder / name, model)
    return folder


def written_captions(
    trained: Mapping[str, TrainedModel],
    views: Mapping[str, CaptionedSet],
    tokenizer: Tokenizer,
    config: Config,
) -> dict[str, list[str]]:
    """What each captioner writes of the test part by the method of the run; the first also by
    beam search.
    """
    found = {}
    for name, view in views.items():
        write = writer_of(trained[name], tokenizer, config.decoding)
        found[name] = written_of(view.part("test").images, write, f"captions of {name}")
    by_beams = writer_of(trained["captioner"], tokenizer, Decoding("beam"))
    images = views["captioner"].part("test").images
    found["captioner, beams"] = written_of(images, by_beams, "captions by beam search")
    return found


def written_of(images: np.ndarray, write: Callable[..., list[str]], name: str) -> list[str]:
    """The captions of pictures, some at a time, under a bar of a name."""

    def part(index_B: Int[np.ndarray, "B"]) -> list[str]:
        return write(images[index_B], int(index_B[0]))

    return [str(text) for text in draw_in_parts(part, len(images), AT_A_TIME, name, "picture")]


def writer_of(model: TrainedModel, tokenizer: Tokenizer, how: Decoding) -> Callable[..., list[str]]:
    """Captions of pictures by a trained captioner."""
    return caption_writer(model.config, model.params, tokenizer, how, at_a_time=AT_A_TIME)


def caption_figures(
    data: Data, right: Sequence[str], found: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """How many captions of the test part are right, and their attributes."""
    test, figures = data.clean.part("test"), {}
    for name, captions in found.items():
        figures[f"{name}: exact captions"] = exact_share(captions, right)
    if data.vocabulary is None or test.attributes is None:
        return figures
    for name, captions in found.items():
        shares = caption_accuracy(data.vocabulary, captions, test.attributes)
        figures[f"{name}: attributes"] = float(np.mean(list(shares.values())))
        if DIRECTION in shares:
            figures[f"{name}: {DIRECTION}"] = shares[DIRECTION]
    return figures


def relabelling_figures(data: Data, rows: Sequence[Recaption]) -> dict[str, float]:
    """Right attributes of the original captions, of those that were written, and of the mixture."""
    others, figures = data.others, {}
    figures["captions from the captioner"] = float(np.mean([r.caption == r.written for r in rows]))
    if data.vocabulary is None or others.attributes is None:
        return figures
    kinds = {
        "original": [row.original for row in rows],
        "written": [row.written for row in rows],
        "mixed": [row.caption for row in rows],
    }
    for kind, captions in kinds.items():
        right = caption_accuracy(data.vocabulary, captions, others.attributes)
        figures[f"{kind} captions: attributes"] = float(np.mean(list(right.values())))
        figures |= {f"{kind} captions: {name}": share for name, share in right.items()}
    return figures


def expand_captions(
    model: TrainedModel, data: Data, tokenizer: Tokenizer, path: pathlib.Path, seed: int
) -> dict[str, float]:
    """Figures of expansions of the short captions of the test part, several of each.

    Args:
      model: the expander.
      data: the set.
      tokenizer: of its words.
      path: the file of the first expansions.
      seed: of what is drawn.
    """
    short = data.clean.part("test").distinct("short")
    asked = [caption for caption in short for _ in range(DRAWS)]
    how = Decoding("nucleus")
    expanded = prompt_expander(model.config, model.params, tokenizer, how, seed)(asked)
    rows = zip(asked[::DRAWS], expanded[::DRAWS], expanded[1::DRAWS], strict=True)
    write_text(path, format_table(("short", "expanded", "once more"), rows))
    return expansion_figures(data.clean, tokenizer, asked, expanded)


def plot_captioners(path: pathlib.Path, trained: Mapping[str, TrainedModel]) -> None:
    """Losses, and how often the likeliest next word is the right one."""
    losses, shares = {}, {}
    for name, model in trained.items():
        losses |= {name: model.curve("train/loss")}
        losses |= {f"{name}, validation": model.curve(VALIDATION_LOSS)}
        shares |= {f"{name}, training batches": model.curve("train/words")}
    title = "Losses, and how often the likeliest next word is right"
    plot_losses_and_shares(path, losses, shares, title, "share of words")


def side_by_side(images: np.ndarray) -> np.ndarray:
    """Pictures as they are, and the frames of clips beside each other with white between them."""
    if images.ndim == 4:
        return images
    edges = (0, 0), (0, 0), (0, 0), (1, 1), (0, 0)
    return np.concatenate(list(np.pad(images, edges, constant_values=255).swapaxes(0, 1)), axis=2)


if __name__ == "__main__":
    run(main, Config)
