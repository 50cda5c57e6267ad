"""A diffusion model of videos and images of several sizes, trained together on packs.

``python -m experiments.video.train``

Trains a transformer on spacetime patches, by default on moving digits made from those that
scikit-learn carries: images and clips of several sizes share sequences of fixed length. Then it is
sampled by class, at sizes that it was trained on and at others, and the samples are evaluated with
classifiers of frames and of clips, beside real clips. In the working folder:

  samples_SIZE.mp4    clips of every class
  samples_SIZE.png    a clip of every class, frame by frame
  samples_SIZE.gif    the clips of the mp4 once more
  TASK.mp4, TASK.png  real clips of which a part is known and the model makes the rest, as
                      experiments.video.extend does: "extend", "interpolate", "loop"
  curves.png          losses in the course of training, and by noise level
  table.md            how many frames show the class asked for, how many clips keep their digit and
                      move as the data, how far they are from real ones
  metrics.json        the same and more, by name
  checkpoints/        the network (jaxgen.training.load_model opens it)
  evaluator/          the classifier of frames
  clip_evaluator/     the classifier of clips

Started again with the same working folder it resumes. With ``--data FOLDER`` it trains on the video
files of a folder, whose subfolders are classes, with ``--data sprites:FOLDER`` on animated
characters, composed of sprite sheets of the Liberated Pixel Cup. Their samples are evaluated with a
classifier of clips alone, at sizes no larger than those of training.
"""

import pathlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.image_plots import plot_images, tile_videos
from experiments.shared.launch import LaunchConfig, open_workdir, report, run
from experiments.shared.output import remove_table, write_text
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
from experiments.video.support.clip_evaluator import open_i3d
from experiments.video.support.clip_sampling import sample_clips
from experiments.video.support.clip_tasks import ClipTask, method_of
from experiments.video.support.completed_clips import (
    FPS,
    SCALE,
    complete_clips,
    completed_figures,
    show_completed,
)
from experiments.video.support.frame_evaluator import FrameEvaluator
from experiments.video.support.latent_videos import VideoLatents, open_latents
from experiments.video.support.sample_evaluation import COLUMNS, make_sample_evaluator
from experiments.video.support.video_networks import VideoNetworkFlags, video_model
from experiments.video.support.video_streams import Size, VideoData, names, open_videos, parse_sizes
from experiments.video.support.video_training import (
    VideoTrainingFlags,
    check_batches,
    train_video_denoiser,
)
from jaxgen.data import from_unit
from jaxgen.data.video.video_files import write_video
from jaxgen.files import as_path
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import is_main_process
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Tree

MOST_PIXELS = 1280
"""Width of a video of samples that is scaled up."""

CLIPS_OF_CLASS, MOST_COLUMNS = 4, 10

COMPLETED, FEWEST_FRAMES = 20, 4
"""Clips that are completed, and the frames that they have at least."""


