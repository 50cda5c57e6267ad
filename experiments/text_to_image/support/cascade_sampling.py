"""Sampling a cascade: a stage from texts, the next from texts and what that made.

A super-resolver's condition has noise of a level that is chosen here, not in training: the best one
for a cascade hides what its stage before does badly, and is found on captions of the validation
part (Saharia et al. 2022, section 2.4).
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.shared.denoiser_sampling import (
    SAMPLES_PER_CALL,
    Draw,
    SamplingFlags,
    make_draw,
)
from experiments.shared.image_plots import plot_images
from experiments.shared.plots import empty_figure, save_figure
from experiments.shared.training_runs import OpenedModel
from experiments.text_to_image.support.text_samples import draw_prompts
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.diffusion import Denoiser
from jaxgen.diffusion.conditioning.guidance import GuidanceWeight, oscillating
from jaxgen.diffusion.denoiser import clip_x, threshold_x
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.typing import Tree

Thresholding = Literal["none", "static", "dynamic"]
THRESHOLDINGS: tuple[Thresholding, ...] = get_args(Thresholding)

THRESHOLD: Mapping[str, Callable[[Denoiser], Denoiser]] = {
    "none": lambda denoiser: denoiser,
    "static": clip_x,
    "dynamic": threshold_x,
}

Images = Float[np.ndarray, "N *T Y X C"]


@dataclass(frozen=True)
class Thresholded:
    """A text-to-image model whose x^ is kept within the range of pixels in one of three ways.

    Attributes:
      model: the model.
      thresholding: "none"; "static", clipped to [-1, 1]; "dynamic", see `threshold_x`.
      weight_at: what becomes of a guidance weight; None: it is the same at all levels.
    """

    model: TextToImageConfig
    thresholding: Thresholding
    weight_at: Callable[[Any], GuidanceWeight] | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.model.image_shape

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.model.schedule

    def make_denoiser(
        self, params: Tree, condition: Texts, guidance: Any = None, *, clip: bool = True
    ) -> Denoiser:
        """The denoiser of samples of some texts; `clip` says nothing here."""
        if guidance is not None and self.weight_at is not None:
            guidance = self.weight_at(guidance)
        denoiser = self.model.make_denoiser(params, condition, guidance, clip=False)
        return THRESHOLD[self.thresholding](denoiser)


@dataclass(frozen=True)
class SampledStage:
    """A trained stage, and how it is sampled.

    Attributes:
      opened: the model with its parameters.
      flags: sampler, steps and guidance.
      level: noise on the small images, as a time; of no meaning for a stage that has none.
      thresholding: of x^.
      constant: steps with the guidance weight before it is 0 and itself by turns; None: it is the
        same in all.
    """

    opened: OpenedModel
    flags: SamplingFlags
    level: float = 0.0
    thresholding: Thresholding = "static"
    constant: int | None = None

    @property
    def config(self) -> TextToImageConfig:
        """The model."""
        return self.opened.config

    def sampled_model(self) -> Thresholded:
        """The model as it is sampled."""
        constant, weight_at = self.constant, None
        if constant is not None:
            levels = self.flags.levels(self.config)
            weight_at = functools.partial(oscillating, levels, constant=constant)
        return Thresholded(self.config, self.thresholding, weight_at)

    def changed(self, **changes: Any) -> "SampledStage":
        """The same stage, sampled in another way."""
        return replace(self, **changes)


class StageSampler:
    """Draws samples of stages; a program is compiled once for each model and thresholding.

    Attributes:
      tokenizer: of the texts.
      key: randomness, the same for every way of sampling.
      per_call: samples at a time.
    """

    def __init__(self, tokenizer: Tokenizer, key: Key[Array, ""], per_call: int = SAMPLES_PER_CALL):
        self.tokenizer, self.key, self.per_call = tokenizer, key, per_call
        self._draws: dict[Any, Draw] = {}

    def sample(
        self, stages: Sequence[SampledStage], prompts: Sequence[str], small: Images | None = None
    ) -> list[Images]:
        """What each of some stages makes, one after the other, in [-1, 1].

        Args:
          stages: each enlarges what the one before made.
          prompts: a text for each sample.
          small: what the first one enlarges; None for a stage that starts from the text alone.
        """
        made = []
        for stage in stages:
            beside = None
            key = self.key
            for size in stage.config.image_shape[:-2]:
                key = jax.random.fold_in(key, size)
            if stage.config.augmentation is not None:
                assert small is not None
                clipped = np.clip(small, -1, 1)
                beside = condition_of(stage, clipped, jax.random.fold_in(key, 1))
            x = draw_prompts(
                self._draw(stage),
                stage.opened,
                self.tokenizer,
                stage.flags,
                prompts,
                stage.flags.guidance,
                key,
                beside,
            )
            made.append(x)
            small = x
        return made

    def _draw(self, stage: SampledStage) -> Draw:
        place = id(stage.opened), stage.thresholding, stage.constant
        if stage.constant is not None:
            place = *place, stage.flags.steps
        if place not in self._draws:
            model, layout = stage.sampled_model(), stage.opened.layout
            self._draws[place] = make_draw(model, layout, per_call=self.per_call)
        return self._draws[place]


def condition_of(stage: SampledStage, small: Images, key: Key[Array, ""]) -> Images:
    """Small images as a super-resolver takes them: with noise, enlarged, with its level.

    Args:
      stage: the super-resolver.
      small: in [-1, 1].
      key: of the noise.
    """
    assert stage.config.augmentation is not None
    make = jax.jit(stage.config.augmentation.at)
    keys_N = example_keys(key, jnp.arange(len(small)))
    return np.asarray(make(jnp.asarray(small), jnp.float32(stage.level), keys_N))


def search_levels(
    sampler: StageSampler,
    chain: Sequence[SampledStage],
    prompts: Sequence[str],
    levels: Sequence[float],
    distance: Callable[[Images], float],
) -> tuple[list[SampledStage], dict[str, dict[float, float]]]:
    """The chain with the levels of its super-resolvers that bring its last images closest.

    First one level for all of them is sought, then, from the last to the first, each its own; what
    comes before a stage is sampled once.

    Args:
      sampler: of stages.
      chain: from the first stage on.
      prompts: texts, which samples for a table must not be of.
      levels: candidates.
      distance: of images to real ones.

    Returns:
      The chain, and the distance by level, of one level for all and of each stage's own.
    """
    first, start = chain[0], 1
    small = sampler.sample([first], prompts)[-1]

    def measured(stages: Sequence[SampledStage], given: Images) -> float:
        return distance(sampler.sample(stages, prompts, given)[-1])

    together = {}
    for level in levels:
        tried = [stage.changed(level=level) for stage in chain[start:]]
        together[level] = measured(tried, small)
    best = min(together, key=together.__getitem__)
    least = together[best]
    found = [first, *(stage.changed(level=best) for stage in chain[start:])]
    table = {"all super-resolvers": together}
    for i in reversed(range(start, len(chain))):
        given = sampler.sample(found[start:i], prompts, small)[-1] if i > start else small
        own = {found[i].level: least}
        for level in levels:
            if level not in own:
                own[level] = measured([found[i].changed(level=level), *found[i + 1 :]], given)
        table[f"{found[i].config.image_shape[0]} pixels alone"] = dict(sorted(own.items()))
        chosen = min(own, key=own.__getitem__)
        least, found[i] = own[chosen], found[i].changed(level=chosen)
    return found, table


def saturated_shares(x: Images) -> dict[str, float]:
    """The share of numbers at or beyond the ends of the range of pixels, and of those beyond it.

    An end is reached where rounding to bytes gives 0 or 255; beyond it is what is more than half a
    byte outside.
    """
    size = np.abs(x)
    return {
        "saturated": float((size >= 1 - 1 / 255).mean()),
        "out of range": float((size > 1 + 1 / 255).mean()),
    }


def enlarged(images: Images, side: int) -> Images:
    """Images with each pixel repeated, for a picture beside larger ones."""
    factor = side // images.shape[1]
    return np.repeat(np.repeat(images, factor, axis=1), factor, axis=2)


def show_stages(
    path: pathlib.Path,
    columns: Mapping[str, Images],
    prompts: Sequence[str],
    title: str,
) -> None:
    """Rows of one caption each, with the image of every stage side by side.

    Args:
      path: the PNG.
      columns: name -> images [R, Y, X, C] of any sides that divide the largest.
      prompts: a caption for each row.
      title: what is shown.
    """
    side = max(images.shape[1] for images in columns.values())
    shown = np.stack([enlarged(images, side) for images in columns.values()], axis=1)
    plot_images(path, shown, title, list(columns), prompts)


def plot_levels(path: pathlib.Path, table: Mapping[str, Mapping[float, float]]) -> None:
    """The distance against the level of augmentation.

    Args:
      path: the PNG.
      table: whose level -> level -> distance.
    """
    figure = empty_figure((7, 4.5), dpi=120)
    axes = figure.add_subplot()
    for name, row in table.items():
        axes.plot(list(row), list(row.values()), marker="o", markersize=4, label=name)
    axes.set(xlabel="augmentation level t", ylabel="Fréchet distance, validation captions")
    axes.set_title("How much noise to put on the small images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)
