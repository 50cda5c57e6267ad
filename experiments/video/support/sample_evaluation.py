"""Figures of sampled clips, beside those of real clips of the same size."""

import pathlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from experiments.shared.output import format_table, three_decimals
from experiments.video.support.clip_evaluator import (
    CLIP_ACCURACY,
    CLIP_DISTANCE,
    IN_ORDER,
    OF_CLASS,
    ClipEvaluator,
    i3d_distance,
    i3d_protocol,
    make_clip_evaluator,
)
from experiments.video.support.frame_evaluator import (
    FRAME_ACCURACY,
    RIGHT_CLIPS,
    RIGHT_FRAMES,
    FrameEvaluator,
    make_frame_evaluator,
)
from experiments.video.support.motion_evaluator import (
    MOTION,
    MotionEvaluator,
    make_motion_evaluator,
)
from experiments.video.support.video_streams import Size, VideoData, names
from jaxgen.evaluation.i3d import FEWEST_FRAMES
from jaxgen.typing import Tree

I3D_DISTANCE = "Fréchet video distance (I3D)"
COLUMNS = RIGHT_FRAMES, RIGHT_CLIPS, MOTION, OF_CLASS, IN_ORDER, CLIP_DISTANCE, I3D_DISTANCE
Rows = dict[str, dict[str, float]]


@dataclass(frozen=True)
class SampleEvaluator:
    """All that is known about clips of a set.

    Attributes:
      data: where real clips come from.
      frames: what single frames of moving digits show; None for other sets.
      motion: whether centres of moving digits move straight and are reflected; None for other sets.
      clips: of which classes clips are, and how far a set of clips is from real ones; None where
        all are images.
      i3d: parameters of I3D, whose distance is taken too; None without.
    """

    data: VideoData
    frames: FrameEvaluator | None
    motion: MotionEvaluator | None
    clips: ClipEvaluator | None
    i3d: Tree | None = None

    def figures(
        self, videos: UInt8[np.ndarray, "N T Y X C"], label_N: Int[np.ndarray, "N"] | None
    ) -> dict[str, float]:
        """Those of `COLUMNS` that clips of this length and set have."""
        found = {}
        if self.frames and label_N is not None:
            found |= self.frames.figures(videos, label_N)
        if self.motion:
            found |= self.motion.figures(videos)
        if self.clips and len(videos) > 1:
            found |= self.clips.figures(videos, None if self.frames else label_N)
        if self.i3d is not None and len(videos) > 1 and videos.shape[1] >= FEWEST_FRAMES:
            real = self.data.reference_clips(videos.shape[1:4], len(videos))
            found[I3D_DISTANCE], _ = i3d_distance(self.i3d, real, videos)
        return found

    def rows(
        self,
        size: Size,
        videos: UInt8[np.ndarray, "N T Y X C"],
        label_N: Int[np.ndarray, "N"] | None,
        kind: str,
    ) -> Rows:
        """Figures of the clips of a size, and of as many real ones that nothing was trained on.

        Args:
          size: frames, height and width.
          videos: samples.
          label_N: the classes asked for.
          kind: what the size is called, "trained" say.
        """
        real = self.data.unseen_clips(size, len(videos))
        return {
            f"{names([size])}, real": self.figures(*real),
            f"{names([size])}, samples, {kind} size": self.figures(videos, label_N),
        }

    def accuracies(self) -> dict[str, float]:
        """How far the networks that evaluate can be trusted."""
        found = {FRAME_ACCURACY: self.frames.accuracy} if self.frames else {}
        return found | ({CLIP_ACCURACY: self.clips.accuracy} if self.clips else {})

    def table(self, rows: Rows, count: int, length: int) -> str:
        """The figures as a table, and what belongs to them.

        Args:
          rows: those of all sizes.
          count: clips of each.
          length: frames of the first size.
        """
        columns = [c for c in COLUMNS if any(c in found for found in rows.values())]
        lines = [
            (name, *(three_decimals(found.get(c)) for c in columns)) for name, found in rows.items()
        ]
        table = format_table(("clips", *columns), lines)
        return "\n\n".join([table, *self.notes(rows.values(), count, length)])

    def notes(self, figures: Collection[Mapping[str, float]], count: int, length: int) -> list[str]:
        """What belongs below a table: accuracies, and what distances were taken of.

        Args:
          figures: those of the table.
          count: clips of each set.
          length: frames of the first size.
        """
        notes = [f"{name}: {value:.3f}" for name, value in self.accuracies().items()]
        shown = {name for found in figures for name in found}
        if self.clips and CLIP_DISTANCE in shown:
            notes.append(f"{CLIP_DISTANCE}: {self.clips.protocol(count, length)}")
        if I3D_DISTANCE in shown:
            notes.append(f"{I3D_DISTANCE}: {i3d_protocol(count, length)}")
        return notes


def make_sample_evaluator(
    data: VideoData,
    sizes: tuple[Size, ...],
    folder: pathlib.Path,
    seed: int,
    i3d: Tree | None = None,
) -> SampleEvaluator:
    """Trains the networks that evaluate clips of some sizes, or opens those in `folder`.

    Args:
      data: the set.
      sizes: of the clips, all of which it has.
      folder: the run's.
      seed: of training.
      i3d: parameters of I3D (`open_i3d`), or None.
    """
    clips, frames, motion = None, None, None
    if any(size[0] > 1 for size in sizes):
        clips = make_clip_evaluator(data, sizes, folder / "clip_evaluator", seed)
    if data.digits is not None:
        frames = make_frame_evaluator(data.digits, sizes, folder / "evaluator", seed)
        motion = make_motion_evaluator(data.digits)
    return SampleEvaluator(data, frames, motion, clips, i3d)
