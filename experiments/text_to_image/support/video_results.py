"""What a cascade of videos makes: figures of it before and after distillation, and pictures."""

import pathlib
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.image_plots import plot_images, tile_videos
from experiments.shared.launch import report
from experiments.shared.output import format_table, three_decimals, write_text
from experiments.shared.training_runs import OpenedModel
from experiments.text_to_image.support.attribute_evaluator import AttributeEvaluator, codes_of
from experiments.text_to_image.support.text_samples import as_texts, sample_key
from experiments.text_to_image.support.video_cascade import StageSampler, sample_stages
from experiments.text_to_image.support.video_stages import VideoStage, clips_of_stage
from jaxgen.data import CaptionedSet, from_unit, to_unit
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.data.video.video_files import write_video
from jaxgen.parallel import is_main_process

SHOWN, FRAMES_SHOWN, SCALE, FPS, CHARACTERS = 6, 8, 4, 8, 24
SECONDS = "seconds a clip"


class VideoLook(NamedTuple):
    """What samples are made of and compared with.

    Attributes:
      clips: the whole set.
      tokenizer: of its captions.
      level: noise on what super-resolvers enlarge.
      flags: guidance, and how many samples are evaluated.
      seed: of samples.
    """

    clips: CaptionedSet
    tokenizer: Tokenizer
    level: float
    flags: SamplingFlags
    seed: int

    def chosen(self, count: int) -> Any:
        """Clips of the test part, evenly."""
        size = len(self.clips.part("test"))
        return np.linspace(0, size - 1, min(count, size)).astype(int)

    def prompts(self, count: int) -> list[str]:
        """Their captions."""
        captions = self.clips.part("test").captions("descriptive")
        return [captions[i] for i in self.chosen(count)]

    def samples(
        self, samplers: Sequence[StageSampler], count: int
    ) -> list[Float[np.ndarray, "N T Y X C"]]:
        """What each stage makes of captions of the test part."""
        return sample_stages(
            list(samplers),
            as_texts(self.tokenizer, self.prompts(count)),
            level=self.level,
            guidance=self.flags.guidance,
            key=sample_key(self.seed),
        )


def evaluate_cascades(
    folder: pathlib.Path,
    look: VideoLook,
    cascades: Mapping[str, Sequence[StageSampler]],
    evaluator: AttributeEvaluator | None,
) -> dict[str, dict[str, float]]:
    """Attributes as asked, Fréchet distance and time of every cascade, beside real clips.

    Times are of whole clips through all stages, on the wall, after everything is compiled.
    """
    test, count = look.clips.part("test"), look.flags.evaluate
    rows: dict[str, dict[str, float]] = {}
    if evaluator is not None and count:
        chosen = look.chosen(count)
        wanted_NF = codes_of(test)[chosen]
        rows["real clips"] = evaluator.figures(to_unit(test.images[chosen]), wanted_NF)
    for name, samplers in cascades.items() if count else ():
        look.samples(samplers, 1)
        start = time.monotonic()
        x = look.samples(samplers, count)[-1]
        seconds = (time.monotonic() - start) / len(x)
        found = {} if evaluator is None else evaluator.figures(x, wanted_NF)
        rows[name] = {**found, SECONDS: seconds}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    if rows:
        cells = [
            (name, *(three_decimals(row.get(column)) for column in columns))
            for name, row in rows.items()
        ]
        table = format_table(("clips", *columns), cells)
        write_text(folder / "table.md", table)
        report("\n" + table)
    return rows


def show_cascades(
    folder: pathlib.Path, look: VideoLook, cascades: Mapping[str, Sequence[StageSampler]]
) -> None:
    """Clips of some captions, side by side, and what each stage made of one."""
    made = {name: look.samples(samplers, SHOWN) for name, samplers in cascades.items()}
    rows, names = [], []
    for i, prompt in enumerate(look.prompts(SHOWN)):
        for name, stages in made.items():
            rows.append(some_frames(stages[-1][i]))
            names.append(textwrap.fill(f"{prompt} ({name})", CHARACTERS))
    plot_images(folder / "samples.png", np.stack(rows), "Captions of the test part", rows=names)
    if is_main_process():
        videos = np.stack([from_unit(stages[-1]) for stages in made.values()])
        write_video(folder / "samples.mp4", tile_videos(videos), FPS, scale=SCALE)
    first = next(iter(made.values()))
    side, frames = first[-1].shape[2], first[-1].shape[1]
    plot_images(
        folder / "stages.png",
        np.stack([some_frames(enlarged(stage[0], frames, side)) for stage in first]),
        look.prompts(SHOWN)[0],
        rows=["x".join(map(str, stage.shape[1:4])) for stage in first],
    )


def show_alone(
    path: pathlib.Path,
    look: VideoLook,
    stages: Sequence[VideoStage],
    trained: Mapping[str, OpenedModel],
) -> None:
    """What super-resolvers make of real small clips, beside the real large ones."""
    chosen, rows, names = look.chosen(2), [], []
    real = to_unit(look.clips.part("test").images[chosen])
    texts = as_texts(look.tokenizer, look.prompts(2))
    side = max((stage.side for stage in stages), default=1)
    for stage in stages:
        if stage.augmentation is None:
            continue
        large = clips_of_stage(real, stage)
        small = np.asarray(stage.augmentation.small_of(large))
        sampler = StageSampler(trained[stage.name], look.flags, look.flags.steps)
        key = jax.random.fold_in(sample_key(look.seed), 1)
        x = sampler(texts, small, look.level, look.flags.guidance, key)
        for name, clip in (("input", small[0]), ("sample", x[0]), ("real", large[0])):
            rows.append(some_frames(enlarged(clip, stage.frames, side)))
            names.append(f"{stage.name}: {name}")
    if rows:
        plot_images(path, np.stack(rows), "Super-resolvers of real small clips", rows=names)


def some_frames(clip: Float[np.ndarray, "T Y X C"]) -> Float[np.ndarray, "Q Y X C"]:
    """As many frames as a picture has, evenly."""
    return clip[np.linspace(0, len(clip) - 1, FRAMES_SHOWN).round().astype(int)]


def enlarged(
    clip: Float[np.ndarray, "T Y X C"], frames: int, side: int
) -> Float[np.ndarray, "T2 Y2 X2 C"]:
    """A clip with its pixels and frames repeated."""
    times = frames // len(clip), side // clip.shape[1]
    return clip.repeat(times[0], 0).repeat(times[1], 1).repeat(times[1], 2)
