"""Folders of weights as hubs lay them out: sub-folders of a pipeline, variants, shards.

===========================================================  ===========================
file                                                         what it is
===========================================================  ===========================
``diffusion_pytorch_model.safetensors``                      all weights
``diffusion_pytorch_model.safetensors.index.json``           the index of their shards
``diffusion_pytorch_model.fp16.safetensors``                 the variant "fp16"
``diffusion_pytorch_model.safetensors.index.fp16.json``      the index of its shards
``transformer/``, ``unet/``                                  the network of a pipeline
===========================================================  ===========================
"""

import pathlib
from collections.abc import Collection, Sequence

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import (
    CONFIG,
    check_class,
    check_model_type,
    read_model_config,
)
from jaxgen.interop.safetensors import Path, TensorFile

INDEX_NAME = ".safetensors.index"
VARIANT_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
"""The type of the numbers of a variant, where its name says one."""


def stored_dtype(dtype: str | None, variant: str | None) -> str | None:
    """The type of the numbers of a file: the one that is asked for, or that of its variant."""
    return VARIANT_DTYPES.get(variant or "") if dtype is None else dtype


def network_folder(path: Path, parts: Sequence[str]) -> pathlib.Path:
    """Where a network lies: the path itself, or the sub-folder of a pipeline that holds it.

    Args:
      path: A folder, or a file of weights.
      parts: Sub-folders that a pipeline keeps such a network in ("transformer", "unet").

    Raises:
      FileNotFoundError: If there is no such path.
    """
    folder = pathlib.Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such file or folder")
    # A pipeline may have a config.json of its own (Stable Diffusion's of inpainting has).
    return next((folder / part for part in parts if (folder / part).is_dir()), folder)


def open_network(
    path: Path,
    parts: Sequence[str],
    variant: str | None = None,
    *,
    classes: Collection[str] = (),
    model_types: Collection[str] = (),
) -> TensorFile:
    """The weights of a network, unless the ``config.json`` beside them is another model's.

    Args:
      path: As in `network_folder`.
      parts: As there.
      variant: As in `open_weights`.
      classes: The classes of diffusers that the network can have.
      model_types: The types of transformers.

    Raises:
      FileNotFoundError: If there is no such path.
      InputError: For the configuration of another model, naming what it is; and as `open_weights`.
    """
    folder = network_folder(path, parts)
    beside = folder if folder.is_dir() else folder.parent
    fields, where = read_model_config(beside) or {}, str(beside / CONFIG)
    if classes:
        check_class(where, fields, classes)
    if model_types and "model_type" in fields:
        check_model_type(where, fields, model_types)
    return open_weights(folder, variant)


def open_weights(path: Path, variant: str | None = None) -> TensorFile:
    """The weights of a folder, of one variant where it holds several.

    Args:
      path: A folder, or a file (then ``variant`` must be None).
      variant: What stands between the file's name and its ending: "fp16", "bf16", "ema". None: the
        weights without such a name, or the only ones that there are.

    Raises:
      FileNotFoundError: If there is no such path.
      InputError: For a variant that the folder has not, which names those that it has; where
        several sets of weights fit.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        if variant is not None:
            raise InputError(f"{folder}: variant is {variant!r} of one file, expected None")
        return TensorFile(folder)
    found = _sets(folder)
    names = sorted({name for _, name in found}, key=lambda name: name or "")
    if variant is None and None not in names and len(names) == 1:
        variant = names[0]
    chosen = [file for (_, name), file in found.items() if name == variant]
    if not chosen and not found:
        return TensorFile(folder)  # says what the folder holds instead
    if len(chosen) != 1:
        what = ", ".join(sorted(file.name for file in chosen or found.values()))
        raise InputError(f"{folder} holds {what}, expected one set of weights of variant {variant}")
    return TensorFile(chosen[0])


def _sets(folder: pathlib.Path) -> dict[tuple[str, str | None], pathlib.Path]:
    """Sets of weights by stem and variant: an index, or a file that no index names."""
    found: dict[tuple[str, str | None], pathlib.Path] = {}
    for file in sorted(folder.glob(f"*{INDEX_NAME}*.json")):
        stem, _, rest = file.name.partition(INDEX_NAME)
        found[stem, rest.removesuffix(".json").lstrip(".") or None] = file
    for file in sorted(folder.glob("*.safetensors")):
        base = file.name.removesuffix(".safetensors")
        if "-of-" in base:
            continue
        stem, _, variant = base.partition(".")
        found.setdefault((stem, variant or None), file)
    return found
