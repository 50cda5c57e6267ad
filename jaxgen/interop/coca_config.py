"""The options of a CoCa that open_clip's weights and ``open_clip_config.json`` tell, and back."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.clip_config import EPSILON, OPEN_CLIP_CONFIG, check_fields, pixel_options
from jaxgen.interop.coca_weights import BLOCKS, POOLER, check_coca
from jaxgen.interop.learned_positions import square_grid
from jaxgen.interop.model_configs import check_agrees
from jaxgen.interop.tensors import name_of, numbers

HEADS, HEAD_WIDTH = 8, 64
"""What open_clip takes for fields that a configuration leaves out."""


def coca_options(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] | None, name: str | None = None
) -> dict[str, dict[str, Any]]:
    """The fields of both sides that a checkpoint and its configuration tell.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`.
      config: The fields of ``open_clip_config.json``, which tells the heads.
      name: What errors call them; None: the path of a `TensorFile`, else "checkpoint".

    Returns:
      Fields of `jaxgen.encoders.CoCaTextConfig` under "text" and of `CoCaImageConfig` under
      "image".

    Raises:
      InputError: For another model, or without a configuration.
    """
    where = name_of(tensors, name)
    check_coca(tensors, where)
    if config is None:
        raise InputError(f"{where}: no {OPEN_CLIP_CONFIG} beside it, expected one for the heads")
    model = config.get("model_cfg") or {}
    text, vision = model.get("text_cfg") or {}, model.get("vision_cfg") or {}
    decoder = model.get("multimodal_cfg") or {}
    said = f"{OPEN_CLIP_CONFIG} of {where}"
    check_agrees(said, vision, {"attentional_pool": True, "pool_type": "tok"})
    heads = text.get("heads", HEADS)
    check_agrees(said, decoder, {"heads": heads, "width": text.get("width", 512)})
    shapes = _shapes(tensors, where)
    known = {"width": "width", "layers": "depth"}
    check_fields(said, text, shapes["text"], {**known, "context_length": "length"})
    check_fields(said, vision, shapes["image"], {**known, "patch_size": "patch"})
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    width = shapes["image"]["width"]
    shifted = not text.get("correct_cls_mask", False)
    return {
        "text": {
            **shapes["text"],
            "activation": activation,
            "heads": heads,
            "shifted_mask": shifted,
        },
        "image": {
            **shapes["image"],
            "activation": activation,
            "heads": width // vision.get("head_width", HEAD_WIDTH),
            "pooler_heads": vision.get("attn_pooler_heads", HEADS),
            "shared_pooler": True,
            **pixel_options(said, config.get("preprocess_cfg") or {}, "mean", "std", {}),
        },
    }


def _shapes(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, dict[str, Any]]:
    """The fields that shapes tell."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise InputError(f"{where}: no tensor {name!r}, expected weights of open_clip's CoCa")
        return tensors[name].shape

    def depth(blocks: str) -> int:
        return numbers(tensors.keys(), rf"{re.escape(BLOCKS[blocks])}\.(\d+)\.")

    def units(blocks: str) -> int:
        return shape(f"{BLOCKS[blocks]}.0.mlp.c_fc.weight")[0]

    vocabulary, width = shape("text.token_embedding.weight")
    image_width, _, patch, _ = shape("visual.conv1.weight")
    side, _ = square_grid(where, shape("visual.positional_embedding")[0] - 1)
    queries, projection = shape(f"{POOLER}.query")
    text = {
        "vocabulary": vocabulary,
        "width": width,
        "length": shape("text.positional_embedding")[0] - 1,
        "depth": depth("text/blocks"),
        "image_depth": depth("decoder/blocks"),
        "mlp_units": units("text/blocks"),
        "projection": projection,
    }
    image = {
        "width": image_width,
        "patch": patch,
        "size": patch * side,
        "depth": depth("image/blocks"),
        "mlp_units": units("image/blocks"),
        "projection": projection,
        "queries": queries - 1,
    }
    return {"text": text, "image": image}


def coca_fields(config: Any) -> dict[str, Any]:
    """The ``open_clip_config.json`` of a CoCa; the inverse of `coca_options`.

    Args:
      config: A `jaxgen.encoders.CoCaConfig`.

    Raises:
      InputError: For a field that open_clip's model has in one way alone.
    """
    text, image = config.text, config.image
    for field, value, expected in (
        ("shared_pooler", image.shared_pooler, True),
        ("frames", image.frames, None),
        ("epsilon", (text.epsilon, image.epsilon), (EPSILON, EPSILON)),
        ("activation", image.activation, text.activation),
        ("projection", text.projection, text.width),
        ("mlp_units", text.mlp_units, 4 * text.width),
    ):
        if value != expected:
            raise InputError(f"{field} is {value!r}, expected {expected!r}, which open_clip has")
    of_text = {
        "context_length": text.length,
        "vocab_size": text.vocabulary,
        "width": text.width,
        "heads": text.heads,
        "mlp_ratio": text.mlp_units / text.width,
    }
    pooling = {"attn_pooler_queries": image.queries + 1, "attn_pooler_heads": image.pooler_heads}
    return {
        "model_cfg": {
            "embed_dim": text.projection,
            "quick_gelu": text.activation == "quick_gelu",
            "custom_text": True,
            "vision_cfg": {
                "image_size": image.size,
                "patch_size": image.patch,
                "width": image.width,
                "layers": image.depth,
                "mlp_ratio": image.mlp_units / image.width,
                "head_width": image.width // image.heads,
                "attentional_pool": True,
                "output_tokens": True,
                **pooling,
            },
            "text_cfg": {
                **of_text,
                "layers": text.depth,
                "embed_cls": True,
                "output_tokens": True,
                **({} if text.shifted_mask else {"correct_cls_mask": True}),
            },
            "multimodal_cfg": {**of_text, "layers": text.image_depth},
        },
        "preprocess_cfg": {"mean": list(image.mean), "std": list(image.deviation)},
    }
