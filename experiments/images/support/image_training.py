"""Training a denoiser of images, or resuming where a folder holds a run of it."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.shared.training_runs import (
    OpenedModel,
    OptimizationFlags,
    TrainedModel,
    loss_of_batch,
    open_trained_model,
    train_model,
)
from jaxgen.data import BatchPlan, ImageSet, batch_at, to_unit
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.errors import InputError
from jaxgen.parallel import (
    Layout,
    check_batch_size,
    current_mesh,
    num_batch_shards,
)
from jaxgen.training import TrainState, make_optimizer
from jaxgen.training import train_only as freeze_others
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree
from jaxgen.unet import UNetConfig

VALIDATION_IMAGES = 512


@register_config("images.training", first_format=["experiments.image_training:TrainingFlags"])
@dataclass(frozen=True, kw_only=True)
class TrainingFlags(OptimizationFlags):
    """How the network is trained: AdamW, linear warm-up, cosine to zero, average of parameters.

    Attributes:
      training_steps: updates.
      batch_size: images per update.
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what is sampled.
      flip: mirror each image with probability 1/2 (not for digits).
      accumulate: microbatches of each update, one after the other, to fit it into memory.
      moment_dtype: of the optimizer's mean of gradients; "bfloat16" halves it.
    """

    batch_size: int = 128
    flip: bool = False


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
    train_only: str | None = None,
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
      train_only: which parameters are trained, by a pattern of their paths; None: all.

    Raises:
      InputError: as `plan_image_batches` and `jaxgen.training.train_only`; and where `folder` has
        another run's checkpoints.
    """
    plan = plan_image_batches(images, flags.batch_size, seed)
    tx = None
    if train_only is not None:
        tx = freeze_others(make_optimizer(flags.optimizer()), train_only)
    return train_model(
        config,
        lambda index, rows: batch_at(images, plan, index, flip=flags.flip, rows=rows),
        folder,
        flags,
        make_loss_fn,
        batch_size=flags.batch_size,
        make_evaluation=lambda loss_fn: make_evaluation(loss_fn, images),
        seed=seed,
        tensorboard=tensorboard,
        progress=progress,
        start=start,
        tx=tx,
        single_steps=isinstance(config.network, UNetConfig),
    )


def open_image_model(folder: pathlib.Path) -> OpenedModel:
    """The model of images of a finished (or interrupted) run; as `open_trained_model`."""
    return open_trained_model(folder, DenoiserConfig, "a model of images")


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


def plan_image_batches(images: ImageSet, batch_size: int, seed: int) -> BatchPlan:
    """Which images of the training part each update sees.

    Raises:
      InputError: there is no training part, the batch is larger than it, or the current mesh cannot
        share it equally.
    """
    images.part("train")  # refuses a set that has none
    plan = BatchPlan(*images.parts["train"], batch_size, seed=seed, name=images.name)
    check_batch_size(batch_size, current_mesh())
    return plan


def check_image_batches(images: ImageSet, batch_size: int, seed: int) -> None:
    """Refuses, before anything is written, what `plan_image_batches` would refuse."""
    plan_image_batches(images, batch_size, seed)


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
    return loss_of_batch(loss_fn, batch)


def _whole_batch(part: ImageSet, most: int, shards: int) -> Batch | None:
    """The first images of a part, as many as the devices can share."""
    count = min(most, len(part)) // shards * shards
    if not count:
        return None
    batch: dict[str, Any] = {"image": to_unit(part.images[:count])}
    if part.labels is not None:
        batch["label"] = np.asarray(part.labels[:count])
    return batch
