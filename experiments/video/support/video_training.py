"""The loss of a video denoiser, on packs or on batches of clips of one size, and its training."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.shared.training_runs import (
    VALIDATION_LOSS,
    OptimizationFlags,
    TrainedModel,
    check_layout,
    train_model,
)
from experiments.video.support.video_streams import (
    Size,
    VideoData,
    make_clip_batches,
    make_pack_batches,
)
from jaxgen.diffusion.conditioning.frame_masks import (
    FrameMasks,
    join_channels,
    known_of_packs,
    with_frame_channels,
)
from jaxgen.diffusion.conditioning.image_to_image import with_known
from jaxgen.diffusion.denoiser import make_denoiser
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.joint_frames import joint_loss
from jaxgen.diffusion.objectives.losses import denoiser_loss, diffusion_loss, loss_by_level
from jaxgen.diffusion.objectives.packed_loss import PackedLoss, drop_labels, packed_loss
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.errors import InputError
from jaxgen.parallel import (
    Layout,
    check_batch_size,
    current_mesh,
    gather_fsdp,
    put_batch,
    replicated,
)
from jaxgen.pixels import as_data
from jaxgen.spacetime import VideoDiTConfig
from jaxgen.training import TrainState, averaged_params
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import WEIGHT, LossFn
from jaxgen.typing import Batch, Tree

VALIDATION_PACKS = 64
"""Held-out packs, roughly: whole batches."""

VALIDATION_CLIPS = 128
"""Held-out clips of a network without packs, roughly."""


@register_config("video.training")
@dataclass(frozen=True, kw_only=True)
class VideoTrainingFlags(OptimizationFlags):
    """How the network is trained: AdamW, linear warm-up, cosine to zero, average of parameters.

    Attributes:
      training_steps: updates.
      packs: sequences per update.
      pack_length: tokens of a sequence, which examples of several sizes share.
      pack_examples: examples of a sequence, at most.
      clips: of one size, per update of the U-Net, which has no packs.
      packed: whether a transformer is trained on packs; else on clips of one size at a time, as the
        U-Net is.
      image_frames: of the U-Net: independent images that are appended to each clip in training,
        frames of other clips (`jaxgen.diffusion.objectives.joint_frames`).
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what is sampled.
    """

    packs: int = 4
    pack_length: int = 192
    pack_examples: int = 16
    clips: int = 8
    packed: bool = True
    image_frames: int = 0

    def is_packed(self, config: DenoiserConfig) -> bool:
        """Whether a model is trained on packs."""
        return self.packed and isinstance(config.network, VideoDiTConfig)

    def batches(
        self, data: Any, config: DenoiserConfig, *, held_out: bool = False
    ) -> Callable[[int], Batch]:
        """Update t -> its batch of a stream: of packs, or of clips of one size.

        Args:
          data: the stream.
          config: the model.
          held_out: whether it is for the held-out loss, where clips have no images beside them.
        """
        if self.is_packed(config):
            patch = config.network.patch
            return make_pack_batches(data, patch, self.pack_length, self.pack_examples, self.packs)
        return make_clip_batches(data, self.clips, 0 if held_out else self.image_frames)

    def numbers(self, config: DenoiserConfig, sizes: Sequence[Size]) -> dict[str, int]:
        """How much a run sees: tokens of packs, or pixels of clips, whose sizes take turns."""
        if self.is_packed(config):
            return {"tokens": self.training_steps * self.packs * self.pack_length}
        seen = [sizes[t % len(sizes)] for t in range(self.training_steps)]
        pixels = [(size[0] + self.image_frames) * math.prod(size[1:]) for size in seen]
        return {"pixels": self.clips * sum(pixels)}


def make_video_loss(config: DenoiserConfig, layout: Layout) -> LossFn:
    """The mean loss over the examples of a batch, of packs or clips, each at a time of its own.

    Args:
      config: the model.
      layout: of its parameters.
    """
    model = config.make_model()
    channels = config.image_shape[-1]

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        noise_key, dropout_key, mask_key = jax.random.split(key, 3)
        label = batch.get("label")
        if label is not None and config.null_label is not None:
            dropout = config.network.class_dropout
            index = batch["index"]
            if "images" in batch:  # of a clip and its images all labels or none
                index = jnp.broadcast_to(index[:, None], label.shape)
            label = drop_labels(dropout_key, index, label, config.null_label, dropout)
        apply = functools.partial(model.apply, {"params": gather_fsdp(params, layout)})
        masks = (mask_key, channels) if config.known_frames else None
        loss_of = _packed_loss if "tokens" in batch else _clip_loss
        found = loss_of(config, apply, batch, label, noise_key, masks)
        metrics = loss_by_level(found.loss, found.level, present_B=found.present)
        return found.mean(), {**metrics, WEIGHT: found.present.sum()}

    return loss_fn


def _packed_loss(
    config: DenoiserConfig,
    apply: Callable[..., Array],
    batch: Batch,
    label_BE: Array | None,
    key: Array,
    masks: tuple[Array, int] | None,
) -> PackedLoss:
    """Losses of packed examples, with known frames where there are masks."""
    places, given = (batch["place"], batch["segment"]), None
    if masks is not None:
        frame_BL = batch["place"][..., 0]
        known = frame_BL, batch["segment"], batch["index"], *masks
        given = known_of_packs(FrameMasks(), batch["tokens"], *known)

    def network(z_BLF: Array, time_BE: Array) -> Array:
        if given is not None:
            z_BLF = join_channels(z_BLF, given.condition_BLF, config.image_shape[-1])
        return apply(z_BLF, *places, time_BE, label_BE, method="packed")

    return packed_loss(
        network,
        batch["tokens"],
        batch["segment"],
        batch["index"],
        key,
        schedule=config.schedule,
        target=config.target,
        known_BL=None if given is None else given.known_BL,
    )


def _clip_loss(
    config: DenoiserConfig,
    apply: Callable[..., Array],
    batch: Batch,
    label_B: Array | None,
    key: Array,
    masks: tuple[Array, int] | None,
) -> PackedLoss:
    """Losses of clips of one size, with known frames where there are masks, or with images."""
    x_BTYXC = as_data(batch["video"])
    images = batch["images"].shape[1] if "images" in batch else 0

    def network(z: Array, time: Array) -> Array:
        return apply(z, time, label_B, **({"image_frames": images} if images else {}))

    options = {"schedule": config.schedule, "target": config.target, "index_B": batch["index"]}
    if images:
        joint = jnp.concatenate([x_BTYXC, as_data(batch["images"])], axis=1)
        loss_B, level = joint_loss(network, joint, key, image_frames=images, **options)
    elif masks is None:
        loss_B, level = diffusion_loss(network, x_BTYXC, key, **options)
    else:
        given = FrameMasks()(x_BTYXC, example_keys(masks[0], batch["index"]))
        denoiser = make_denoiser(with_frame_channels(network, given.condition_BYXC), config.target)
        denoiser = with_known(denoiser, given.known_BYX1, x_BTYXC)
        loss_B, level = denoiser_loss(denoiser, x_BTYXC, key, **options)
    return PackedLoss(loss_B, level, jnp.ones(loss_B.shape, bool))


def train_video_denoiser(
    config: DenoiserConfig,
    data: VideoData,
    folder: pathlib.Path,
    flags: VideoTrainingFlags,
    *,
    seed: int = 0,
    tensorboard: bool = False,
    batches: Callable[[int], Batch] | None = None,
) -> TrainedModel:
    """Trains a denoiser on a set's training stream, or resumes.

    Args:
      config: the model.
      data: the set.
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      flags: how to train it.
      seed: of the parameters and noise.
      tensorboard: whether to write event files too.
      batches: update t -> its batch, which may be of another shape than the one before; None: those
        that the flags ask for.

    Raises:
      InputError: where `folder` has another run's checkpoints.
    """
    return train_model(
        config,
        batches or flags.batches(data.train, config),
        folder,
        flags,
        functools.partial(make_video_loss, config),
        make_evaluation=functools.partial(make_held_out_loss, config, data, flags),
        seed=seed,
        tensorboard=tensorboard,
        single_steps=batches is not None or not flags.is_packed(config),
    )


def check_batches(config: DenoiserConfig, data: VideoData, flags: VideoTrainingFlags) -> None:
    """Refuses, before anything is written, what training would refuse.

    Raises:
      InputError: for an example longer than a pack, a size that the network does not take, or
        batches that the mesh cannot share equally.
    """
    packed = flags.is_packed(config)
    name = "packs" if packed else "clips"
    check_batch_size(getattr(flags, name), current_mesh(), name)
    if flags.image_frames and (isinstance(config.network, VideoDiTConfig) or config.known_frames):
        raise InputError(
            f"image_frames is {flags.image_frames}, expected 0 of a network other than the U-Net, "
            "and with known frames"
        )
    flags.batches(data.train, config)
    if not packed:
        for size in data.train.sizes:
            check_layout(dataclasses.replace(config, image_shape=(*size, data.channels)))


def make_held_out_loss(
    config: DenoiserConfig, data: VideoData, flags: VideoTrainingFlags, loss_fn: LossFn
) -> Callable[[TrainState], dict[str, float]] | None:
    """The loss of the averaged parameters on held-out videos, always with the same noise.

    None for a set without a held-out stream.
    """
    if data.held_out is None:
        return None
    mesh, batch_of = current_mesh(), flags.batches(data.held_out, config, held_out=True)
    packed = flags.is_packed(config)
    count = VALIDATION_PACKS // flags.packs if packed else VALIDATION_CLIPS // flags.clips
    batches = [put_batch(batch_of(i), mesh) for i in range(max(1, count))]
    compiled = jax.jit(loss_fn, out_shardings=replicated(mesh))

    def evaluate(state: TrainState) -> dict[str, float]:
        params, key = averaged_params(state), jax.random.key(0)
        found = [compiled(params, batch, key) for batch in batches]
        losses = [float(loss) for loss, _ in found]
        weights = [float(metrics[WEIGHT]) for _, metrics in found]
        return {VALIDATION_LOSS: float(np.average(losses, weights=weights))}

    return evaluate
