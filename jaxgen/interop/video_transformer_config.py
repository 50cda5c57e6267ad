"""``config.json`` of diffusers' ``WanTransformer3DModel`` and ``LatteTransformer3DModel``.

Both are a `jaxgen.spacetime.VideoDiT` with shared adaLN and texts in cross-attention; the options
in which they differ are in ``WAN_NETWORK`` and ``LATTE_NETWORK``. What a configuration says is read
as such options, or refused where the network here has another value; fields that say nothing about
the prediction of a trained network are passed over:

* Wan's ``rope_max_seq_len`` is the longest side in patches that diffusers has angles for, Latte's
  ``video_length`` the only number of frames that it takes (1 apart); here there is no limit.
* Latte's ``sample_size`` says in what units places are: see `latte_spacing`.

Of one frame diffusers' Latte leaves out the waves of the frame, those of frame 0; here it has them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_agrees, check_class
from jaxgen.interop.model_folders import config_fields
from jaxgen.interop.safetensors import TensorFile

WAN = "WanTransformer3DModel"
LATTE = "LatteTransformer3DModel"

NETWORK: dict[str, Any] = {
    "num_classes": 0,
    "numbers": (),
    "conditioning": "adaln_shared",
    "causal": False,
    "window": None,
    "text": "cross",
    "null_text": False,
}
"""Options that both have in one way alone."""

WAN_NETWORK: dict[str, Any] = {
    **NETWORK,
    "positions": "rotary",
    "rotary": "wan",
    "attention_pattern": "joint",
    "qk_norm": "all_heads",
    "text_blocks": "all",
}
LATTE_NETWORK: dict[str, Any] = {
    **NETWORK,
    "positions": "sincos",
    "attention_pattern": "interleaved",
    "time_waves": "first_time_block",
    "qk_norm": False,
    "text_blocks": "space",
    "text_query_norm": False,
}

WAN_DEFAULTS: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "ffn_dim": 13824,
    "num_layers": 40,
    "cross_attn_norm": True,
    "freq_dim": 256,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
LATTE_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 88,
    "in_channels": None,
    "out_channels": None,
    "num_layers": 1,
    "dropout": 0.0,
    "cross_attention_dim": None,
    "attention_bias": False,
    "sample_size": 64,
    "patch_size": None,
    "activation_fn": "geglu",
    "norm_type": "layer_norm",
    "norm_elementwise_affine": True,
    "norm_eps": 1e-5,
    "caption_channels": None,
}
"""What diffusers takes for fields that a configuration leaves out."""

WAN_FIXED: dict[str, Any] = {
    "freq_dim": 256,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
LATTE_FIXED: dict[str, Any] = {
    "dropout": 0.0,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}
"""Fields of which the network here has one value alone."""

LATTE_UNITS = 4
"""Hidden units of Latte's MLP, in units of the width."""

LATTE_SIZE = 64
"""Side of an image beyond whose multiples diffusers divides places."""


def wan_options(config: Mapping[str, Any] | TensorFile) -> dict[str, Any]:
    """The fields of `jaxgen.spacetime.VideoDiTConfig` for a ``WanTransformer3DModel``.

    Args:
      config: The content of a ``config.json``, or a `TensorFile` that has one beside it; fields
        that it leaves out have diffusers' defaults.

    Raises:
      InputError: For a value that the network here has not (the image embeddings of Wan 2.1's
        image-to-video networks among them), or the configuration of another model; the message
        names the field. For a `TensorFile` without a ``config.json``.
    """
    where, given = _given(config, WAN, WAN_DEFAULTS, WAN_FIXED)
    _check_counts(where, given, ("ffn_dim", "text_dim"))
    patch = given["patch_size"]
    if not isinstance(patch, Sequence) or len(patch) != 3 or not all(map(_is_count, patch)):
        raise InputError(f"{where}: patch_size is {patch!r}, expected three numbers of 1 or more")
    if not isinstance(given["cross_attn_norm"], bool):
        raise InputError(
            f"{where}: cross_attn_norm is {given['cross_attn_norm']!r}, expected true or false"
        )
    shared = _shared_options(given)
    return {
        **WAN_NETWORK,
        **shared,
        "patch": tuple(patch),
        "depth": given["num_layers"],
        "mlp_ratio": _ratio(given["ffn_dim"], shared["width"]),
        "text_width": given["text_dim"],
        "text_query_norm": given["cross_attn_norm"],
    }


def latte_options(config: Mapping[str, Any] | TensorFile) -> dict[str, Any]:
    """The fields of `jaxgen.spacetime.VideoDiTConfig` for a ``LatteTransformer3DModel``.

    Args:
      config: As in `wan_options`.

    Raises:
      InputError: As there.
    """
    where, given = _given(config, LATTE, LATTE_DEFAULTS, LATTE_FIXED)
    _check_counts(where, given, ("patch_size", "caption_channels", "sample_size"))
    shared = _shared_options(given)
    check_agrees(where, given, {"cross_attention_dim": shared["width"]})
    if given["sample_size"] >= 2 * LATTE_SIZE:
        raise InputError(
            f"{where}: sample_size is {given['sample_size']}, expected less than {2 * LATTE_SIZE}: "
            f"diffusers divides the places of larger images by sample_size // {LATTE_SIZE}"
        )
    return {
        **LATTE_NETWORK,
        **shared,
        "patch": (1, given["patch_size"], given["patch_size"]),
        "depth": 2 * given["num_layers"],
        "mlp_ratio": float(LATTE_UNITS),
        "text_width": given["caption_channels"],
    }


