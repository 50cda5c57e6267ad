"""Weights of TAESD (madebyollin/taesd), both ways: numbered layers of an encoder and of a decoder.

With S halvings of the resolution and n blocks of each, layers are numbered like this:

======================  ==================  ==========================================
here                    number              there, behind the number
======================  ==================  ==========================================
encoder/conv_in         0                   (itself)
down_0_block_0          1                   conv.0, conv.2, conv.4
down_L_resample         2 + (L - 1)(n + 1)  (itself, without bias)
down_L_block_i          1 + i after that    conv.0, conv.2, conv.4; pool.0, pool.1, pool.3
encoder/conv_out        2 + S (n + 1)       (itself)
decoder/conv_in         1                   (itself)
up_L_block_i            3 + L (n + 2) + i   conv.0, conv.2, conv.4; pool.0, pool.1, pool.3
up_L_resample           4 + L (n + 2) + n   (itself, without bias)
decoder/conv_out        4 + S (n + 2)       (itself)
======================  ==================  ==========================================

The numbers that are left out are layers without weights. ``pool`` is the branch of ``pooled``.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.tensors import (
    Rule,
    RuleOf,
    Tree,
    bias,
    check_array,
    convolution,
    name_of,
    numbers,
    params_from_tensors,
    same,
    tensors_from_params,
)

INNER_LAYERS = {
    "conv_0": "conv.0",
    "conv_1": "conv.2",
    "conv_2": "conv.4",
    "pool_in": "pool.0",
    "pool_norm": "pool.1",
    "pool_out": "pool.3",
}


def tiny_autoencoder_options(
    tensors: Mapping[str, np.ndarray], name: str | None = None
) -> dict[str, Any]:
    """The fields of `jaxgen.compressors.tiny_autoencoder.TinyAutoencoderConfig` that shapes tell.

    Args:
      tensors: Those of an encoder, by name.
      name: What errors call them; None: the path of a `TensorFile`, else "checkpoint".

    Raises:
      InputError: If these are no weights of such an encoder.
    """
    where = name_of(tensors, name)
    last = numbers(tensors.keys(), r"(\d+)\.") - 1
    width, image_channels = _sides(tensors, "0.weight", where)
    latents, _ = _sides(tensors, f"{last}.weight", where)
    plain = [each[: -len(".weight")] for each in tensors if re.fullmatch(r"\d+\.weight", each)]
    halvings = sum(f"{number}.bias" not in tensors for number in plain)
    if not halvings or (last - 2) % halvings:
        raise InputError(
            f"{where}: has {halvings} convolutions without bias among {last + 1} layers, expected "
            "the encoder of a tiny autoencoder, with equally many layers between them"
        )
    return {
        "image_channels": image_channels,
        "latent_channels": latents,
        "width": width,
        "blocks": (last - 2) // halvings - 1,
        "halvings": halvings,
        "pooled": any(".pool." in each for each in tensors),
    }


def tiny_autoencoder_params(
    encoder: Mapping[str, np.ndarray],
    decoder: Mapping[str, np.ndarray],
    like: Tree,
    dtype: str | None = "float32",
    name: str | None = None,
) -> Tree:
    """The parameters of `jaxgen.compressors.tiny_autoencoder.TinyAutoencoder`.

    Args:
      encoder: The tensors of the encoder by name, for instance a `TensorFile`.
      decoder: Those of the decoder.
      like: The model's parameters, or their abstract values.
      dtype: The type of the parameters; None: that of the tensors.
      name: See `tiny_autoencoder_options`.

    Returns:
      A tree of numpy arrays with the structure of ``like``.

    Raises:
      InputError: For the first tensor that does not fit the model.
    """
    halves = {"encoder": encoder, "decoder": decoder}
    return {
        half: params_from_tensors(tensors, like[half], _rule_of(half, like), dtype=dtype, name=name)
        for half, tensors in halves.items()
    }


def tiny_autoencoder_tensors(
    params: Tree, dtype: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors of the encoder and of the decoder; the inverse of `tiny_autoencoder_params`.

    Args:
      params: Parameters of a tiny autoencoder.
      dtype: The type of the tensors, for instance "float16"; None: that of the parameters.

    Raises:
      InputError: For a parameter that TAESD has not.
    """
    encoder, decoder = (
        tensors_from_params(params[half], _rule_of(half, params), dtype)
        for half in ("encoder", "decoder")
    )
    return encoder, decoder


def _sides(tensors: Mapping[str, np.ndarray], name: str, where: str) -> tuple[int, int]:
    """Output and input channels of a convolution."""
    if name not in tensors:
        raise InputError(f"{where}: no tensor {name!r}, expected the encoder of a tiny autoencoder")
    value = tensors[name]
    check_array(where, name, value)
    if value.ndim != 4:
        raise InputError(f"{where}: tensor {name!r} has shape {value.shape}, expected 4 axes")
    return value.shape[0], value.shape[1]


def _rule_of(half: str, params: Tree) -> RuleOf:
    """The rules of one half."""
    blocks = numbers(params["encoder"].keys(), r"down_1_block_(\d+)")
    halvings = numbers(params["encoder"].keys(), r"down_(\d+)_block") - 1
    number_of = _encoder_number if half == "encoder" else _decoder_number

    def rule_of(path: str) -> Rule | None:
        layer, *inside, kind = path.split("/")
        number = number_of(layer, blocks, halvings)
        if number is None or len(inside) > 1 or not set(inside) <= INNER_LAYERS.keys():
            return None
        name = ".".join([str(number), *(INNER_LAYERS[each] for each in inside)])
        if kind == "bias":
            return bias(f"{name}.bias")
        return same(f"{name}.weight") if kind == "scale" else convolution(f"{name}.weight")

    return rule_of


def _encoder_number(layer: str, blocks: int, halvings: int) -> int | None:
    """The number of a layer of the encoder; None for another's."""
    ends = {"conv_in": 0, "down_0_block_0": 1, "conv_out": 2 + halvings * (blocks + 1)}
    if layer in ends:
        return ends[layer]
    match = re.fullmatch(r"down_(\d+)_(?:resample|block_(\d+))", layer)
    if match is None:
        return None
    first = 2 + (int(match[1]) - 1) * (blocks + 1)
    return first if match[2] is None else first + 1 + int(match[2])


def _decoder_number(layer: str, blocks: int, halvings: int) -> int | None:
    """The number of a layer of the decoder; None for another's."""
    ends = {"conv_in": 1, "conv_out": 4 + halvings * (blocks + 2)}
    if layer in ends:
        return ends[layer]
    match = re.fullmatch(r"up_(\d+)_(?:resample|block_(\d+))", layer)
    if match is None:
        return None
    first = 3 + int(match[1]) * (blocks + 2)
    return first + (blocks + 1 if match[2] is None else int(match[2]))
