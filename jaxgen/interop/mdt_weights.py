"""Weights of the masked diffusion transformer (Gao et al. 2023) under its published names.

============================  ====================================
here                          published (``MDT``, first version)
============================  ====================================
patch_embedding               x_embedder.proj
condition/time/hidden         t_embedder.mlp.0
condition/time/output         t_embedder.mlp.2
condition/label/table         y_embedder.embedding_table
encoder_positions             pos_embed
decoder_positions             decoder_pos_embed
encoder_i, decoder_i          blocks.i, counted through; side: sideblocks.0
of a block: attention, mlp,   attn.qkv, attn.proj, mlp.fc1, mlp.fc2, adaLN_modulation.1
modulation
relative/table                attn.rel_pos_bias.relative_position_bias_table
final/modulation, output      final_layer.adaLN_modulation.1, final_layer.linear
mask_token                    mask_token
============================  ====================================

Tables of offsets have three more rows there, which nothing reads; they are left out, and written as
zeros. How many of the blocks are the decoder is in no tensor. The second version (``en_inblocks``)
has long skips, which the network here has not.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop import dit_weights
from jaxgen.interop.dit_config import PUBLISHED_HEADS
from jaxgen.interop.learned_positions import Grid, resize_offsets, resize_positions, square_grid
from jaxgen.interop.tensors import (
    Renamed,
    Rule,
    RuleOf,
    Tree,
    name_of,
    numbers,
    params_from_tensors,
    patches,
    tensors_from_params,
    with_ones,
    without_prefix,
)
from jaxgen.interop.transformer_rules import fused_rule

MDT_MARKERS = ["decoder_pos_embed"]
UNUSED_ROWS = 3
"""Of a table of offsets, for a class token that the network has not."""

OFFSETS = "attn.rel_pos_bias.relative_position_bias_table"
LAYERS, BLOCK_LAYERS = dit_weights.LAYERS["original"], dit_weights.BLOCK_LAYERS["original"]
"""What is not of MDT alone has the names of DiT's original code, from which MDT's was made."""

POSITIONS = {"encoder_positions": "pos_embed", "decoder_positions": "decoder_pos_embed"}


def mdt_options(
    tensors: Mapping[str, np.ndarray],
    decoder_depth: int = 2,
    heads: int | None = None,
    name: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    prefix: str | None = None,
) -> dict[str, Any]:
    """The fields of `jaxgen.spacetime.MDTConfig` that a checkpoint tells.

    Args:
      tensors: Arrays by name.
      decoder_depth: Blocks of the decoder, 2 in the paper.
      heads: Attention heads; None: those of the tables of offsets.
      name: What errors call them; None: the path of a `TensorFile`, else "checkpoint".
      size: Height and width of the images; None: of those that the positions were learnt for, which
        are then square.
      prefix: See `jaxgen.interop.tensors.without_prefix`.

    Raises:
      InputError: If these are no weights of an MDT of the first version.
    """
    where = name_of(tensors, name)
    tensors = without_prefix(tensors, MDT_MARKERS, prefix, name)
    for needed in ("x_embedder.proj.weight", "decoder_pos_embed", f"blocks.0.{OFFSETS}"):
        if needed not in tensors:
            second = any(each.startswith("en_inblocks.") for each in tensors)
            raise InputError(
                f"{where}: no tensor {needed!r}, expected the weights of an MDT"
                + (" of the first version; these are of the second" if second else "")
            )
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    depth = numbers(tensors.keys(), r"blocks\.(\d+)\.")
    grid = square_grid(where, tensors["pos_embed"].shape[1])
    if heads is None:
        heads = tensors[f"blocks.0.{OFFSETS}"].shape[1]
    known = PUBLISHED_HEADS.get((depth, width), heads)
    if heads != known:
        raise InputError(f"{where}: heads is {heads}, expected {known}, as published")
    return {
        "in_channels": channels,
        "out_channels": tensors["final_layer.linear.weight"].shape[0] // patch**2,
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        "num_classes": len(tensors["y_embedder.embedding_table.weight"]) - 1,
        "decoder_depth": decoder_depth,
        "input_size": (grid[0] * patch, grid[1] * patch) if size is None else tuple(size),
    }


def mdt_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    patch: int,
    grid: Grid,
    dtype: str | None = "float32",
    name: str | None = None,
    prefix: str | None = None,
) -> Tree:
    """The parameters of `jaxgen.spacetime.MDT`; positions of another grid are interpolated.

    Args:
      tensors: Arrays by name.
      like: The model's parameters, or their abstract values.
      patch: P of the model.
      grid: Its patches down and across.
      dtype: The type of the parameters; None: that of the tensors.
      name: See `mdt_options`.
      prefix: See there.

    Raises:
      InputError: For the first tensor that does not fit the model.
    """
    where = name_of(tensors, name)
    found = dict(
        Renamed(
            without_prefix(tensors, MDT_MARKERS, prefix, name),
            lambda each: None if each.endswith("relative_position_index") else each,
        )
    )
    learnt = square_grid(where, found["pos_embed"].shape[1]) if "pos_embed" in found else grid
    for each, value in found.items():
        if each in POSITIONS.values():
            found[each] = resize_positions(value[0], learnt, grid)[None]
        elif each.endswith(OFFSETS):
            used_NH = resize_offsets(value[:-UNUSED_ROWS], learnt, grid)
            found[each] = np.concatenate([used_NH, value[-UNUSED_ROWS:]])
    return params_from_tensors(found, like, _mdt_rules(patch, like), (), dtype, where)


def mdt_tensors(params: Tree, patch: int, dtype: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint; the inverse of `mdt_params` at the model's own size.

    Args:
      params: Parameters of a `jaxgen.spacetime.MDT`.
      patch: P of the model.
      dtype: The type of the tensors; None: that of the parameters.
    """
    return tensors_from_params(params, _mdt_rules(patch, params), dtype)


def _mdt_rules(patch: int, like: Tree) -> RuleOf:
    """The rules of a network with so many blocks in its encoder."""
    first_of = {"encoder": 0, "decoder": numbers(like.keys(), r"encoder_(\d+)")}

    def rule_of(path: str) -> Rule | None:
        if path in POSITIONS:
            return with_ones(POSITIONS[path], before=1)
        if path == "mask_token":
            return with_ones("mask_token", before=2)
        layer, _, kind = path.rpartition("/")
        if match := re.fullmatch(r"(encoder|decoder|side)(?:_(\d+))?/(.*)", layer):
            part, index, inner = match.groups()
            block = "sideblocks.0"
            if index is not None:
                block = f"blocks.{first_of[part] + int(index)}"
            member, _, inner = inner.partition("/")
            if member == "relative":
                return _offsets_rule(f"{block}.{OFFSETS}")
            known = BLOCK_LAYERS.get(inner) if member == "block" else None
            return None if known is None else fused_rule(inner, f"{block}.{known}", kind)
        known = LAYERS.get(layer)
        if known is None:
            return None
        if layer == "patch_embedding" and kind == "kernel":
            return patches(f"{known}.weight", patch)
        return fused_rule(layer, known, kind)

    return rule_of


def _offsets_rule(name: str) -> Rule:
    """A table of offsets with the rows that nothing reads."""

    def split(x: np.ndarray) -> list[np.ndarray]:
        return [np.concatenate([x, np.zeros((UNUSED_ROWS, *x.shape[1:]), x.dtype)])]

    return Rule((name,), split, lambda tensors, _: tensors[0][:-UNUSED_ROWS])
