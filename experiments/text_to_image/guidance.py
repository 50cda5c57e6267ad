"""Classifier-free guidance against CLIP guidance, at equal numbers of network calls.

``python -m experiments.text_to_image.guidance --run runs/text_to_image --clip-model runs/noisy``

Takes a run of ``experiments.text_to_image.train`` and one of ``experiments.text_to_image.clip
--noisy``, both on captioned shapes, and samples captions under both kinds of guidance (Nichol et
al. 2022, GLIDE, section 4.1). A step calls two networks: the denoiser with the text and without it,
or the denoiser with the text and CLIP, of which a gradient is taken. "CLIP alone" guides the
denoiser without a text. Without guidance there are twice as many steps.

Samples of captions of the validation part choose each kind's weight, by the share with all
attributes as asked; kinds are compared on captions of the test part. In the working folder:

  guidance.png   attributes against Fréchet distance, of all weights
  samples.png    samples of some captions of the test part, by each kind with its weight
  table.md       attributes as asked, Fréchet distance, network calls
  metrics.json   the same, by name
"""

import dataclasses
import functools
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from experiments.shared.denoiser_sampling import SamplingFlags, make_draw
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import figures_table, write_text
from experiments.shared.plots import empty_figure, save_figure
from experiments.shared.training_runs import OpenedModel, open_trained_model
from experiments.text_to_image.support.attribute_evaluator import (
    FRECHET,
    AttributeEvaluator,
    make_attribute_evaluator,
)
from experiments.text_to_image.support.captioned_data import evenly_spread
from experiments.text_to_image.support.clip_guided import GuidedTexts, guide_by_clip
from experiments.text_to_image.support.stored_texts import check_run_of_shapes
from experiments.text_to_image.support.text_samples import (
    CHARACTERS,
    Prompts,
    as_texts,
    prompts_of_part,
    sample_key,
)
from jaxgen.data import load_captioned
from jaxgen.data.captions.caption_batches import NULL_CAPTION
from jaxgen.data.tokenizers import Tokenizer, open_tokenizer
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.errors import InputError
from jaxgen.training.saved_names import register_config

NONE, FREE, CLIP, ALONE = "text alone", "classifier-free", "CLIP", "CLIP alone"
ALL, CALLS = "all", "network calls"
SHOWN = 8
"""Captions of the picture of samples."""

Samples = Float[np.ndarray, "N Y X C"]
Draw = Callable[[str, float, tuple[str, ...]], Samples]
"""``(kind, weight, texts) -> samples``."""
Figures = Mapping[str, float]


@register_config("text_to_image.guidance")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of the samples.
      run: the folder of a run of experiments.text_to_image.train.
      clip_model: the folder of a run of experiments.text_to_image.clip with noisy pictures.
      weights: w of classifier-free guidance.
      clip_weights: w of CLIP guidance.
      sampling: sampler, steps, and how many samples of each weight; its guidance is not used.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/guidance")
    run: str
    clip_model: str
    weights: tuple[float, ...] = (1.0, 3.0, 7.0)
    clip_weights: tuple[float, ...] = (3.0, 10.0, 30.0, 100.0)
    sampling: SamplingFlags = SamplingFlags(steps=20, evaluate=160)

    def __post_init__(self) -> None:
        for name in ("weights", "clip_weights"):
            given = getattr(self, name)
            if not given or 0 in given:
                raise InputError(f"{name} are {given}, expected one or more, none of them 0")
        if self.sampling.evaluate < 1:
            raise InputError(f"evaluate is {self.sampling.evaluate}, expected 1 or more")

    @property
    def searched(self) -> dict[str, tuple[float, ...]]:
        """The weights of each kind."""
        by_clip = self.clip_weights
        return {NONE: (0.0,), FREE: self.weights, CLIP: by_clip, ALONE: by_clip}


def main(config: Config) -> dict[str, Any]:
    """Samples by both kinds of guidance, evaluates, shows."""
    source = pathlib.Path(config.run)
    model = open_trained_model(source, TextToImageConfig, "a text-to-image model")
    check_run_of_shapes(source)
    draw = make_kinds_drawing(model, open_tokenizer(source / "tokenizer"), config)
    pictures = load_captioned("shapes", size=model.config.image_shape[0])
    folder = open_workdir(config, may_differ=[f for f in vars(config) if f != "launch"])
    evaluator = make_attribute_evaluator(pictures, source / "evaluator")
    assert evaluator is not None
    count = config.sampling.evaluate
    searched, tested = (
        prompts_of_part(pictures, part, "descriptive", count, shapes=True)
        for part in ("validation", "test")
    )
    rows = {
        (kind, w): attribute_figures(evaluator, draw(kind, w, searched.texts), searched)
        for kind, weights in config.searched.items()
        for w in weights
    }
    chosen = {kind: best_weight(rows, kind) for kind in config.searched}
    samples = {kind: draw(kind, w, tested.texts) for kind, w in chosen.items()}
    final = {
        (kind, chosen[kind]): attribute_figures(evaluator, x, tested) for kind, x in samples.items()
    }
    calls = {kind: network_calls(kind, model, config.sampling) for kind in chosen}
    tables = {"validation": named(rows, calls), "test": named(final, calls)}
    show_tables(folder / "table.md", tables)
    plot_trade_off(folder / "guidance.png", rows)
    show_kinds(folder / "samples.png", samples, chosen, tested.texts)
    return tables


