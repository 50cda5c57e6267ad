"""Students for every guidance weight in a few steps, whatever they are conditioned on.

The two stages of Meng et al. (2023): a student that is conditioned on the guidance weight w learns
to predict in one network evaluation what the guided teacher needs two for; then its steps are
halved, round by round (`jaxgen.diffusion.distillation.progressive`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
from jaxtyping import Array

from experiments.shared.denoiser_sampling import SampledModel
from experiments.shared.launch import report
from experiments.shared.training_runs import OpenedModel
from experiments.shared.widened_models import widened_params
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
from jaxgen.parallel import Layout, gather_fsdp
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

MATCHED = "matched"
"""Name of the student of stage one; those of stage two are named by their steps."""

StageLoss = Callable[[GuidedDenoiser, GuidedDenoiser, Array, Array], tuple[Array, Level]]
"""``(student, teacher, data, key) -> losses [B] and their levels``."""

ExamplesOf = Callable[[Batch, Array], tuple[Array, Any]]
"""``(batch, key) -> data, and what the model's make_denoiser takes of them``: labels, or texts."""


class TrainStudent(Protocol):
    """Trains a student in a folder of its own."""

    def __call__(
        self, name: str, make_loss_fn: Callable[[Layout], LossFn], seed: int, start: Tree
    ) -> OpenedModel:
        """The student."""


def student_names(start: int, stop: int) -> tuple[str, ...]:
    """Of all students, in the order in which they are trained.

    Raises:
      InputError: unless start is stop times a power of two.
    """
    return (MATCHED, *map(str, halving_plan(start, stop)[1:]))


def distil_guided_model(
    teacher: OpenedModel,
    conditioned: Any,
    train: TrainStudent,
    examples_of: ExamplesOf,
    *,
    start: int,
    stop: int,
    max_guidance_weight: float,
    seed: int,
) -> dict[str, OpenedModel]:
    """The students by name (`student_names`).

    Args:
      teacher: guided by two evaluations.
      conditioned: the students' configuration (`guidance_conditioned`).
      train: trains one.
      examples_of: what a batch holds.
      start: DDIM steps of the teacher.
      stop: steps of the last student.
      max_guidance_weight: w is drawn between 0 and this.
      seed: of the first student; those of stage two add their steps to it.
    """
    shared: dict[str, Any] = {
        "guidance_weights": (0.0, max_guidance_weight),
        "target": conditioned.target,
        "weighting": TruncatedSNR(),
        "times": LowDiscrepancy(),
    }
    levels = make_steps(teacher.config.schedule, start)
    report(f"stage one: {start} steps, with guidance from 0 to {max_guidance_weight:g}")
    matching = functools.partial(matching_loss, schedule=conditioned.schedule, **shared)
    loss_of = functools.partial(make_stage_loss, matching, conditioned, teacher, examples_of)
    student = train(MATCHED, loss_of, seed, widened(teacher, conditioned))
    students = {MATCHED: student}
    for steps in halving_plan(start, stop)[1:]:
        report(f"stage two: {steps} steps")
        halving = functools.partial(guided_distillation_loss, levels=levels, **shared)
        loss_of = functools.partial(make_stage_loss, halving, conditioned, student, examples_of)
        students[str(steps)] = student = train(str(steps), loss_of, seed + steps, student.params)
        levels = every_second(levels)
    return students


def guidance_conditioned(teacher: Any) -> Any:
    """A denoiser's network, or that of one of texts, with channels for w.

    Args:
      teacher: a `DenoiserConfig`, or a configuration with one as its ``denoiser``.
    """
    if not isinstance(teacher, DenoiserConfig):
        return dataclasses.replace(teacher, denoiser=guidance_conditioned(teacher.denoiser))
    channels = teacher.network.in_channels + GUIDANCE_CHANNELS
    return dataclasses.replace(
        teacher,
        network=dataclasses.replace(teacher.network, in_channels=channels),
        guidance_channels=GUIDANCE_CHANNELS,
    )


def widened(teacher: OpenedModel, conditioned: Any) -> Tree:
    """The teacher's parameters, which ignore w; its channels come right behind those of data."""
    return widened_params(teacher, conditioned, place=teacher.config.image_shape[-1])


def guided_denoiser(
    config: SampledModel, params: Tree, layout: Layout, condition: Any, *, clip: bool
) -> GuidedDenoiser:
    """``w [B] -> denoiser`` of samples of some classes or texts."""
    whole = gather_fsdp(params, layout)
    return lambda w_B: config.make_denoiser(whole, condition, w_B, clip=clip)


def make_stage_loss(
    stage: StageLoss,
    conditioned: SampledModel,
    teacher: OpenedModel,
    examples_of: ExamplesOf,
    layout: Layout,
) -> LossFn:
    """The loss of a student conditioned on w, for its parameters of a layout.

    Args:
      stage: which loss.
      conditioned: the student's configuration.
      teacher: guided, or conditioned on w as well.
      examples_of: what a batch holds.
      layout: of the student's parameters.
    """

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        # Another key than the two that the loss splits off, which are those of 0 and 1.
        x, condition = examples_of(batch, jax.random.fold_in(key, 2))
        loss_B, level = stage(
            guided_denoiser(conditioned, params, layout, condition, clip=False),
            guided_denoiser(teacher.config, teacher.params, teacher.layout, condition, clip=True),
            x,
            key,
        )
        return loss_B.mean(), loss_by_level(loss_B, level)

    return loss_fn
