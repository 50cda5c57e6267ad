"""What a cascade makes of captions: the levels that suit it, tables and pictures.

Any of its stages may be missing: super-resolvers alone enlarge small versions of real pictures.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experiments.shared.image_plots import plot_images
from experiments.shared.launch import report
from experiments.text_to_image.support.attribute_evaluator import (
    FRECHET,
    AttributeEvaluator,
    codes_of,
)
from experiments.text_to_image.support.captioned_data import evenly_spread
from experiments.text_to_image.support.cascade_sampling import (
    THRESHOLDINGS,
    Images,
    SampledStage,
    StageSampler,
    enlarged,
    plot_levels,
    saturated_shares,
    search_levels,
    show_stages,
)
from experiments.text_to_image.support.cascade_stages import pictures_at
from experiments.text_to_image.support.text_samples import Prompts, prompts_of_part
from jaxgen.data import CaptionedSet, to_unit
from jaxgen.data.captions.captioned_set import CaptionKind

CASCADE, PLAIN, DIRECT = (
    ("base", "small", "large"),
    ("base", "small_plain", "large_plain"),
    "direct",
)
"""Names of stages: the cascade, the same trained without augmentation, the model without one."""
SHOWN = 8
"""Captions in pictures."""

Rows = dict[str, dict[str, float]]
"""Name of a row -> name of a column -> figure."""


@dataclass(frozen=True)
class CascadeCaptions:
    """Which captions of a set a cascade is sampled with.

    Attributes:
      pictures: the set, at full size.
      sides: of the pictures of the stages.
      kind: which captions.
      count: samples, at most.
      shapes: whether it is a set of captioned shapes.
    """

    pictures: CaptionedSet
    sides: tuple[int, int, int]
    kind: CaptionKind
    count: int
    shapes: bool

    def prompts(self, part: str) -> Prompts:
        """Captions of a part."""
        return prompts_of_part(self.pictures, part, self.kind, self.count, shapes=self.shapes)

    def real(self, part: str, side: int) -> Images:
        """The pictures that have those captions, made as small as that."""
        chosen = self.prompts(part).row_N
        return to_unit(pictures_at(self.pictures.part(part), side).images[chosen])


class CascadeTables(NamedTuple):
    """Figures of samples.

    Attributes:
      levels: Fréchet distance on captions of the validation part by level of augmentation.
      samples: attributes as asked and Fréchet distance on captions of the test part.
      thresholding: the same at a large guidance weight, and saturated pixels.
    """

    levels: Rows
    samples: Rows
    thresholding: Rows


def evaluate_cascade(
    folder: pathlib.Path,
    stages: Mapping[str, SampledStage],
    sampler: StageSampler,
    captions: CascadeCaptions,
    evaluator: AttributeEvaluator,
    levels: Sequence[float],
    large_guidance: float,
) -> CascadeTables:
    """Seeks levels, samples, evaluates; writes ``levels.png`` and the other pictures.

    Args:
      folder: of the run.
      stages: those that there are, by name.
      sampler: of stages.
      captions: what is sampled.
      evaluator: of pictures of the full size.
      levels: candidates for the noise on small pictures.
      large_guidance: the base's guidance weight where ways of thresholding are compared.
    """
    found, whole = dict(stages), set(CASCADE) <= set(stages)
    table: Rows = {}
    if whole:
        chain, table = best_levels(
            folder, [stages[name] for name in CASCADE], sampler, captions, evaluator, levels
        )
        found |= zip(CASCADE, chain, strict=True)
    samples = sample_figures(found, sampler, captions, evaluator)
    thresholding: Rows = {}
    if whole:
        chain = [found[name] for name in CASCADE]
        thresholding = compare_thresholding(
            folder, chain, sampler, captions, evaluator, large_guidance
        )
    show_cascade(folder, found, sampler, captions)
    return CascadeTables(table, samples, thresholding)


def describe_levels(chain: Sequence[SampledStage]) -> str:
    """The levels of the super-resolvers of a cascade."""
    return "t = " + ", ".join(f"{stage.level:g}" for stage in chain[1:])


def best_levels(
    folder: pathlib.Path,
    chain: Sequence[SampledStage],
    sampler: StageSampler,
    captions: CascadeCaptions,
    evaluator: AttributeEvaluator,
    levels: Sequence[float],
) -> tuple[list[SampledStage], Rows]:
    """The cascade with the levels that are best on captions of the validation part."""
    prompts = captions.prompts("validation")
    compared = evaluator.compared_with(captions.pictures.part("validation"))
    found, table = search_levels(
        sampler,
        chain,
        prompts.texts,
        levels,
        lambda images: make_figures(compared, prompts)(images)[FRECHET],
    )
    plot_levels(folder / "levels.png", table)
    report(
        "levels of augmentation, sought on captions of the validation part: "
        f"{describe_levels(found)}"
    )
    rows = {
        name: {f"t = {level:g}": distance for level, distance in row.items()}
        for name, row in table.items()
    }
    return found, rows


def sample_figures(
    stages: Mapping[str, SampledStage],
    sampler: StageSampler,
    captions: CascadeCaptions,
    evaluator: AttributeEvaluator,
) -> Rows:
    """Figures of the cascade with augmentation and without, of its parts, of the direct model."""
    prompts = captions.prompts("test")
    figures = make_figures(evaluator, prompts)

    def sampled(names: Sequence[str], small: Images | None = None, **changes: float) -> Images:
        chain = [stages[name].changed(**changes) for name in names]
        return sampler.sample(chain, prompts.texts, small)[-1]

    real = captions.real("test", captions.sides[-1])
    own = codes_of(captions.pictures.part("test"))[prompts.row_N]
    rows = {"real pictures": evaluator.figures(real, own)}
    if set(CASCADE) <= set(stages):
        chain = [stages[name] for name in CASCADE]
        rows[f"cascade, {describe_levels(chain)}"] = figures(sampled(CASCADE))
        if any(stage.level for stage in chain):
            rows["cascade, t = 0"] = figures(sampled(CASCADE, level=0.0))
    if set(PLAIN) <= set(stages):
        rows["cascade trained without augmentation"] = figures(sampled(PLAIN))
    for first, side in enumerate(captions.sides[:-1], start=1):
        if set(CASCADE[first:]) <= set(stages):
            small = captions.real("test", side)
            enlarged_pictures = sampled(CASCADE[first:], small, level=0.0)
            rows[f"real pictures of {side} pixels, enlarged"] = figures(enlarged_pictures)
    if DIRECT in stages:
        rows[DIRECT] = figures(sampled([DIRECT]))
    return rows


def compare_thresholding(
    folder: pathlib.Path,
    chain: Sequence[SampledStage],
    sampler: StageSampler,
    captions: CascadeCaptions,
    evaluator: AttributeEvaluator,
    guidance: float,
) -> Rows:
    """Saturated pixels, attributes and Fréchet distance at a guidance weight of the base.

    Super-resolvers are sampled as ever: what the base does is what is compared.
    """
    prompts, side = captions.prompts("test"), captions.sides[-1]
    base, *resolvers = chain
    strong = dataclasses.replace(base.flags, guidance=guidance)
    real = captions.real("test", side)
    of_real = saturated_shares(captions.real("test", captions.sides[0]))
    rows = {"real pictures": of_base(of_real) | {SATURATED: saturated_shares(real)[SATURATED]}}
    shown, names = [real[:SHOWN]], ["real"]
    for kind in THRESHOLDINGS:
        changed = base.changed(flags=strong, thresholding=kind)
        first, *_, last = sampler.sample([changed, *resolvers], prompts.texts)
        shares = of_base(saturated_shares(first)) | {SATURATED: saturated_shares(last)[SATURATED]}
        rows[kind] = shares | make_figures(evaluator, prompts)(last)
        shown += [enlarged(first[:SHOWN], side), last[:SHOWN]]
        names += [f"{kind}, base", kind]
    title = f"Guidance weight {guidance:g} in the base: thresholding"
    plot_images(folder / "thresholding.png", np.stack(shown), title, rows=names)
    return rows


SATURATED = "saturated"


def of_base(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares under the names that they have of the base."""
    return {f"base, {name}": share for name, share in shares.items()}


