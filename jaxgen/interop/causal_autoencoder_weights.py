"""Wan 2.1's video autoencoder (diffusers' ``AutoencoderKLWan``): configuration and weights.

===========================  =======================================================
here                         diffusers
===========================  =======================================================
quant_conv, post_quant_conv  the same
encoder/conv_in, conv_out    encoder.conv_in, encoder.conv_out (so the decoder)
encoder/norm_out             encoder.norm_out
encoder/down_L_block_i       encoder.down_blocks.N, N = L (blocks + 1) + i
encoder/down_L_resample      encoder.down_blocks.N, N = L (blocks + 1) + blocks
encoder/middle_block_i       encoder.mid_block.resnets.i
encoder/middle_attention_i   encoder.mid_block.attentions.i
decoder/up_L_block_i         decoder.up_blocks.N.resnets.i, N = levels - 1 - L
decoder/up_L_resample        decoder.up_blocks.N.upsamplers.0
of a block: norm1, conv1     the same
skip                         conv_shortcut
of a change of resolution:
space                        resample.1
time                         time_conv
of attention: qkv            to_qkv
output                       proj
===========================  =======================================================

Norms have one number for each channel, ``gamma``, with axes of size 1 behind it. ``config.json``
also says by what latents are normalised, ``(z - latents_mean) / latents_std``. Wan 2.2's
autoencoder (``is_residual``, with patches) is another network and is refused.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_agrees, check_class
from jaxgen.interop.model_folders import config_fields, write_model_folder
from jaxgen.interop.safetensors import Path, TensorFile
from jaxgen.interop.tensors import (
    Arrays,
    Rule,
    RuleOf,
    Tree,
    bias,
    convolution,
    numbers,
    params_from_tensors,
    tensors_from_params,
    with_ones,
    without_prefix,
)

CLASS_NAME = "AutoencoderKLWan"
MARKERS = ["encoder.conv_in.weight"]

FIXED: dict[str, Any] = {
    "attn_scales": [],
    "is_residual": False,
    "patch_size": None,
}
"""Fields of which the network here has one value alone."""

WAN_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN_DEVIATION = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
"""Of the latents of Wan 2.1, by channel."""

DEFAULTS: dict[str, Any] = {
    "base_dim": 96,
    "decoder_base_dim": None,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "latents_mean": list(WAN_MEAN),
    "latents_std": list(WAN_DEVIATION),
    "in_channels": 3,
    "out_channels": 3,
}
"""What diffusers takes for fields that a configuration leaves out (spelt as there)."""

INNER_LAYERS = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
    "space": "resample.1",
    "time": "time_conv",
    "norm": "norm",
    "qkv": "to_qkv",
    "output": "proj",
}


def causal_autoencoder_options(config: Mapping[str, Any] | TensorFile) -> dict[str, Any]:
    """The fields of `jaxgen.compressors.causal_autoencoder.CausalAutoencoderConfig`.

    Args:
      config: The content of a ``config.json`` of an ``AutoencoderKLWan``, or a `TensorFile` that
        has one beside it; fields that it leaves out have diffusers' defaults, fields that say
        nothing about the network are passed over.

    Raises:
      InputError: For a value that the network here has not, or the configuration of another
        model; the message names the field. For a `TensorFile` without a ``config.json``.
    """
    where, given = _given(config)
    if given["out_channels"] != given["in_channels"]:
        raise InputError(
            f"{where}: out_channels is {given['out_channels']}, expected {given['in_channels']}, "
            "as in_channels"
        )
    return {
        "channels": given["in_channels"],
        "latent_channels": given["z_dim"],
        "encoder_channels": 2 * given["z_dim"],
        "width": given["base_dim"],
        "decoder_width": given["decoder_base_dim"],
        "multipliers": tuple(given["dim_mult"]),
        "blocks": given["num_res_blocks"],
        "temporal_down": tuple(given["temperal_downsample"]),
    }


def causal_latent_statistics(config: Mapping[str, Any] | TensorFile) -> dict[str, np.ndarray]:
    """The mean and the deviation of each latent channel, which latent models expect.

    Args:
      config: As in `causal_autoencoder_options`.

    Returns:
      "mean" and "deviation", float32 [C].

    Raises:
      InputError: For numbers that are not one for each channel, finite, and positive deviations.
    """
    where, given = _given(config)
    found = {}
    for name, field in (("mean", "latents_mean"), ("deviation", "latents_std")):
        try:
            value_C = np.asarray(given[field], np.float32)
        except (TypeError, ValueError):
            value_C = np.zeros(0, np.float32)
        wrong = not np.isfinite(value_C).all() or (name == "deviation" and (value_C <= 0).any())
        if wrong or value_C.shape != (given["z_dim"],):
            positive = "positive " if name == "deviation" else ""
            raise InputError(
                f"{where}: {field} is {given[field]!r}, expected {given['z_dim']} finite "
                f"{positive}numbers, one for each latent channel"
            )
        found[name] = value_C
    return found


def causal_autoencoder_fields(
    options: Mapping[str, Any], statistics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of diffusers' ``config.json``; the inverse of `causal_autoencoder_options`.

    Args:
      options: The fields of the configuration here (`dataclasses.asdict`); those left out have
        Wan's values.
      statistics: "mean" and "deviation" of each latent channel; None: 0 and 1.

    Raises:
      InputError: For an option that diffusers' model has not.
    """
    channels = options.get("latent_channels", DEFAULTS["z_dim"])
    blocks = options.get("blocks", DEFAULTS["num_res_blocks"])
    wanted: dict[str, Any] = {
        "encoder_channels": [2 * channels],
        "decoder_blocks": [None, blocks + 1],
        "middle_blocks": [2],
        "middle_attention": [True],
        "patch": [(1, 1, 1)],
        "padding": ["zeros"],
        "data_kernel": [(3, 3, 3)],
        "latent_convolutions": [True],
        "shortcut": [False],
        "norm_epsilon": [0],
    }
    for name, values in wanted.items():
        value = options.get(name, values[0])
        if (tuple(value) if isinstance(value, list) else value) not in values:
            raise InputError(
                f"{name} is {value!r}, expected {values[-1]!r}, which {CLASS_NAME} has"
            )
    told = {"mean": np.zeros(channels), "deviation": np.ones(channels), **(statistics or {})}
    mean_C, deviation_C = (
        [float(f"{x:.7g}") for x in np.broadcast_to(told[name], (channels,))]  # float32's digits
        for name in ("mean", "deviation")
    )
    down = tuple(options.get("temporal_down", DEFAULTS["temperal_downsample"]))
    multipliers = tuple(options.get("multipliers", DEFAULTS["dim_mult"]))
    data_channels = options.get("channels", DEFAULTS["in_channels"])
    return {
        "_class_name": CLASS_NAME,
        "base_dim": options.get("width", DEFAULTS["base_dim"]),
        "decoder_base_dim": options.get("decoder_width"),
        "z_dim": channels,
        "dim_mult": list(multipliers),
        "num_res_blocks": blocks,
        "temperal_downsample": list(down),
        "latents_mean": mean_C,
        "latents_std": deviation_C,
        "in_channels": data_channels,
        "out_channels": data_channels,
        "scale_factor_temporal": 2 ** sum(down),
        "scale_factor_spatial": 2 ** (len(multipliers) - 1),
        **FIXED,
    }


