"""One student for every guidance weight, in a few steps (Meng et al. 2023).

``python -m experiments.images.distil_guided --model runs/images_train``

Takes a model that ``experiments.images.train`` has trained with a null class. In stage one a
student that is conditioned on the guidance weight w learns to predict in one network evaluation
what the guided teacher needs two for. In stage two its steps are halved, round by round, with every
student conditioned on w. Then samples of the guided teacher and of the students are evaluated at
several weights. In the working folder:

  table.md             Fréchet distance by model and guidance weight
  table_accuracy.md    accuracy of classes, where there are some
  weights.png          samples of the teacher and the last student by weight, from the same noise
  metrics.json         all figures
  matched/             the student of stage one
  STEPS/               those of stage two; one that is finished is not trained again
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.images.support.image_quality import (
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
from experiments.shared.guided_distillation import (
    MATCHED,
    distil_guided_model,
    guidance_conditioned,
    student_names,
)
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import cached_figures
from experiments.shared.training_runs import OpenedModel
from experiments.shared.workdir import check_checkpoints
from jaxgen.data import ImageSet, load_images
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.samplers import DDIM
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.training.saved_names import register_config

SHOWN = 10
"""Samples of a picture's row."""

TEACHER = "teacher"
"""Name of the model that is distilled."""

Drawing = Callable[[str, float, Any], np.ndarray]
"""``(model, w, labels) -> images``."""


@register_config(
    "images.distil_guided",
    first_format=["experiments.distil_guided:Config"],
    renamed={"strengths": "guidance_weights", "strongest": "max_guidance_weight"},
)
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Flags of this experiment.

    Attributes:
      launch: where to run and on what.
      model: the folder of a run of ``experiments.images.train``: the teacher.
      data: the images that it was trained on.
      size: as there.
      skip_unreadable: as there.
      start: DDIM steps of the teacher and of the student of stage one; a power of two times `stop`.
      stop: steps of the last student.
      max_guidance_weight: w is drawn between 0 and this in training.
      guidance_weights: at which teacher and students are evaluated.
      evaluate: samples to evaluate at each.
      training: how each student is trained.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/images_distil_guided")
    model: str
    data: str = "digits"
    size: int | None = None
    skip_unreadable: bool = False
    start: int = 16
    stop: int = 4
    max_guidance_weight: float = 4.0
    guidance_weights: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    evaluate: int = 1000
    training: TrainingFlags = TrainingFlags(
        training_steps=400, batch_size=64, learning_rate=3e-4, weight_decay=0.0, ema_decay=0.98
    )

    def __post_init__(self) -> None:
        student_names(self.start, self.stop)
        if not self.max_guidance_weight > 0:
            raise InputError(
                f"max_guidance_weight is {self.max_guidance_weight}, expected more than 0"
            )
        if not self.guidance_weights or self.evaluate < 2:
            raise InputError(
                f"guidance_weights is {self.guidance_weights}, evaluate is {self.evaluate}, "
                "expected one weight at least, and 2 samples"
            )


