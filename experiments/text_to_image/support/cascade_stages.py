"""Stages of a cascade: models of rising size, each of which enlarges what the one before made.

A stage is a text-to-image model with a name and how it is trained. What it is conditioned on, the
small image under noise, is its model's `Augmentation`; a stage without one starts from the text
alone. Nothing here depends on how many stages there are, or on what their networks are.
"""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.shared.output import write_text
from experiments.shared.training_runs import TrainedModel, plot_training, seconds_per_update
from experiments.shared.unet_sizes import HEAD_SIZE
from experiments.text_to_image.support.captioned_data import plan_batches, plan_examples
from experiments.text_to_image.support.text_networks import TextEncoder
from experiments.text_to_image.support.text_training import (
    TextTrainingFlags,
    train_text_to_image,
    training_parts,
)
from jaxgen.data import CaptionedSet
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.diffusion.conditioning.noise_augmentation import Augmentation
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.predictions import channels_of, check_target
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.errors import InputError, check_share
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Tree
from jaxgen.unet.efficient import efficient_unet

LEVELS, SMALLEST = 3, 4
"""Levels of a super-resolver below its full resolution at most, and the least side of the last."""


@dataclass(frozen=True)
class Stage:
    """One model of a cascade.

    Attributes:
      name: of it, and of its folder.
      model: its network, the shape of its images, and what it is conditioned on.
      training: how it is trained.
      crop: the side of the crops that it is trained on; None: whole images.
      alone: of clips, probability that each frame is denoised alone, as an image.
    """

    name: str
    model: TextToImageConfig
    training: TextTrainingFlags
    crop: int | None = None
    alone: float = 0.0

    @property
    def side(self) -> int:
        """Of its images, in pixels."""
        return self.model.image_shape[-2]

    @property
    def frames(self) -> int | None:
        """Of its clips; None: its samples are images."""
        return self.model.image_shape[0] if len(self.model.image_shape) == 4 else None

    @property
    def small_side(self) -> int | None:
        """Of the images that it enlarges; None: it starts from the text alone."""
        found = self.model.augmentation
        return None if found is None else self.side // found.factor


