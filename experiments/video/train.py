"""A diffusion model of videos and images of several sizes, trained together on packs.

``python -m experiments.video.train``

Trains a transformer on spacetime patches, by default on moving digits made from those that
scikit-learn carries: images and clips of several sizes share sequences of fixed length. Then it is
sampled by class, at sizes that it was trained on and at others, and the samples are evaluated frame
by frame with a classifier, beside real clips. In the working folder:

  samples_SIZE.mp4    clips of every class
  samples_SIZE.png    a clip of every class, frame by frame
  samples_SIZE.gif    the clips of the mp4 once more
  curves.png          losses in the course of training, and by noise level
  table.md            how many frames show the class asked for, how many clips keep their digit
  metrics.json        the same and more, by name
  checkpoints/        the network (jaxgen.training.load_model opens it)
  evaluator/          the classifier of frames

Started again with the same working folder it resumes. With ``--data FOLDER`` it trains on the video
files of a folder, whose subfolders are classes; their samples are shown, not evaluated.
"""

import pathlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from experiments.shared.denoiser_sampling import SAMPLERS, SamplingFlags, even_labels, make_draw
from experiments.shared.image_plots import plot_images, tile
from experiments.shared.launch import LaunchConfig, open_workdir, report, run
from experiments.shared.output import format_table, remove_table, three_decimals, write_text
from experiments.shared.restarts import (
    SampledConfig,
    check_not_shorter,
    keep_training_seed,
    may_train_longer,
)
from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    TrainedModel,
    check_layout,
    plot_training,
)
from experiments.shared.workdir import check_checkpoints
from experiments.video.support.frame_evaluator import (
    FRAME_ACCURACY,
    RIGHT_CLIPS,
    RIGHT_FRAMES,
    FrameEvaluator,
    make_frame_evaluator,
    real_clips,
)
from experiments.video.support.video_streams import Size, VideoData, names, open_videos, parse_sizes
from experiments.video.support.video_training import (
    VideoNetworkFlags,
    VideoTrainingFlags,
    check_packs,
    train_video_denoiser,
    video_model,
)
from jaxgen.data import from_unit
from jaxgen.data.video.moving_digits import check_holds_digits
from jaxgen.data.video.video_files import write_video
from jaxgen.files import as_path
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config

FPS, SCALE, MOST_PIXELS = 8, 5, 1280
"""Of the videos that are written: frames a second; how many pixels stand for one, unless the whole
is wider than so many then."""

CLIPS_OF_CLASS, MOST_COLUMNS, CLIPS_PER_CALL = 4, 10, 20


