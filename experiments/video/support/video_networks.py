"""The denoisers of videos that flags ask for: transformers on spacetime patches, the 3-D U-Net."""

from dataclasses import dataclass
from typing import Any, Literal

from experiments.shared.unet_sizes import heads_of, unet_of_size
from experiments.video.support.video_streams import Size, parse_size
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.derived_schedules import Shifted
from jaxgen.diffusion.process.schedules import CosineSchedule
from jaxgen.errors import InputError, check_positive
from jaxgen.spacetime import VideoDiTConfig
from jaxgen.training.saved_names import register_config


@register_config("video.network")
@dataclass(frozen=True, kw_only=True)
class VideoNetworkFlags:
    """The denoising network.

    Attributes:
      backbone: "dit", a transformer on spacetime patches, which is trained on packs, or "unet",
        convolutions in space and attention in time, trained on clips of one size at a time.
      width: of a token; of the U-Net, channels at the lowest resolution.
      depth: transformer blocks; of the U-Net, residual blocks of a level.
      patch: frames, height and width of a patch, as in 1x4x4.
      positions: "sincos" (waves, added to tokens) or "rotary" (turns queries and keys, which shows
        how far tokens are apart, but not where the borders are).
      attention: which tokens attend to each other: "joint" (all of a clip); or space, then time, in
        each block ("factorised"), in alternate blocks ("interleaved"), in the first and the second
        half of the blocks ("space_then_time"), or with half of the heads each ("split_heads").
      causal: whether tokens attend to no later frame.
      known_frames: whether it is trained with known frames too, the first, the last, both or the
        first few: then it extends and joins clips and animates images by itself
        (experiments.video.extend).
      class_dropout: condition dropout: how often the null label replaces the class in training; 0
        leaves no unconditional model, so that nothing can be guided.
      shift: what a / s of the cosine schedule is multiplied by; below one for more noise, which
        longer and larger clips need, whose frames and pixels say the same again.
      dtype: the compute dtype of products.
      remat: recompute the activations of blocks in the backward pass, to save memory.
    """

    backbone: Literal["dit", "unet"] = "dit"
    width: int = 128
    depth: int = 6
    patch: str = "1x4x4"
    positions: Literal["sincos", "rotary"] = "sincos"
    attention: Literal["joint", "factorised", "interleaved", "space_then_time", "split_heads"] = (
        "joint"
    )
    causal: bool = False
    known_frames: bool = False
    class_dropout: float = 0.1
    shift: float = 0.5
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        heads_of(self.width)
        check_positive("shift", self.shift)
        self.sides()
        if self.backbone == "unet":
            for name in ("patch", "positions", "attention", "causal"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise InputError(
                        f"{name} is {getattr(self, name)} with backbone 'unet', which has none, "
                        "expected backbone 'dit'"
                    )

    def sides(self) -> Size:
        """P_t, P_y, P_x; of the U-Net, which has no patches, 1, 1, 1.

        Raises:
          InputError: for a patch that is none.
        """
        return (1, 1, 1) if self.backbone == "unet" else parse_size(self.patch, "patch")


def video_model(
    flags: VideoNetworkFlags, classes: tuple[str, ...], channels: int, size: Size
) -> DenoiserConfig:
    """The model that flags ask for: it predicts v.

    Args:
      flags: of the network.
      classes: names of the classes; empty without labels.
      channels: of the videos.
      size: that is sampled where no other is asked for.

    Raises:
      InputError: for sizes that make no network.
    """
    dropout = flags.class_dropout if classes else 0.0
    common: dict[str, Any] = {
        "in_channels": channels + flags.known_frames * (channels + 1),
        "out_channels": channels,
        "num_classes": len(classes),
        "null_class": dropout > 0,
        "class_dropout": dropout,
        "dtype": flags.dtype,
        "remat": flags.remat,
    }
    network: Any
    if flags.backbone == "unet":
        common["temporal"] = True
        network = unet_of_size(flags.width, flags.depth, size[1:], common)
    else:
        network = VideoDiTConfig(
            **common,
            patch=flags.sides(),
            width=flags.width,
            depth=flags.depth,
            heads=heads_of(flags.width),
            positions=flags.positions,
            attention_pattern=flags.attention,
            causal=flags.causal,
        )
    schedule = CosineSchedule() if flags.shift == 1 else Shifted(CosineSchedule(), flags.shift)
    return DenoiserConfig(
        network,
        (*size, channels),
        classes,
        schedule=schedule,
        known_frames=flags.known_frames,
    )
