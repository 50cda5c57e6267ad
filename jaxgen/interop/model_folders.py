"""Folders of diffusers and transformers: one model's ``config.json`` and weights; older names."""

import contextlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.files import replacing
from jaxgen.interop.model_configs import CONFIG
from jaxgen.interop.safetensors import Path, TensorFile, write_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""What diffusers calls the file."""

TRANSFORMERS_WEIGHTS = "model.safetensors"
"""What transformers calls it."""


OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""How diffusers called the layers of attention before version 0.15."""


def present_attention_name(name: str) -> str:
    """diffusers' present name of a tensor, which may have that of a layer of attention before."""
    match = re.fullmatch(r"(.*\.attentions\.\d+\.)(\w+)(\.weight|\.bias)", name)
    if match and match[2] in OLD_NAMES:
        return match[1] + OLD_NAMES[match[2]] + match[3]
    return name


def config_fields(
    config: Mapping[str, Any] | TensorFile, model: str
) -> tuple[str, Mapping[str, Any]]:
    """What errors call a configuration, and its fields.

    Args:
      config: The fields, or a `TensorFile` that has a ``config.json`` beside it.
      model: What errors call the model, such as "autoencoder".

    Raises:
      InputError: For a `TensorFile` without a ``config.json``.
    """
    if not isinstance(config, TensorFile):
        return f"the {model}'s configuration", config
    if config.config is None:
        raise InputError(
            f"{config.path}: no {CONFIG} beside it, which says what no shape tells, expected one, "
            "or its content"
        )
    return f"{CONFIG} of {config.path}", config.config


def write_model_folder(
    folder: Path,
    fields: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    max_bytes: int | None = None,
    variant: str | None = None,
    weights: str = WEIGHTS,
    config: str = CONFIG,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[pathlib.Path]:
    """Writes the folder that diffusers or another program opens, whole or not at all.

    Args:
      folder: Made if it does not exist.
      fields: The content of ``config.json``.
      tensors: The weights by name.
      max_bytes: The size above which they are cut into shards; None: one file.
      variant: What stands before the file's ending, "fp16" say (`jaxgen.interop.weight_folders`).
      weights: The name of the file of weights.
      config: The name of the file of ``fields``.
      beside: The content of further JSON files by their names.

    Returns:
      The files written.
    """
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    texts = {config: fields, **(beside or {})}
    # Configurations appear when the block ends well: with the weights or not at all.
    with contextlib.ExitStack() as stack:
        for name, content in texts.items():
            handle = stack.enter_context(replacing(target / name))
            handle.write(json.dumps(content, indent=2).encode() + b"\n")
        name = weights if variant is None else weights.replace(".", f".{variant}.", 1)
        files = write_safetensors(target / name, tensors, {"format": "pt"}, max_bytes)
        if variant is not None and len(files) > 1:  # the index of a variant has its name at the end
            files[0] = files[0].rename(target / f"{weights}.index.{variant}.json")
    return [*(target / name for name in texts), *files]