@register_config("text_to_image.resolvers")
@dataclass(frozen=True, kw_only=True)
class ResolverFlags:
    """The super-resolvers, and the model of the full size that they are compared with.

    Attributes:
      resolver_width: channels at the full resolution and the next; then 2 and 4 times as many.
      resolver_depth: residual blocks at the lowest resolution; 1 elsewhere.
      resolver_batch: pictures of an update.
      small_steps: updates of the first super-resolver.
      large_steps: of the second.
      direct_steps: of the direct model; None: as many as take the time of the three stages.
      highest: noise on the small pictures in training, as a time from 0 to this.
      crop: the second one, whose pixels do not attend to each other, is trained on crops of this
        side; 0: on whole pictures.
    """

    resolver_width: int = 16
    resolver_depth: int = 2
    resolver_batch: int = 16
    small_steps: int = 600
    large_steps: int = 600
    direct_steps: int | None = None
    highest: float = 0.6
    crop: int = 0

    def __post_init__(self) -> None:
        for name in ("resolver_depth", "resolver_batch", "small_steps", "large_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.direct_steps is not None and self.direct_steps < 1:
            raise InputError(f"direct_steps is {self.direct_steps}, expected 1 or more")
        if self.resolver_width < 8 or self.resolver_width % 8:
            raise InputError(f"resolver_width is {self.resolver_width}, expected a multiple of 8")
        if self.crop < 0:
            raise InputError(f"crop is {self.crop}, expected 0 or more")
        check_share("highest", self.highest)


def resolver_model(
    shape: tuple[int, ...],
    encoder: TextEncoder,
    flags: ResolverFlags,
    *,
    target: str,
    small_side: int | None,
    highest: float = 0.0,
    pixels: bool = True,
    **changes: Any,
) -> TextToImageConfig:
    """An Efficient U-Net that reads texts, and a small image if there is one.

    Args:
      shape: Y, X, C of its images.
      encoder: of the texts.
      flags: its size.
      target: what it predicts.
      small_side: of the small images; None: it sees none.
      highest: noise on them in training.
      pixels: whether pixels attend to each other at the lowest resolution.
      **changes: further fields of `TextToImageConfig`.

    Raises:
      InputError: for sides of which one is no multiple of the other.
    """
    side, channels, checked = shape[0], shape[-1], check_target(target)
    augmentation, beside = None, 0
    if small_side is not None:
        if side % small_side or side == small_side:
            raise InputError(f"sides {small_side} and {side}, expected a multiple of the first")
        augmentation = Augmentation(CosineSchedule(), side // small_side, highest=highest)
        beside = augmentation.condition_channels(channels)
    count = max(1, min(LEVELS, round(math.log2(side / SMALLEST))))
    width = flags.resolver_width
    network = efficient_unet(
        tuple(width * 2**i for i in range(count)),
        (*(1,) * (count - 1), flags.resolver_depth),
        pixels=pixels,
        in_channels=channels + beside,
        out_channels=channels_of(checked, channels),
        groups=8,
        head_size=min(HEAD_SIZE, width * 2 ** (count - 1)),
        embedding=8 * width,
        text_width=encoder.config.width,
        pooled_width=encoder.pooled_width,
    )
    denoiser = DenoiserConfig(network, shape, (), checked, beside_channels=beside)
    return TextToImageConfig(denoiser, encoder.config, augmentation=augmentation, **changes)


def pictures_at(pictures: CaptionedSet, side: int, frames: int | None = None) -> CaptionedSet:
    """A set made smaller: means over blocks of pixels, and of clips every so many frames.

    Args:
      pictures: or clips.
      side: of what is wanted, in pixels.
      frames: of the clips that are wanted; None: as many as there are.

    Raises:
      InputError: for sizes that do not divide theirs.
    """
    images = pictures.images
    if frames is not None:
        if images.ndim != 5 or images.shape[1] % frames:
            raise InputError(
                f"{pictures.name}: {pictures.frames} frames, expected a multiple of {frames}"
            )
        images = images[:, :: images.shape[1] // frames]
    *lead, height, width, channels = images.shape
    if height != width or height % side:
        raise InputError(
            f"{pictures.name}: pictures of {height} x {width}, expected multiples of {side}"
        )
    factor = height // side
    if factor == 1 and images is pictures.images:
        return pictures
    if factor > 1:
        blocks = images.reshape(*lead, side, factor, side, factor, channels)
        images = np.rint(blocks.mean((-4, -2), dtype=np.float32)).astype(np.uint8)
    return dataclasses.replace(pictures, images=images)


def train_stage(
    stage: Stage,
    pictures: CaptionedSet,
    tokens: CaptionTokens,
    folder: pathlib.Path,
    **options: Any,
) -> TrainedModel:
    """Trains a stage in its own folder, or resumes, and draws its curves there.

    Args:
      stage: what is trained.
      pictures: the set, at full size.
      tokens: of its captions.
      folder: of the run.
      **options: ``weighting``, ``encoder``, ``seed`` and ``tensorboard`` of `train_text_to_image`.
    """
    plan = plan_examples(pictures, stage.training.batch_size, options["seed"])
    trained = train_text_to_image(
        stage.model,
        pictures_at(pictures, stage.side, stage.frames),
        tokens,
        plan,
        folder / stage.name,
        stage.training,
        crop=stage.crop,
        alone=stage.alone,
        **options,
    )
    plot_training(folder / stage.name / "curves.png", trained)
    return trained


def equal_updates(
    path: pathlib.Path,
    stages: Sequence[Stage],
    direct: Stage,
    pictures: CaptionedSet,
    tokens: CaptionTokens,
    *,
    weighting: str,
    encoder: Tree | None,
    seed: int,
) -> int:
    """Updates of one stage that take as long as the training of others together.

    How long an update of each takes is measured once, one after the other, and kept in a file, so
    that a run resumes; on CPU it is the processor's time, which other programs do not change.

    Args:
      path: the file.
      stages: the others.
      direct: the one.
      pictures: the set, at full size.
      tokens: of its captions.
      weighting: as in training.
      encoder: likewise.
      seed: likewise.
    """
    if path.exists():
        seconds = json.loads(path.read_text())
    else:
        clock = time.process_time if jax.default_backend() == "cpu" else time.monotonic
        seconds = {}
        for stage in (*stages, direct):
            plan = plan_batches(pictures, stage.training.batch_size, seed)
            parts = training_parts(
                stage.model,
                pictures_at(pictures, stage.side),
                tokens,
                plan,
                stage.training,
                weighting=weighting,
                encoder=encoder,
                crop=stage.crop,
            )
            seconds[stage.name] = seconds_per_update(
                stage.model,
                parts.data,
                stage.training,
                parts.make_loss_fn,
                single_steps=parts.single_steps,
                tx=parts.tx,
                clock=clock,
            )
        write_text(path, json.dumps(seconds, indent=2))
    total = sum(stage.training.training_steps * seconds[stage.name] for stage in stages)
    return max(1, round(total / seconds[direct.name]))
