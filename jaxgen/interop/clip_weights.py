"""Parameters of CLIP from weights in each naming of `jaxgen.interop.clip_naming`, and back."""

import re
from collections.abc import Mapping
from typing import get_args

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.clip_naming import (
    BLOCK_LAYERS,
    LAYERS,
    PASSED_OVER,
    CLIPNaming,
    clip_naming,
    with_full_names,
)
from jaxgen.interop.tensors import (
    Rule,
    RuleOf,
    Tree,
    bias,
    linear,
    params_from_tensors,
    patches,
    same,
    stacked,
    swapped,
    tensors_from_params,
)
from jaxgen.interop.transformer_rules import QKV, linear_rule


def clip_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    patch: int | None = None,
    dtype: str | None = "float32",
    name: str | None = None,
) -> Tree:
    """The parameters of a `jaxgen.encoders.CLIP`, or of one of its towers.

    Args:
      tensors: Arrays by name in any of the namings, for instance a `TensorFile`.
      like: The model's parameters, or their abstract values.
      patch: P of the image tower, if there is one.
      dtype: The type of the parameters; None: that of the tensors.
      name: See `clip_naming`.

    Returns:
      A tree of numpy arrays with the structure of ``like``.

    Raises:
      InputError: If these are no weights of a CLIP; for the first tensor that does not fit.
    """
    naming = clip_naming(tensors, name)
    tensors = with_full_names(tensors)
    ignored = {each for each in tensors if PASSED_OVER.fullmatch(each)}
    rule_of = _rule_of(_layers(naming), patch, _tower(like))
    return params_from_tensors(tensors, like, rule_of, ignored, dtype, name)


def clip_tensors(
    params: Tree, naming: CLIPNaming, patch: int | None = None, dtype: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint in any of the namings; the inverse of `clip_params`.

    Args:
      params: Parameters of a `jaxgen.encoders.CLIP`; of one of its towers for transformers' names.
      naming: "transformers", "openai", or "open_clip" for its ``custom_text`` models.
      patch: P of the image tower, if there is one.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.

    Raises:
      InputError: For another naming, or a lone tower under names that have none.
    """
    if naming not in get_args(CLIPNaming):
        known = ", ".join(get_args(CLIPNaming))
        raise InputError(f"naming is {naming!r}, expected one of {known}")
    tower = _tower(params)
    if tower and naming != "transformers":
        raise InputError(f"naming is {naming!r} of one tower, expected 'transformers'")
    tensors = tensors_from_params(params, _rule_of(_layers(naming), patch, tower), dtype)
    if naming != "open_clip":
        return tensors
    own = ("visual.", "logit_scale")
    return {each if each.startswith(own) else f"text.{each}": tensors[each] for each in tensors}


def _layers(naming: str) -> str:
    """The naming of `LAYERS`."""
    return "transformers" if naming == "transformers" else "openai"


def _tower(params: Tree) -> str:
    """What paths of a lone tower lack; "" for both."""
    if "text" in params:
        return ""
    return "image/" if "class_token" in params else "text/"


def _rule_of(naming: str, patch: int | None, tower: str) -> RuleOf:
    """The rules of one naming."""
    layers = LAYERS[naming]

    def rule_of(path: str) -> Rule | None:
        path = tower + path
        if path in layers:  # a parameter without a layer
            return same(layers[path])
        layer, _, kind = path.rpartition("/")
        if match := re.fullmatch(r"(text|image)/blocks_(\d+)/(.*)", layer):
            inner = BLOCK_LAYERS[naming].get(match[3])
            prefix = f"{layers[f'{match[1]}/blocks']}.{match[2]}."
            return None if inner is None else block_rule(match[3], prefix + inner, kind)
        name = layers.get(layer)
        if name is None:
            return None
        if layer == "image/patch_embedding":
            return None if patch is None else patches(f"{name}.weight", patch)
        if layer.endswith("projection") and naming == "openai":
            return same(name)
        return linear_rule(layer, name, kind)

    return rule_of


def block_rule(layer: str, name: str, kind: str) -> Rule:
    """The rule of a block's layer."""
    if layer != QKV:
        return linear_rule(layer, name, kind)
    if "in_proj" in name:  # all queries, all keys, all values; here the heads come first
        fused = linear(name.format("weight")) if kind == "kernel" else bias(name.format("bias"))
        return swapped(fused, -3, -2)
    return stacked([linear_rule(layer, name.format(each), kind) for each in "qkv"], axis=-2)
