"""Weights of diffusion transformers under the names of the original code and of diffusers.

===========================  =====================  =====================================
here                         original               diffusers (``DiTTransformer2DModel``)
===========================  =====================  =====================================
patch_embedding              x_embedder.proj        pos_embed.proj
condition/time/hidden        t_embedder.mlp.0       B.norm1.emb.timestep_embedder.linear_1
condition/time/output        t_embedder.mlp.2       B.norm1.emb.timestep_embedder.linear_2
condition/label/table        y_embedder             B.norm1.emb.class_embedder
                             .embedding_table       .embedding_table
blocks_i/attention/qkv       attn.qkv               attn1.to_q, attn1.to_k, attn1.to_v
blocks_i/attention/output    attn.proj              attn1.to_out.0
blocks_i/mlp/hidden          mlp.fc1                ff.net.0.proj
blocks_i/mlp/output          mlp.fc2                ff.net.2
blocks_i/modulation          adaLN_modulation.1     norm1.linear
final/modulation             final_layer            proj_out_1
                             .adaLN_modulation.1
final/output                 final_layer.linear     proj_out_2
===========================  =====================  =====================================

B is every block ``transformer_blocks.i``: diffusers keeps embeddings of time and class in each.
Copies are one here; where they differ (`has_own_embeddings`) they are ``conditions_i``, and the
configuration says ``own_embeddings=True``. Blocks are ``blocks.i`` in the original. Its files
also hold the fixed sines and cosines of the positions, ``pos_embed``. Shift, scale and gate have
the same order everywhere, and so have the numbers of a patch at the output (row, column, channel).

The number of heads follows from no shape: it comes from the ``config.json`` that diffusers leaves
beside weights, or from the published network with that depth and width, or else from the caller.
Nothing is guessed. What ``config.json`` and the shapes both tell must agree.

One number is in no file. diffusers' model has other frequencies of the time than the original,
``10000^(-i / 127)`` and not ``10000^(-i / 128)``. Weights that were trained there want
``frequency_shift=1.0`` (and ``mlp_norm_epsilon=1e-5``, which their ``config.json`` says as
``norm_eps``); those that were only converted (the published ones) want the defaults of
`jaxgen.spacetime.DiTConfig`, ``mlp_norm_epsilon=1e-6`` among them.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.dit_config import PUBLISHED_HEADS, told_by_config
from jaxgen.interop.model_configs import CONFIG
from jaxgen.interop.tensors import (
    Rule,
    RuleOf,
    Tree,
    check_array,
    copied,
    name_of,
    numbers,
    params_from_tensors,
    patches,
    stacked,
    tensors_from_params,
    without_prefix,
)
from jaxgen.interop.transformer_rules import QKV, fused_rule, linear_rule

Naming = Literal["original", "diffusers"]

LAYERS: dict[str, dict[str, str]] = {
    "original": {
        "patch_embedding": "x_embedder.proj",
        "condition/time/hidden": "t_embedder.mlp.0",
        "condition/time/output": "t_embedder.mlp.2",
        "condition/label": "y_embedder.embedding_table",
        "final/modulation": "final_layer.adaLN_modulation.1",
        "final/output": "final_layer.linear",
    },
    "diffusers": {
        "patch_embedding": "pos_embed.proj",
        "condition/time/hidden": "norm1.emb.timestep_embedder.linear_1",
        "condition/time/output": "norm1.emb.timestep_embedder.linear_2",
        "condition/label": "norm1.emb.class_embedder.embedding_table",
        "final/modulation": "proj_out_1",
        "final/output": "proj_out_2",
    },
}

MARKERS = [f"{layers['patch_embedding']}.weight" for layers in LAYERS.values()]
"""One of these is in every checkpoint."""

BLOCK_LAYERS: dict[str, dict[str, str]] = {
    "original": {
        QKV: "attn.qkv",
        "attention/output": "attn.proj",
        "mlp/hidden": "mlp.fc1",
        "mlp/output": "mlp.fc2",
        "modulation": "adaLN_modulation.1",
    },
    "diffusers": {
        QKV: "attn1.to_",
        "attention/output": "attn1.to_out.0",
        "mlp/hidden": "ff.net.0.proj",
        "mlp/output": "ff.net.2",
        "modulation": "norm1.linear",
    },
}

BLOCKS = {"original": "blocks", "diffusers": "transformer_blocks"}
POSITIONS = {"original": "pos_embed", "diffusers": "pos_embed.pos_embed"}
"""The fixed positions; diffusers has written them in earlier versions only."""


def dit_naming(
    tensors: Mapping[str, Any], name: str | None = None, prefix: str | None = None
) -> Naming:
    """Whose names a DiT checkpoint has.

    Args:
      tensors: Arrays by name.
      name: What errors call them; None: the path of a `TensorFile`, else "checkpoint".
      prefix: What the names begin with before these ("module.", "ema."); None: whatever all of
        them have in common, see `jaxgen.interop.tensors.without_prefix`.

    Raises:
      InputError: If they are nobody's.
    """
    tensors = without_prefix(tensors, MARKERS, prefix, name)
    for naming in get_args(Naming):
        if f"{LAYERS[naming]['patch_embedding']}.weight" in tensors:
            return naming
    raise InputError(
        f"{name_of(tensors, name)}: no weights of a DiT, expected a tensor "
        "'x_embedder.proj.weight' (original names) or 'pos_embed.proj.weight' (diffusers)"
    )


def dit_options(
    tensors: Mapping[str, np.ndarray],
    heads: int | None = None,
    null_class: bool | None = None,
    name: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    prefix: str | None = None,
) -> dict[str, Any]:
    """The fields of `jaxgen.spacetime.DiTConfig` that a checkpoint tells.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      heads: Attention heads, which no shape tells; None: as the configuration says, or those of
        the published network of that depth and width.
      null_class: Whether the last row of the table of classes is the null class; None: as the
        configuration says, or else True, as both programs always have it unless they were
        told to train without dropping labels.
      name: See `dit_naming`.
      config: Fields of diffusers' ``config.json``; None: those of the file beside a `TensorFile`.
      prefix: See `dit_naming`.

    Returns:
      Fields by name; ``mlp_norm_epsilon`` among them only where the configuration says it.

    Raises:
      InputError: If these are no weights of a DiT, if a tensor is missing that tells, if nothing
        tells the heads, or if the configuration is of another network than the shapes.
    """
    where = name_of(tensors, name)
    tensors = without_prefix(tensors, MARKERS, prefix, name)
    options, rows = _told_by_shapes(tensors, dit_naming(tensors, name), where)
    config = getattr(tensors, "config", None) if config is None else config
    told = {} if config is None else told_by_config(f"{CONFIG} of {where}", config, options, rows)
    for field, value in (("heads", heads), ("null_class", null_class)):
        if value is not None and told.setdefault(field, value) != value:
            raise InputError(
                f"{CONFIG} of {where}: says {field}={told[field]}, but {value} is asked for"
            )
    told.setdefault("heads", PUBLISHED_HEADS.get((options["depth"], options["width"])))
    if told["heads"] is None:
        raise InputError(
            f"{where}: the number of attention heads is in no tensor, and no {CONFIG} says it, "
            f"expected heads=N, a divisor of the width {options['width']}"
        )
    null = told.setdefault("null_class", True)
    if has_own_embeddings(tensors, options["depth"]):
        options["own_embeddings"] = True
    return {**options, **told, "num_classes": rows - null}


def has_own_embeddings(tensors: Mapping[str, np.ndarray], depth: int) -> bool:
    """Whether blocks under diffusers' names embed time and class otherwise than the first does."""
    emb = "norm1.emb."
    first = f"transformer_blocks.0.{emb}"
    for name in tensors:
        if not name.startswith(first):
            continue
        value = np.asarray(tensors[name]).tobytes()
        for i in range(1, depth):
            other = f"transformer_blocks.{i}.{emb}{name.removeprefix(first)}"
            if other in tensors and np.asarray(tensors[other]).tobytes() != value:
                return True
    return False