def show_cascade(
    folder: pathlib.Path,
    stages: Mapping[str, SampledStage],
    sampler: StageSampler,
    captions: CascadeCaptions,
) -> None:
    """Shows what stages make of some captions of the test part.

    Super-resolvers without the stages before them enlarge small versions of real pictures.
    """
    texts = captions.prompts("test").texts
    chosen = evenly_spread(len(texts), SHOWN)
    prompts = [texts[i] for i in chosen]

    def real(side: int) -> Images:
        return captions.real("test", side)[chosen]

    columns: dict[str, Images] = {"real": real(captions.sides[-1])}
    small: Images | None = None
    for name, before in zip(CASCADE, (None, *captions.sides), strict=False):
        if name not in stages:
            small = None
            continue
        if small is None and before is not None:
            small = columns[f"real, {before}"] = real(before)
        small = columns[name] = sampler.sample([stages[name]], prompts, small)[-1]
    if DIRECT in stages:
        columns[DIRECT] = sampler.sample([stages[DIRECT]], prompts)[-1]
    title = "Captions of the test part: each stage of the cascade"
    show_stages(folder / "samples.png", columns, prompts, title)


def make_figures(
    evaluator: AttributeEvaluator, prompts: Prompts
) -> Callable[[Images], dict[str, float]]:
    """The figures of images that are samples of some prompts."""
    assert prompts.wanted_NF is not None  # there is no evaluator of a set without attributes
    wanted_NF = prompts.wanted_NF
    return lambda images: evaluator.figures(images, wanted_NF)
