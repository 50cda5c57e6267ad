"""Weights of diffusers' ``WanTransformer3DModel`` and ``LatteTransformer3DModel``, both ways.

==========================  ================================  ====================================
here                        Wan                               Latte
==========================  ================================  ====================================
patch_embedding             patch_embedding                   pos_embed.proj
condition/time/hidden       C.time_embedder.linear_1          adaln_single.emb
                                                              .timestep_embedder.linear_1
condition/time/output       C.time_embedder.linear_2          ... .linear_2
shared_modulation           C.time_proj                       adaln_single.linear
text/hidden, text/output    C.text_embedder.linear_1, 2       caption_projection.linear_1, 2
final/modulation/table      scale_shift_table                 the same
final/output                proj_out                          the same
blocks_i                    blocks.i                          transformer_blocks.(i / 2),
                                                              temporal_transformer_blocks.(i / 2)
of a block:
modulation/table            scale_shift_table                 the same
attention/qkv               attn1.to_q, .to_k, .to_v          the same
attention/query_norm, ...   attn1.norm_q, .norm_k
attention/output            attn1.to_out.0                    the same
text_norm                   norm2
text_attention/query        attn2.to_q                        the same (blocks in space alone)
text_attention/key_value    attn2.to_k, .to_v                 the same
text_attention/output       attn2.to_out.0                    the same
mlp/hidden, mlp/output      ffn.net.0.proj, ffn.net.2         ff.net.0.proj, ff.net.2
==========================  ================================  ====================================

C is ``condition_embedder``. The order of shift, scale and gate is the same everywhere, and so is
that of the numbers of a patch at the output. Tables have an axis of size 1 in front in Wan. What a
configuration says is read by `jaxgen.interop.video_transformer_config`.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_class
from jaxgen.interop.model_folders import write_model_folder
from jaxgen.interop.safetensors import Path
from jaxgen.interop.tensors import (
    Rule,
    RuleOf,
    Tree,
    bias,
    linear,
    name_of,
    params_from_tensors,
    patches,
    stacked,
    tensors_from_params,
    with_ones,
    without_prefix,
)
from jaxgen.interop.video_transformer_config import LATTE, WAN

VideoNaming = Literal["wan", "latte"]

MARKERS: dict[VideoNaming, str] = {
    "wan": "condition_embedder.time_proj.weight",
    "latte": "temporal_transformer_blocks.0.attn1.to_q.weight",
}
"""A tensor that no other model has."""

LAYERS: dict[VideoNaming, dict[str, str]] = {
    "wan": {
        "patch_embedding": "patch_embedding",
        "condition/time/hidden": "condition_embedder.time_embedder.linear_1",
        "condition/time/output": "condition_embedder.time_embedder.linear_2",
        "shared_modulation": "condition_embedder.time_proj",
        "text/hidden": "condition_embedder.text_embedder.linear_1",
        "text/output": "condition_embedder.text_embedder.linear_2",
        "final/modulation": "scale_shift_table",
        "final/output": "proj_out",
    },
    "latte": {
        "patch_embedding": "pos_embed.proj",
        "condition/time/hidden": "adaln_single.emb.timestep_embedder.linear_1",
        "condition/time/output": "adaln_single.emb.timestep_embedder.linear_2",
        "shared_modulation": "adaln_single.linear",
        "text/hidden": "caption_projection.linear_1",
        "text/output": "caption_projection.linear_2",
        "final/modulation": "scale_shift_table",
        "final/output": "proj_out",
    },
}

BLOCK_LAYERS = {
    "modulation": "scale_shift_table",
    "attention/qkv": "attn1.to_",
    "attention/output": "attn1.to_out.0",
    "text_attention/query": "attn2.to_q",
    "text_attention/key_value": "attn2.to_",
    "text_attention/output": "attn2.to_out.0",
    "mlp/hidden": "ff.net.0.proj",
    "mlp/output": "ff.net.2",
}
WAN_BLOCK_LAYERS = {
    **BLOCK_LAYERS,
    "attention/query_norm": "attn1.norm_q",
    "attention/key_norm": "attn1.norm_k",
    "text_norm": "norm2",
    "text_attention/query_norm": "attn2.norm_q",
    "text_attention/key_norm": "attn2.norm_k",
    "mlp/hidden": "ffn.net.0.proj",
    "mlp/output": "ffn.net.2",
}
JOINED = {"qkv": "qkv", "key_value": "kv"}
"""Layers whose products are layers of their own there, by the ends of their names."""


def video_transformer_naming(
    tensors: Mapping[str, Any], name: str | None = None, prefix: str | None = None
) -> VideoNaming:
    """Which of the two models weights are of.

    Args:
      tensors: Arrays by name.
      name: What errors call them; None: the path of a `TensorFile`, else "checkpoint".
      prefix: What the names begin with before diffusers' own; None: whatever all of them have in
        common, see `jaxgen.interop.tensors.without_prefix`.

    Raises:
      InputError: If they are of neither.
    """
    tensors = without_prefix(tensors, MARKERS.values(), prefix, name)
    for naming in get_args(VideoNaming):
        if MARKERS[naming] in tensors:
            return naming
    raise InputError(
        f"{name_of(tensors, name)}: no weights of {WAN} or {LATTE}, expected a tensor "
        f"{MARKERS['wan']!r} or {MARKERS['latte']!r}"
    )


def video_transformer_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    patch: tuple[int, int, int],
    dtype: str | None = "float32",
    name: str | None = None,
    prefix: str | None = None,
) -> Tree:
    """The parameters of a `jaxgen.spacetime.VideoDiT` from the weights of either model.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      like: The network's parameters, or their abstract values.
      patch: P_t, P_y, P_x of the network.
      dtype: The type of the parameters; None: that of the tensors.
      name: See `video_transformer_naming`.
      prefix: See there.

    Returns:
      A tree of numpy arrays with the structure of ``like``.

    Raises:
      InputError: If these are weights of neither, or for the first tensor that does not fit the
        network.
    """
    tensors = without_prefix(tensors, MARKERS.values(), prefix, name)
    rule_of = _rule_of(video_transformer_naming(tensors, name), patch)
    return params_from_tensors(tensors, like, rule_of, dtype=dtype, name=name)


def video_transformer_tensors(
    params: Tree,
    naming: VideoNaming,
    patch: tuple[int, int, int],
    dtype: str | None = None,
) -> dict[str, np.ndarray]:
    """The weights of either model from parameters; the inverse of `video_transformer_params`.

    Args:
      params: Parameters of a `jaxgen.spacetime.VideoDiT`.
      naming: "wan" or "latte".
      patch: P_t, P_y, P_x of the network.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.

    Raises:
      InputError: For another naming, or a parameter that the model has not.
    """
    if naming not in LAYERS:
        raise InputError(f"naming is {naming!r}, expected one of {', '.join(LAYERS)}")
    return tensors_from_params(params, _rule_of(naming, patch), dtype)


def write_video_transformer(
    folder: Path,
    params: Tree,
    fields: Mapping[str, Any],
    dtype: str | None = None,
    max_bytes: int | None = None,
) -> list[pathlib.Path]:
    """Writes the folder that diffusers opens: weights and ``config.json``.

    Args:
      folder: It must exist.
      params: Parameters of a `jaxgen.spacetime.VideoDiT`.
      fields: What `jaxgen.interop.video_transformer_config.wan_fields` or ``latte_fields`` says of
        its configuration.
      dtype: See `video_transformer_tensors`.
      max_bytes: The size above which weights are cut into shards; None: one file.

    Returns:
      The files written.

    Raises:
      InputError: For a parameter that diffusers' model has not.
    """
    check_class("fields", fields, [WAN, LATTE])
    patch = fields["patch_size"]
    if fields["_class_name"] == WAN:
        tensors = video_transformer_tensors(params, "wan", tuple(patch), dtype)
    else:
        tensors = video_transformer_tensors(params, "latte", (1, patch, patch), dtype)
    return write_model_folder(folder, fields, tensors, max_bytes)


def _rule_of(naming: VideoNaming, patch: Sequence[int]) -> RuleOf:
    """The rules of one naming."""

    def rule_of(path: str) -> Rule | None:
        layer, _, kind = path.rpartition("/")
        if match := re.fullmatch(r"blocks_(\d+)/(.*)", layer):
            return _block_rule(naming, int(match[1]), match[2], kind)
        name = LAYERS[naming].get(layer)
        if name is None:
            return None
        if layer == "patch_embedding" and kind == "kernel":
            return patches(f"{name}.weight", patch if naming == "wan" else patch[1:])
        return _layer_rule(naming, layer, name, kind)

    return rule_of


def _block_rule(naming: VideoNaming, number: int, layer: str, kind: str) -> Rule | None:
    """The rule of a parameter of a block."""
    names, place = WAN_BLOCK_LAYERS, f"blocks.{number}."
    if naming == "latte":
        in_time = number % 2 == 1
        if in_time and layer.startswith("text"):
            return None
        names = BLOCK_LAYERS
        place = f"{'temporal_' if in_time else ''}transformer_blocks.{number // 2}."
    return _layer_rule(naming, layer, place + names[layer], kind) if layer in names else None


def _layer_rule(naming: VideoNaming, layer: str, name: str, kind: str) -> Rule:
    """The rule of a parameter of one layer."""
    part, _, inner = layer.rpartition("/")
    if inner in JOINED:
        each = [_layer_rule(naming, "", name + letter, kind) for letter in JOINED[inner]]
        return stacked(each, axis=-2)
    if kind == "table":
        return with_ones(name, before=1 if naming == "wan" else 0)
    if kind == "kernel":
        joins_heads = inner == "output" and part.endswith("attention")
        return linear(f"{name}.weight", inputs=2 if joins_heads else 1)
    return bias(f"{name}.bias" if kind == "bias" else f"{name}.weight")