def _told_by_shapes(
    tensors: Mapping[str, np.ndarray], naming: Naming, where: str
) -> tuple[dict[str, Any], int]:
    """The fields that shapes tell, and the rows of the table of classes."""
    layers, block = LAYERS[naming], f"{BLOCKS[naming]}.0."

    def shape(tensor: str, axes: int) -> tuple[int, ...]:
        found = None
        if tensor in tensors:
            value = tensors[tensor]
            check_array(where, tensor, value)
            found = value.shape
        if found is None or len(found) != axes:
            what = "no tensor" if found is None else f"shape {found} of tensor"
            raise InputError(f"{where}: {what} {tensor!r}, expected one of {axes} axes")
        return found

    width, channels, patch, _ = shape(f"{layers['patch_embedding']}.weight", 4)
    hidden = shape(f"{block}{BLOCK_LAYERS[naming]['mlp/hidden']}.weight", 2)[0]
    outputs = shape(f"{layers['final/output']}.weight", 2)[0]
    table = (block if naming == "diffusers" else "") + layers["condition/label"]
    rows = shape(f"{table}.weight", 2)[0]
    options = {
        "in_channels": channels,
        "out_channels": outputs // patch**2,
        "patch": patch,
        "width": width,
        "depth": numbers(tensors.keys(), rf"{BLOCKS[naming]}\.(\d+)\."),
        "mlp_ratio": hidden / width,
    }
    return options, rows


