"""Weights of diffusers' ``AutoencoderKL`` and ``AutoencoderKLTemporalDecoder``, both ways.

=================================  =====================================================
here                               diffusers
=================================  =====================================================
encoder/quant_conv                 quant_conv
decoder/post_quant_conv            post_quant_conv
encoder/conv_in, conv_out          encoder.conv_in, encoder.conv_out (so the decoder)
encoder/norm_out                   encoder.conv_norm_out
decoder/time_conv_out              decoder.time_conv_out
encoder/down_L_block_i             encoder.down_blocks.L.resnets.i
encoder/down_L_attention_i         encoder.down_blocks.L.attentions.i
encoder/down_L_resample            encoder.down_blocks.L.downsamplers.0.conv
encoder/middle_block_i             encoder.mid_block.resnets.i
encoder/middle_attention_i         encoder.mid_block.attentions.i
decoder/up_L_block_i, ...          decoder.up_blocks.L.resnets.i, ..., upsamplers.0.conv
of a block: norm1, conv1, ...      the same
skip                               conv_shortcut
of attention: norm                 group_norm
qkv                                to_q, to_k, to_v (older files: query, key, value)
output                             to_out.0 (older files: proj_attn)
of a mixed block: frame/...        spatial_res_block. ...
time/...                           temporal_res_block. ...
mix                                time_mixer.mix_factor
=================================  =====================================================

Layers that are products of matrices may be convolutions of 1 x 1 in a file, as they were in the
original code, or linear. What a configuration says of them is read by
`jaxgen.interop.autoencoder_config`.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.interop.autoencoder_config import autoencoder_fields
from jaxgen.interop.model_folders import present_attention_name, write_model_folder
from jaxgen.interop.safetensors import Path
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
    tensors_from_params,
    without_prefix,
)

MARKER = "encoder.conv_in.weight"
"""In every checkpoint."""

LAYERS = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "norm_out": "conv_norm_out",
    "time_conv_out": "time_conv_out",
}
QUANT_LAYERS = {"encoder/quant_conv": "quant_conv", "decoder/post_quant_conv": "post_quant_conv"}
INNER_LAYERS = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
    "norm": "group_norm",
    "qkv": "to_",
    "output": "to_out.0",
}
PLACES = {"block": "resnets", "attention": "attentions"}
PARTS = {None: "", "frame": "spatial_res_block.", "time": "temporal_res_block."}


def autoencoder_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    dtype: str | None = "float32",
    name: str | None = None,
    prefix: str | None = None,
) -> Tree:
    """The parameters of an autoencoder from the weights of diffusers' model.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`; older names of attention, too.
      like: The parameters of `jaxgen.compressors.frame_autoencoder.FrameAutoencoder` or of
        `jaxgen.compressors.temporal_decoder.TemporalAutoencoder`, or their abstract values.
      dtype: The type of the parameters; None: that of the tensors.
      name: What errors call the tensors; None: the path of a `TensorFile`, else "checkpoint".
      prefix: What the names begin with before diffusers' own; None: whatever all of them have in
        common, see `jaxgen.interop.tensors.without_prefix`.

    Returns:
      A tree of numpy arrays with the structure of ``like``.

    Raises:
      InputError: For the first tensor that does not fit the model.
    """
    tensors = _AsPresent(without_prefix(tensors, [MARKER], prefix, name), present_attention_name)
    return params_from_tensors(tensors, like, _rule, dtype=dtype, name=name)


def autoencoder_tensors(params: Tree, dtype: str | None = None) -> dict[str, np.ndarray]:
    """The weights of diffusers' model from parameters; the inverse of `autoencoder_params`.

    Args:
      params: Parameters of an autoencoder of either kind.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.

    Raises:
      InputError: For a parameter that diffusers' model has not.
    """
    return tensors_from_params(params, _rule, dtype)


def write_autoencoder(
    folder: Path,
    params: Tree,
    options: Mapping[str, Any],
    statistics: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> list[pathlib.Path]:
    """Writes the folder that diffusers opens: weights and ``config.json``.

    Args:
      folder: It must exist.
      params: Parameters of an autoencoder of either kind.
      options: The fields of its configuration (`dataclasses.asdict`).
      statistics: "mean" and "deviation" of each latent channel; None: 0 and 1.
      dtype: See `autoencoder_tensors`.

    Returns:
      The files written.

    Raises:
      InputError: For a parameter or an option that diffusers' model has not.
    """
    temporal = "time_conv_out" in params["decoder"]
    fields = autoencoder_fields(options, statistics, temporal=temporal)
    tensors = autoencoder_tensors(params, dtype)
    return write_model_folder(folder, fields, tensors)


class _AsPresent(Renamed):
    """Tensors by diffusers' present names, with the axes that its present models have."""

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one tensor."""
        value = super().__getitem__(name)
        shape = getattr(value, "shape", ())
        if re.search(r"\.attentions\.\d+\.to_.*weight$", name) and shape[2:] == (1, 1):
            return value.reshape(shape[:2])
        if name in ("quant_conv.weight", "post_quant_conv.weight") and len(shape) == 2:
            return value.reshape(*shape, 1, 1)
        return value


def _rule(path: str) -> Rule | None:
    """How diffusers holds one parameter."""
    layer, _, kind = path.rpartition("/")
    if layer in QUANT_LAYERS:
        return _layer_rule(QUANT_LAYERS[layer], "conv", kind)
    half, _, inside = layer.partition("/")
    if half not in ("encoder", "decoder"):
        return None
    if inside in LAYERS:
        return _layer_rule(f"{half}.{LAYERS[inside]}", "conv", kind)
    match = re.fullmatch(
        r"(down|middle|up)_(?:(\d+)_)?(block|attention|resample)(?:_(\d+))?"
        r"(?:/(frame|time))?(?:/(\w+))?",
        inside,
    )
    if match is None:
        return None
    way, level, what, index, part, inner = match.groups()
    place = f"{half}." + ("mid_block" if way == "middle" else f"{way}_blocks.{level}")
    if what == "resample":
        return _layer_rule(f"{place}.{way}samplers.0.conv", "conv", kind)
    place = f"{place}.{PLACES[what]}.{index}."
    if kind == "mix":
        return same(f"{place}time_mixer.mix_factor")
    if inner not in INNER_LAYERS:
        return None
    return _layer_rule(place + PARTS[part] + INNER_LAYERS[inner], inner, kind)


def _layer_rule(name: str, layer: str, kind: str) -> Rule:
    """The rule of a parameter of one layer."""
    if layer == "qkv":
        return stacked([_layer_rule(name + each, "query", kind) for each in "qkv"], axis=-2)
    if kind == "bias":
        return bias(f"{name}.bias")
    if kind == "scale":
        return same(f"{name}.weight")
    if layer in ("query", "output"):
        return linear(f"{name}.weight", inputs=2 if layer == "output" else 1)
    return convolution(f"{name}.weight")
