"""U-Nets of diffusers: the configuration of ``UNet2DModel``, and weights both ways.

Weights of ``UNet2DConditionModel`` have the same names and those of texts; its configuration is
read by `jaxgen.interop.text_unet_config`.

=======================  ==============================================
here                     diffusers
=======================  ==============================================
conv_in, conv_out        the same
norm_out                 conv_norm_out
time/hidden, output      time_embedding.linear_1, linear_2
label/table              class_embedding
label/hidden, output     class_embedding.linear_1, linear_2
down_L_block_i           down_blocks.L.resnets.i
down_L_attention_i       down_blocks.L.attentions.i
down_L_resample          down_blocks.L.downsamplers.0
middle_block_i           mid_block.resnets.i
middle_attention_i       mid_block.attentions.i
up_L_block_i, ...        up_blocks.L.resnets.i, ..., upsamplers.0
of a block: condition    time_emb_proj
skip                     conv_shortcut
norm1, conv1, ...        the same
of attention: norm       group_norm
qkv                      to_q, to_k, to_v (older files: query, key, value)
output                   to_out.0 (older files: proj_attn)
pooled/hidden, output    add_embedding.linear_1, linear_2
of a text's: input_norm  norm
conv_in, linear_in       proj_in
conv_out, linear_out     proj_out
blocks_i                 transformer_blocks.i
=======================  ==============================================
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_class
from jaxgen.interop.model_folders import present_attention_name
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.tensors import (
    Renamed,
    Rule,
    Tree,
    bias,
    convolution,
    linear,
    params_from_tensors,
    same,
    stacked,
    swapped,
    tensors_from_params,
    without_prefix,
)
from jaxgen.interop.unet_text_rules import text_block_rule

LAYERS = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "norm_out": "conv_norm_out",
    "time/hidden": "time_embedding.linear_1",
    "time/output": "time_embedding.linear_2",
    "label": "class_embedding",
    "label/hidden": "class_embedding.linear_1",
    "label/output": "class_embedding.linear_2",
    "pooled/hidden": "add_embedding.linear_1",
    "pooled/output": "add_embedding.linear_2",
}
INNER_LAYERS = {
    "norm1": "norm1",
    "conv1": "conv1",
    "condition": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
    "norm": "group_norm",
    "qkv": "to_",
    "output": "to_out.0",
    "conv": "conv",
    "input_norm": "norm",
    "conv_in": "proj_in",
    "linear_in": "proj_in",
    "conv_out": "proj_out",
    "linear_out": "proj_out",
}
PLACES = {"block": "resnets", "attention": "attentions"}
UNET = "UNet2DModel"
DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu", "mish": "mish"}

DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
"""What diffusers takes for fields that a configuration leaves out."""


def unet_options(
    config: Mapping[str, Any] | TensorFile, null_class: bool = False
) -> dict[str, Any]:
    """The fields of `jaxgen.unet.UNetConfig` for a diffusers configuration.

    Args:
      config: The content of a ``config.json`` of a ``UNet2DModel``, or a `TensorFile` that has
        one beside it; fields that it leaves out have diffusers' defaults, fields that say
        nothing about the network are passed over.
      null_class: Whether the last row of the table of classes is the null class.

    Raises:
      InputError: For a value that the U-Net here has not, or the configuration of another model;
        the message names the field. For a `TensorFile` without a ``config.json``.
    """
    if isinstance(config, TensorFile):
        if config.config is None:
            raise InputError(
                f"{config.path}: no config.json beside it, which says what no shape tells (heads, "
                "groups, epsilon), expected one, or its content"
            )
        config = config.config
    check_class("the U-Net's configuration", config, [UNET])
    given = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    _check_choice(given, "center_input_sample", [False])
    _check_choice(given, "time_embedding_type", ["positional"])
    _check_choice(given, "mid_block_type", ["UNetMidBlock2D"])
    _check_choice(given, "resnet_time_scale_shift", ["default", "scale_shift"])
    _check_choice(given, "class_embed_type", [None, "timestep"])
    _check_choice(given, "downsample_type", ["conv", "resnet"])
    _check_choice(given, "upsample_type", ["conv", "resnet"])
    _check_choice(given, "downsample_padding", [0, 1])
    _check_choice(given, "act_fn", list(ACTIVATIONS))
    adaptive = given["resnet_time_scale_shift"] == "scale_shift"
    head_size = given["attention_head_dim"]
    middle_groups = given["attn_norm_num_groups"] or (0 if adaptive else None)
    return {
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "channels": tuple(given["block_out_channels"]),
        "blocks": given["layers_per_block"],
        "middle_attention": given["add_attention"],
        "heads": 1 if head_size is None else None,
        "head_size": head_size,
        "adaptive_norm": adaptive,
        "activation": ACTIVATIONS[given["act_fn"]],
        "groups": given["norm_num_groups"],
        "middle_groups": middle_groups,
        "norm_epsilon": given["norm_eps"],
        "middle_divisor": float(given["mid_block_scale_factor"]),
        "dropout": given["dropout"],
        "embedding": given["time_embedding_dim"],
        "frequency_shift": float(given["freq_shift"]),
        "cosine_first": given["flip_sin_to_cos"],
        **_levels(given),
        **_labels(given, null_class),
    }


def unet_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    dtype: str | None = "float32",
    name: str | None = None,
    prefix: str | None = None,
) -> Tree:
    """The parameters of `jaxgen.unet.UNet` from the weights of diffusers' U-Nets.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`; older names of attention, too.
      like: The model's parameters, or their abstract values.
      dtype: The type of the parameters; None: that of the tensors.
      name: What errors call the tensors; None: the path of a `TensorFile`, else "checkpoint".
      prefix: What the names begin with before diffusers' own; None: whatever all of them have in
        common, see `jaxgen.interop.tensors.without_prefix`.

    Returns:
      A tree of numpy arrays with the structure of ``like``.

    Raises:
      InputError: For the first tensor that does not fit the model.
    """
    tensors = without_prefix(tensors, ["conv_in.weight"], prefix, name)
    return params_from_tensors(
        Renamed(tensors, present_attention_name), like, _rule, dtype=dtype, name=name
    )


def unet_tensors(params: Tree, dtype: str | None = None) -> dict[str, np.ndarray]:
    """The weights of diffusers' U-Nets from parameters; the inverse of `unet_params`.

    Args:
      params: Parameters of a `jaxgen.unet.UNet`.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.
    """
    return tensors_from_params(params, _rule, dtype)


def _check_choice(given: Mapping[str, Any], name: str, choices: list[Any]) -> None:
    if given[name] not in choices:
        expected = ", ".join(map(repr, choices))
        raise InputError(f"{name} is {given[name]!r}, expected one of {expected}")


def _levels(given: Mapping[str, Any]) -> dict[str, Any]:
    """Where there is attention, and how each level is left."""
    down, up = tuple(given["down_block_types"]), tuple(given["up_block_types"])
    count = len(given["block_out_channels"])
    for name, kinds, known in (("down", down, DOWN_BLOCKS), ("up", up, UP_BLOCKS)):
        if len(kinds) != count:
            raise InputError(f"{name}_block_types has {len(kinds)} entries, expected {count}")
        for kind in kinds:
            _check_choice({f"{name}_block_types": kind}, f"{name}_block_types", list(known))
    by_conv = "conv_end" if given["downsample_padding"] == 0 else "conv"
    residual_down = {"ResnetDownsampleBlock2D"}
    residual_up = {"ResnetUpsampleBlock2D"}
    if given["downsample_type"] == "resnet":
        residual_down.add("AttnDownBlock2D")
    if given["upsample_type"] == "resnet":
        residual_up.add("AttnUpBlock2D")
    return {
        "attention_levels": tuple(i for i, kind in enumerate(down) if "Attn" in kind),
        "up_attention_levels": tuple(
            sorted(count - 1 - i for i, kind in enumerate(up) if "Attn" in kind)
        ),
        "downsampling": tuple("residual" if k in residual_down else by_conv for k in down[:-1]),
        "upsampling": tuple("residual" if k in residual_up else "conv" for k in up[:-1]),
    }


def _labels(given: Mapping[str, Any], null_class: bool) -> dict[str, Any]:
    """What labels are."""
    if given["class_embed_type"] == "timestep":
        return {"labels": "numbers", "num_classes": 0}
    rows = given["num_class_embeds"] or 0
    return {
        "labels": "classes",
        "num_classes": rows - (null_class and rows > 0),
        "null_class": null_class,
    }


def _rule(path: str) -> Rule | None:
    """How diffusers holds one parameter."""
    layer, _, kind = path.rpartition("/")
    if layer in LAYERS:
        name = LAYERS[layer]
        return _layer_rule(name, "conv" if layer.startswith("conv") else layer, kind)
    match = re.fullmatch(
        r"(down|middle|up)_(?:(\d+)_)?(block|attention|resample)(?:_(\d+))?/(.+)", layer
    )
    if match is None:
        return None
    way, level, what, index, inner = match.groups()
    block = "mid_block" if way == "middle" else f"{way}_blocks.{level}"
    place = f"{way}samplers.0" if what == "resample" else f"{PLACES[what]}.{index}"
    if of_text := re.fullmatch(r"blocks_(\d+)/(.+)", inner):
        name = f"{block}.{place}.transformer_blocks.{of_text[1]}."
        return text_block_rule(name, of_text[2], kind)
    if inner not in INNER_LAYERS:
        return None
    return _layer_rule(f"{block}.{place}.{INNER_LAYERS[inner]}", inner, kind)


def _layer_rule(name: str, layer: str, kind: str) -> Rule:
    """The rule of a parameter of one layer."""
    if layer == "qkv":
        return stacked([_plain_rule(name + each, "query", kind) for each in "qkv"], axis=-2)
    if layer == "condition":
        return swapped(_plain_rule(name, layer, kind), -2, -1)
    return _plain_rule(name, layer, kind)


def _plain_rule(name: str, layer: str, kind: str) -> Rule:
    """The rule of a parameter that is one tensor."""
    if kind == "bias":
        return bias(f"{name}.bias")
    if kind in ("scale", "table"):
        return same(f"{name}.weight")
    if "conv" in layer or layer == "skip":
        return convolution(f"{name}.weight")
    return linear(f"{name}.weight", inputs=2 if layer == "output" else 1)
