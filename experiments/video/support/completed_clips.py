"""Real clips of which a model has made a part: how they are shown, and how good they are."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from experiments.shared.image_plots import plot_images, tile_videos
from experiments.shared.training_runs import OpenedModel
from experiments.video.support.clip_tasks import FOLLOWS, ClipTask, known_part, make_complete
from experiments.video.support.frame_evaluator import (
    FRAME_ACCURACY,
    RIGHT_CLIPS,
    RIGHT_FRAMES,
    FrameEvaluator,
)
from experiments.video.support.motion_evaluator import distance_of_centres
from experiments.video.support.video_streams import VideoData, names
from jaxgen.data import from_unit, to_unit
from jaxgen.data.video.video_files import write_video
from jaxgen.parallel import is_main_process

FPS, SCALE = 8, 5
"""Of the videos that are written: frames a second; how many pixels stand for one."""

SHOWN = 6
"""Clips, at most."""

KNOWN_ERROR, OFF_COURSE, ON_COURSE = (
    "rms error of known frames",
    "rms distance of centres, pixels",
    "clips within half a pixel",
)


class CompletedClips(NamedTuple):
    """Clips, and what was known of them.

    Attributes:
      real: where known frames are from.
      known: known frames, in [-1, 1]; 0 for the others.
      known_T: which they are.
      made: known frames, and those that were made; in about [-1, 1].
    """

    real: UInt8[np.ndarray, "N T Y X C"]
    known: Float[np.ndarray, "N T Y X C"]
    known_T: Bool[np.ndarray, "T"]
    made: Float[np.ndarray, "N T Y X C"]


def complete_clips(
    model: OpenedModel,
    task: ClipTask,
    real: UInt8[np.ndarray, "N T Y X C"],
    label_N: Int[np.ndarray, "N"] | None,
    seed: int,
) -> CompletedClips:
    """Makes what a task leaves open of real clips.

    Args:
      model: of videos.
      task: what is known, and how the rest is made.
      real: bytes.
      label_N: what the network is conditioned on; None without classes.
      seed: of the samples.
    """
    complete = make_complete(model.config, model.layout, task)
    made = complete(model.params, real, label_N, jax.random.key(seed))
    given = known_part(task.task, to_unit(real), task.known)
    known_T = np.asarray(given.known).reshape(-1) > 0
    known = np.where(known_T[:, None, None, None], given.x, 0.0)
    return CompletedClips(real, known, known_T, made)


def completed_figures(
    task: ClipTask,
    clips: CompletedClips,
    label_N: Int[np.ndarray, "N"] | None,
    data: VideoData,
    evaluator: FrameEvaluator | None,
) -> dict[str, Any]:
    """How far known frames are from those given; of digits, the class and place of those made.

    Args:
      task: what was done.
      clips: with what was made.
      label_N: classes of the real clips.
      data: their set.
      evaluator: of frames of moving digits; None for other sets.
    """
    known_T = clips.known_T
    figures: dict[str, Any] = {"known frames": int(known_T.sum())}
    if known_T.any():
        error = clips.made[:, known_T] - clips.known[:, known_T]
        figures[KNOWN_ERROR] = float(np.sqrt((error**2).mean()))
    if data.digits is None or evaluator is None or label_N is None:
        return figures
    made = from_unit(clips.made)
    found = evaluator.figures(made[:, ~known_T], label_N)
    figures[FRAME_ACCURACY] = evaluator.accuracy
    figures |= {name: found[name] for name in (RIGHT_FRAMES, RIGHT_CLIPS)}
    if task.task in FOLLOWS:
        digit, open_T = data.digits.images.shape[1:3], np.flatnonzero(~known_T)
        off_N = distance_of_centres(made, clips.real, open_T, digit)
        figures[OFF_COURSE] = float(np.sqrt((off_N**2).mean()))
        figures[ON_COURSE] = float((off_N <= 0.5).mean())
    return figures


def show_completed(folder: pathlib.Path, task: ClipTask, clips: CompletedClips) -> None:
    """Writes the first clips: known, made and real, as a sheet and as a video.

    Args:
      folder: where TASK.png and TASK.mp4 are put.
      task: what was done.
      clips: with what was made.
    """
    parts = {"known": clips.known, "made": clips.made, "real": to_unit(clips.real)}
    # A loop's last frame is its first.
    frames = clips.made.shape[1] - (task.task == "loop")
    count = min(SHOWN, len(clips.made))
    rows = [part[i, :frames] for i in range(count) for part in parts.values()]
    plot_images(
        folder / f"{task.task}.png",
        np.stack(rows),
        f"{task.task} by {task.method}: {names([clips.made.shape[1:4]])}, {task.steps} steps",
        columns=[str(t + 1) for t in range(frames)],
        rows=[*parts] * count,
    )
    if is_main_process():
        sheets_RQTYXC = np.stack([part[:count, :frames] for part in parts.values()])
        video = tile_videos(from_unit(sheets_RQTYXC))
        write_video(folder / f"{task.task}.mp4", video, FPS, scale=SCALE)