@register_config("video.train")
@dataclass(frozen=True, kw_only=True)
class Config(SampledConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of training, and of samples without a seed of their own. Where the folder holds a run
        already, that keeps its seed, and another one is for samples alone.
      sampling_seed: of samples; may differ when the run is started again.
      data: "digits" (moving ones), "sprites:FOLDER" (sub-folders body, feet, legs, torso, hair of
        sheets; for --sizes and --sample-sizes 6x32x32), a folder or zip archive of videos whose
        subfolders are classes (or whose captions.json has some), a manifest
        (experiments.video.curate), or tfds:NAME; without classes it needs --guidance 0.
      fps: frames a second that videos are resampled to; by default each frame is taken once.
      sizes: what is trained on, as frames x height x width; they take turns, so a size that is
        named twice comes twice as often. Images have one frame.
      sample_sizes: what is sampled, trained or not.
      tasks: in which real clips of the first sampled size are completed, of pixels and of four
        frames or more; see experiments.video.extend, which has settings for them. `--tasks` with
        nothing behind it leaves them out.
      i3d: weights of I3D as safetensors, with the names of pytorch-i3d: then the Fréchet video
        distance is taken too, of clips of 10 frames or more.
      latent: the folder compressor/ of a run of experiments.video.compressor: the network is
        trained on patches of latents, and samples are decoded. Sizes are those of the videos.
      network: the network.
      training: how it is trained.
      sampling: how it is sampled; --evaluate counts the clips of each size.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/video_train")
    data: str = "digits"
    fps: float | None = None
    sizes: tuple[str, ...] = (
        *("8x12x12", "1x12x12", "8x12x16", "1x12x16"),
        *("8x12x12", "1x16x12", "6x16x12", "4x12x12"),
    )
    sample_sizes: tuple[str, ...] = ("8x12x12", "12x12x12", "8x16x16")
    tasks: tuple[Literal["extend", "interpolate", "loop", "animate"], ...] = (
        "extend",
        "interpolate",
        "loop",
    )
    i3d: str | None = None
    latent: str | None = None
    network: VideoNetworkFlags = VideoNetworkFlags()
    training: VideoTrainingFlags = VideoTrainingFlags(
        training_steps=4400, learning_rate=3e-3, ema_decay=0.995
    )
    sampling: SamplingFlags = SamplingFlags(steps=30, guidance=3.0, evaluate=100)


def main(config: Config) -> dict[str, Any]:
    """Trains, samples, evaluates, shows."""
    config = keep_training_seed(config)
    latents = None if config.latent is None else open_latents(config.latent)
    sizes = read_sizes(config, "sizes", latents)
    sampled = read_sizes(config, "sample_sizes", latents)
    videos = open_videos(config.data, sizes, config.seed, config.fps)
    data = videos if latents is None else latents.data(videos)
    model = video_model(config.network, data.classes, data.channels, data.train.sizes[0])
    model.check_guidance(config.sampling.guidance)
    data.streams("test", data.known(sampled), config.seed)  # refuses sizes that it does not have
    check_layout(model)
    check_batches(model, data, config.training)
    i3d = open_i3d(config.i3d)
    steps = config.training.training_steps
    check_not_shorter(as_path(config.launch.workdir), steps, f"training_steps is {steps}")
    longer = may_train_longer(config, "training_steps")
    folder = open_workdir(
        config,
        may_differ=("sampling", "sampling_seed", "sample_sizes", "tasks", "i3d", *longer),
        data={data.name: data.digest} | ({} if latents is None else {"latent": latents.digest}),
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
        **config.training.numbers(model, data.train.sizes),
        "training seconds": trained.seconds,
        **trained.last("train/loss", VALIDATION_LOSS),
    }
    found = sample_and_evaluate(config, folder, trained, videos, sizes, sampled, latents, i3d)
    return {**figures, **found}


def read_sizes(config: Config, flag: str, latents: VideoLatents | None) -> tuple[Size, ...]:
    """The sizes of a flag, which patches of the network's input have to divide."""
    patch, texts = config.network.sides(), getattr(config, flag)
    if latents is None:
        return parse_sizes(texts, patch, flag)
    sizes = parse_sizes(texts, (1, 1, 1), flag)
    parse_sizes([names([latents.size(size)]) for size in sizes], patch, f"{flag} as latents")
    return sizes


def sample_and_evaluate(
    config: Config,
    folder: pathlib.Path,
    trained: TrainedModel,
    data: VideoData,
    sizes: tuple[Size, ...],
    sampled: tuple[Size, ...],
    latents: VideoLatents | None,
    i3d: Tree | None,
) -> dict[str, Any]:
    """Samples every size, shows the clips, and evaluates those that there are real ones of."""
    known = data.known(sampled)
    evaluator = None
    if known and config.sampling.evaluate:
        evaluator = make_sample_evaluator(data, known, folder, config.seed, i3d)
    rows: dict[str, dict[str, float]] = {}
    for size in sampled:
        label_N, videos = draw_clips(config, trained, size, evaluator is not None, latents)
        kind = "trained" if size in sizes else "not trained"
        show_clips(folder, data, size, videos, f"{config.sampling.sampler}, {kind} size")
        if evaluator is not None and size in known:
            rows |= evaluator.rows(size, from_unit(videos), label_N, kind)
    completed = {}
    if latents is None and sampled[0] in known and sampled[0][0] >= FEWEST_FRAMES:
        frames = None if evaluator is None else evaluator.frames
        completed = complete_and_evaluate(config, folder, trained, data, sampled[0], frames)
    if evaluator is None:
        remove_table(folder / "table.md", COLUMNS)
        return completed
    table = evaluator.table(rows, len(videos), known[0][0])
    report(f"\n{table}\n")
    write_text(folder / "table.md", table)
    return {**evaluator.accuracies(), **rows, **completed}


def draw_clips(
    config: Config,
    trained: TrainedModel,
    size: Size,
    evaluated: bool,
    latents: VideoLatents | None,
) -> tuple[Any, Any]:
    """Labels (None without classes), and clips [N, T, Y, X, C] in about [-1, 1]."""
    model, flags = trained.config, config.sampling
    count = int(shown_clips(len(model.classes)).max()) + 1
    if evaluated:
        count = max(flags.evaluate, count)
    label_N, videos = sample_clips(
        trained,
        flags,
        (*(size if latents is None else latents.size(size)), model.image_shape[-1]),
        count,
        seed=config.seed_of_samples + 1,
        name=f"sampling {names([size])}",
        clip=latents is None,
    )
    return label_N, videos if latents is None else latents.decode(videos)


def complete_and_evaluate(
    config: Config,
    folder: pathlib.Path,
    trained: TrainedModel,
    data: VideoData,
    size: Size,
    evaluator: FrameEvaluator | None,
) -> dict[str, dict[str, Any]]:
    """Completes real clips in every task and shows them: task -> figures."""
    real, label_N = data.unseen_clips(size, COMPLETED)
    figures = {}
    for name in config.tasks:
        task = ClipTask(
            name,
            method_of(trained.config),
            known=min(3, size[0] - 3),
            steps=config.sampling.steps,
            guidance=config.sampling.guidance,
        )
        clips = complete_clips(trained, task, real, label_N, config.seed_of_samples + 1)
        show_completed(folder, task, clips)
        figures[name] = completed_figures(task, clips, label_N, data, evaluator)
        shown = (f"{k} {v:.3f}" for k, v in figures[name].items() if isinstance(v, float))
        report(f"{name} by {task.method}: {', '.join(shown)}")
    return figures


def shown_clips(classes: int) -> Int[np.ndarray, "R Q"]:
    """Which samples are shown, whose classes take turns: a column for each of the first classes."""
    columns = min(classes, MOST_COLUMNS) or 1
    return np.arange(CLIPS_OF_CLASS)[:, None] * max(classes, 1) + np.arange(columns)


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
        frames = tile_videos(from_unit(clips_RQTYXC))
        scale = max(1, min(SCALE, MOST_PIXELS // frames.shape[2]))
        for suffix in ("mp4", "gif"):
            write_video(folder / f"{stem}.{suffix}", frames, FPS, scale=scale)


if __name__ == "__main__":
    run(main, Config)