def latte_spacing(
    config: Mapping[str, Any] | TensorFile, size: tuple[int, int]
) -> tuple[float, float, float]:
    """By what diffusers multiplies places in latents of another size than ``sample_size``.

    It stretches or shrinks them to the grid that the network was trained on; given to the network
    as ``spacing``, these numbers do the same.

    Args:
      config: As in `latte_options`.
      size: Height and width of the latents, in pixels.

    Returns:
      Of frames, rows and columns.
    """
    patch = latte_options(config)["patch"][1]
    _, given = _given(config, LATTE, LATTE_DEFAULTS, LATTE_FIXED)
    base = given["sample_size"] // patch
    rows, columns = (base / (side // patch) for side in size)
    return 1.0, rows, columns


def wan_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The content of diffusers' ``config.json``; the inverse of `wan_options`.

    Args:
      options: The fields of the configuration here (`dataclasses.asdict`).

    Raises:
      InputError: For an option that diffusers' model has not.
    """
    _check_network(WAN, options, {**WAN_NETWORK, "text_blocks": options["text_blocks"]})
    return {
        "_class_name": WAN,
        **WAN_FIXED,
        **_shared_fields(options),
        "patch_size": list(options["patch"]),
        "num_layers": options["depth"],
        "ffn_dim": int(options["width"] * options["mlp_ratio"]),
        "text_dim": options["text_width"],
        "cross_attn_norm": options["text_query_norm"],
        "rope_max_seq_len": 1024,
    }


def latte_fields(
    options: Mapping[str, Any], sample_size: int = LATTE_SIZE, frames: int = 16
) -> dict[str, Any]:
    """The content of diffusers' ``config.json``; the inverse of `latte_options`.

    Args:
      options: The fields of the configuration here (`dataclasses.asdict`).
      sample_size: Side of the latents that the network was trained on; there diffusers counts
        places in patches, as here.
      frames: Those of its videos; diffusers' model takes no other number but 1.

    Raises:
      InputError: For an option that diffusers' model has not.
    """
    _check_network(LATTE, options, LATTE_NETWORK)
    patch, depth = options["patch"], options["depth"]
    for name, value, wrong, expected in (
        ("patch", patch, (patch[0], patch[1]) != (1, patch[2]), "1 frame and a square"),
        ("depth", depth, depth % 2, "an even number, as many blocks in time as in space"),
        (
            "mlp_ratio",
            options["mlp_ratio"],
            int(options["width"] * options["mlp_ratio"]) != LATTE_UNITS * options["width"],
            LATTE_UNITS,
        ),
    ):
        if wrong:
            raise InputError(f"{name} is {value}, expected {expected}, which {LATTE} has")
    fields = {
        "_class_name": LATTE,
        **LATTE_FIXED,
        **_shared_fields(options),
        "patch_size": patch[1],
        "num_layers": depth // 2,
        "cross_attention_dim": options["width"],
        "caption_channels": options["text_width"],
        "num_embeds_ada_norm": 1000,
        "sample_size": sample_size,
        "video_length": frames,
    }
    latte_options(fields)
    return fields


def _given(
    config: Mapping[str, Any] | TensorFile,
    model: str,
    defaults: Mapping[str, Any],
    fixed: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """What errors call a configuration, and its fields, with diffusers' defaults."""
    where, config = config_fields(config, "transformer")
    check_class(where, config, [model])
    given = {name: config.get(name, default) for name, default in defaults.items()}
    check_agrees(where, given, fixed)
    if given["out_channels"] is None:
        given["out_channels"] = given["in_channels"]
    sizes = "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers"
    _check_counts(where, given, sizes)
    return where, given


def _check_counts(where: str, given: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if not _is_count(given[name]):
            raise InputError(f"{where}: {name} is {given[name]!r}, expected 1 or more")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _shared_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options that both configurations say in the same words."""
    heads = given["num_attention_heads"]
    return {
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "heads": heads,
        "width": heads * given["attention_head_dim"],
        "class_dropout": 0.0,
    }


def _shared_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_shared_options`."""
    return {
        "in_channels": options["in_channels"],
        "out_channels": options["out_channels"],
        "num_attention_heads": options["heads"],
        "attention_head_dim": options["width"] // options["heads"],
    }


def _check_network(model: str, options: Mapping[str, Any], network: Mapping[str, Any]) -> None:
    """Refuses options that a model of diffusers has in another way."""
    for name, value in network.items():
        if options[name] != value:
            raise InputError(f"{name} is {options[name]!r}, expected {value!r}, which {model} has")
    if not options["text_width"]:
        raise InputError(f"text_width is 0, expected 1 or more: {model} is for texts")


def _ratio(units: int, width: int) -> float:
    """What a width is multiplied by to give exactly so many units, rounded down."""
    ratio = units / width
    return ratio if int(width * ratio) == units else math.nextafter(ratio, math.inf)
