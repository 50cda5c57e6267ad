"""Training a denoiser of images, or going on where a folder holds a run of it.

Batches depend on the step alone and parameters do not depend on the mesh, so losses are the same on
any mesh and any number of processes, to rounding.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxgen.data import BatchPlan, ImageSet, batch_at, to_unit
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.errors import InputError
from jaxgen.parallel import (
    Layout,
    check_batch_size,
    current_mesh,
    num_batch_shards,
    plan_layout,
    put_batch,
    replicated,
)
from jaxgen.training import (
    Checkpoints,
    LoopConfig,
    MetricsLog,
    OptimizerConfig,
    TrainState,
    averaged_params,
    compile_step,
    create_state,
    fit,
    load_config,
    load_params,
    make_optimizer,
    make_train_step,
    read_records,
    scan_steps,
)
from jaxgen.training.metrics import Record
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

VALIDATION_LOSS = "validation/loss"
STEPS_PER_CALL = 8
VALIDATION_IMAGES = 512
RECORDS, EVALUATIONS, CHECKPOINTS = 40, 10, 10
"""How often a run logs, evaluates and saves, roughly."""


@register_config("images.training", first_format=["experiments.image_training:TrainingFlags"])
@dataclass(frozen=True, kw_only=True)
class TrainingFlags:
    """How the network is trained: AdamW, linear warm-up, cosine to zero, average of parameters.

    Attributes:
      training_steps: updates.
      batch_size: images per update.
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what is sampled.
      flip: mirror each image with probability 1/2 (not for digits).
    """

    training_steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    flip: bool = False

    def __post_init__(self) -> None:
        if self.training_steps < 1:
            raise InputError(f"training_steps is {self.training_steps}, expected 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}, expected 0 <= ema_decay < 1")
        self.optimizer()

    def optimizer(self) -> OptimizerConfig:
        """The optimizer of the run."""
        return OptimizerConfig(
            "adamw",
            self.learning_rate,
            schedule="cosine",
            warmup_steps=min(200, self.training_steps // 10),
            total_steps=self.training_steps,
            weight_decay=self.weight_decay,
            clip_norm=1.0,
            b2=0.99,
        )

    def loop(self) -> LoopConfig:
        """Steps and intervals, in whole calls."""
        per_call = min(STEPS_PER_CALL, self.training_steps)

        def every(times: int) -> int:
            return per_call * max(1, self.training_steps // (times * per_call))

        return LoopConfig(
            steps=self.training_steps,
            steps_per_call=per_call,
            log_every=every(RECORDS),
            evaluate_every=every(EVALUATIONS),
            checkpoint_every=every(CHECKPOINTS),
        )


@dataclass(frozen=True)
class ImageModel:
    """A model of images that can be sampled.

    Attributes:
      config: what it is.
      params: its parameters (their moving average), with their sharding.
      layout: how they are sharded.
    """

    config: DenoiserConfig
    params: Tree
    layout: Layout


@dataclass(frozen=True)
class TrainedModel(ImageModel):
    """A model with what is known of its training.

    Attributes:
      records: what the run logged.
      steps: updates done, skipped ones included.
      skipped: updates left out because the loss or its gradient was not finite.
      seconds: time spent training, over all restarts.
    """

    records: list[Record]
    steps: int
    skipped: int
    seconds: float

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """The updates at which a figure was logged, and its values."""
        points = [(record["step"], record[name]) for record in self.records if name in record]
        return [step for step, _ in points], [value for _, value in points]


def train_denoiser(
    config: DenoiserConfig,
    images: ImageSet,
    folder: pathlib.Path,
    flags: TrainingFlags,
    make_loss_fn: Callable[[Layout], LossFn],
    *,
    seed: int = 0,
    tensorboard: bool = False,
    progress: bool = True,
    start: Tree | None = None,
) -> TrainedModel:
    """Trains a denoiser on the training part of a set of images, or resumes.

    Args:
      config: the model.
      images: with the part "train" and perhaps "validation".
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      flags: how to train it.
      make_loss_fn: the loss for parameters of a layout, such as `make_loss` of the model.
      seed: of the parameters, the order of the images, and noise.
      tensorboard: whether to write event files too.
      progress: whether to show a bar.
      start: parameters to start from; None: new ones.

    Raises:
      InputError: as `plan_batches`; and where `folder` has another run's checkpoints.
    """
    plan = plan_batches(images, flags.batch_size, seed)
    tx = make_optimizer(flags.optimizer())
    state, layout = create_state(config.make_init(), jax.random.key(seed), tx=tx, ema=True)
    if start is not None:
        state = dataclasses.replace(state, params=_copy(start, layout), ema=_copy(start, layout))
    loss_fn, loop = make_loss_fn(layout), flags.loop()
    step = make_train_step(loss_fn, tx, ema_decay=flags.ema_decay)
    if loop.steps_per_call > 1:
        step = scan_steps(step)
    with Checkpoints(folder / "checkpoints", config=config, keep=1) as checkpoints:
        result = fit(
            compile_step(step, state),
            state,
            lambda index: batch_at(images, plan, index, flip=flags.flip),
            jax.random.key(seed),
            loop,
            evaluate=make_evaluation(loss_fn, images),
            checkpoints=checkpoints,
            log=MetricsLog(folder, tensorboard),
            progress=progress,
        )
    records = read_records(folder / "metrics.jsonl")
    return TrainedModel(
        config,
        averaged_params(result.state),
        layout,
        records,
        steps=int(result.state.step),
        skipped=int(result.state.skipped),
        seconds=max((record["seconds"] for record in records), default=0.0),
    )


def open_model(folder: pathlib.Path) -> ImageModel:
    """The model of a finished (or interrupted) run, laid over the current mesh.

    Args:
      folder: the run's.

    Raises:
      FileNotFoundError: where there is no checkpoint.
      InputError: where it is not one of a model of images.
    """
    config = load_config(folder / "checkpoints")
    if not isinstance(config, DenoiserConfig):
        raise InputError(f"{folder} holds {type(config).__name__}, expected a model of images")
    layout = plan_layout_of(config)
    return ImageModel(config, load_params(folder / "checkpoints", layout.abstract), layout)


def check_fits(model: DenoiserConfig, images: ImageSet) -> None:
    """Refuses images of another shape or other classes than a model's.

    Raises:
      InputError: naming both.
    """
    shape = tuple(images.images.shape[1:])
    if shape != tuple(model.image_shape) or images.classes != model.classes:
        raise InputError(
            f"{images.name}: images of {shape} with {len(images.classes)} classes; the model has "
            f"{tuple(model.image_shape)} and {len(model.classes)}"
        )


def plan_layout_of(config: DenoiserConfig) -> Layout:
    """How the parameters of a model are sharded over the current mesh; nothing is computed.

    Raises:
      InputError: for a size that the mesh does not divide.
    """
    return plan_layout(config.make_init(), jax.random.key(0), mesh=current_mesh())


def plan_batches(images: ImageSet, batch_size: int, seed: int) -> BatchPlan:
    """Which images of the training part each update sees.

    Raises:
      InputError: there is no training part, the batch is larger than it, or the current mesh cannot
        share it equally.
    """
    images.part("train")  # refuses a set that has none
    plan = BatchPlan(*images.parts["train"], batch_size, seed=seed, name=images.name)
    check_batch_size(batch_size, current_mesh())
    return plan


def make_evaluation(
    loss_fn: LossFn, images: ImageSet
) -> Callable[[TrainState], dict[str, float]] | None:
    """The loss of the averaged parameters on some validation images, always with the same noise.

    None for a set without a validation part.
    """
    if "validation" not in images.parts:
        return None
    mesh = current_mesh()
    batch = _whole_batch(images.part("validation"), VALIDATION_IMAGES, num_batch_shards(mesh))
    if batch is None:
        return None
    compiled = jax.jit(lambda p, b, k: loss_fn(p, b, k)[0], out_shardings=replicated(mesh))
    shared = put_batch(batch, mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        return {VALIDATION_LOSS: float(compiled(averaged_params(state), shared, jax.random.key(0)))}

    return evaluate


def _whole_batch(part: ImageSet, most: int, shards: int) -> Batch | None:
    """The first images of a part, as many as the devices can share."""
    count = min(most, len(part)) // shards * shards
    if not count:
        return None
    batch: dict[str, Any] = {"image": to_unit(part.images[:count])}
    if part.labels is not None:
        batch["label"] = np.asarray(part.labels[:count])
    return batch


def _copy(params: Tree, layout: Layout) -> Tree:
    """A copy with the layout's sharding: what is donated to a step must not share memory."""
    copy = jax.jit(lambda tree: jax.tree.map(lambda x: x + 0, tree), out_shardings=layout.shardings)
    return copy(params)