def causal_autoencoder_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    dtype: str | None = "float32",
    name: str | None = None,
    prefix: str | None = None,
) -> Tree:
    """The parameters of a causal autoencoder from the weights of an ``AutoencoderKLWan``.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      like: The parameters of `jaxgen.compressors.causal_autoencoder.CausalAutoencoder`, or their
        abstract values.
      dtype: The type of the parameters; None: that of the tensors.
      name: What errors call the tensors; None: the path of a `TensorFile`, else "checkpoint".
      prefix: What the names begin with before diffusers' own; None: whatever all of them have in
        common, see `jaxgen.interop.tensors.without_prefix`.

    Returns:
      A tree of numpy arrays with the structure of ``like``.

    Raises:
      InputError: For the first tensor that does not fit the model.
    """
    tensors = without_prefix(tensors, MARKERS, prefix, name)
    return params_from_tensors(tensors, like, _rules_of(like), dtype=dtype, name=name)


def causal_autoencoder_tensors(params: Tree, dtype: str | None = None) -> dict[str, np.ndarray]:
    """The weights of an ``AutoencoderKLWan``; the inverse of `causal_autoencoder_params`.

    Args:
      params: Parameters of a causal autoencoder.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.

    Raises:
      InputError: For a parameter that diffusers' model has not.
    """
    return tensors_from_params(params, _rules_of(params), dtype)


