"""``config.json`` of a ``UNet2DConditionModel``, the U-Net of Stable Diffusion, both ways.

It has the fields of a ``UNet2DModel`` (`jaxgen.interop.unet_weights.unet_options`), and those of
texts. Its ``attention_head_dim`` is the number of heads, whatever the name says.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_class
from jaxgen.interop.model_folders import config_fields
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.unet_config import unet_fields
from jaxgen.interop.unet_weights import DEFAULTS, unet_options

TEXT_UNET = "UNet2DConditionModel"

BLOCKS = {
    "down_block_types": {
        "CrossAttnDownBlock2D": "AttnDownBlock2D",
        "DownBlock2D": "DownBlock2D",
        "ResnetDownsampleBlock2D": "ResnetDownsampleBlock2D",
    },
    "up_block_types": {
        "CrossAttnUpBlock2D": "AttnUpBlock2D",
        "UpBlock2D": "UpBlock2D",
        "ResnetUpsampleBlock2D": "ResnetUpsampleBlock2D",
    },
}
"""Blocks, and those of a ``UNet2DModel`` at whose place they are."""

MIDDLE = "UNetMidBlock2DCrossAttn"
"""The blocks in the middle; of another kind this model has one residual block there, not two."""

TEXT_DEFAULTS: dict[str, Any] = {
    **DEFAULTS,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "mid_block_type": MIDDLE,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "use_linear_projection": False,
    "addition_embed_type": None,
    "projection_class_embeddings_input_dim": None,
}
"""What diffusers takes for fields that a configuration leaves out."""

ONE_WAY: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None, "text_time"),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": (MIDDLE,),
    "num_attention_heads": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
}
"""Fields that change the network, and the values that the U-Net here has; the first is diffusers'
default but for those of `TEXT_DEFAULTS`."""

OF_ONE_LEVEL = ("layers_per_block", "cross_attention_dim")
"""Fields that may have one number for each level there, and have one for all here."""

SIZE_WAVES = 256
"""Waves of each of six numbers of size and crop, which are a part of SDXL's pooled vector."""

NOT_THERE = ("downsample_type", "upsample_type", "attn_norm_num_groups", "add_attention")
"""Fields of a ``UNet2DModel`` that this model has not."""


def text_unet_options(config: Mapping[str, Any] | TensorFile) -> dict[str, Any]:
    """The fields of `jaxgen.unet.UNetConfig` for the configuration of a ``UNet2DConditionModel``.

    SDXL's ``text_time`` is a pooled vector here: the text's, then the waves of size and crop.

    Args:
      config: as in `jaxgen.interop.unet_weights.unet_options`.

    Raises:
      InputError: For a value that the U-Net here has not, or the configuration of another model;
        the message names the field. For a `TensorFile` without a ``config.json``.
    """
    where, found = config_fields(config, "U-Net")
    check_class(where, found, [TEXT_UNET])
    given = {name: found.get(name, default) for name, default in TEXT_DEFAULTS.items()}
    for name, values in ONE_WAY.items():
        _check_one_of(where, name, found.get(name, given.get(name, values[0])), values)
    for name in OF_ONE_LEVEL:
        if not isinstance(given[name], int):
            raise InputError(f"{where}: {name} is {given[name]!r}, expected one number")
    for name, kinds in BLOCKS.items():
        for kind in given[name]:
            _check_one_of(where, name, kind, tuple(kinds))
    pooled = given["projection_class_embeddings_input_dim"]
    return {
        **unet_options(_without_text(given)),
        "heads": _one_or_each(given["attention_head_dim"]),
        "head_size": None,
        "middle_groups": None,
        "text_width": given["cross_attention_dim"],
        "transformer_depth": _one_or_each(given["transformer_layers_per_block"]),
        "linear_projection": given["use_linear_projection"],
        "pooled_width": pooled if given["addition_embed_type"] == "text_time" else 0,
    }


def text_unet_fields(
    config: Any, sample_size: int | tuple[int, int] | None = None
) -> dict[str, Any]:
    """The inverse of `text_unet_options`.

    Args:
      config: A `jaxgen.unet.UNetConfig` that reads texts.
      sample_size: Height and width of the latents, which the file mentions; None: not.

    Raises:
      InputError: For an option that diffusers' network has in one way alone, naming it.
    """
    no_text = {"text_width": 0, "pooled_width": 0, "transformer_depth": 1}
    heads = {"heads": None, "head_size": 1}
    plain = dataclasses.replace(config, **no_text, **heads, linear_projection=False)
    fields = unet_fields(plain, sample_size)
    for name, kinds in BLOCKS.items():
        ours = {plain_kind: kind for kind, plain_kind in kinds.items()}
        fields[name] = [ours[kind] for kind in fields[name]]
    fields = {name: value for name, value in fields.items() if name not in NOT_THERE} | {
        "_class_name": TEXT_UNET,
        "mid_block_type": MIDDLE,
        "attention_head_dim": _as_list(config.heads or _heads_of_one_size(config)),
        "cross_attention_dim": config.text_width,
        "transformer_layers_per_block": _as_list(config.transformer_depth),
        "use_linear_projection": config.linear_projection,
    }
    if config.pooled_width:
        fields |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_WAVES,
            "projection_class_embeddings_input_dim": config.pooled_width,
        }
    _check_told(config, fields)
    return fields


def _check_told(config: Any, fields: dict[str, Any]) -> None:
    """Refuses a network of which the configuration, read back, would say something else.

    What a ``UNet2DModel`` has too, `unet_fields` has compared.
    """
    told = type(config)(**text_unet_options(fields))
    for name in (
        *("text_width", "text_attention", "middle_attention"),
        *("activation", "down_kinds", "up_kinds"),
    ):
        if getattr(config, name) != getattr(told, name):
            raise InputError(
                f"{name} is {getattr(config, name)!r}, expected {getattr(told, name)!r}, which a "
                f"{TEXT_UNET} has"
            )


def _without_text(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the ``UNet2DModel`` with attention over pixels in place of transformers."""
    blocks = {name: [kinds[kind] for kind in given[name]] for name, kinds in BLOCKS.items()}
    return {name: given[name] for name in DEFAULTS} | {
        **blocks,
        "attention_head_dim": None,
        "add_attention": True,
        "mid_block_type": "UNetMidBlock2D",
    }


def _heads_of_one_size(config: Any) -> tuple[int, ...]:
    """Heads of each level, where a configuration says how large they are."""
    return tuple(max(channels // config.head_size, 1) for channels in config.channels)


def _check_one_of(where: str, name: str, value: Any, expected: tuple[Any, ...]) -> None:
    if value not in expected:
        known = ", ".join(map(repr, expected))
        raise InputError(f"{where}: {name} is {value!r}, expected one of {known}")


def _one_or_each(value: Any) -> Any:
    """One number, or one for each level as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else value


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
