"""Tables of video denoisers that are alike but for one choice, on moving digits.

``python -m experiments.video.compare --table packing``

Trains the networks of a table one after the other, and evaluates samples of each beside real clips:

  packing        the mixed stream of experiments.video.train as packs; each example padded to the
                 longest; and power-of-two buckets. All see the same examples, about as many in
                 each update. "At equal loss" says after how many seconds a row has the held-out
                 loss that the worst one ends with.
  sizes          clips of several sizes as they are, and cut to the middle that all have; as many
                 packs, evaluated at the sizes of the clips
  networks       attention that is joint, factorised, interleaved, in space then in time, with split
                 heads, and the 3-D U-Net, on clips of one size; as many seconds of updates
  image_frames   the 3-D U-Net with 0, 4 and 8 independent images appended to each clip in training;
                 as many updates, over the seeds 0 1 2: means and their standard errors

Seconds are those of updates alone: before training, updates of all rows are measured in turns,
after compilation. So evaluation, compilation, and what else runs on the machine do not count. The
first row is trained for --seconds of updates, or for --updates. In the working folder:

  table.md        the figures; written again after each row
  metrics.json    the same and more, by name
  curves.png      held-out losses against seconds of updates
  seconds.json    seconds of an update; started again, the program takes these
  rows/           each training; one that is finished is not done again
  evaluator/, clip_evaluator/    classifiers of frames and of clips, the same for all rows
"""

import dataclasses
import functools
import pathlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import cached_figures, write_text
from experiments.shared.plots import Curve
from experiments.shared.training_runs import VALIDATION_LOSS, TrainedModel, check_layout
from experiments.shared.workdir import check_checkpoints
from experiments.video import train
from experiments.video.support.clip_sampling import sample_clips
from experiments.video.support.comparison_rows import (
    SOME_UPDATES,
    ComparedRow,
    Planned,
    TableName,
    plan_rows,
    rows_of_table,
)
from experiments.video.support.comparison_table import (
    EQUAL_LOSS,
    SPEED,
    TRAINING_COLUMNS,
    compared_table,
    mean_curve,
    plot_curves,
    seconds_until,
)
from experiments.video.support.sample_evaluation import SampleEvaluator, make_sample_evaluator
from experiments.video.support.update_seconds import measure_updates
from experiments.video.support.video_networks import VideoNetworkFlags
from experiments.video.support.video_streams import (
    Size,
    VideoData,
    names,
    open_videos,
    parse_sizes,
)
from experiments.video.support.video_training import (
    VideoTrainingFlags,
    check_batches,
    train_video_denoiser,
)
from jaxgen.data import from_unit
from jaxgen.errors import InputError, check_positive
from jaxgen.nn.counting import parameter_count
from jaxgen.parallel import check_batch_size, current_mesh
from jaxgen.training import NonFiniteError, read_records
from jaxgen.training.metrics import write_figures
from jaxgen.training.saved_names import register_config

SIZES: dict[TableName, tuple[str, ...]] = {
    "packing": train.Config().sizes,
    "sizes": ("8x12x12", "8x12x16", "8x16x12"),
    "networks": ("8x12x12",),
    "image_frames": ("8x12x12",),
}
SEEDS = 0, 1, 2
REAL = "real clips"


