"""What a cascade of videos makes: figures before and after distillation, and pictures."""

import pathlib
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.shared.figure_tables import write_rows
from experiments.shared.image_plots import plot_images, tile_videos
from experiments.text_to_image.support.attribute_evaluator import AttributeEvaluator
from experiments.text_to_image.support.cascade_sampling import (
    Images,
    SampledStage,
    StageSampler,
    enlarged,
)
from experiments.text_to_image.support.cascade_stages import pictures_at
from experiments.text_to_image.support.text_samples import Prompts, prompts_of_part
from jaxgen.data import CaptionedSet, from_unit, to_unit
from jaxgen.data.video.video_files import write_video
from jaxgen.parallel import is_main_process

SHOWN, FRAMES_SHOWN, SCALE, FPS, CHARACTERS = 5, 8, 4, 8, 26
SECONDS = "seconds a clip"

Cascades = Mapping[str, Sequence[SampledStage]]


def asked_of(clips: CaptionedSet, count: int) -> Prompts:
    """Captions of the test part, evenly chosen, and all attributes of their clips."""
    return prompts_of_part(clips, "test", "descriptive", count, shapes=False)


def evaluate_cascades(
    folder: pathlib.Path,
    cascades: Cascades,
    sampler: StageSampler,
    clips: CaptionedSet,
    count: int,
    evaluator: AttributeEvaluator | None,
) -> dict[str, dict[str, float]]:
    """Attributes as asked, Fréchet distance and time of every cascade, beside real clips.

    Times are of whole clips through all stages, on the wall, after everything is compiled.

    Args:
      folder: where the table is written.
      cascades: their stages, by name.
      sampler: of stages.
      clips: the whole set.
      count: clips to sample.
      evaluator: finds their attributes; None: there are none.
    """
    asked, test = asked_of(clips, count), clips.part("test")
    rows: dict[str, dict[str, float]] = {}

    def figures(x: Images) -> dict[str, float]:
        if evaluator is None or asked.wanted_NF is None:
            return {}
        return evaluator.figures(x, asked.wanted_NF)

    rows["real clips"] = figures(to_unit(test.images[asked.row_N]))
    for name, stages in cascades.items():
        sampler.sample(stages, asked.texts[: sampler.per_call])
        start = time.monotonic()
        x = sampler.sample(stages, asked.texts)[-1]
        seconds = (time.monotonic() - start) / len(x)
        rows[name] = {**figures(x), SECONDS: seconds}
    write_rows(folder / "table.md", "clips", rows)
    return rows


def show_cascades(
    folder: pathlib.Path, cascades: Cascades, sampler: StageSampler, clips: CaptionedSet
) -> None:
    """Clips of some captions by every cascade, and what each stage made of one."""
    texts = asked_of(clips, SHOWN).texts
    made = {name: sampler.sample(stages, texts) for name, stages in cascades.items()}
    rows = {
        f"{text}: {name}": some_frames(stages[-1][i])
        for i, text in enumerate(texts)
        for name, stages in made.items()
    }
    plot_clips(folder / "samples.png", rows, "Captions of the test part")
    if is_main_process():
        videos = np.stack([from_unit(stages[-1]) for stages in made.values()])
        write_video(folder / "samples.mp4", tile_videos(videos), FPS, scale=SCALE)
    first = next(iter(made.values()))
    frames, side = first[-1].shape[1:3]
    shown = {
        "x".join(map(str, stage.shape[1:4])): some_frames(full_size(stage[0], frames, side))
        for stage in first
    }
    plot_clips(folder / "stages.png", shown, texts[0])


def show_alone(
    path: pathlib.Path,
    stages: Mapping[str, SampledStage],
    sampler: StageSampler,
    clips: CaptionedSet,
) -> None:
    """What super-resolvers make of a real small clip, beside the real large one."""
    resolvers = {n: stage for n, stage in stages.items() if stage.config.augmentation is not None}
    if not resolvers:
        return
    asked, test = asked_of(clips, 1), clips.part("test")
    side = max(stage.config.image_shape[2] for stage in resolvers.values())
    rows: dict[str, Any] = {}
    for name, stage in resolvers.items():
        shape, augmentation = stage.config.image_shape, stage.config.augmentation
        large = to_unit(pictures_at(test, shape[2], shape[0]).images[asked.row_N])
        small = np.asarray(augmentation.small_of(large))
        sample = sampler.sample([stage], asked.texts, small)[-1]
        for what, clip in (("input", small), ("sample", sample), ("real", large)):
            rows[f"{name}: {what}"] = some_frames(full_size(clip[0], shape[0], side))
    plot_clips(path, rows, f"Super-resolvers alone: {asked.texts[0]}")


def plot_clips(path: pathlib.Path, rows: Mapping[str, Any], title: str) -> None:
    """Clips as rows of frames.

    Args:
      path: the PNG.
      rows: name -> [Q, Y, X, C] frames in [-1, 1].
      title: what is shown.
    """
    names = [textwrap.fill(name, CHARACTERS) for name in rows]
    plot_images(path, np.stack(list(rows.values())), title, rows=names)


def some_frames(clip: Float[np.ndarray, "T Y X C"]) -> Float[np.ndarray, "Q Y X C"]:
    """As many frames as a picture shows, evenly."""
    return clip[np.linspace(0, len(clip) - 1, FRAMES_SHOWN).round().astype(int)]


def full_size(
    clip: Float[np.ndarray, "T Y X C"], frames: int, side: int
) -> Float[np.ndarray, "T2 Y2 X2 C"]:
    """A clip with its pixels and frames repeated."""
    return enlarged(clip, side).repeat(frames // len(clip), axis=0)