def dit_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    patch: int,
    dtype: str | None = "float32",
    name: str | None = None,
    prefix: str | None = None,
) -> Tree:
    """The parameters of `jaxgen.spacetime.DiT` from a checkpoint in either naming.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      like: The model's parameters, or their abstract values.
      patch: P of the model.
      dtype: The type of the parameters; None: that of the tensors.
      name: See `dit_naming`.
      prefix: See there.

    Returns:
      A tree of numpy arrays with the structure of ``like``.

    Raises:
      InputError: If these are no weights of a DiT; for the first tensor that does not fit the
        model; if diffusers' copies of the embeddings differ between blocks and the model has one
        embedding for all; or if the positions are not the fixed ones.
    """
    tensors = without_prefix(tensors, MARKERS, prefix, name)
    naming = dit_naming(tensors, name)
    positions = POSITIONS[naming]
    rule_of = _rule_of(naming, patch, numbers(like.keys(), r"blocks_(\d+)"))
    params = params_from_tensors(tensors, like, rule_of, {positions}, dtype, name)
    if positions in tensors:
        width = params["patch_embedding"]["bias"].shape[0]
        _check_positions(name_of(tensors, name), positions, tensors[positions], width)
    return params


def dit_tensors(
    params: Tree,
    naming: Naming,
    patch: int,
    grid: int | None = None,
    dtype: str | None = None,
) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint in either naming; the inverse of `dit_params`.

    Args:
      params: Parameters of a `jaxgen.spacetime.DiT` with adaLN-Zero blocks and classes; no
        reader of DiT's checkpoints knows another.
      naming: "original" or "diffusers".
      patch: P of the model.
      grid: Patches along the side of an image; the original code expects the positions of such a
        grid in a file. None: none are written.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.

    Raises:
      InputError: For another naming, a parameter that DiT's checkpoints do not have, blocks
        without gates, or a network without classes.
    """
    if naming not in LAYERS:
        raise InputError(f"naming is {naming!r}, expected one of {', '.join(LAYERS)}")
    depth = numbers(params.keys(), r"blocks_(\d+)")
    tensors = tensors_from_params(params, _rule_of(naming, patch, depth), dtype)
    _check_published(params)
    if grid is not None:
        width = params["patch_embedding"]["bias"].shape[0]
        some = next(iter(tensors.values()))
        tensors[POSITIONS[naming]] = _positions(grid, width).astype(some.dtype)[None]
    return tensors


def _check_published(params: Tree) -> None:
    """Refuses networks whose parameters all have names in DiT's checkpoints, but are no DiT's."""
    parts = params["blocks_0"]["modulation"]["bias"].shape[0]
    if parts != 6:
        raise InputError(
            f"parameter blocks_0/modulation/bias has {parts} vectors, expected shift, scale and "
            "gate twice (conditioning 'adaln_zero'), which DiT's checkpoints hold"
        )
    condition = params.get("condition", params.get("conditions_0", {}))
    if "label" not in condition:
        raise InputError(
            "no parameter condition/label/table, expected a network with classes (num_classes of 1 "
            "or more), whose table DiT's checkpoints hold"
        )


def _rule_of(naming: str, patch: int, depth: int) -> RuleOf:
    """The rules of one naming for a network of so many blocks."""

    def rule_of(path: str) -> Rule | None:
        layer, _, kind = path.rpartition("/")
        if match := re.fullmatch(r"blocks_(\d+)/(.*)", layer):
            inner = BLOCK_LAYERS[naming].get(match[2])
            prefix = f"{BLOCKS[naming]}.{match[1]}."
            return None if inner is None else _layer_rule(naming, match[2], prefix + inner, kind)
        if match := re.fullmatch(r"conditions_(\d+)/(.*)", layer):
            inner = LAYERS[naming].get(f"condition/{match[2]}")
            if naming != "diffusers" or inner is None:
                return None
            return linear_rule(match[2], f"{BLOCKS[naming]}.{match[1]}.{inner}", kind)
        name = LAYERS[naming].get(layer)
        if name is None:
            return None
        if layer == "patch_embedding" and kind == "kernel":
            return patches(f"{name}.weight", patch)
        if naming == "diffusers" and layer.startswith("condition"):
            names = [f"{BLOCKS[naming]}.{i}.{name}" for i in range(depth)]
            return copied([linear_rule(layer, each, kind) for each in names])
        return linear_rule(layer, name, kind)

    return rule_of


def _layer_rule(naming: str, layer: str, name: str, kind: str) -> Rule:
    """The rule of a block's layer."""
    if naming == "original" or layer != QKV:
        return fused_rule(layer, name, kind)
    return stacked([linear_rule(layer, name + each, kind) for each in "qkv"], axis=-2)