def write_causal_autoencoder(
    folder: Path,
    params: Tree,
    options: Mapping[str, Any],
    statistics: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> list[pathlib.Path]:
    """Writes the folder that diffusers opens: weights and ``config.json``.

    Args:
      folder: It must exist.
      params: Parameters of a causal autoencoder.
      options: The fields of its configuration (`dataclasses.asdict`).
      statistics: "mean" and "deviation" of each latent channel; None: 0 and 1.
      dtype: See `causal_autoencoder_tensors`.

    Returns:
      The files written.

    Raises:
      InputError: For a parameter or an option that diffusers' model has not.
    """
    fields = causal_autoencoder_fields(options, statistics)
    tensors = causal_autoencoder_tensors(params, dtype)
    return write_model_folder(folder, fields, tensors)


def _given(config: Mapping[str, Any] | TensorFile) -> tuple[str, dict[str, Any]]:
    """What errors call a configuration, and its fields, with diffusers' defaults."""
    where, config = config_fields(config, "autoencoder")
    check_class(where, config, [CLASS_NAME])
    check_agrees(where, config, FIXED)
    return where, {name: config.get(name, default) for name, default in DEFAULTS.items()}


def _rules_of(params: Tree) -> RuleOf:
    """The rules of a network, whose blocks and levels say the numbers in names."""
    blocks = numbers(params.get("encoder", {}).keys(), r"down_0_block_(\d+)")
    levels = numbers(params.get("encoder", {}).keys(), r"down_(\d+)_block_")

    def rule_of(path: str) -> Rule | None:
        layer, _, kind = path.rpartition("/")
        if layer in ("quant_conv", "post_quant_conv"):
            return _layer_rule(layer, layer, kind)
        half, _, inside = layer.partition("/")
        if inside in ("conv_in", "conv_out", "norm_out"):
            return _layer_rule(f"{half}.{inside}", inside, kind)
        match = re.fullmatch(
            r"(down|middle|up)_(?:(\d+)_)?(block|attention|resample)(?:_(\d+))?/(\w+)", inside
        )
        if match is None or match[5] not in INNER_LAYERS:
            return None
        way, level, what, index, inner = match.groups()
        if way == "middle":
            place = f"mid_block.{'resnets' if what == 'block' else 'attentions'}.{index}"
        elif way == "down":
            number = int(level) * (blocks + 1) + (blocks if index is None else int(index))
            place = f"down_blocks.{number}"
        else:
            part = "upsamplers.0" if index is None else f"resnets.{index}"
            place = f"up_blocks.{levels - 1 - int(level)}.{part}"
        return _layer_rule(f"{half}.{place}.{INNER_LAYERS[inner]}", inner, kind)

    return rule_of


def _layer_rule(name: str, layer: str, kind: str) -> Rule:
    """The rule of a parameter of one layer."""
    if kind == "scale":
        return with_ones(f"{name}.gamma", behind=2 if layer == "norm" else 3)
    if kind == "bias":
        return bias(f"{name}.bias")
    if layer in ("qkv", "output"):
        return _pixel_product(f"{name}.weight", inputs=1 if layer == "qkv" else 2)
    return convolution(f"{name}.weight")


def _pixel_product(name: str, inputs: int) -> Rule:
    """A linear layer that is a convolution of 1 x 1 there, (out, in, 1, 1)."""

    def split(x: np.ndarray) -> Arrays:
        rows = int(np.prod(x.shape[:inputs]))
        return [x.reshape(rows, -1).T[..., None, None]]

    def join(tensors: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        return tensors[0][..., 0, 0].T.reshape(shape)

    return Rule((name,), split, join)
