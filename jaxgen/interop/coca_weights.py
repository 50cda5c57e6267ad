"""Weights of CoCa under open_clip's names.

=================================  =============================================================
here                               open_clip
=================================  =============================================================
text/token_embedding, positions    text.token_embedding.weight, text.positional_embedding
text/class_token, blocks_i         text.cls_emb, text.transformer.resblocks.i
text/final_norm, projection        text.ln_final, text.text_projection
decoder/blocks_i, image_blocks_i   text_decoder.resblocks.i, text_decoder.cross_attn.i
decoder/final_norm, words          text_decoder.ln_final, text_decoder.text_projection
image/...                          visual..., as OpenAI's CLIP (`jaxgen.interop.clip_naming`)
image/pooler/queries               visual.attn_pool.query
image/pooler/attention             visual.attn_pool.attn
image/pooler/{query,context}_norm  visual.attn_pool.{ln_q,ln_k}
image_blocks_i/query_norm          cross_attn.i.ln_1
image_blocks_i/context_norm        cross_attn.i.ln_1_kv
image_blocks_i/attention           cross_attn.i.attn
logit_scale                        logit_scale
=================================  =============================================================

Attention to another sequence has one tensor ``in_proj_weight`` of queries, keys and values where
both sequences have one width, else ``{q,k,v}_proj_weight``; ``in_proj_bias`` is one in either case.
A model with a second pooler, or with positions of frames, has no counterpart.
"""

import re
from collections.abc import Mapping

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.clip_naming import BLOCK_LAYERS, LAYERS, PASSED_OVER
from jaxgen.interop.clip_weights import block_rule
from jaxgen.interop.tensors import (
    Rule,
    Tree,
    bias,
    linear,
    name_of,
    params_from_tensors,
    patches,
    same,
    stacked,
    tensors_from_params,
)
from jaxgen.interop.transformer_rules import linear_rule

OUTER_LAYERS = {
    "text/token_embedding": "text.token_embedding",
    "text/positions": "text.positional_embedding",
    "text/class_token": "text.cls_emb",
    "text/final_norm": "text.ln_final",
    "text/projection": "text.text_projection",
    "decoder/final_norm": "text_decoder.ln_final",
    "decoder/words": "text_decoder.text_projection",
    "image/pooler/queries": "visual.attn_pool.query",
    "image/pooler/query_norm": "visual.attn_pool.ln_q",
    "image/pooler/context_norm": "visual.attn_pool.ln_k",
    **{
        ours: theirs
        for ours, theirs in LAYERS["openai"].items()
        if ours.startswith("image/") or ours == "logit_scale"
    },
}
BLOCKS = {
    "text/blocks": "text.transformer.resblocks",
    "image/blocks": LAYERS["openai"]["image/blocks"],
    "decoder/blocks": "text_decoder.resblocks",
    "decoder/image_blocks": "text_decoder.cross_attn",
}
IMAGE_BLOCK_LAYERS = {
    "query_norm": "ln_1",
    "context_norm": "ln_1_kv",
    "mlp/hidden": "mlp.c_fc",
    "mlp/output": "mlp.c_proj",
    "mlp_norm": "ln_2",
}
POOLER = "visual.attn_pool"
STACKED = "text/projection", "image/projection", "decoder/words"
"""Layers whose kernels are stored as they are here, inputs first."""

TO_CONTEXT = re.compile(r"(visual\.attn_pool|text_decoder\.cross_attn\.\d+)\.attn\.(.*)")


def coca_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    patch: int,
    dtype: str | None = "float32",
    name: str | None = None,
) -> Tree:
    """The parameters of a `jaxgen.encoders.CoCa`.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      like: The model's parameters, or their abstract values.
      patch: P of the image side.
      dtype: The type of the parameters; None: that of the tensors.
      name: What errors call them; None: the path of a `TensorFile`, else "checkpoint".

    Raises:
      InputError: For the first tensor that does not fit.
    """
    where = name_of(tensors, name)
    apart = _apart(tensors)
    ignored = {each for each in apart if PASSED_OVER.fullmatch(each)}
    return params_from_tensors(apart, like, lambda path: _rule(path, patch), ignored, dtype, where)