def make_kinds_drawing(model: OpenedModel, tokenizer: Tokenizer, config: Config) -> Draw:
    """Draws samples of each kind, from the same noise.

    Raises:
      InputError: for a CLIP that does not fit the model, see `guide_by_clip`.
    """
    guided, clip = guide_by_clip(model, config.clip_model)
    flags, key = config.sampling, sample_key(config.seed)
    by_text = make_draw(model.config, model.layout, clip=flags.clip)
    by_clip = make_draw(guided.config, guided.layout, clip=flags.clip)
    vectors_of = functools.cache(clip.text_vectors)

    def draw(kind: str, w: float, texts: tuple[str, ...]) -> Samples:
        own = flags_of(kind, flags)
        how = own.method(model.config), own.levels(model.config)
        options: dict[str, Any] = {"guidance": w, "name": f"{kind}, w = {w:g}"}
        if kind in (NONE, FREE):
            return by_text(model.params, *how, as_texts(tokenizer, texts), key, **options)
        read = [NULL_CAPTION] * len(texts) if kind == ALONE else texts
        given = GuidedTexts(as_texts(tokenizer, read), vectors_of(texts))
        return by_clip(guided.params, *how, given, key, **options)

    return draw


def flags_of(kind: str, flags: SamplingFlags) -> SamplingFlags:
    """Twice the steps where a step calls one network."""
    return dataclasses.replace(flags, steps=2 * flags.steps) if kind == NONE else flags


def network_calls(kind: str, model: OpenedModel, flags: SamplingFlags) -> int:
    """How often networks are called for a sample."""
    own = flags_of(kind, flags)
    table = own.method(model.config).table(own.levels(model.config))
    return len(jax.tree.leaves(table)[0]) * (1 if kind == NONE else 2)


def attribute_figures(evaluator: AttributeEvaluator, x: Samples, prompts: Prompts) -> Figures:
    """Attributes as asked, and the distance to real pictures."""
    assert prompts.wanted_NF is not None
    return evaluator.figures(x, prompts.wanted_NF)


def best_weight(rows: Mapping[tuple[str, float], Figures], kind: str) -> float:
    """The weight with most samples as asked; of equal ones, that with the least distance."""
    own = {w: figures for (name, w), figures in rows.items() if name == kind}
    return max(own, key=lambda w: (own[w][ALL], -own[w][FRECHET]))


def named(
    rows: Mapping[tuple[str, float], Figures], calls: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """The rows of a table."""
    return {
        name_with_weight(kind, w): {**figures, CALLS: calls[kind]}
        for (kind, w), figures in rows.items()
    }


def name_with_weight(kind: str, w: float) -> str:
    """A kind with its weight."""
    return kind if kind == NONE else f"{kind}, w = {w:g}"


def show_tables(path: pathlib.Path, tables: Mapping[str, Mapping[str, Figures]]) -> None:
    """The figures of both parts."""
    text = "\n".join(
        figures_table(f"captions of the {part} part", rows) for part, rows in tables.items()
    )
    write_text(path, text)
    report("\n" + text)


def plot_trade_off(path: pathlib.Path, rows: Mapping[tuple[str, float], Figures]) -> None:
    """Attributes against distance, a curve over the weights of each kind."""
    figure = empty_figure((7, 5), dpi=120)
    axes = figure.add_subplot()
    for kind in dict.fromkeys(kind for kind, _ in rows):
        own = {w: figures for (name, w), figures in rows.items() if name == kind}
        x, y = ([figures[name] for figures in own.values()] for name in (FRECHET, ALL))
        axes.plot(x, y, marker="o", markersize=4, label=kind)
        for w, right, up in zip(own, x, y, strict=True):
            if kind != NONE:
                style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
                axes.annotate(f"{w:g}", (right, up), (4, 4), **style)
    axes.set(xlabel=FRECHET, ylabel="share with all attributes as asked")
    axes.set_title("What guidance gives and takes, by weight")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)


def show_kinds(
    path: pathlib.Path,
    samples: Mapping[str, Samples],
    chosen: Mapping[str, float],
    texts: Sequence[str],
) -> None:
    """A sample of some captions by each kind, from the same noise."""
    first = list({text: i for i, text in reversed(list(enumerate(texts)))}.values())[::-1]
    some = [first[i] for i in evenly_spread(len(first), SHOWN)]
    rows = [textwrap.fill(texts[i], CHARACTERS) for i in some]
    columns = [name_with_weight(kind, w).replace(", ", "\n") for kind, w in chosen.items()]
    images = np.stack([x[some] for x in samples.values()], axis=1)
    plot_images(path, images, "Samples by guidance", columns, rows)


if __name__ == "__main__":
    run(main, Config)
