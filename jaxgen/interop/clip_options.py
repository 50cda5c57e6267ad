"""The options of CLIP's towers that a checkpoint tells, by shapes and by what lies beside it."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.clip_config import OPEN_CLIP_CONFIG, open_clip_options, transformers_options
from jaxgen.interop.clip_naming import FROM_ARCHIVE, LAYERS, clip_naming, with_full_names
from jaxgen.interop.learned_positions import square_grid
from jaxgen.interop.model_configs import CONFIG
from jaxgen.interop.tensors import check_array, name_of, numbers

HEAD_SIZE = 64
"""Of all of OpenAI's towers."""


def clip_options(
    tensors: Mapping[str, np.ndarray],
    activation: str | None = None,
    name: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    pixels: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """The fields of the towers that a checkpoint and what lies beside it tell.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      activation: Of the MLPs; None: as the configuration says. OpenAI's names without one tell it
        only where the file comes from OpenAI's own archive.
      name: See `clip_naming`.
      config: The fields of ``config.json`` for transformers' names; None: those of the file beside
        a `TensorFile`. Of ``open_clip_config.json`` for the other names; None: there is none.
      pixels: The fields of ``preprocessor_config.json``; None: OpenAI's mean and deviation.

    Returns:
      Fields by tower, "text" and "image", of those that there are.

    Raises:
      InputError: For another model, or where nothing tells the activation or the heads.
    """
    where, naming = name_of(tensors, name), clip_naming(tensors, name)
    tensors = with_full_names(tensors)
    if naming == "transformers":
        config = getattr(tensors, "config", None) if config is None else config
        if config is None:
            raise InputError(f"{where}: no {CONFIG} beside it, expected one: it tells the heads")
        projects = any(
            f"{each}.weight" in tensors for each in ("text_projection", "visual_projection")
        )
        return transformers_options(f"{CONFIG} of {where}", config, pixels, projects)
    shapes = {"text": _text_shapes(tensors, where), "image": _image_shapes(tensors, where)}
    if config is not None:
        told = open_clip_options(f"open_clip's configuration of {where}", config, shapes)
    else:
        if activation is None and FROM_ARCHIVE in tensors:
            activation = "quick_gelu"
        if activation is None:
            raise InputError(
                f"{where}: the activation is in no tensor and no {OPEN_CLIP_CONFIG}, expected "
                "activation='quick_gelu' (OpenAI's weights) or 'gelu' (most of open_clip's)"
            )
        told = {
            part: {"activation": activation, "heads": max(fields["width"] // HEAD_SIZE, 1)}
            for part, fields in shapes.items()
        }
    return {part: {**fields, **told[part]} for part, fields in shapes.items()}


def _text_shapes(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, Any]:
    """The fields of the text tower that shapes tell."""
    vocabulary, width = _shape(tensors, "token_embedding.weight", 2, where)
    blocks = LAYERS["openai"]["text/blocks"]
    return {
        "vocabulary": vocabulary,
        "width": width,
        "length": _shape(tensors, "positional_embedding", 2, where)[0],
        "depth": numbers(tensors.keys(), rf"{re.escape(blocks)}\.(\d+)\."),
        "mlp_units": _shape(tensors, f"{blocks}.0.mlp.c_fc.weight", 2, where)[0],
        "projection": _shape(tensors, "text_projection", 2, where)[1],
    }


def _image_shapes(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, Any]:
    """The fields of the image tower that shapes tell."""
    width, _, patch, _ = _shape(tensors, "visual.conv1.weight", 4, where)
    places = _shape(tensors, "visual.positional_embedding", 2, where)[0] - 1
    blocks = LAYERS["openai"]["image/blocks"]
    return {
        "width": width,
        "patch": patch,
        "size": patch * square_grid(where, places)[0],
        "depth": numbers(tensors.keys(), rf"{re.escape(blocks)}\.(\d+)\."),
        "mlp_units": _shape(tensors, f"{blocks}.0.mlp.c_fc.weight", 2, where)[0],
        "projection": _shape(tensors, "visual.proj", 2, where)[1],
    }


def _shape(tensors: Mapping[str, np.ndarray], name: str, axes: int, where: str) -> tuple[int, ...]:
    """A tensor's shape."""
    if name not in tensors:
        raise InputError(f"{where}: no tensor {name!r}, expected one of {axes} axes")
    check_array(where, name, tensors[name])
    shape = tensors[name].shape
    if len(shape) != axes:
        raise InputError(f"{where}: shape {shape} of tensor {name!r}, expected {axes} axes")
    return shape
