"""Samples of a text-to-image model: what is asked for, drawing, and pictures of them."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments.shared.denoiser_sampling import Draw, SamplingFlags
from experiments.shared.image_plots import plot_images
from experiments.shared.plots import Curve, empty_figure, save_figure
from experiments.shared.training_runs import OpenedModel
from experiments.text_to_image.support.attribute_evaluator import codes_of
from experiments.text_to_image.support.captioned_data import evenly_spread
from jaxgen.data import CaptionedSet
from jaxgen.data.captions.caption_batches import NULL_CAPTION
from jaxgen.data.captions.captioned_set import CaptionKind
from jaxgen.data.captions.shape_captions import read_captions
from jaxgen.data.captions.shape_vocabulary import ShapeVocabulary
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.diffusion.text_to_image import Texts

ROWS, COLUMNS, CHARACTERS = 8, 8, 30


class Prompts(NamedTuple):
    """What samples are asked to show.

    Attributes:
      row_N: which pictures of the part have them as captions.
      texts: a prompt for each sample.
      wanted_NF: codes of the attributes that are asked for, -1 for nothing; None where pictures
        have none.
    """

    row_N: Int[np.ndarray, "N"]
    texts: tuple[str, ...]
    wanted_NF: Int[np.ndarray, "N F"] | None


def prompts_of_part(
    pictures: CaptionedSet, part: str, kind: CaptionKind, count: int, *, shapes: bool
) -> Prompts:
    """Captions of a part as prompts, evenly chosen.

    Args:
      pictures: the set.
      part: of it.
      kind: which captions.
      count: at most so many.
      shapes: whether captions say what `jaxgen.data.captions.shape_captions` reads, so that what a
        short caption leaves open is not asked for.
    """
    chosen_part = pictures.part(part)
    chosen = evenly_spread(len(chosen_part), count)
    captions = chosen_part.captions(kind)
    texts = tuple(captions[i] for i in chosen)
    if chosen_part.attributes is None:
        return Prompts(chosen, texts, None)
    wanted_NF = codes_of(chosen_part)[chosen]
    if shapes:
        said_NF = read_captions(ShapeVocabulary(), texts)
        names = list(chosen_part.attributes.values)
        which = [i for i, name in enumerate(names) if len(chosen_part.attributes.values[name]) > 1]
        wanted_NF = said_NF[:, which]
    return Prompts(chosen, texts, wanted_NF)


def as_texts(tokenizer: Tokenizer, prompts: Sequence[str], null: str = NULL_CAPTION) -> Texts:
    """Prompts as token ids, each with the text that it is guided away from.

    Args:
      tokenizer: of the model.
      prompts: a text for each sample.
      null: the text that stands for none, or says what samples shall not show.

    Raises:
      InputError: a text is too long.
    """
    found = tokenizer.encode([*prompts, null])
    ids, mask = np.asarray(found.ids, np.int32), np.asarray(found.mask, bool)
    nulls = [np.repeat(array[-1:], len(prompts), axis=0) for array in (ids, mask)]
    return Texts(ids[:-1], mask[:-1], *nulls)


def draw_prompts(
    draw: Draw,
    model: OpenedModel,
    tokenizer: Tokenizer,
    flags: SamplingFlags,
    prompts: Sequence[str],
    guidance: float,
    key: Key[Array, ""],
    beside: Float[Array, "N Y X C2"] | None = None,
) -> Float[np.ndarray, "N Y X C"]:
    """A sample of each prompt.

    Args:
      draw: of the model (`experiments.shared.denoiser_sampling.make_draw`).
      model: what is sampled.
      tokenizer: of its texts.
      flags: sampler and steps.
      prompts: a text for each sample.
      guidance: w.
      key: randomness.
      beside: of a super-resolver, what it is conditioned on.
    """
    config = model.config
    return draw(
        model.params,
        flags.method(config),
        flags.levels(config),
        as_texts(tokenizer, prompts)._replace(beside=beside),
        key,
        guidance=guidance,
        name=f"sampling, guidance {guidance:g}",
    )


def show_prompts(
    path: pathlib.Path,
    x: Float[np.ndarray, "N Y X C"],
    prompts: Sequence[str],
    title: str,
) -> None:
    """Samples in rows of one prompt each.

    Args:
      path: the PNG.
      x: samples, those of a prompt one after the other.
      prompts: the prompts of the rows.
      title: what is shown.
    """
    rows = [textwrap.fill(prompt, CHARACTERS) for prompt in prompts]
    plot_images(path, x.reshape(len(prompts), -1, *x.shape[1:]), title, rows=rows)


def plot_guidance(
    path: pathlib.Path, rows: Mapping[float, Mapping[str, float]], names: Sequence[str], right: str
) -> None:
    """Attributes as asked, and the distance to real pictures, against the guidance weight.

    Args:
      path: the PNG.
      rows: guidance weight -> figures.
      names: figures that are shares; what short captions do not ask for is in no row.
      right: the figure that has an axis of its own.
    """
    figure = empty_figure((8, 5), dpi=120)
    axes = figure.add_subplot()
    weights = sorted(rows)

    def curve(name: str) -> Curve:
        return weights, [rows[w][name] for w in weights]

    for name in (name for name in names if name in rows[weights[0]]):
        axes.plot(*curve(name), label=name, marker="o", markersize=4)
    axes.set(xlabel="guidance weight w", ylabel="share of samples as asked", ylim=(0, 1.02))
    axes.set_title("What guidance gives and takes")
    beside = axes.twinx()
    beside.plot(*curve(right), label=right, color="0.4", linestyle="--", marker="s", markersize=4)
    beside.set_ylabel(right)
    lines = [*axes.get_lines(), *beside.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, loc="center right")
    save_figure(figure, path)


def sample_key(seed: int) -> Key[Array, ""]:
    """The key of samples; another one than that of the parameters of the same seed."""
    return jax.random.key(seed + 1)
