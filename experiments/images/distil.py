"""Progressive distillation of a diffusion model of images to a few steps (Salimans & Ho 2022).

``python -m experiments.images.distil --data mnist --model runs/images_train``

Takes a model that ``experiments.images.train`` has trained, and halves the steps that it needs,
round by round: each student learns to do in one DDIM step what its teacher does in two. Then
samples of the students are compared with those of the first teacher by several methods, at equal
numbers of network evaluations (NFE). With ``--guidance`` the guided model is what is distilled, at
one guidance weight: a student then needs one evaluation where the teacher needs two. In the working
folder:

  table.md           Fréchet distance and accuracy by method and NFE
  steps.png          the same as a picture
  students.png       samples of the teacher and the students from the same noise
  metrics.json       all figures
  STEPS/             each student; one that is finished is not trained again
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from experiments.images.support.image_quality import (
    FRECHET,
    REAL,
    REAL_COUNT,
    Evaluator,
    comparable_figures,
    held_out_count,
    make_evaluator,
    real_figures,
    write_tables,
)
from experiments.images.support.image_training import (
    TrainingFlags,
    check_fits,
    check_image_batches,
    open_image_model,
    train_denoiser,
)
from experiments.shared.denoiser_sampling import even_labels, make_draw
from experiments.shared.digests import images_digest
from experiments.shared.image_plots import plot_by_steps, plot_images
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import cached_figures
from experiments.shared.training_runs import OpenedModel
from experiments.shared.workdir import check_checkpoints
from jaxgen.data import ImageSet, load_images
from jaxgen.diffusion import CosineSchedule, Level
from jaxgen.diffusion.distillation.progressive import distillation_loss, every_second, halving_plan
from jaxgen.diffusion.named_samplers import sampler_named
from jaxgen.diffusion.objectives.losses import loss_by_level
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy
from jaxgen.diffusion.objectives.weightings import TruncatedSNR
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.parallel import Layout, gather_fsdp
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

STUDENT = "student"
"""Name of the row besides the teacher's methods."""

SHOWN = 10
"""Samples of each student in the picture."""

Drawing = Callable[..., np.ndarray]
"""``(model, method, steps, guidance, labels or None, count) -> images``."""


@register_config(
    "images.distil", first_format=["experiments.distil_images:Config"], renamed={"questions": "nfe"}
)
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      model: the folder of a run of ``experiments.images.train``: the first teacher.
      data: the images that it was trained on.
      size: as there.
      skip_unreadable: as there.
      start: DDIM steps of the first teacher; a power of two times `stop`.
      stop: steps of the last student.
      guidance: weight w at which the teacher is guided; 0 distils the conditional model.
      methods: samplers of the teacher to compare with, by the names of
        `jaxgen.diffusion.named_samplers`.
      nfe: network evaluations per sample at which they are compared (Heun makes half the steps).
      evaluate: samples to evaluate.
      training: how each student is trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/images_distil")
    model: str
    data: str = "mnist"
    size: int | None = None
    skip_unreadable: bool = False
    start: int = 64
    stop: int = 1
    guidance: float = 0.0
    methods: tuple[str, ...] = ("ddim", "ancestral", "heun", "dpm_solver")
    nfe: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    evaluate: int = 1000
    training: TrainingFlags = TrainingFlags(
        training_steps=400, batch_size=64, learning_rate=3e-4, weight_decay=0.0, ema_decay=0.98
    )

    def __post_init__(self) -> None:
        halving_plan(self.start, self.stop)
        for name in self.methods:
            sampler_named(name, CosineSchedule())
        if min(self.nfe, default=0) < 1 or self.evaluate < 2:
            raise InputError(
                f"nfe is {self.nfe}, evaluate is {self.evaluate}, expected numbers of "
                "at least 1, and at least 2"
            )


def main(config: Config) -> dict[str, Any]:
    """Distils, evaluates, shows."""
    images = load_images(config.data, size=config.size, skip_unreadable=config.skip_unreadable)
    teacher = open_image_model(as_path(config.model))
    check_fits(teacher.config, images)
    teacher.config.check_guidance(config.guidance)
    check_image_batches(images, config.training.batch_size, config.seed)

    def check(folder: pathlib.Path) -> None:
        for steps in halving_plan(config.start, config.stop)[1:]:
            check_checkpoints(folder / str(steps), teacher.config)

    folder = open_workdir(
        config,
        may_differ=("methods", "nfe"),
        data={images.name: images_digest(images), config.model: teacher.digest},
        check=check,
    )
    report(images.describe())
    students = distil(config, images, teacher, folder)
    evaluator = make_evaluator(images, as_path(config.model) / "classifier", seed=config.seed)
    draw = make_drawing(config, teacher)
    real = held_out_count(images, config.evaluate)
    evaluated = functools.partial(evaluate_model, config, draw, evaluator, real)
    figures = {
        **real_figures(evaluator, images, config.evaluate),
        **evaluate_teacher(config, teacher, evaluated, folder),
        STUDENT: {
            str(steps): evaluated(model, "ddim", steps, 0.0, folder / str(steps))
            for steps, model in students.items()
        },
    }
    show_figures(config, folder, figures)
    show_students(config, folder, draw, teacher, students)
    return figures