def _positions(grid: int, width: int) -> np.ndarray:
    """The fixed positions [L, D] of a square grid: the column's waves, then the row's.

    Waves of p: ``sin(p w_i)`` for all i, then ``cos(p w_i)``, with ``w_i = 10000^(-4 i / D)``.
    """
    w_D = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    angle_ND = np.arange(grid)[:, None] * w_D
    waves_ND = np.concatenate([np.sin(angle_ND), np.cos(angle_ND)], axis=1)
    both = [np.tile(waves_ND, (grid, 1)), np.repeat(waves_ND, grid, axis=0)]
    return np.concatenate(both, axis=1).astype(np.float32)


def _check_positions(where: str, name: str, found: np.ndarray, width: int) -> None:
    """Refuses positions that are not the fixed ones: the model here would use others."""
    grid = math.isqrt(found.shape[1]) if found.ndim == 3 else 0
    if found.shape != (1, grid**2, width):
        raise InputError(
            f"{where}: tensor {name!r} has shape {found.shape}, expected [1, L, D] with a square "
            f"number L and D = {width}"
        )
    exact = found.dtype.itemsize >= 4
    expected = _positions(grid, width)
    difference = np.abs(found[0].astype(np.float32) - expected).max(initial=0)
    if not difference <= (1e-5 if exact else 1e-2):  # which nan is not either
        raise InputError(
            f"{where}: tensor {name!r} differs by {difference:.2g} from the sines and cosines of a "
            f"{grid} x {grid} grid, which the model has instead of parameters"
        )
