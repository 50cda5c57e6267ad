"""Weights of CLIP under the names of transformers, of OpenAI and of open_clip.

=============================  ===================================  ================================
here                           transformers                         OpenAI
=============================  ===================================  ================================
text/token_embedding/table     text_model.embeddings                token_embedding.weight
                               .token_embedding.weight
text/positions                 text_model.embeddings                positional_embedding
                               .position_embedding.weight
text/blocks_i                  text_model.encoder.layers.i          transformer.resblocks.i
text/final_norm                text_model.final_layer_norm          ln_final
text/projection                text_projection.weight               text_projection, transposed
image/class_token              vision_model.embeddings              visual.class_embedding
                               .class_embedding
image/patch_embedding          vision_model.embeddings              visual.conv1.weight
                               .patch_embedding.weight
image/positions                vision_model.embeddings              visual.positional_embedding
                               .position_embedding.weight
image/input_norm, output_norm  vision_model.pre_layrnorm (so        visual.ln_pre, ln_post
                               spelt), post_layernorm
image/blocks_i                 vision_model.encoder.layers.i        visual.transformer.resblocks.i
image/projection               visual_projection.weight             visual.proj, transposed
logit_scale                    logit_scale                          logit_scale
blocks_i/attention/qkv         self_attn.{q,k,v}_proj               attn.in_proj_{weight,bias}
blocks_i/attention/output      self_attn.out_proj                   attn.out_proj
blocks_i/attention_norm        layer_norm1                          ln_1
blocks_i/mlp/hidden, output    mlp.fc1, fc2                         mlp.c_fc, c_proj
blocks_i/mlp_norm              layer_norm2                          ln_2
=============================  ===================================  ================================

open_clip has OpenAI's names; its models with ``custom_text`` put ``text.`` before those of the text
tower. transformers 5 saves a lone tower without ``text_model.`` or ``vision_model.``, other
versions with it. All of these open; of a lone tower the paths here have no ``text/`` or ``image/``.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.tensors import Renamed, name_of
from jaxgen.interop.transformer_rules import QKV

CLIPNaming = Literal["transformers", "openai", "open_clip"]

LAYERS: dict[str, dict[str, str]] = {
    "transformers": {
        "text/token_embedding": "text_model.embeddings.token_embedding",
        "text/positions": "text_model.embeddings.position_embedding.weight",
        "text/final_norm": "text_model.final_layer_norm",
        "text/projection": "text_projection",
        "image/class_token": "vision_model.embeddings.class_embedding",
        "image/patch_embedding": "vision_model.embeddings.patch_embedding",
        "image/positions": "vision_model.embeddings.position_embedding.weight",
        "image/input_norm": "vision_model.pre_layrnorm",
        "image/output_norm": "vision_model.post_layernorm",
        "image/projection": "visual_projection",
        "logit_scale": "logit_scale",
        "text/blocks": "text_model.encoder.layers",
        "image/blocks": "vision_model.encoder.layers",
    },
    "openai": {
        "text/token_embedding": "token_embedding",
        "text/positions": "positional_embedding",
        "text/final_norm": "ln_final",
        "text/projection": "text_projection",
        "image/class_token": "visual.class_embedding",
        "image/patch_embedding": "visual.conv1",
        "image/positions": "visual.positional_embedding",
        "image/input_norm": "visual.ln_pre",
        "image/output_norm": "visual.ln_post",
        "image/projection": "visual.proj",
        "logit_scale": "logit_scale",
        "text/blocks": "transformer.resblocks",
        "image/blocks": "visual.transformer.resblocks",
    },
}

BLOCK_LAYERS: dict[str, dict[str, str]] = {
    "transformers": {
        QKV: "self_attn.{}_proj",
        "attention/output": "self_attn.out_proj",
        "attention_norm": "layer_norm1",
        "mlp/hidden": "mlp.fc1",
        "mlp/output": "mlp.fc2",
        "mlp_norm": "layer_norm2",
    },
    "openai": {
        QKV: "attn.in_proj_{}",
        "attention/output": "attn.out_proj",
        "attention_norm": "ln_1",
        "mlp/hidden": "mlp.c_fc",
        "mlp/output": "mlp.c_proj",
        "mlp_norm": "ln_2",
    },
}

TOKENS = "embeddings.token_embedding.weight"
LONE = {TOKENS: "text_model.", "embeddings.class_embedding": "vision_model."}
"""Names of a tower that transformers 5 saved alone, and the prefix that others have."""

FROM_ARCHIVE = "input_resolution"
PASSED_OVER = re.compile(
    rf"(.*\.)?(position_ids|attn_mask|{FROM_ARCHIVE}|context_length|vocab_size)"
)
"""Names of what is no parameter; the last three are in OpenAI's own archives alone."""


def clip_naming(tensors: Mapping[str, Any], name: str | None = None) -> CLIPNaming:
    """Whose names the weights of a CLIP, or of one of its towers, have.

    Args:
      tensors: Arrays by name.
      name: What errors call them; None: the path of a `TensorFile`, else "checkpoint".

    Raises:
      InputError: If they are nobody's.
    """
    where = name_of(tensors, name)
    if any(each.startswith(("text_model.", "vision_model.")) or each in LONE for each in tensors):
        return "transformers"
    if "visual.conv1.weight" in tensors and "visual.class_embedding" in tensors:
        return "open_clip" if "text.token_embedding.weight" in tensors else "openai"
    if "visual.layer1.0.conv1.weight" in tensors:
        raise InputError(f"{where}: the image tower is a ResNet, expected a vision transformer")
    raise InputError(
        f"{where}: no weights of a CLIP, expected tensors 'text_model...' or 'vision_model...' "
        "(transformers), or 'visual.conv1.weight' and others (OpenAI, open_clip)"
    )


def with_full_names(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Tensors as OpenAI names them, or as transformers does where towers have their prefixes."""
    for marker, prefix in LONE.items():
        if marker in tensors:
            return Renamed(tensors, functools.partial(_in_tower, prefix))
    if any(each.startswith("text.") for each in tensors):
        return Renamed(tensors, lambda each: each.removeprefix("text."))
    return tensors


def _in_tower(prefix: str, name: str) -> str:
    return name if name.endswith("_projection.weight") else prefix + name
