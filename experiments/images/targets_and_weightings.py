"""Which prediction and which weighting to train with: Table 1 of Salimans & Ho (2022), in small.

``python -m experiments.images.targets_and_weightings --data mnist``

Trains one network for each target (x; e; v; x and e together) and each weighting of the error of
the data (SNR; truncated SNR, at least one; SNR + 1), all alike otherwise, and evaluates what a
stochastic and a deterministic sampler make of them. The paper has CIFAR-10, 2 million updates and
Inception's features; here it is a small transformer, a few thousand updates, and the features of a
classifier of the same images, so that orderings are what to compare. In the working folder:

  table.md, metrics.json      Fréchet distances and accuracies
  TARGET-WEIGHTING/           each run; one that is finished is not done again
  classifier/                 what samples are evaluated with
"""

import dataclasses
import functools
import itertools
import pathlib
from dataclasses import dataclass
from typing import Any

import jax

from experiments.images.support.image_networks import NetworkFlags, make_config, make_loss
from experiments.images.support.image_quality import (
    ACCURACY,
    FRECHET,
    Evaluator,
    comparable_figures,
    held_out_count,
    make_evaluator,
    real_figures,
)
from experiments.images.support.image_training import (
    TrainingFlags,
    check_image_batches,
    train_denoiser,
)
from experiments.shared.denoiser_sampling import even_labels, make_draw
from experiments.shared.digests import images_digest
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import cached_figures, format_table, three_decimals, write_text
from experiments.shared.workdir import check_checkpoints
from jaxgen.data import ImageSet, load_images
from jaxgen.diffusion import CosineSchedule
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.named_samplers import sampler_named
from jaxgen.diffusion.objectives.weightings import weighting_named
from jaxgen.diffusion.process.predictions import check_target
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.errors import InputError
from jaxgen.training import NonFiniteError
from jaxgen.training.saved_names import register_config

METHODS = ("ancestral", "ddim")


@register_config(
    "images.targets_and_weightings", first_format=["experiments.diffusion_tables:Config"]
)
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      data: as for ``experiments.images.train``, with two classes or more.
      size: as there.
      skip_unreadable: as there.
      targets: what networks predict: "x" or "x0", "e" or "epsilon", "v", "both".
      weightings: of the error of the data.
      log_snr_max: of the schedule, where it begins at the data. The paper has 20; there a network
        that predicts x has to copy its input to four digits under the weights SNR, SNR + 1, which a
        small one does not learn: it learns nothing else. Samplers of 32 steps evaluate up to 5.
      steps: of both samplers.
      evaluate: samples to evaluate.
      network: the networks.
      training: how they are trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/images_targets_and_weightings")
    data: str = "mnist"
    size: int | None = None
    skip_unreadable: bool = False
    targets: tuple[str, ...] = ("x", "e", "v", "both")
    weightings: tuple[str, ...] = ("snr", "truncated_snr", "snr_plus_one")
    log_snr_max: float = 6.0
    steps: int = 32
    evaluate: int = 500
    network: NetworkFlags = NetworkFlags(width=128, depth=4)
    training: TrainingFlags = TrainingFlags(training_steps=3000, batch_size=64)

    def __post_init__(self) -> None:
        targets = tuple(map(check_target, self.targets))
        object.__setattr__(self, "targets", targets)  # one name in folders and tables
        for name in self.weightings:
            weighting_named(name)
        CosineSchedule(log_snr_max=self.log_snr_max)
        if self.steps < 1 or self.evaluate < 2:
            raise InputError(
                f"steps is {self.steps}, evaluate is {self.evaluate}, expected 1 and 2 or more"
            )


