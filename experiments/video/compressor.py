"""Compressors of videos: a causal one, one of frames, and linear transforms of the same rate.

``python -m experiments.video.compressor``

Trains a causal video autoencoder (1 + r k frames to 1 + k latent frames) and an autoencoder of
single frames on some clips, and compares them on clips that are held out, by default moving digits,
which need no download. In the working folder, and there in a folder for each division of the clips:

  DIVISION/CLIP.png         a held-out clip and what each method leaves of it
  DIVISION/CLIP.mp4         the same as a video, side by side
  DIVISION/curves.png       the loss in the course of training
  DIVISION/causal/          the training of the causal compressor, in compressor/ the result with
                            statistics of its latents (jaxgen.training.load_model opens it)
  DIVISION/frames/          the same of the compressor of frames
  table.md                  PSNR of every held-out clip, means, SSIM, error of temporal differences
  metrics.json              the same and more, by name

Started again with the same working folder it resumes. With ``--data FOLDER`` it trains on the video
files of a folder; ``--held-out each`` holds out every file in turn.
"""

import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import format_table, three_decimals, write_text
from experiments.shared.plots import new_figure, save_figure
from experiments.shared.restarts import check_not_shorter, may_train_longer
from experiments.shared.training_runs import VALIDATION_LOSS, TrainedModel, check_layout
from experiments.video.support.compressor_data import ClipData, make_crops, open_clips
from experiments.video.support.compressor_results import (
    DIFFERENCE,
    PSNR,
    SSIM,
    compressor_method,
    evaluate_methods,
    transform_method,
)
from experiments.video.support.compressor_training import (
    CompressorFlags,
    CompressorTrainingFlags,
    Kind,
    block_moments,
    check_crops,
    train_compressor,
    transform_basis,
)
from jaxgen.compressors.compressor import CompressorConfig, with_statistics
from jaxgen.data import to_unit
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.nn.counting import parameter_count
from jaxgen.training import Checkpoints
from jaxgen.training.saved_names import register_config
from jaxgen.training.state import state_from_params

STATISTICS_CROPS, STATISTICS_BATCHES = 8, 16
"""Crops of a batch, and batches, that the statistics of latents are taken from."""

NAMES: dict[Kind, str] = {"causal": "causal compressor", "frames": "compressor of frames"}
TRANSFORMS: dict[Kind, str] = {
    "causal": "cosine transform 3-D",
    "frames": "cosine transform of frames",
}


@register_config("video.compressor")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: all randomness follows from it.
      data: "digits" (moving ones), or a folder of video files.
      side: height and width that the videos of a folder are resized to.
      held_out: "test", the part of that name; "each", every file in turn; or the name of a file.
      kinds: what is trained: "causal", "frames", or both.
      compressor: the compressor.
      training: how it is trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/video_compressor")
    data: str = "digits"
    side: int = 128
    held_out: str = "test"
    kinds: tuple[Kind, ...] = ("causal", "frames")
    compressor: CompressorFlags = CompressorFlags()
    training: CompressorTrainingFlags = CompressorTrainingFlags()

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"kinds is {self.kinds}, expected causal, frames or both, once each")


def main(config: Config) -> dict[str, Any]:
    """Trains, compares, shows."""
    check_crops(config.training)
    data = open_clips(config.data, config.side, config.held_out, config.seed)
    size = config.training.crop_size()
    models = {kind: config.compressor.config(kind, size, data.channels) for kind in config.kinds}
    for model in models.values():
        check_layout(model)
    steps = config.training.training_steps
    check_not_shorter(as_path(config.launch.workdir), steps, f"training_steps is {steps}")
    folder = open_workdir(
        config,
        may_differ=("held_out", *may_train_longer(config, "training_steps")),
        data={data.name: data.digest},
    )
    report(data.description)
    clips: dict[str, dict[str, dict[str, float]]] = {}
    seconds = 0.0
    for number, division in enumerate(data.divisions):
        report(f"held out: {division} ({number + 1} of {len(data.divisions)})")
        found, spent = run_division(config, folder / division, data, division, models)
        clips |= found
        seconds += spent
    means = {
        method: {
            figure: float(np.mean([c[method][figure] for c in clips.values()])) for figure in row
        }
        for method, row in next(iter(clips.values())).items()
    }
    table = comparison_table(clips, means)
    report(f"\n{table}\n")
    write_text(folder / "table.md", table)
    rate = {f"numbers kept, 1 of ({kind})": rate_of(model) for kind, model in models.items()}
    return {**rate, "training seconds": seconds, "clips": clips, **means}