def coca_tensors(params: Tree, patch: int, dtype: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of open_clip's checkpoint; the inverse of `coca_params`.

    Args:
      params: Parameters of a `jaxgen.encoders.CoCa`.
      patch: P of the image side.
      dtype: The type of the tensors; None: that of the parameters.

    Raises:
      InputError: For a parameter without a counterpart.
    """
    return _together(tensors_from_params(params, lambda path: _rule(path, patch), dtype))


def check_coca(tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Raises InputError unless these are the names of open_clip's CoCa."""
    for each in ("text.cls_emb", f"{POOLER}.query", "text_decoder.text_projection"):
        if each not in tensors:
            raise InputError(f"{where}: no tensor {each!r}, expected weights of open_clip's CoCa")


def _rule(path: str, patch: int) -> Rule | None:
    """Which tensors hold a parameter."""
    if path in OUTER_LAYERS:
        return same(OUTER_LAYERS[path])
    layer, _, kind = path.rpartition("/")
    if layer.startswith("image/pooler/attention/"):
        return _attention_rule(layer.removeprefix("image/pooler/"), POOLER, kind)
    if match := re.fullmatch(r"(\w+/\w*blocks)_(\d+)/(.*)", layer):
        return _of_block(f"{BLOCKS[match[1]]}.{match[2]}", match[1], match[3], kind)
    name = OUTER_LAYERS.get(layer)
    if name is None:
        return None
    if layer == "image/patch_embedding":
        return patches(f"{name}.weight", patch)
    return same(name) if layer in STACKED else linear_rule(layer, name, kind)


def _of_block(prefix: str, blocks: str, layer: str, kind: str) -> Rule | None:
    """The rule of a block's parameter."""
    if blocks != "decoder/image_blocks":
        return block_rule(layer, f"{prefix}.{BLOCK_LAYERS['openai'][layer]}", kind)
    if layer.startswith("attention/"):
        return _attention_rule(layer, prefix, kind)
    return linear_rule(layer, f"{prefix}.{IMAGE_BLOCK_LAYERS[layer]}", kind)


def _attention_rule(layer: str, prefix: str, kind: str) -> Rule:
    """The rule of a parameter of attention to another sequence, under names of `_apart`."""
    if layer == "attention/output":
        return linear_rule(layer, f"{prefix}.attn.out_proj", kind)

    def rule(part: str) -> Rule:
        name = f"{prefix}.attn.{part}_proj"
        return linear(f"{name}.weight") if kind == "kernel" else bias(f"{name}.bias")

    return rule("q") if layer == "attention/query" else stacked([rule("k"), rule("v")], axis=-2)


def _apart(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors in which attention to another sequence has ``{q,k,v}_proj.{weight,bias}``."""
    found: dict[str, np.ndarray] = {}
    for name in tensors:
        value, match = tensors[name], TO_CONTEXT.fullmatch(name)
        if match and match[2] in ("in_proj_weight", "in_proj_bias"):
            kind = match[2].removeprefix("in_proj_")
            for part, each in zip("qkv", np.split(value, 3), strict=True):
                found[f"{match[1]}.attn.{part}_proj.{kind}"] = each
        elif match and match[2].endswith("_proj_weight"):
            found[f"{match[1]}.attn.{match[2][0]}_proj.weight"] = value
        else:
            found[name] = value
    return found


def _together(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `_apart`."""
    found = dict(tensors)
    for name in [each for each in tensors if TO_CONTEXT.fullmatch(each)]:
        prefix, _, last = name.rpartition(".q_proj.")
        if not prefix:
            continue
        parts = [found.pop(f"{prefix}.{part}_proj.{last}") for part in "qkv"]
        if last == "weight" and parts[0].shape != parts[1].shape:
            found |= {f"{prefix}.{k}_proj_weight": x for k, x in zip("qkv", parts, strict=True)}
        else:
            found[f"{prefix}.in_proj_{last}"] = np.concatenate(parts)
    return found