def main(config: Config) -> dict[str, Any]:
    """Distils, evaluates, shows."""
    images = load_images(config.data, size=config.size, skip_unreadable=config.skip_unreadable)
    teacher = open_image_model(as_path(config.model))
    check_fits(teacher.config, images)
    teacher.config.check_guidance(config.max_guidance_weight)
    if teacher.config.guidance_channels:
        raise InputError(
            f"{config.model} is guidance-conditioned already, expected a model that is not"
        )
    check_image_batches(images, config.training.batch_size, config.seed)
    conditioned = guidance_conditioned(teacher.config)

    def check(folder: pathlib.Path) -> None:
        for name in student_names(config.start, config.stop):
            check_checkpoints(folder / name, conditioned)

    folder = open_workdir(
        config,
        data={images.name: images_digest(images), config.model: teacher.digest},
        check=check,
    )
    report(images.describe())
    models: dict[str, OpenedModel] = {TEACHER: teacher}
    models |= distil_in_stages(config, images, teacher, folder)
    evaluator = make_evaluator(images, as_path(config.model) / "classifier", seed=config.seed)
    draw = make_guided_drawing(config, models)
    figures: dict[str, Any] = {**real_figures(evaluator, images, config.evaluate)}
    real = held_out_count(images, config.evaluate)
    labels = even_labels(config.evaluate, len(teacher.config.classes))
    for name in models:
        kept = folder if name == TEACHER else folder / name
        figures[name] = {
            f"{w:g}": cached_figures(
                kept / f"guidance_{w:g}.json",
                lambda name=name, w=w: comparable_figures(
                    evaluator, draw(name, w, labels), labels, real
                ),
                made_of=(
                    *(models[name].digest, evaluator.made_of),
                    *(steps_of(name, config), w, config.evaluate, real, config.seed),
                ),
            )
            for w in (config.guidance_weights if evaluator.features is not None else ())
        }
    columns = {f"{w:g}": f"w = {w:g}" for w in config.guidance_weights}
    write_tables(folder, columns, {describe(name, config): figures[name] for name in models})
    show_strengths(config, folder, teacher.config.classes, draw, list(models)[-1])
    return figures


def distil_in_stages(
    config: Config, images: ImageSet, teacher: OpenedModel, folder: pathlib.Path
) -> dict[str, OpenedModel]:
    """The students by the names of their folders: that of stage one, then by steps."""
    conditioned = guidance_conditioned(teacher.config)

    def train(name: str, make_loss_fn: Any, seed: int, start: Any) -> OpenedModel:
        return train_denoiser(
            conditioned,
            images,
            folder / name,
            flags=config.training,
            tensorboard=config.launch.tensorboard,
            make_loss_fn=make_loss_fn,
            seed=seed,
            start=start,
        )

    return distil_guided_model(
        teacher,
        conditioned,
        train,
        lambda batch, key: (batch["image"], batch["label"]),
        start=config.start,
        stop=config.stop,
        max_guidance_weight=config.max_guidance_weight,
        seed=config.seed,
    )


def make_guided_drawing(config: Config, models: Mapping[str, OpenedModel]) -> Drawing:
    """Draws samples of the teacher or a student, by name."""
    # All students have one configuration, so that what is equal compiles once.
    draws = [make_draw(models[name].config, models[name].layout) for name in (TEACHER, MATCHED)]

    def draw(name: str, w: float, labels: np.ndarray) -> np.ndarray:
        return draws[name != TEACHER](
            models[name].params,
            DDIM(),
            make_steps(models[name].config.schedule, steps_of(name, config)),
            labels,
            jax.random.key(config.seed + 1),
            guidance=w,
            name=f"sampling, {name}, guidance {w:g}",
        )

    return draw


def steps_of(name: str, config: Config) -> int:
    """The steps in which a model samples."""
    return int(name) if name.isdecimal() else config.start


def show_strengths(
    config: Config,
    folder: pathlib.Path,
    classes: Sequence[str],
    draw: Drawing,
    last: str,
) -> None:
    """Samples of the teacher and the last student, weight by weight."""
    labels = even_labels(SHOWN, len(classes))
    rows = [(name, w) for w in config.guidance_weights for name in (TEACHER, last)]
    plot_images(
        folder / "weights.png",
        np.stack([draw(name, w, labels) for name, w in rows]),
        f"The same noise by DDIM: {describe(TEACHER, config)}; {describe(last, config)}",
        columns=[classes[label] for label in labels],
        rows=[f"{'teacher' if name == TEACHER else 'student'}, w = {w:g}" for name, w in rows],
    )


def describe(name: str, config: Config) -> str:
    """A model with the network evaluations (NFE) of a step."""
    steps = steps_of(name, config)
    return (
        f"teacher, {steps} steps of 2 NFE"
        if name == TEACHER
        else f"student, {steps} steps of 1 NFE"
    )


if __name__ == "__main__":
    run(main, Config)
