"""The encoder of T5 v1.1 under transformers' names.

=============================  ==================================================================
here                           transformers
=============================  ==================================================================
token_embedding/table          shared.weight, encoder.embed_tokens.weight, or copies in both
bias/table                     encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight
blocks_i/attention_norm        encoder.block.i.layer.0.layer_norm
blocks_i/qkv, output           encoder.block.i.layer.0.SelfAttention.{q,k,v}, o
blocks_i/mlp_norm              encoder.block.i.layer.1.layer_norm
blocks_i/gate, hidden, down    encoder.block.i.layer.1.DenseReluDense.wi_0, wi_1, wo
final_norm                     encoder.final_layer_norm
=============================  ==================================================================

Files of the whole T5 open too; its decoder and output layer are passed over. T5 v1.0, whose MLP has
no gate, is another network and is an error.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_agrees, check_model_type
from jaxgen.interop.model_folders import config_fields
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.tensors import (
    Renamed,
    Rule,
    RuleOf,
    Tree,
    copied,
    params_from_tensors,
    same,
    stacked,
    tensors_from_params,
)
from jaxgen.interop.transformer_rules import linear_rule

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "d_model",
    "mlp_units": "d_ff",
    "depth": "num_layers",
    "heads": "num_heads",
    "head_size": "d_kv",
    "buckets": "relative_attention_num_buckets",
    "largest_distance": "relative_attention_max_distance",
}
"""Fields of `jaxgen.encoders.T5Config`, and what transformers calls them."""

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
"""What transformers takes for fields that a configuration leaves out."""

FIXED = {"layer_norm_epsilon": 1e-6}
"""Fields that the network here has in one way alone."""

MODEL_TYPES = ("t5", "mt5")
GATED = "gated-gelu"
HYPERBOLIC = ("gelu_new", "gelu_pytorch_tanh")

TABLES = ("shared.weight", "encoder.embed_tokens.weight")

LAYERS = {
    "attention_norm": "layer.0.layer_norm",
    "output": "layer.0.SelfAttention.o",
    "mlp_norm": "layer.1.layer_norm",
    "gate": "layer.1.DenseReluDense.wi_0",
    "hidden": "layer.1.DenseReluDense.wi_1",
    "down": "layer.1.DenseReluDense.wo",
}
ATTENTION = "layer.0.SelfAttention"


def t5_options(config: Mapping[str, Any] | TensorFile) -> dict[str, Any]:
    """The fields of `jaxgen.encoders.T5Config` for a configuration of transformers.

    Args:
      config: The content of a ``config.json``, or a `TensorFile` that has one beside it; fields
        that it leaves out have transformers' defaults.

    Raises:
      InputError: For the configuration of another model, naming the field; for a `TensorFile`
        without a ``config.json``.
    """
    where, fields = config_fields(config, "T5 encoder")
    check_model_type(where, fields, MODEL_TYPES)
    check_agrees(where, fields, FIXED)
    gated = fields.get("is_gated_act") and fields.get("dense_act_fn") in HYPERBOLIC
    if fields.get("feed_forward_proj", GATED if gated else "relu") != GATED:
        raise InputError(
            f"{where}: feed_forward_proj is {fields.get('feed_forward_proj', 'relu')!r}, expected "
            f"{GATED!r}, which T5 v1.1 has"
        )
    return {ours: fields.get(theirs, DEFAULTS[theirs]) for ours, theirs in FIELDS.items()}


def t5_fields(config: Any) -> dict[str, Any]:
    """The ``config.json`` of a ``T5EncoderModel``; the inverse of `t5_options`.

    Args:
      config: A `jaxgen.encoders.T5Config`.
    """
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
        **FIXED,
        "feed_forward_proj": GATED,
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def t5_params(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    dtype: str | None = "float32",
    name: str | None = None,
) -> Tree:
    """The parameters of a `jaxgen.encoders.T5Encoder`.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      like: The model's parameters, or their abstract values.
      dtype: The type of the parameters; None: that of the tensors.
      name: What errors call the tensors; None: the path of a `TensorFile`, else "checkpoint".

    Raises:
      InputError: For the first tensor that does not fit; for two tables that differ.
    """
    tables = [each for each in TABLES if each in tensors] or list(TABLES[:1])
    other = ("decoder.", "lm_head.")
    encoder = Renamed(tensors, lambda each: None if each.startswith(other) else each)
    return params_from_tensors(encoder, like, _rule_of(tables), (), dtype, name)


def t5_tensors(params: Tree, dtype: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a ``T5EncoderModel``; the inverse of `t5_params`.

    Args:
      params: Parameters of a `jaxgen.encoders.T5Encoder`.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.
    """
    return tensors_from_params(params, _rule_of(TABLES[:1]), dtype)


def _rule_of(tables: Any) -> RuleOf:
    """The rules, the table of tokens under one name or several."""

    def rule_of(path: str) -> Rule | None:
        layer, _, kind = path.rpartition("/")
        if layer == "token_embedding":
            return copied([same(name) for name in tables])
        if layer == "bias":
            return same(f"encoder.block.0.{ATTENTION}.relative_attention_bias.weight")
        if layer == "final_norm":
            return linear_rule(layer, "encoder.final_layer_norm", kind)
        match = re.fullmatch(r"blocks_(\d+)/(\w+)", layer)
        if match is None:
            return None
        prefix, inner = f"encoder.block.{match[1]}.", match[2]
        if inner == "qkv":
            names = [f"{prefix}{ATTENTION}.{each}" for each in "qkv"]
            return stacked([linear_rule(inner, each, kind) for each in names], axis=-2)
        name = LAYERS.get(inner)
        # Heads and their width are two axes of inputs, as in other networks' attention.
        ours = "attention/output" if inner == "output" else inner
        return None if name is None else linear_rule(ours, prefix + name, kind)

    return rule_of