@register_config("video.compare")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      seed: of the data and the evaluators; of training and samples where there are no --seeds.
      table: what is compared: packing, sizes, networks, image_frames.
      seconds: of updates of the first row's training.
      updates: of the first row instead; the others follow as they do from seconds.
      seeds: of training and samples; a row is trained with each. By default 0 1 2 for image_frames.
      sizes: of the stream, as frames x height x width; by default the table's. Those of networks
        and image_frames are one.
      packs: sequences per update.
      pack_length: tokens of a sequence.
      pack_examples: examples of a sequence, at most.
      clips: per update, in the tables networks and image_frames.
      learning_rate: of the transformers, the highest.
      ema_decay: of the moving average of the parameters, which is what is sampled.
      unet_width: channels of the 3-D U-Net at its lowest resolutions.
      unet_depth: its residual blocks of a level.
      unet_learning_rate: its highest learning rate.
      network: the transformer; its backbone, and in the table networks its attention, are set.
      sampling: how it is sampled; --evaluate counts the clips of each size.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/video_compare")
    table: TableName = "packing"
    seconds: float = 150.0
    updates: int | None = None
    seeds: tuple[int, ...] | None = None
    sizes: tuple[str, ...] | None = None
    packs: int = 4
    pack_length: int = 192
    pack_examples: int = 16
    clips: int = 8
    learning_rate: float = 3e-3
    ema_decay: float = 0.995
    unet_width: int = 64
    unet_depth: int = 2
    unet_learning_rate: float = 1e-3
    network: VideoNetworkFlags = VideoNetworkFlags()
    sampling: SamplingFlags = SamplingFlags(steps=30, guidance=3.0, evaluate=100)

    def __post_init__(self) -> None:
        check_positive("seconds", self.seconds)
        if self.updates is not None and self.updates < 1:
            raise InputError(f"updates is {self.updates}, expected 1 or more")
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise InputError(f"seeds is {self.seeds}, expected one or more, each once")
        if self.seeds is not None and min(self.seeds) < 0:
            raise InputError(f"seeds is {self.seeds}, expected 0 or more")
        if self.sampling.evaluate < 2:
            raise InputError(f"evaluate is {self.sampling.evaluate}, expected 2 or more")
        if self.network.backbone != "dit" or self.network.known_frames:
            raise InputError(
                f"backbone is {self.network.backbone!r}, known_frames is "
                f"{self.network.known_frames}, expected 'dit' and False: rows set what is compared"
            )
        if self.table == "networks" and self.network.attention != "joint":
            raise InputError(
                f"attention is {self.network.attention}, expected none of the table networks, "
                "which has all"
            )

    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that each row is trained with."""
        if self.seeds is not None:
            return self.seeds
        return SEEDS if self.table == "image_frames" else (self.seed,)

    def parsed_sizes(self) -> tuple[Size, ...]:
        """The sizes of the stream, which take turns.

        Raises:
          InputError: for sizes that are none, or that the patch does not divide.
        """
        texts = SIZES[self.table] if self.sizes is None else self.sizes
        return parse_sizes(texts, self.network.sides(), "sizes")

    def training(self, learning_rate: float) -> VideoTrainingFlags:
        """How a row is trained, but for the number of updates."""
        fields = ("ema_decay", "packs", "pack_length", "pack_examples", "clips")
        own = {name: getattr(self, name) for name in fields}
        return VideoTrainingFlags(**own, learning_rate=learning_rate)

    def rows(self, data: VideoData) -> list[ComparedRow]:
        """The rows of the table.

        Raises:
          InputError: as `rows_of_table`.
        """
        of_unet = {"backbone": "unet", "width": self.unet_width, "depth": self.unet_depth}
        of_unet |= {"class_dropout": self.network.class_dropout, "shift": self.network.shift}
        return rows_of_table(
            self.table,
            data,
            self.network,
            self.training(self.learning_rate),
            VideoNetworkFlags(**of_unet, dtype=self.network.dtype),
            self.training(self.unet_learning_rate),
        )


class Compared(NamedTuple):
    """All that a table needs.

    Attributes:
      config: the flags.
      folder: to work in.
      data: the streams.
      evaluator: of samples.
      sampled: sizes that are sampled.
    """

    config: Config
    folder: pathlib.Path
    data: VideoData
    evaluator: SampleEvaluator
    sampled: tuple[Size, ...]


def main(config: Config) -> dict[str, Any]:
    """Trains and evaluates every row; prints the table."""
    if config.launch.coordinator is not None:
        raise InputError(
            f"coordinator is {config.launch.coordinator}, expected none: one process measures "
            "updates and says how many there are"
        )
    sizes = config.parsed_sizes()
    data = open_videos("digits", sizes, config.seed)
    rows = config.rows(data)
    for row in rows:
        check_row(config, row)
    folder = open_workdir(
        config,
        may_differ=("seeds",),
        data={data.name: data.digest},
        check=lambda folder: check_trained(folder, rows, config.all_seeds()),
    )
    report(data.description)
    seconds = cached_figures(
        folder / "seconds.json", lambda: measure_updates(rows), made_of=without_launch(config)
    )
    updates = config.updates or max(1, round(config.seconds / seconds[rows[0].name]))
    planned = plan_rows(config.table, rows, seconds, updates)
    sampled = tuple(dict.fromkeys(sizes)) if config.table == "sizes" else sizes[:1]
    evaluator = make_sample_evaluator(data, sampled, folder, config.seed)
    compared = Compared(config, folder, data, evaluator, sampled)
    figures: dict[str, Any] = {"seconds of an update": seconds, **evaluator.accuracies()}
    figures[REAL] = {
        names([size]): evaluator.figures(*data.unseen_clips(size, config.sampling.evaluate))
        for size in sampled
    }
    curves: dict[str, list[Curve]] = {}
    for seed in config.all_seeds():
        for row in rows:
            report(f"{row.name}, seed {seed}, {planned[row.name].updates:,} updates")
            found = finished_row(compared, row, planned[row.name], seconds[row.name], seed)
            figures.setdefault(row.name, {})[f"seed {seed}"] = found
            curve = held_out_curve(folder_of(folder, row, seed), seconds[row.name])
            curves.setdefault(row.name, []).append(curve)
            show_comparison(compared, rows, figures, curves)
    return figures


def check_row(config: Config, row: ComparedRow) -> None:
    """Refuses, before anything is written, what training would refuse."""
    model = row.model
    model.check_guidance(config.sampling.guidance)
    check_layout(model)
    check_batches(model, row.data, row.training)
    if row.powers is not None:
        for batch in row.padded(SOME_UPDATES).plan:
            check_batch_size(batch.rows, current_mesh(), "rows of a padded batch")


def check_trained(folder: pathlib.Path, rows: list[ComparedRow], seeds: tuple[int, ...]) -> None:
    """Refuses a folder whose trainings are of other networks."""
    for row in rows:
        for seed in seeds:
            check_checkpoints(folder_of(folder, row, seed), row.model)


def folder_of(folder: pathlib.Path, row: ComparedRow, seed: int) -> pathlib.Path:
    """Where a row is trained with a seed."""
    return folder / "rows" / row.slug / f"seed_{seed}"


def without_launch(config: Config) -> Config:
    """What figures depend on: not where they are made, nor which seeds others have."""
    return dataclasses.replace(config, launch=LaunchConfig(), seeds=None)


def finished_row(
    compared: Compared, row: ComparedRow, planned: Planned, seconds: float, seed: int
) -> dict[str, Any]:
    """The figures of a training: those in its folder, or else those of training it now.

    Args:
      compared: the table's.
      row: what is trained.
      planned: for how long.
      seconds: of an update.
      seed: of training and samples.
    """
    folder = folder_of(compared.folder, row, seed)

    def figures() -> dict[str, Any]:
        try:
            return evaluated_row(compared, row, planned, seconds, seed)
        except NonFiniteError as error:
            return {"diverged": str(error)}

    own = without_launch(compared.config), row.name, seed, planned.updates, seconds
    return cached_figures(
        folder / "metrics.json", figures, made_of=(*own, compared.evaluator.accuracies())
    )


def evaluated_row(
    compared: Compared, row: ComparedRow, planned: Planned, seconds: float, seed: int
) -> dict[str, Any]:
    """Trains a row; its figures, and those of its samples by size."""
    config = compared.config
    trained = train_video_denoiser(
        row.model,
        row.data,
        folder_of(compared.folder, row, seed),
        dataclasses.replace(row.training, training_steps=planned.updates),
        seed=seed,
        tensorboard=config.launch.tensorboard,
        batches=planned.batches,
    )
    found = {
        "parameters": parameter_count(trained.params),
        "updates": trained.steps,
        "skipped updates": trained.skipped,
        "examples": planned.seen.examples,
        "padding": planned.seen.padding,
        "seconds": planned.updates * seconds,
        SPEED: planned.seen.examples / (planned.updates * seconds),
        "seconds with compilation and evaluation": trained.seconds,
        **trained.last("train/loss", VALIDATION_LOSS),
    }
    of_size = functools.partial(figures_of_samples, compared, trained, seed, row.name)
    return found | {names([size]): of_size(size) for size in compared.sampled}


def figures_of_samples(
    compared: Compared, trained: TrainedModel, seed: int, name: str, size: Size
) -> dict[str, float]:
    """What the evaluator finds in clips of a size, whose classes take turns."""
    flags = compared.config.sampling
    label_N, videos = sample_clips(
        trained,
        flags,
        (*size, trained.config.image_shape[-1]),
        flags.evaluate,
        seed=seed + 1,
        name=f"sampling {name}, {names([size])}",
    )
    return compared.evaluator.figures(from_unit(videos), label_N)


def held_out_curve(folder: pathlib.Path, seconds: float) -> Curve:
    """Seconds of updates, and the held-out loss after them, of a training in a folder.

    Args:
      folder: with its ``metrics.jsonl``.
      seconds: of an update.
    """
    records = [r for r in read_records(folder / "metrics.jsonl") if VALIDATION_LOSS in r]
    return [r["step"] * seconds for r in records], [r[VALIDATION_LOSS] for r in records]


def show_comparison(
    compared: Compared,
    rows: list[ComparedRow],
    figures: dict[str, Any],
    curves: dict[str, list[Curve]],
) -> None:
    """Writes what is known so far: table, figures, curves; prints the table."""
    folder, means = compared.folder, {name: mean_curve(own) for name, own in curves.items()}
    means = {name: curve for name, curve in means.items() if curve[0]}
    worst = max((y[-1] for _, y in means.values()), default=0.0)
    equal = {name: seconds_until(curve, worst) for name, curve in means.items()}
    if compared.config.table == "packing":
        figures[EQUAL_LOSS] = {"held-out loss": worst, "seconds": equal}
    done = [row.name for row in rows if row.name in figures]
    columns = columns_of(compared.config.table)
    table = compared_table(
        figures, done, columns, figures.get(EQUAL_LOSS, {}).get("seconds", {}), figures[REAL]
    )
    table = "\n\n".join([table, *notes_of(compared, figures, done)])
    report(f"\n{table}\n")
    write_text(folder / "table.md", table)
    write_figures(folder / "metrics.json", figures)
    plot_curves(folder / "curves.png", means, f"{compared.config.table}: held-out loss")


def columns_of(table: TableName) -> list[str]:
    """Those of `TRAINING_COLUMNS` that differ in a table."""
    left_out = {
        "packing": {"parameters"},
        "sizes": {"parameters"},
        "networks": {"padding"},
        "image_frames": {"parameters", "padding"},
    }[table]
    return [name for name in TRAINING_COLUMNS if name not in left_out]


def notes_of(compared: Compared, figures: dict[str, Any], rows: list[str]) -> list[str]:
    """What belongs below the table."""
    own = compared.evaluator.notes(
        figures[REAL].values(), compared.config.sampling.evaluate, compared.sampled[0][0]
    )
    diverged = [
        f"{name}, {seed}: {found['diverged']}"
        for name in rows
        for seed, found in figures[name].items()
        if "diverged" in found
    ]
    return own + diverged


if __name__ == "__main__":
    run(main, Config)
