"""The video denoiser that flags ask for, its loss on packs, and its training."""

import functools
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array

from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    OptimizationFlags,
    TrainedModel,
    train_model,
)
from experiments.video.support.video_streams import (
    Size,
    VideoData,
    make_pack_batches,
    parse_size,
)
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.losses import loss_by_level
from jaxgen.diffusion.objectives.packed_loss import drop_labels, packed_loss
from jaxgen.errors import InputError
from jaxgen.parallel import (
    Layout,
    check_batch_size,
    current_mesh,
    gather_fsdp,
    put_batch,
    replicated,
)
from jaxgen.spacetime import VideoDiTConfig
from jaxgen.training import TrainState, averaged_params
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import WEIGHT, LossFn
from jaxgen.typing import Batch, Tree

HEAD_SIZE = 32
VALIDATION_PACKS = 64
"""Held-out packs, roughly: whole batches."""


@register_config("video.network")
@dataclass(frozen=True, kw_only=True)
class VideoNetworkFlags:
    """The denoising network: a transformer on spacetime patches.

    Attributes:
      width: of a token.
      depth: transformer blocks.
      patch: frames, height and width of a patch, as in 1x4x4.
      positions: "sincos" (added to tokens) or "rotary" (turns queries and keys).
      class_dropout: condition dropout: how often the null label replaces the class in training; 0
        leaves no unconditional model, so that nothing can be guided.
      dtype: the compute dtype of products.
    """

    width: int = 128
    depth: int = 6
    patch: str = "1x4x4"
    positions: Literal["sincos", "rotary"] = "rotary"
    class_dropout: float = 0.1
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.width < HEAD_SIZE or self.width % HEAD_SIZE:
            raise InputError(f"width is {self.width}, expected a multiple of {HEAD_SIZE}")
        self.sides()

    def sides(self) -> Size:
        """P_t, P_y, P_x.

        Raises:
          InputError: for a patch that is none.
        """
        return parse_size(self.patch, "patch")


def video_model(flags: VideoNetworkFlags, data: VideoData, size: Size) -> DenoiserConfig:
    """The model that flags ask for: it predicts v.

    Args:
      flags: of the network.
      data: gives channels and classes.
      size: that is sampled where no other is asked for.
    """
    dropout = flags.class_dropout if data.classes else 0.0
    network = VideoDiTConfig(
        in_channels=data.channels,
        out_channels=data.channels,
        patch=flags.sides(),
        width=flags.width,
        depth=flags.depth,
        heads=flags.width // HEAD_SIZE,
        num_classes=len(data.classes),
        null_class=dropout > 0,
        class_dropout=dropout,
        dtype=flags.dtype,
        positions=flags.positions,
    )
    return DenoiserConfig(network, (*size, data.channels), data.classes)


@register_config("video.training")
@dataclass(frozen=True, kw_only=True)
class VideoTrainingFlags(OptimizationFlags):
    """How the network is trained: AdamW, linear warm-up, cosine to zero, average of parameters.

    Attributes:
      training_steps: updates.
      packs: sequences per update.
      pack_length: tokens of a sequence, which examples of several sizes share.
      pack_examples: examples of a sequence, at most.
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what is sampled.
    """

    packs: int = 4
    pack_length: int = 192
    pack_examples: int = 16

    def batches(self, data: Any, patch: Size) -> Callable[[int], Batch]:
        """Update t -> its batch of packs of a stream."""
        return make_pack_batches(data, patch, self.pack_length, self.pack_examples, self.packs)


def make_packed_loss(config: DenoiserConfig, layout: Layout) -> LossFn:
    """The mean loss over the examples of a batch of packs, each at a time of its own.

    Args:
      config: the model.
      layout: of its parameters.
    """
    model = config.make_model()

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        noise_key, dropout_key = jax.random.split(key)
        label_BE = batch.get("label")
        if label_BE is not None and config.null_label is not None:
            label_BE = drop_labels(
                dropout_key,
                batch["index"],
                label_BE,
                config.null_label,
                config.network.class_dropout,
            )
        variables = {"params": gather_fsdp(params, layout)}

        def network(z_BLF: Array, time_BE: Array) -> Array:
            places = batch["place"], batch["segment"]
            return model.apply(variables, z_BLF, *places, time_BE, label_BE, method="packed")

        found = packed_loss(
            network,
            batch["tokens"],
            batch["segment"],
            batch["index"],
            noise_key,
            schedule=config.schedule,
            target=config.target,
        )
        metrics = loss_by_level(found.loss, found.level, present_B=found.present)
        return found.mean(), {**metrics, WEIGHT: found.present.sum()}

    return loss_fn


def train_video_denoiser(
    config: DenoiserConfig,
    data: VideoData,
    folder: pathlib.Path,
    flags: VideoTrainingFlags,
    *,
    seed: int = 0,
    tensorboard: bool = False,
) -> TrainedModel:
    """Trains a denoiser on packs of a set's training stream, or resumes.

    Args:
      config: the model.
      data: the set.
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      flags: how to train it.
      seed: of the parameters and noise.
      tensorboard: whether to write event files too.

    Raises:
      InputError: where `folder` has another run's checkpoints.
    """
    return train_model(
        config,
        flags.batches(data.train, config.network.patch),
        folder,
        flags,
        functools.partial(make_packed_loss, config),
        make_evaluation=functools.partial(make_held_out_loss, config, data, flags),
        seed=seed,
        tensorboard=tensorboard,
    )


def check_packs(config: DenoiserConfig, data: VideoData, flags: VideoTrainingFlags) -> None:
    """Refuses, before anything is written, what training would refuse.

    Raises:
      InputError: for an example longer than a pack, or packs that the mesh cannot share equally.
    """
    check_batch_size(flags.packs, current_mesh(), "packs")
    flags.batches(data.train, config.network.patch)


def make_held_out_loss(
    config: DenoiserConfig, data: VideoData, flags: VideoTrainingFlags, loss_fn: LossFn
) -> Callable[[TrainState], dict[str, float]] | None:
    """The loss of the averaged parameters on held-out videos, always with the same noise.

    None for a set without a held-out stream.
    """
    if data.held_out is None:
        return None
    mesh, batch_of = current_mesh(), flags.batches(data.held_out, config.network.patch)
    count = max(1, VALIDATION_PACKS // flags.packs)
    batches = [put_batch(batch_of(i), mesh) for i in range(count)]
    compiled = jax.jit(loss_fn, out_shardings=replicated(mesh))

    def evaluate(state: TrainState) -> dict[str, float]:
        params, key = averaged_params(state), jax.random.key(0)
        found = [compiled(params, batch, key) for batch in batches]
        losses = [float(loss) for loss, _ in found]
        weights = [float(metrics[WEIGHT]) for _, metrics in found]
        return {VALIDATION_LOSS: float(np.average(losses, weights=weights))}

    return evaluate
