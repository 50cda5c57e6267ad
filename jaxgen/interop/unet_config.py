"""``config.json`` of a ``UNet2DModel`` from the options of a U-Net; what `unet_options` reads."""

from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.unet_weights import UNET, unet_options


def unet_fields(config: Any, sample_size: int | tuple[int, int] | None = None) -> dict[str, Any]:
    """The inverse of `jaxgen.interop.unet_weights.unet_options`.

    Args:
      config: A `jaxgen.unet.UNetConfig`.
      sample_size: Height and width of the images, in pixels, which the file mentions; None: not.

    Raises:
      InputError: For an option that diffusers' network has in one way alone, naming it.
    """
    count = len(config.channels)
    down = _per_level(config.downsampling, count)
    up = _per_level(config.upsampling, count)
    down_attention = set(config.attention_levels)
    up_attention = {count - 1 - level for level in config.attention_levels_up}
    classes = config.labels == "classes" and config.num_classes
    fields = {
        "_class_name": UNET,
        "sample_size": sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "time_embedding_dim": config.embedding,
        "freq_shift": int(config.frequency_shift),
        "flip_sin_to_cos": config.cosine_first,
        "down_block_types": [
            _down_type(i in down_attention, way) for i, way in enumerate([*down, None])
        ],
        "up_block_types": [_up_type(i in up_attention, way) for i, way in enumerate([*up, None])],
        "block_out_channels": list(config.channels),
        "layers_per_block": np.max(config.blocks).item(),
        "mid_block_scale_factor": config.middle_skip_divisor,
        "downsample_padding": 0 if "conv_end" in down else 1,
        "downsample_type": _type_of(down, down_attention),
        "upsample_type": _type_of(up, up_attention),
        "dropout": config.dropout,
        "act_fn": config.activation,
        "attention_head_dim": config.head_size,
        "norm_num_groups": config.groups,
        "attn_norm_num_groups": _middle_groups(config),
        "norm_eps": config.norm_epsilon,
        "resnet_time_scale_shift": "scale_shift" if config.adaptive_norm else "default",
        "add_attention": config.middle_attention,
        "class_embed_type": "timestep" if config.labels == "numbers" else None,
        "num_class_embeds": config.num_classes + config.null_class if classes else None,
    }
    _check_told(config, fields, count)
    return fields


def _check_told(config: Any, fields: dict[str, Any], count: int) -> None:
    """Refuses a network of which the configuration, read back, would say something else."""
    told = unet_options(fields, null_class=config.null_class)
    wanted = {name: getattr(config, name) for name in told}
    wanted["downsampling"] = _per_level(config.downsampling, count)
    wanted["upsampling"] = _per_level(config.upsampling, count)
    wanted["up_attention_levels"] = tuple(sorted(config.attention_levels_up))
    wanted["attention_levels"] = tuple(sorted(config.attention_levels))
    wanted["middle_divisor"] = config.middle_skip_divisor
    for middle in (told, wanted):
        if middle["middle_groups"] is None or not config.middle_attention:
            middle["middle_groups"] = config.groups
    wanted |= {"temporal": config.temporal, "skip_divisor": config.skip_divisor}
    told |= {"temporal": False, "skip_divisor": 1.0}
    for name, value in told.items():
        if wanted[name] != value:
            raise InputError(
                f"{name} is {wanted[name]!r}, expected {value!r}, which a UNet2DModel has"
            )


def _middle_groups(config: Any) -> int | None:
    """Groups of the norm in the middle; none is none with adaptive norms, else as in all norms."""
    if config.middle_groups is None:
        return config.groups if config.adaptive_norm else None
    return config.middle_groups or None


def _per_level(value: str | tuple[str, ...], count: int) -> tuple[str, ...]:
    return (value,) * (count - 1) if isinstance(value, str) else tuple(value)


def _type_of(ways: tuple[str, ...], attention: set[int]) -> str:
    """How levels with attention are left."""
    residual = any(way == "residual" for i, way in enumerate(ways) if i in attention)
    return "resnet" if residual else "conv"


def _down_type(attention: bool, way: str | None) -> str:
    if attention:
        return "AttnDownBlock2D"
    return "ResnetDownsampleBlock2D" if way == "residual" else "DownBlock2D"


def _up_type(attention: bool, way: str | None) -> str:
    if attention:
        return "AttnUpBlock2D"
    return "ResnetUpsampleBlock2D" if way == "residual" else "UpBlock2D"