@register_config("video.train")
@dataclass(frozen=True, kw_only=True)
class Config(SampledConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of training, and of samples without a seed of their own. Where the folder holds a run
        already, that keeps its seed, and another one is for samples alone.
      sampling_seed: of samples; may differ when the run is started again.
      data: "digits" (moving ones), or a folder of video files whose subfolders are classes; without
        subfolders there are no classes, which needs --guidance 0.
      sizes: what is trained on, as frames x height x width; they take turns, so a size that is
        named twice comes twice as often. Images have one frame.
      sample_sizes: what is sampled, trained or not.
      network: the network.
      training: how it is trained.
      sampling: how it is sampled; --evaluate counts the clips of each size.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/video_train")
    data: str = "digits"
    sizes: tuple[str, ...] = (
        *("8x12x12", "1x12x12", "8x12x16", "1x12x16"),
        *("8x12x12", "1x16x12", "6x16x12", "4x12x12"),
    )
    sample_sizes: tuple[str, ...] = ("8x12x12", "12x12x12", "8x16x16")
    network: VideoNetworkFlags = VideoNetworkFlags()
    training: VideoTrainingFlags = VideoTrainingFlags(
        training_steps=4400, learning_rate=3e-3, ema_decay=0.995
    )
    sampling: SamplingFlags = SamplingFlags(steps=30, guidance=3.0, evaluate=100)


def main(config: Config) -> dict[str, Any]:
    """Trains, samples, evaluates, shows."""
    config = keep_training_seed(config)
    patch = config.network.sides()
    sizes = parse_sizes(config.sizes, patch, "sizes")
    sampled = parse_sizes(config.sample_sizes, patch, "sample_sizes")
    data = open_videos(config.data, sizes, config.seed)
    model = video_model(config.network, data, sizes[0])
    model.check_guidance(config.sampling.guidance)
    if data.digits is not None:
        check_holds_digits(data.digits, sampled)
    check_packs(model, data, config.training)
    check_layout(model)
    steps = config.training.training_steps
    check_not_shorter(as_path(config.launch.workdir), steps, f"training_steps is {steps}")
    longer = may_train_longer(config, "training_steps")
    folder = open_workdir(
        config,
        may_differ=("sampling", "sampling_seed", "sample_sizes", *longer),
        data={data.name: data.digest},
        check=lambda folder: check_checkpoints(folder, model),
    )
    report(data.description)
    trained = train_video_denoiser(
        model,
        data,
        folder,
        config.training,
        seed=config.seed,
        tensorboard=config.launch.tensorboard,
    )
    plot_training(folder / "curves.png", trained)
    figures = {
        "parameters": parameter_count(trained.params),
        "updates": trained.steps,
        "skipped updates": trained.skipped,
        "tokens": trained.steps * config.training.packs * config.training.pack_length,
        "training seconds": trained.seconds,
        **trained.last("train/loss", VALIDATION_LOSS),
    }
    found = sample_and_evaluate(config, folder, trained, data, sizes, sampled)
    report(f"samples, table and figures are in {folder}")
    return {**figures, **found}


def sample_and_evaluate(
    config: Config,
    folder: pathlib.Path,
    trained: TrainedModel,
    data: VideoData,
    sizes: tuple[Size, ...],
    sampled: tuple[Size, ...],
) -> dict[str, Any]:
    """Samples every size, shows the clips and, of digits, evaluates them."""
    evaluator = None
    if data.digits is not None and config.sampling.evaluate:
        evaluator = make_frame_evaluator(data.digits, sampled, folder / "evaluator", config.seed)
    rows: dict[str, dict[str, float]] = {}
    for size in sampled:
        label_N, videos = draw_clips(config, trained, size, evaluator is not None)
        kind = "trained" if size in sizes else "not trained"
        show_clips(folder, data, size, videos, f"{config.sampling.sampler}, {kind} size")
        if evaluator is not None and label_N is not None:
            rows |= evaluate_clips(evaluator, data, size, from_unit(videos), label_N, kind)
    if evaluator is None:
        remove_table(folder / "table.md", (RIGHT_FRAMES, RIGHT_CLIPS))
        return {}
    table = evaluation_table(evaluator, rows)
    report(f"\n{table}\n")
    write_text(folder / "table.md", table)
    return {FRAME_ACCURACY: evaluator.accuracy, **rows}


def draw_clips(
    config: Config, trained: TrainedModel, size: Size, evaluated: bool
) -> tuple[Any, Any]:
    """Labels (None without classes), and clips [N, T, Y, X, C] in about [-1, 1]."""
    model, flags = trained.config, config.sampling
    count = int(shown_clips(len(model.classes)).max()) + 1
    if evaluated:
        count = max(flags.evaluate, count)
    label_N = even_labels(count, len(model.classes))
    shape = (*size, model.image_shape[-1])
    draw = make_draw(model, trained.layout, clip=flags.clip, shape=shape, per_call=CLIPS_PER_CALL)
    videos = draw(
        trained.params,
        SAMPLERS[flags.sampler],
        flags.levels(model),
        label_N,
        jax.random.key(config.seed_of_samples + 1),
        guidance=flags.guidance,
        count=count,
        name=f"sampling {names([size])}",
    )
    return label_N, videos


def shown_clips(classes: int) -> Int[np.ndarray, "R Q"]:
    """Which samples are shown, whose classes take turns: a column for each of the first classes."""
    columns = min(classes, MOST_COLUMNS) or 1
    return np.arange(CLIPS_OF_CLASS)[:, None] * max(classes, 1) + np.arange(columns)


def evaluate_clips(
    evaluator: FrameEvaluator,
    data: VideoData,
    size: Size,
    videos: Any,
    label_N: Any,
    kind: str,
) -> dict[str, dict[str, float]]:
    """Figures of the clips of a size, and of as many real ones."""
    assert data.digits is not None
    return {
        f"{names([size])}, real": evaluator.figures(*real_clips(data.digits, size, len(videos))),
        f"{names([size])}, samples, {kind} size": evaluator.figures(videos, label_N),
    }


def evaluation_table(evaluator: FrameEvaluator, rows: dict[str, dict[str, float]]) -> str:
    """The figures as a table, and how far the evaluator can be trusted."""
    columns = (RIGHT_FRAMES, RIGHT_CLIPS)
    table = format_table(
        ("clips", *columns),
        [(name, *(three_decimals(found[c]) for c in columns)) for name, found in rows.items()],
    )
    return f"{table}\n\n{FRAME_ACCURACY}: {evaluator.accuracy:.3f}"


def show_clips(
    folder: pathlib.Path,
    data: VideoData,
    size: Size,
    videos: Float[np.ndarray, "N T Y X C"],
    how: str,
) -> None:
    """Writes a few clips of every class as mp4, as gif and, one of each, frame by frame."""
    stem, index_RQ = f"samples_{names([size])}", shown_clips(len(data.classes))
    clips_RQTYXC = videos[index_RQ]
    plot_images(
        folder / f"{stem}.png",
        clips_RQTYXC[0],
        f"Samples of {names([size])}, a row for each class: {how}",
        columns=[str(t + 1) for t in range(size[0])],
        rows=data.classes[: index_RQ.shape[1]],
    )
    if is_main_process():
        frames = np.stack([tile(from_unit(clips_RQTYXC[:, :, t]), gap=2) for t in range(size[0])])
        scale = max(1, min(SCALE, MOST_PIXELS // frames.shape[2]))
        for suffix in ("mp4", "gif"):
            write_video(folder / f"{stem}.{suffix}", frames, FPS, scale=scale)


if __name__ == "__main__":
    run(main, Config)
