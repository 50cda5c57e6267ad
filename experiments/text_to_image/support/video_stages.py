"""The stages of a cascade of videos: what each makes from what, its network, its data.

As in Imagen Video (Ho et al. 2022): a base that makes few small frames from a text, then
super-resolvers in space (more pixels) and in time (more frames), in any order, each of which reads
the text and what the stage before it made.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from experiments.text_to_image.support.text_networks import TextEncoder
from jaxgen.diffusion.conditioning.noise_augmentation import Augmentation
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.errors import InputError, check_sizes
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Batch
from jaxgen.unet import UNetConfig

Enlarged = Literal["space", "time"]
BASE = "base"


class VideoStage(NamedTuple):
    """One stage of a cascade.

    Attributes:
      name: "base", or what is enlarged and to what size, as "space_16" and "time_8".
      frames: T of the clips that it makes.
      side: Y and X of them.
      augmentation: of a super-resolver, how its input is made from smaller clips.
    """

    name: str
    frames: int
    side: int
    augmentation: Augmentation | None = None


@register_config("text_to_image.video_stages")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoStageFlags:
    """The stages, and the sizes of their networks: 3-D U-Nets.

    Attributes:
      order: what is enlarged, one super-resolver after the other: "space" or "time".
      base_frames: frames of the base.
      base_side: height and width of its frames.
      space_factor: by how much a super-resolver enlarges both sides.
      time_factor: by how much one multiplies the frames.
      base_channels: of its network, at each resolution.
      resolver_channels: those of super-resolvers' networks.
      head_width: channels of an attention head.
      text_width: of each stage's text transformer.
      text_depth: its blocks.
      highest_level: the most noise on a super-resolver's input in training, as a time.
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

    def __post_init__(self) -> None:
        names = "base_frames base_side space_factor time_factor head_width text_width text_depth"
        check_sizes(self, *names.split())
        for kind in self.order:
            if kind not in get_args(Enlarged):
                raise InputError(f"order has {kind!r}, expected space or time")
        for channels in (self.base_channels, self.resolver_channels):
            if channels[-1] % self.head_width:
                raise InputError(
                    f"head_width is {self.head_width}, expected a divisor of {channels[-1]}, the "
                    "channels of the lowest resolution"
                )
        self.stages()

    def stages(self) -> tuple[VideoStage, ...]:
        """All of them, the base first."""
        found = [VideoStage(BASE, self.base_frames, self.base_side)]
        for kind in self.order:
            before = found[-1]
            space, time = kind == "space", kind == "time"
            augmentation = Augmentation(
                CosineSchedule(),
                self.space_factor if space else 1,
                highest=self.highest_level,
                frames=self.time_factor if time else 1,
            )
            side = before.side * augmentation.factor
            frames = before.frames * augmentation.frames
            name = f"space_{side}" if space else f"time_{frames}"
            found.append(VideoStage(name, frames, side, augmentation))
        return tuple(found)

    def model(self, stage: VideoStage, encoder: TextEncoder, null_text: bool) -> TextToImageConfig:
        """The denoiser of a stage, with the text transformer that is trained with it.

        The base has attention over frames, super-resolvers have convolutions over frames, and
        attention to pixels and texts at the lowest resolution alone: they are trained on crops.

        Args:
          stage: which.
          encoder: of its texts.
          null_text: whether the empty text is trained on.
        """
        base = stage.augmentation is None
        channels = self.base_channels if base else self.resolver_channels
        beside = 0 if stage.augmentation is None else stage.augmentation.condition_channels(3)
        network = UNetConfig(
            in_channels=3 + beside,
            channels=channels,
            blocks=1,
            groups=8,
            head_size=self.head_width,
            attention_levels=tuple(range(len(channels))) if base else (len(channels) - 1,),
            temporal=True,
            temporal_layer="attention" if base else "convolution",
            text_width=encoder.config.width,
            text_attention="beside",
            pooled_width=encoder.pooled_width,
        )
        shape = (stage.frames, stage.side, stage.side, 3)
        denoiser = DenoiserConfig(network, shape, (), beside_channels=beside)
        return TextToImageConfig(
            denoiser, encoder.config, null_text=null_text, augmentation=stage.augmentation
        )


def clips_of_stage(
    x: Float[np.ndarray, "N T Y X C"], stage: VideoStage
) -> Float[np.ndarray, "N T2 Y2 X2 C"]:
    """What a stage shall make of clips: every so many frames, means of pixels.

    Raises:
      InputError: for clips whose sizes are no multiples of the stage's.
    """
    count, frames, height, width, channels = x.shape
    if frames % stage.frames or height % stage.side or width % stage.side:
        raise InputError(
            f"clips have {frames} frames of {height} x {width}, expected multiples of "
            f"{stage.frames} frames of {stage.side} x {stage.side}"
        )
    x = x[:, :: frames // stage.frames]
    rows, columns = height // stage.side, width // stage.side
    blocks = x.reshape(count, stage.frames, stage.side, rows, stage.side, columns, channels)
    return blocks.mean(axis=(3, 5), dtype=np.float32)


def crop_clips(
    x: Float[np.ndarray, "N T Y X C"], side: int, step: int, factor: int, places: Any
) -> Float[np.ndarray, "N T S S C"]:
    """A part of each clip, where its place in all batches says, in whole pixels of the small clip.

    Args:
      x: clips.
      side: of the parts.
      step: of training.
      factor: by which the small clip is enlarged.
      places: the clips' places in the batch.
    """
    parts = []
    for clip, place in zip(x, places, strict=True):
        rng = np.random.default_rng((step, int(place)))
        top, left = factor * rng.integers((x.shape[2] - side) // factor + 1, size=2)
        parts.append(clip[:, top : top + side, left : left + side])
    return np.stack(parts)


def batch_of_stage(
    batch: Batch, stage: VideoStage, crop: int, step: int, rows: Any = None
) -> Batch:
    """A batch of captioned clips as a stage is trained on it.

    Args:
      batch: ``"video"`` at full size, and the ids and masks of the texts.
      stage: which.
      crop: side of the parts that a super-resolver of larger frames is trained on.
      step: of training.
      rows: of the whole batch that these are; None: all.
    """
    x = clips_of_stage(np.asarray(batch["video"]), stage)
    if stage.augmentation is not None and crop < stage.side:
        places = range(len(x)) if rows is None else rows
        x = crop_clips(x, crop, step, stage.augmentation.factor, places)
    return {"image": x, "text_ids": batch["text_ids"], "text_mask": batch["text_mask"]}
