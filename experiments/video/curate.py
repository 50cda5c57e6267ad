"""A manifest of the clips of a folder of videos that are worth training on.

``python -m experiments.video.curate --data FOLDER``

Decodes each video once, finds its cuts, measures the motion of each shot, and leaves out shots that
are too short, too small or still, and videos that cannot be decoded to their end. In the working
folder:

  clips.jsonl     a line for each clip: file, start, frames, fps, size, seconds, motion
  files.jsonl     a line for each video: what was found in it
  report.md       how much was kept, and why the rest was left out
  metrics.json    the same numbers by name

``jaxgen.data.open_video_folder`` opens clips.jsonl as it does a folder. Started again with the same
working folder it resumes: videos that have not changed are not decoded a second time, also with
other filters.
"""

from dataclasses import dataclass
from typing import Any

import jax

from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import progress_bar, write_text
from jaxgen.data.video.curation import MANIFEST, ClipFilters, curate
from jaxgen.data.video.shots import CutThresholds
from jaxgen.data.video.video_listing import list_videos
from jaxgen.errors import InputError
from jaxgen.training.saved_names import register_config


@register_config("video.curate")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what; one process.
      data: a folder of videos, or a zip archive of them; subfolders are classes.
      cut_difference: least difference of two frames with a cut between them, in levels of 255.
      cut_colors: least change of their colours, in [0, 1].
      cut_ratio: how many times the median of the steps around a cut its step is, at least.
      min_frames: shots of fewer frames are left out.
      min_seconds: so are shorter ones.
      min_side: so are those of smaller height or width, in pixels.
      min_motion: so are still ones, with less motion a frame, in levels of 255.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/video_curate")
    data: str
    cut_difference: float = CutThresholds.difference
    cut_colors: float = CutThresholds.colors
    cut_ratio: float = CutThresholds.ratio
    min_frames: int = ClipFilters.min_frames
    min_seconds: float = ClipFilters.min_seconds
    min_side: int = ClipFilters.min_side
    min_motion: float = ClipFilters.min_motion


FILTERS = "min_frames", "min_seconds", "min_side", "min_motion"
THRESHOLDS = "cut_difference", "cut_colors", "cut_ratio"


def main(config: Config) -> dict[str, Any]:
    """Decodes, filters, writes and reports."""
    thresholds = CutThresholds(config.cut_difference, config.cut_colors, config.cut_ratio)
    filters = ClipFilters(**{name: getattr(config, name) for name in FILTERS})
    if jax.process_count() > 1:
        raise InputError(f"num_processes is {jax.process_count()}, expected 1 to decode videos")
    listing = list_videos(config.data)
    folder = open_workdir(config, may_differ=(*FILTERS, *THRESHOLDS, "seed"))
    with progress_bar("decoding videos", "video", len(listing.videos)) as advance:
        found = curate(listing, folder, thresholds=thresholds, filters=filters, advance=advance)
    text = "\n".join(found.lines())
    report(text)
    write_text(folder / "report.md", "\n".join(f"- {line}" for line in found.lines()))
    report(f"{found.clips:,} clips are in {folder / MANIFEST}")
    return found.figures()


if __name__ == "__main__":
    run(main, Config)