def rate_of(model: CompressorConfig) -> float:
    """Numbers of the data for one of the latents, but for first frames."""
    network = model.network
    return float(np.prod(network.strides) * network.channels / network.latent_channels)


def run_division(
    config: Config,
    folder: pathlib.Path,
    data: ClipData,
    division: str,
    models: dict[Kind, CompressorConfig],
) -> tuple[dict[str, dict[str, dict[str, float]]], float]:
    """Trains on the clips that are not held out, evaluates on the others; figures, and seconds."""
    folder.mkdir(exist_ok=True)
    training, held_out = data.training(division), data.held_out(division)
    methods, seconds, curves = [], 0.0, {}
    moments = {kind: block_moments(training, model) for kind, model in models.items()}
    for kind, model in models.items():
        basis, _ = transform_basis(moments[kind], model, "cosine")
        methods.append(transform_method(TRANSFORMS[kind], basis, model.network.strides))
    for kind, model in models.items():
        trained = train_compressor(
            model,
            training,
            held_out,
            folder / kind,
            config.training,
            moments[kind],
            seed=config.seed,
            tensorboard=config.launch.tensorboard,
        )
        report(f"{NAMES[kind]}: {parameter_count(trained.params):,} parameters")
        params = save_compressor(folder / kind / "compressor", trained, training)
        methods.append(compressor_method(NAMES[kind], model, params))
        seconds += trained.seconds
        curves[NAMES[kind]] = trained
    plot_distance(folder / "curves.png", curves)
    largest = tuple(
        max(sides) for sides in zip(*(m.network.strides for m in models.values()), strict=True)
    )
    return evaluate_methods(held_out, methods, largest, folder), seconds


def save_compressor(folder: pathlib.Path, trained: TrainedModel, clips: dict[str, Any]) -> Any:
    """Saves the compressor with the statistics of its latents; its parameters."""
    model: CompressorConfig = trained.config
    learned = {**trained.params, **(trained.variables or {})}
    params = with_statistics(model, learned, statistics_batches(model, clips))
    state = state_from_params(params, trained.layout, tx=optax.identity())
    with Checkpoints(folder, config=model, keep=1) as checkpoints:
        checkpoints.save(state)
    return params


def statistics_batches(model: CompressorConfig, clips: dict[str, Any]) -> Any:
    """Crops of the training clips as data of a compressor, always the same."""
    frames = model.shape[0] if model.axes == 3 else 1
    crops = make_crops(clips, (frames, *model.shape[-3:-1]), STATISTICS_CROPS, seed=0)
    for step in range(STATISTICS_BATCHES):
        x = to_unit(crops(step)["video"])
        yield x if model.axes == 3 else x[:, 0]


def comparison_table(
    clips: dict[str, dict[str, dict[str, float]]], means: dict[str, dict[str, float]]
) -> str:
    """PSNR of every clip and method, in dB; below the means of all figures."""
    methods = list(means)
    rows = [(name, *(f"{row[m][PSNR]:.2f}" for m in methods)) for name, row in clips.items()]
    rows.append(("mean PSNR", *(f"{means[m][PSNR]:.2f}" for m in methods)))
    for figure in (SSIM, DIFFERENCE):
        rows.append((f"mean {figure}", *(three_decimals(means[m][figure]) for m in methods)))
    return format_table(("held-out clip, PSNR in dB", *methods), rows)


def plot_distance(path: pathlib.Path, curves: dict[str, TrainedModel]) -> None:
    """The distance of reconstructions in the course of training."""
    figure, axes = new_figure("Compressors: squared or absolute error of crops", 8, 5)
    for name, trained in curves.items():
        line = axes.plot(*trained.curve("train/distance"), label=f"{name}, training crops")[0]
        steps, values = trained.curve(VALIDATION_LOSS)
        axes.plot(
            *(steps, values),
            color=line.get_color(),
            linestyle="--",
            marker="o",
            label=f"{name}, held-out crops, averaged parameters",
        )
    axes.set(xlabel="updates", ylabel="distance", yscale="log")
    axes.legend(frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    run(main, Config)