def main(config: Config) -> dict[str, Any]:
    """Trains and evaluates every pair; prints the table."""
    images = load_images(config.data, size=config.size, skip_unreadable=config.skip_unreadable)
    if len(images.classes) < 2:
        raise InputError(
            f"{images.name}: images of {len(images.classes)} classes, expected at least two, for "
            "samples are evaluated by the features of a classifier"
        )
    check_image_batches(images, config.training.batch_size, config.seed)
    models = {target: model_predicting(config, images, target) for target in config.targets}

    def check(folder: pathlib.Path) -> None:
        for target, weighting in itertools.product(config.targets, config.weightings):
            check_checkpoints(folder / f"{target}-{weighting}", models[target])

    folder = open_workdir(
        config,
        may_differ=("targets", "weightings"),
        data={images.name: images_digest(images)},
        check=check,
    )
    report(images.describe())
    evaluator = make_evaluator(images, folder / "classifier", seed=config.seed)
    figures: dict[str, Any] = {**real_figures(evaluator, images, config.evaluate)}
    for target in config.targets:
        for weighting in config.weightings:
            name = f"{target}-{weighting}"
            report(f"{name}")
            figures[name] = finished_run(
                config, images, evaluator, folder / name, target, weighting
            )
            show_table(folder, config, figures)
    return figures


def finished_run(
    config: Config,
    images: ImageSet,
    evaluator: Evaluator,
    folder: pathlib.Path,
    target: str,
    weighting: str,
) -> dict[str, Any]:
    """The figures of one pair: those in its folder, or else those of training it now."""

    def figures() -> dict[str, Any]:
        try:
            return evaluated_run(config, images, evaluator, folder, target, weighting)
        except NonFiniteError as error:
            return {"diverged": str(error)}

    alone = dataclasses.replace(
        config, launch=LaunchConfig(), targets=(target,), weightings=(weighting,)
    )
    return cached_figures(
        folder / "metrics.json",
        figures,
        made_of=(alone, evaluator.made_of, held_out_count(images, config.evaluate)),
    )


def evaluated_run(
    config: Config,
    images: ImageSet,
    evaluator: Evaluator,
    folder: pathlib.Path,
    target: str,
    weighting: str,
) -> dict[str, Any]:
    """Trains with one target and weighting; the figures of samples by both methods."""
    model = model_predicting(config, images, target)
    trained = train_denoiser(
        model,
        images,
        folder,
        config.training,
        functools.partial(make_loss, model, weighting_named(weighting)),
        seed=config.seed,
        tensorboard=config.launch.tensorboard,
    )
    draw = make_draw(model, trained.layout)
    labels = even_labels(config.evaluate, len(images.classes))
    real = held_out_count(images, config.evaluate)
    found: dict[str, Any] = {"skipped": trained.skipped, "seconds": trained.seconds}
    for method in METHODS:
        x = draw(
            trained.params,
            sampler_named(method, model.schedule).sampler,
            make_steps(model.schedule, config.steps),
            labels,
            jax.random.key(config.seed + 1),
            count=config.evaluate,
            name=f"sampling {folder.name}, {method}",
        )
        found[method] = comparable_figures(evaluator, x, labels, real)
    return found


def model_predicting(config: Config, images: ImageSet, target: str) -> DenoiserConfig:
    """The model that predicts a target.

    Raises:
      InputError: as `make_config`.
    """
    shape = tuple(images.images.shape[1:])
    schedule = CosineSchedule(log_snr_max=config.log_snr_max)
    return make_config(config.network, shape, images.classes, target, schedule)


def show_table(folder: pathlib.Path, config: Config, figures: dict[str, Any]) -> None:
    """Prints what is known so far, and writes it."""
    header = (
        "predicted",
        "weight",
        *(f"{what}, {m}" for what in ("Fréchet", ACCURACY) for m in METHODS),
    )
    rows = []
    for name, found in figures.items():
        target, _, weighting = name.partition("-")
        if target not in config.targets:
            continue
        values = [found.get(m, {}).get(what) for what in (FRECHET, ACCURACY) for m in METHODS]
        rows.append((target, weighting, *map(three_decimals, values)))
    table = format_table(header, rows)
    report(f"\n{table}\n")
    write_text(folder / "table.md", table)


if __name__ == "__main__":
    run(main, Config)
