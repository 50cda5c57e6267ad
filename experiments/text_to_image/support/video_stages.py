"""The stages of a cascade of videos: what each makes from what, its network, its students.

As in Imagen Video (Ho et al. 2022): a base that makes few small frames from a text, then
super-resolvers in space (more pixels) and in time (more frames), in any order, each of which reads
the text and what the stage before it made.
"""

import dataclasses
import pathlib
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array

from experiments.shared.guided_distillation import distil_guided_model, guidance_conditioned
from experiments.shared.training_runs import OpenedModel, TrainedModel, train_model
from experiments.text_to_image.support.captioned_data import plan_examples
from experiments.text_to_image.support.cascade_stages import Stage, pictures_at
from experiments.text_to_image.support.text_networks import TextEncoder
from experiments.text_to_image.support.text_training import (
    TextTrainingFlags,
    parts_to_train_on,
    training_parts,
)
from jaxgen.data import CaptionedSet
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.diffusion.conditioning.noise_augmentation import Augmentation
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.errors import InputError, check_share, check_sizes
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Batch, Tree
from jaxgen.unet import UNetConfig
from jaxgen.unet.efficient import efficient_unet

BASE, CHANNELS, GROUPS = "base", 3, 8

Enlarged = Literal["space", "time"]


@register_config("text_to_image.video_stages")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoStageFlags:
    """The stages, the sizes of their networks (3-D U-Nets), and how super-resolvers are trained.

    Attributes:
      order: what is enlarged, one super-resolver after the other: "space" or "time".
      base_frames: frames of the base.
      base_side: height and width of its frames.
      space_factor: by how much a super-resolver enlarges both sides.
      time_factor: by how much one multiplies the frames.
      base_channels: of its network, at each resolution.
      resolver_channels: those of super-resolvers' networks below the full resolution.
      head_width: channels of an attention head.
      text_width: of each stage's text transformer.
      text_depth: its blocks.
      highest_level: the most noise on a super-resolver's input in training, as a time.
      alone: probability that a clip's frames are denoised alone, as images, in stages that do not
        enlarge time.
      crop: side of the crops that super-resolvers of larger frames are trained on.
      resolver_steps: updates of each super-resolver.
      resolver_batch: its clips in an update.
    """

    order: tuple[Enlarged, ...] = ("space", "time", "space")
    base_frames: int = 4
    base_side: int = 8
    space_factor: int = 2
    time_factor: int = 4
    base_channels: tuple[int, ...] = (48, 96)
    resolver_channels: tuple[int, ...] = (24, 48)
    head_width: int = 24
    text_width: int = 96
    text_depth: int = 2
    highest_level: float = 0.6
    alone: float = 0.2
    crop: int = 16
    resolver_steps: int = 600
    resolver_batch: int = 8

    def __post_init__(self) -> None:
        names = "base_frames base_side space_factor time_factor head_width text_width text_depth"
        check_sizes(self, *names.split(), "crop", "resolver_steps", "resolver_batch")
        check_share("alone", self.alone)
        check_share("highest_level", self.highest_level)
        for kind in self.order:
            if kind not in get_args(Enlarged):
                raise InputError(f"order has {kind!r}, expected space or time")
        for channels in (self.base_channels, self.resolver_channels):
            if channels[-1] % self.head_width:
                raise InputError(
                    f"head_width is {self.head_width}, expected a divisor of {channels[-1]}, the "
                    "channels of the lowest resolution"
                )

    def shapes(self) -> dict[str, tuple[int, int, Augmentation | None]]:
        """Name, frames, side and augmentation of all stages, the base first."""
        frames, side = self.base_frames, self.base_side
        found: dict[str, tuple[int, int, Augmentation | None]] = {BASE: (frames, side, None)}
        for kind in self.order:
            space = kind == "space"
            augmentation = Augmentation(
                CosineSchedule(),
                self.space_factor if space else 1,
                highest=self.highest_level,
                frames=1 if space else self.time_factor,
            )
            side, frames = side * augmentation.factor, frames * augmentation.frames
            name = f"space_{side}" if space else f"time_{frames}"
            found[name] = (frames, side, augmentation)
        return found

    def stages(self, encoder: TextEncoder, training: TextTrainingFlags) -> list[Stage]:
        """All stages, each with a text transformer of its own that is trained with it.

        Args:
          encoder: of texts.
          training: of the base.
        """
        stages = []
        for name, (frames, side, augmentation) in self.shapes().items():
            base = augmentation is None
            beside = 0 if augmentation is None else augmentation.condition_channels(CHANNELS)
            denoiser = DenoiserConfig(
                self.network(encoder, beside),
                (frames, side, side, CHANNELS),
                (),
                beside_channels=beside,
            )
            drops = training.text_dropout > 0
            model = TextToImageConfig(
                denoiser, encoder.config, null_text=drops, augmentation=augmentation
            )
            flags = training
            if not base:
                flags = dataclasses.replace(
                    training, training_steps=self.resolver_steps, batch_size=self.resolver_batch
                )
            crop = None if base or side <= self.crop else self.crop
            still = augmentation is None or augmentation.frames == 1
            stages.append(Stage(name, model, flags, crop, self.alone if still else 0.0))
        return stages

    def network(self, encoder: TextEncoder, beside: int) -> UNetConfig:
        """Of the base, with attention over frames; or of a super-resolver, with convolutions.

        Those attend to pixels and texts at the lowest resolution alone, as they see crops.

        Args:
          encoder: of texts.
          beside: channels of what is enlarged; 0: the base.
        """
        shared: dict[str, Any] = {
            "in_channels": CHANNELS + beside,
            "out_channels": CHANNELS,
            "groups": GROUPS,
            "head_size": self.head_width,
            "temporal": True,
            "text_width": encoder.config.width,
            "pooled_width": encoder.pooled_width,
        }
        if beside:
            channels = self.resolver_channels
            return efficient_unet(
                channels, (1,) * len(channels), temporal_layer="convolution", **shared
            )
        return UNetConfig(
            channels=self.base_channels,
            blocks=1,
            attention_levels=tuple(range(len(self.base_channels))),
            text_attention="beside",
            **shared,
        )


