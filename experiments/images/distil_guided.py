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

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from experiments.images.support.image_quality import held_out_figures, make_evaluator, write_tables
from experiments.images.support.image_training import (
    TrainingFlags,
    check_fits,
    check_image_batches,
    open_image_model,
    train_denoiser,
)
from experiments.shared.denoiser_sampling import SAMPLERS, even_labels, make_draw
from experiments.shared.digests import images_digest
from experiments.shared.image_plots import plot_images
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from experiments.shared.output import cached_figures
from experiments.shared.training_runs import OpenedModel, plan_layout_of
from experiments.shared.workdir import check_checkpoints
from jaxgen.data import ImageSet, load_images
from jaxgen.diffusion import Level
from jaxgen.diffusion.distillation.progressive import (
    GUIDANCE_CHANNELS,
    GuidedDenoiser,
    every_second,
    guided_distillation_loss,
    halving_plan,
    matching_loss,
)
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.losses import loss_by_level
from jaxgen.diffusion.objectives.time_distributions import LowDiscrepancy
from jaxgen.diffusion.objectives.weightings import TruncatedSNR
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.errors import InputError
from jaxgen.files import as_path
from jaxgen.nn.widening import widen_input
from jaxgen.parallel import Layout, gather_fsdp
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

SHOWN = 10
"""Samples of a picture's row."""

TEACHER, MATCHED = "teacher", "matched"
"""Names of the model that is distilled, and of the student of stage one."""

Drawing = Callable[[str, float, Any], np.ndarray]
"""``(model, w, labels) -> images``."""

Stage = Callable[[GuidedDenoiser, GuidedDenoiser, Array, Array], tuple[Array, Level]]
"""``(student, teacher, images, key) -> losses [B] and their levels``."""


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
    start: int = 16
    stop: int = 4
    max_guidance_weight: float = 4.0
    guidance_weights: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    evaluate: int = 1000
    training: TrainingFlags = TrainingFlags(
        training_steps=400, batch_size=64, learning_rate=3e-4, weight_decay=0.0, ema_decay=0.98
    )

    def __post_init__(self) -> None:
        halving_plan(self.start, self.stop)
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
    images = load_images(config.data, size=config.size)
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
        for name in (MATCHED, *map(str, halving_plan(config.start, config.stop)[1:])):
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
    figures: dict[str, Any] = {
        "real, held out": held_out_figures(evaluator, images, config.evaluate)
    }
    labels = even_labels(config.evaluate, len(teacher.config.classes))
    for name in models:
        kept = folder if name == TEACHER else folder / name
        figures[name] = {
            f"{w:g}": cached_figures(
                kept / f"guidance_{w:g}.json",
                lambda name=name, w=w: evaluator.figures(draw(name, w, labels), labels),
                made_of=(
                    *(models[name].digest, evaluator.made_of),
                    *(steps_of(name, config), w, config.evaluate, config.seed),
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
    shared: dict[str, Any] = {
        "guidance_weights": (0.0, config.max_guidance_weight),
        "target": conditioned.target,
        "weighting": TruncatedSNR(),
        "times": LowDiscrepancy(),
    }
    train = functools.partial(
        train_denoiser,
        conditioned,
        images,
        flags=config.training,
        tensorboard=config.launch.tensorboard,
    )
    levels = make_steps(teacher.config.schedule, config.start)
    report(
        f"stage one: {config.start} steps, with guidance from 0 to {config.max_guidance_weight:g}"
    )
    student: OpenedModel = train(
        folder / MATCHED,
        make_loss_fn=functools.partial(
            make_stage_loss,
            functools.partial(matching_loss, schedule=conditioned.schedule, **shared),
            conditioned,
            teacher,
        ),
        seed=config.seed,
        start=widened(teacher, conditioned),
    )
    students = {MATCHED: student}
    for steps in halving_plan(config.start, config.stop)[1:]:
        report(f"stage two: {steps} steps")
        students[str(steps)] = student = train(
            folder / str(steps),
            make_loss_fn=functools.partial(
                make_stage_loss,
                functools.partial(guided_distillation_loss, levels=levels, **shared),
                conditioned,
                student,
            ),
            seed=config.seed + steps,
            start=student.params,
        )
        levels = every_second(levels)
    return students


def guidance_conditioned(teacher: DenoiserConfig) -> DenoiserConfig:
    """The teacher's network with channels for w."""
    channels = teacher.network.in_channels + GUIDANCE_CHANNELS
    return dataclasses.replace(
        teacher,
        network=dataclasses.replace(teacher.network, in_channels=channels),
        guidance_channels=GUIDANCE_CHANNELS,
    )


def widened(teacher: OpenedModel, conditioned: DenoiserConfig) -> Tree:
    """The teacher's parameters, which ignore w."""
    layout = plan_layout_of(conditioned)
    widen = functools.partial(
        widen_input,
        wider=layout.abstract,
        channels=teacher.config.network.in_channels,
        added=GUIDANCE_CHANNELS,
    )
    return jax.jit(widen, out_shardings=layout.shardings)(teacher.params)


def guided_denoiser(
    config: DenoiserConfig, params: Tree, layout: Layout, label_B: Array, *, clip: bool
) -> GuidedDenoiser:
    """``w [B] -> denoiser`` of images of some classes."""
    whole = gather_fsdp(params, layout)
    return lambda w_B: config.make_denoiser(whole, label_B, w_B, clip=clip)


def make_stage_loss(
    stage: Stage, conditioned: DenoiserConfig, teacher: OpenedModel, layout: Layout
) -> LossFn:
    """The loss of a student conditioned on w, for its parameters of a layout.

    Args:
      stage: which loss.
      conditioned: the student's configuration.
      teacher: guided, or conditioned on w as well.
      layout: of the student's parameters.
    """

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        label_B = batch["label"]
        loss_B, level = stage(
            guided_denoiser(conditioned, params, layout, label_B, clip=False),
            guided_denoiser(teacher.config, teacher.params, teacher.layout, label_B, clip=True),
            batch["image"],
            key,
        )
        return loss_B.mean(), loss_by_level(loss_B, level)

    return loss_fn


def make_guided_drawing(config: Config, models: Mapping[str, OpenedModel]) -> Drawing:
    """Draws samples of the teacher or a student, by name."""
    # All students have one configuration, so that what is equal compiles once.
    draws = [make_draw(models[name].config, models[name].layout) for name in (TEACHER, MATCHED)]

    def draw(name: str, w: float, labels: np.ndarray) -> np.ndarray:
        return draws[name != TEACHER](
            models[name].params,
            SAMPLERS["ddim"],
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
