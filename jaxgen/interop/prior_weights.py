"""The diffusion prior of unCLIP under the names of diffusers' ``PriorTransformer``.

=============================  ==================================================================
here                           diffusers
=============================  ==================================================================
text_states                    encoder_hidden_states_proj
text_vector                    embedding_proj
time/hidden, output            time_embedding.linear_1, linear_2
noisy_vector                   proj_in
query, positions               prd_embedding, positional_embedding, with axes of 1 before
blocks_i/attention_norm        transformer_blocks.i.norm1
blocks_i/attention/qkv         transformer_blocks.i.attn1.to_{q,k,v}
blocks_i/attention/output      transformer_blocks.i.attn1.to_out.0
blocks_i/mlp_norm              transformer_blocks.i.norm3
blocks_i/mlp/hidden, output    transformer_blocks.i.ff.net.0.proj, ff.net.2
final_norm                     norm_out
output                         proj_to_clip_embeddings
statistics/mean, deviation     clip_mean, clip_std
=============================  ==================================================================

The last two take no part in the network: a vector z of the process is the image vector
``z deviation + mean``.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_agrees, check_class
from jaxgen.interop.model_folders import config_fields
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.tensors import (
    Rule,
    Tree,
    params_from_tensors,
    stacked,
    tensors_from_params,
    with_ones,
)
from jaxgen.interop.transformer_rules import QKV, linear_rule

PRIOR_TRANSFORMER = "PriorTransformer"

DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "num_layers": 20,
    "embedding_dim": 768,
    "num_embeddings": 77,
}
"""What diffusers takes for fields that a configuration leaves out."""

FIXED: dict[str, Any] = {
    "additional_embeddings": 4,
    "time_embed_act_fn": "silu",
    "norm_in_type": None,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "added_emb_type": "prd",
}
"""Fields that the network here has in one way alone, as unCLIP's prior has them."""

MLP_UNITS = 4
"""Of the width, which diffusers' blocks have."""

LAYERS = {
    "text_states": "encoder_hidden_states_proj",
    "text_vector": "embedding_proj",
    "time/hidden": "time_embedding.linear_1",
    "time/output": "time_embedding.linear_2",
    "noisy_vector": "proj_in",
    "final_norm": "norm_out",
    "output": "proj_to_clip_embeddings",
}
BLOCK_LAYERS = {
    "attention_norm": "norm1",
    QKV: "attn1.to_{}",
    "attention/output": "attn1.to_out.0",
    "mlp_norm": "norm3",
    "mlp/hidden": "ff.net.0.proj",
    "mlp/output": "ff.net.2",
}
ALONE = {
    "query": with_ones("prd_embedding", before=2),
    "positions": with_ones("positional_embedding", before=1),
    "statistics/mean": with_ones("clip_mean", before=1),
    "statistics/deviation": with_ones("clip_std", before=1),
}


def prior_options(config: Mapping[str, Any] | TensorFile) -> dict[str, Any]:
    """The fields of `jaxgen.encoders.ImagePriorConfig` for a configuration of diffusers.

    Args:
      config: The content of a ``config.json``, or a `TensorFile` that has one beside it; fields
        that it leaves out have diffusers' defaults.

    Raises:
      InputError: For the configuration of another model, or of a prior that the network here is
        not, naming the field; for a `TensorFile` without a ``config.json``.
    """
    where, fields = config_fields(config, "prior")
    check_class(where, fields, [PRIOR_TRANSFORMER])
    given = {**DEFAULTS, **fields}
    width = given["num_attention_heads"] * given["attention_head_dim"]
    # None stands for these widths.
    widths = {"time_embed_dim": width}
    widths |= dict.fromkeys(["embedding_proj_dim", "clip_embed_dim"], given["embedding_dim"])
    chosen = {name: fields[name] for name in widths if fields.get(name) is not None}
    check_agrees(where, {**fields, **dict.fromkeys(widths), **chosen}, FIXED)
    check_agrees(where, chosen, widths)
    return {
        "width": width,
        "depth": given["num_layers"],
        "heads": given["num_attention_heads"],
        "mlp_units": MLP_UNITS * width,
        "text_width": given["embedding_dim"],
        "text_length": given["num_embeddings"],
        "pooled_width": given["embedding_dim"],
    }


def prior_fields(config: Any) -> dict[str, Any]:
    """The ``config.json`` of a ``PriorTransformer``; the inverse of `prior_options`.

    Args:
      config: A `jaxgen.encoders.ImagePriorConfig`.

    Raises:
      InputError: For a network that diffusers has not, naming the field.
    """
    wanted = {
        "activation": "gelu",
        "epsilon": 1e-5,
        "mlp_units": MLP_UNITS * config.width,
        "text_width": config.pooled_width,
    }
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise InputError(
                f"{name} is {getattr(config, name)!r}, expected {value!r}, which diffusers' prior "
                "has"
            )
    return {
        "_class_name": PRIOR_TRANSFORMER,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "num_layers": config.depth,
        "embedding_dim": config.pooled_width,
        "num_embeddings": config.text_length,
        **FIXED,
    }


def prior_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    dtype: str | None = "float32",
    name: str | None = None,
) -> Tree:
    """The parameters of a `jaxgen.encoders.ImagePrior`, and ``"statistics"`` beside them.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      like: The model's parameters with statistics, or their abstract values.
      dtype: The type of the parameters; None: that of the tensors.
      name: What errors call the tensors; None: the path of a `TensorFile`, else "checkpoint".

    Raises:
      InputError: For the first tensor that does not fit.
    """
    return params_from_tensors(tensors, like, _rule_of, (), dtype, name)


def prior_tensors(params: Tree, dtype: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a ``PriorTransformer``; the inverse of `prior_params`.

    Args:
      params: Parameters with ``"statistics"``.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.
    """
    return tensors_from_params(params, _rule_of, dtype)


def _rule_of(path: str) -> Rule | None:
    if path in ALONE:
        return ALONE[path]
    layer, _, kind = path.rpartition("/")
    if match := re.fullmatch(r"blocks_(\d+)/(.*)", layer):
        inner = BLOCK_LAYERS.get(match[2])
        if inner is None:
            return None
        name = f"transformer_blocks.{match[1]}.{inner}"
        if match[2] == QKV:
            return stacked([linear_rule(QKV, name.format(each), kind) for each in "qkv"], axis=-2)
        return linear_rule(match[2], name, kind)
    return linear_rule(layer, LAYERS[layer], kind) if layer in LAYERS else None
