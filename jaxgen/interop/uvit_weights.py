"""Weights of U-ViT (Bao et al. 2023) under the names of its published code.

=========================  ===========================
here                       published
=========================  ===========================
patch_embedding            patch_embed.proj
label/table                label_emb
positions                  pos_embed
first_i, middle, second_i  in_blocks.i, mid_block, out_blocks.i
of a block: skip           skip_linear
attention_norm, mlp_norm   norm1, norm2
attention/qkv, output      attn.qkv, attn.proj
mlp/hidden, output         mlp.fc1, mlp.fc2
norm                       norm
output                     decoder_pred
smooth                     final_layer
=========================  ===========================

There the class's token comes before the time's, here behind it; which of the two comes first
changes nothing but the first two positions. The table of classes has no null class of its own: the
published networks for ImageNet have 1,001 classes, the last of which is the null class.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.learned_positions import Grid, resize_positions, square_grid
from jaxgen.interop.tensors import (
    Rule,
    RuleOf,
    Tree,
    convolution,
    name_of,
    numbers,
    params_from_tensors,
    patches,
    tensors_from_params,
    without_prefix,
)
from jaxgen.interop.transformer_rules import fused_rule

MARKERS = ["decoder_pred.weight"]
HEADS = {512: 8, 768: 12, 1024: 16, 1152: 16}
"""Heads by the width of the published networks (Bao et al. 2023, table 1)."""

LAYERS = {
    "patch_embedding": "patch_embed.proj",
    "label": "label_emb",
    "norm": "norm",
    "output": "decoder_pred",
    "smooth": "final_layer",
}
UVIT_BLOCK_LAYERS = {
    "skip": "skip_linear",
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "attention/qkv": "attn.qkv",
    "attention/output": "attn.proj",
    "mlp/hidden": "mlp.fc1",
    "mlp/output": "mlp.fc2",
}
UVIT_BLOCKS = {"first": "in_blocks", "middle": "mid_block", "second": "out_blocks"}


def uvit_options(
    tensors: Mapping[str, np.ndarray],
    heads: int | None = None,
    null_class: bool = True,
    name: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    prefix: str | None = None,
) -> dict[str, Any]:
    """The fields of `jaxgen.spacetime.UViTConfig` that a checkpoint tells.

    Args:
      tensors: Arrays by name.
      heads: Attention heads; None: those of the published network of that width.
      null_class: Whether the last class of the table is the null class.
      name: What errors call them; None: the path of a `TensorFile`, else "checkpoint".
      size: Height and width of the images; None: of those that the positions were learnt for, which
        are then square.
      prefix: See `jaxgen.interop.tensors.without_prefix`.

    Raises:
      InputError: If these are no weights of a U-ViT, for networks without the last convolution or
        with an MLP of the time, which the network here has not, or if nothing tells the heads.
    """
    where = name_of(tensors, name)
    tensors = without_prefix(tensors, MARKERS, prefix, name)
    for needed in ("patch_embed.proj.weight", "pos_embed", "final_layer.weight", *MARKERS):
        if needed not in tensors:
            raise InputError(f"{where}: no tensor {needed!r}, expected the weights of a U-ViT")
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    rows = len(tensors["label_emb.weight"]) if "label_emb.weight" in tensors else 0
    grid = _grid_of(where, tensors)
    heads = HEADS.get(width) if heads is None else heads
    if heads is None:
        raise InputError(
            f"{where}: the number of attention heads is in no tensor, expected heads=N, a divisor "
            f"of the width {width}"
        )
    return {
        "in_channels": channels,
        "out_channels": tensors["final_layer.weight"].shape[0],
        "patch": patch,
        "width": width,
        "depth": 2 * numbers(tensors.keys(), r"in_blocks\.(\d+)\.") + 1,
        "heads": heads,
        "mlp_ratio": tensors["mid_block.mlp.fc1.weight"].shape[0] / width,
        "num_classes": rows - (null_class and rows > 0),
        "null_class": null_class and rows > 0,
        "class_dropout": 0.1 if null_class and rows else 0.0,
        "input_size": (grid[0] * patch, grid[1] * patch) if size is None else tuple(size),
    }


def uvit_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    patch: int,
    grid: Grid,
    dtype: str | None = "float32",
    name: str | None = None,
    prefix: str | None = None,
) -> Tree:
    """The parameters of `jaxgen.spacetime.UViT`; positions of another grid are interpolated.

    Args:
      tensors: Arrays by name.
      like: The model's parameters, or their abstract values.
      patch: P of the model.
      grid: Its patches down and across.
      dtype: The type of the parameters; None: that of the tensors.
      name: See `uvit_options`.
      prefix: See there.

    Raises:
      InputError: For the first tensor that does not fit the model.
    """
    where = name_of(tensors, name)
    found = dict(without_prefix(tensors, MARKERS, prefix, name))
    if "pos_embed" in found:
        places_LD = found["pos_embed"][0]
        extra = len(places_LD) - int(np.prod(_grid_of(where, found)))
        inner_LD = resize_positions(places_LD[extra:], _grid_of(where, found), grid)
        found["pos_embed"] = np.concatenate([places_LD[:extra], inner_LD])[None]
    return params_from_tensors(found, like, _uvit_rules(patch, "label" in like), (), dtype, where)


def uvit_tensors(params: Tree, patch: int, dtype: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint; the inverse of `uvit_params` at the model's own size.

    Args:
      params: Parameters of a `jaxgen.spacetime.UViT`.
      patch: P of the model.
      dtype: The type of the tensors; None: that of the parameters.
    """
    return tensors_from_params(params, _uvit_rules(patch, "label" in params), dtype)


def _grid_of(where: str, tensors: Mapping[str, np.ndarray]) -> Grid:
    """The square grid that the positions were learnt for, the time's and class's left out."""
    extra = 1 + ("label_emb.weight" in tensors)
    return square_grid(where, tensors["pos_embed"].shape[1] - extra)


def _uvit_rules(patch: int, labels: bool) -> RuleOf:
    """The rules of a network with these patches, with or without classes."""

    def rule_of(path: str) -> Rule | None:
        if path == "positions":
            return _positions_rule(labels)
        layer, _, kind = path.rpartition("/")
        if match := re.fullmatch(r"(first|middle|second)(?:_(\d+))?/(.*)", layer):
            part, index, inner = match.groups()
            block = UVIT_BLOCKS[part] if index is None else f"{UVIT_BLOCKS[part]}.{index}"
            known = UVIT_BLOCK_LAYERS.get(inner)
            return None if known is None else fused_rule(inner, f"{block}.{known}", kind)
        known = LAYERS.get(layer)
        if known is None:
            return None
        if layer == "patch_embedding" and kind == "kernel":
            return patches(f"{known}.weight", patch)
        if layer == "smooth" and kind == "kernel":
            return convolution(f"{known}.weight")
        return fused_rule(layer, known, kind)

    return rule_of


def _positions_rule(labels: bool) -> Rule:
    """All positions; the class's and the time's change places where there are both."""

    def exchanged(places_LD: np.ndarray) -> np.ndarray:
        return np.concatenate([places_LD[1::-1], places_LD[2:]]) if labels else places_LD

    return Rule(
        ("pos_embed",), lambda x: [exchanged(x)[None]], lambda tensors, _: exchanged(tensors[0][0])
    )