def distil(
    config: Config, images: ImageSet, teacher: OpenedModel, folder: pathlib.Path
) -> dict[int, OpenedModel]:
    """The students by their number of steps, the one with most first."""
    levels = make_steps(teacher.config.schedule, config.start)
    students: dict[int, OpenedModel] = {}
    for steps in halving_plan(config.start, config.stop)[1:]:
        report(f"student of {steps} steps")
        guidance = config.guidance if not students else 0.0  # students have learnt to be guided
        students[steps] = teacher = train_denoiser(
            teacher.config,
            images,
            folder / str(steps),
            config.training,
            functools.partial(make_distillation_loss, teacher, levels, guidance),
            seed=config.seed + steps,
            tensorboard=config.launch.tensorboard,
            start=teacher.params,
        )
        levels = every_second(levels)
    return students


def make_distillation_loss(
    teacher: OpenedModel, levels: Level, guidance: float, layout: Layout
) -> LossFn:
    """The loss of a student that starts as its teacher, for parameters of a layout."""
    config = teacher.config

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        label_B = batch.get("label") if config.classes else None
        loss_B, level = distillation_loss(
            config.make_denoiser(gather_fsdp(params, layout), label_B, clip=False),
            config.make_denoiser(
                gather_fsdp(teacher.params, teacher.layout), label_B, guidance or None
            ),
            batch["image"],
            key,
            levels,
            target=config.target,
            weighting=TruncatedSNR(),
            times=LowDiscrepancy(),
        )
        return loss_B.mean(), loss_by_level(loss_B, level)

    return loss_fn


def make_drawing(config: Config, teacher: OpenedModel) -> Drawing:
    """Draws samples of the teacher or of any student; equal samplers and steps compile once."""
    draw = make_draw(teacher.config, teacher.layout)

    def drawing(
        model: OpenedModel,
        method: str,
        steps: int,
        guidance: float,
        labels: np.ndarray | None,
        count: int,
    ) -> np.ndarray:
        schedule = model.config.schedule
        named = sampler_named(method, schedule)
        return draw(
            model.params,
            named.sampler,
            named.levels(schedule, steps),
            labels,
            jax.random.key(config.seed + 1),
            guidance=guidance,
            count=count,
            name=f"sampling, {method}, {steps} steps",
        )

    return drawing


def evaluate_teacher(
    config: Config,
    teacher: OpenedModel,
    evaluated: Callable[..., dict[str, Any]],
    folder: pathlib.Path,
) -> dict[str, dict[str, Any]]:
    """Figures of the first teacher by method and NFE."""
    figures: dict[str, dict[str, Any]] = {}
    for method in config.methods:
        figures[method] = {}
        for nfe in config.nfe:
            steps = nfe // evaluations_per_step(method, teacher.config.schedule)
            if steps:
                figures[method][str(nfe)] = evaluated(
                    teacher, method, steps, config.guidance, folder
                )
    return figures


def evaluations_per_step(method: str, schedule: Schedule) -> int:
    """How often a sampler evaluates the network in a step, the last one left out."""
    named = sampler_named(method, schedule)
    two = (len(named.sampler.table(named.levels(schedule, n)).now.t) for n in (9, 8))
    return next(two) - next(two)


def evaluate_model(
    config: Config,
    draw: Drawing,
    evaluator: Evaluator,
    real: int,
    model: OpenedModel,
    method: str,
    steps: int,
    guidance: float,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """The figures of samples, from a file in `folder` if they are known already.

    None, and no samples, for images that cannot be evaluated.
    """
    if evaluator.features is None:
        return {}
    count = config.evaluate
    labels = even_labels(count, len(model.config.classes))
    return cached_figures(
        folder / f"{method}_{steps}.json",
        lambda: comparable_figures(
            evaluator, draw(model, method, steps, guidance, labels, count), labels, real
        ),
        made_of=(
            *(model.digest, evaluator.made_of, sampler_named(method, model.config.schedule)),
            *(steps, guidance, count, real, config.seed),
        ),
    )


def show_figures(config: Config, folder: pathlib.Path, figures: Mapping[str, Any]) -> None:
    """A table with a row for each method, and a picture."""
    methods = (*config.methods, STUDENT)
    # Of fewer real images the distance is larger, which says nothing of them.
    alike = figures.get(REAL_COUNT) == config.evaluate and FRECHET in figures[REAL]
    real = {REAL: figures[REAL][FRECHET]} if alike else {}
    evaluated = {method: figures[method] for method in methods}
    nfe = sorted({int(n) for row in evaluated.values() for n in row})
    write_tables(folder, {str(n): str(n) for n in nfe}, evaluated)
    if any(FRECHET in found for found in figures[STUDENT].values()):
        plot_by_steps(
            folder / "steps.png",
            {
                method: (
                    sorted(map(int, figures[method])),
                    [figures[method][n][FRECHET] for n in sorted(figures[method], key=int)],
                )
                for method in methods
            },
            f"{FRECHET} of samples by network evaluations (NFE)",
            FRECHET,
            real,
        )


def show_students(
    config: Config,
    folder: pathlib.Path,
    draw: Drawing,
    teacher: OpenedModel,
    students: Mapping[int, OpenedModel],
) -> None:
    """Samples of the teacher and of all students, from the same noise."""
    labels = even_labels(SHOWN, len(teacher.config.classes))
    rows = {f"teacher, {config.start}": (teacher, config.start, config.guidance)}
    rows |= {f"student, {steps}": (model, steps, 0.0) for steps, model in students.items()}
    drawn = [draw(model, "ddim", steps, w, labels, SHOWN) for model, steps, w in rows.values()]
    plot_images(
        folder / "students.png",
        np.stack(drawn),
        "The same noise, by DDIM of so many steps",
        columns=[teacher.config.classes[label] for label in labels] if labels is not None else (),
        rows=list(rows),
    )


if __name__ == "__main__":
    run(main, Config)