def distil_stage(
    stage: Stage,
    teacher: OpenedModel,
    clips: CaptionedSet,
    tokens: CaptionTokens,
    folder: pathlib.Path,
    *,
    start: int,
    stop: int,
    max_guidance_weight: float,
    seed: int,
) -> OpenedModel:
    """A student of few steps for every guidance weight; those on the way to it are kept too.

    Args:
      stage: with the training of a student.
      teacher: the trained stage.
      clips: the set, at full size.
      tokens: of its captions.
      folder: of the stage.
      start: DDIM steps of the teacher.
      stop: those of the last student.
      max_guidance_weight: w is drawn between 0 and this.
      seed: of students.
    """
    config: TextToImageConfig = teacher.config
    conditioned = guidance_conditioned(config)
    null_ids, null_mask = tokens.ids[tokens.null], tokens.mask[tokens.null]
    parts = training_parts(
        conditioned,
        pictures_at(clips, stage.side, stage.frames),
        tokens,
        plan_examples(clips, stage.training.batch_size, seed),
        dataclasses.replace(stage.training, text_dropout=0.0),
        weighting="snr_plus_one",
    )

    def examples_of(batch: Batch, key: Array) -> tuple[Array, Texts]:
        x, beside = parts_to_train_on(config, batch["image"], stage.crop, key)
        shape = batch["text_ids"].shape
        nulls = (jnp.broadcast_to(row, shape) for row in (null_ids, null_mask))
        return x, Texts(batch["text_ids"], batch["text_mask"], *nulls, beside=beside)

    def train(name: str, make_loss_fn: Any, seed: int, start: Tree) -> TrainedModel:
        return train_model(
            conditioned,
            parts.data,
            folder / name,
            stage.training,
            make_loss_fn,
            batch_size=stage.training.batch_size,
            make_evaluation=lambda loss_fn: None,
            seed=seed,
            start=start,
            single_steps=parts.single_steps,
        )

    students = distil_guided_model(
        teacher,
        conditioned,
        train,
        examples_of,
        start=start,
        stop=stop,
        max_guidance_weight=max_guidance_weight,
        seed=seed,
    )
    return list(students.values())[-1]
