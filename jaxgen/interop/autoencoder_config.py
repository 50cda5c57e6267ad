"""``config.json`` of diffusers' ``AutoencoderKL`` and ``AutoencoderKLTemporalDecoder``, both ways.

It says what no shape of a tensor tells, and how latents z are scaled for a latent model::

    (z - shift_factor) scaling_factor                       one number for all channels
    (z - latents_mean) scaling_factor / latents_std         one for each

which are the statistics here: ``(z - mean) / deviation``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_class
from jaxgen.interop.safetensors import TensorFile

IMAGES = "AutoencoderKL"
VIDEOS = "AutoencoderKLTemporalDecoder"

DOWN_BLOCKS = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
UP_BLOCKS = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
GROUPS_OF_VIDEOS = 32
"""The temporal decoder's groups, whatever its configuration."""

DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": DOWN_BLOCKS[:1],
    "up_block_types": UP_BLOCKS[:1],
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
"""What diffusers takes for fields that a configuration leaves out."""


def autoencoder_options(config: Mapping[str, Any] | TensorFile) -> dict[str, Any]:
    """The fields of `jaxgen.compressors.frame_autoencoder.FrameAutoencoderConfig`.

    Args:
      config: The content of a ``config.json`` of an ``AutoencoderKL``, or a `TensorFile` that has
        one beside it; fields that it leaves out have diffusers' defaults, fields that say
        nothing about the network are passed over.

    Raises:
      InputError: For a value that the network here has not, or the configuration of another model;
        the message names the field. For a `TensorFile` without a ``config.json``.
    """
    where, given = _given(config, IMAGES)
    count = len(given["block_out_channels"])
    down = _attention_levels(where, given, "down_block_types", DOWN_BLOCKS)
    up = _attention_levels(where, given, "up_block_types", UP_BLOCKS)
    if down != tuple(sorted(count - 1 - i for i in up)):
        raise InputError(
            f"{where}: up_block_types is {list(given['up_block_types'])}, expected attention at "
            f"the levels of down_block_types, {list(given['down_block_types'])}, in reverse"
        )
    return {
        **_common_options(given),
        "attention_levels": down,
        "middle_attention": given["mid_block_add_attention"],
        "groups": given["norm_num_groups"],
        "use_quant_conv": given["use_quant_conv"],
        "use_post_quant_conv": given["use_post_quant_conv"],
    }


def temporal_decoder_options(config: Mapping[str, Any] | TensorFile) -> dict[str, Any]:
    """The fields of `jaxgen.compressors.temporal_decoder.TemporalDecoderConfig`.

    Args:
      config: As in `autoencoder_options`, of an ``AutoencoderKLTemporalDecoder``.

    Raises:
      InputError: As there; also for other than two blocks for each level, with which diffusers'
        decoder leaves out the attention or a block in the middle.
    """
    where, given = _given(config, VIDEOS)
    _check_two_blocks(where, given["layers_per_block"])
    down = _attention_levels(where, given, "down_block_types", DOWN_BLOCKS[:1])
    fixed = {"middle_attention": True, "groups": GROUPS_OF_VIDEOS}
    convs = {"use_quant_conv": True, "use_post_quant_conv": False}
    return {**_common_options(given), "attention_levels": down, **fixed, **convs}


def latent_statistics(config: Mapping[str, Any] | TensorFile) -> dict[str, np.ndarray]:
    """The mean and the deviation of each latent channel, which latent models expect.

    Args:
      config: As in `autoencoder_options`, of either model.

    Returns:
      "mean" and "deviation", float32 [C].

    Raises:
      InputError: For numbers that are not one for each channel, or not finite, or a scale that is
        not positive; the message names the field.
    """
    where, given = _given(config, IMAGES, VIDEOS)
    channels = given["latent_channels"]
    if given["shift_factor"] is not None and given["latents_mean"] is not None:
        raise InputError(f"{where}: has shift_factor and latents_mean, expected one of them")
    values = {
        "mean": given["latents_mean"] or given["shift_factor"] or 0.0,
        "std": given["latents_std"] or 1.0,
        "scale": given["scaling_factor"],
    }
    try:
        found = {k: np.broadcast_to(np.float64(v), (channels,)) for k, v in values.items()}
    except (TypeError, ValueError):
        found = {"mean": np.array([np.nan])}
    whole = np.array(list(found.values()))
    if not np.isfinite(whole).all() or not (whole[1:] > 0).all():
        names = "scaling_factor", "shift_factor", "latents_mean", "latents_std"
        told = ", ".join(f"{name} {given[name]!r}" for name in names)
        raise InputError(
            f"{where}: the scale of latents is {told}, expected finite numbers, one or "
            f"{channels} of each, and positive scales"
        )
    deviation_C = found["std"] / found["scale"]
    return {"mean": found["mean"].astype(np.float32), "deviation": deviation_C.astype(np.float32)}


def autoencoder_fields(
    options: Mapping[str, Any],
    statistics: Mapping[str, Any] | None = None,
    *,
    temporal: bool = False,
) -> dict[str, Any]:
    """The content of a ``config.json``; the inverse of the functions above.

    Args:
      options: The fields of a configuration here (`dataclasses.asdict`).
      statistics: "mean" and "deviation" of each latent channel; None: 0 and 1.
      temporal: Whether the decoder is the temporal one.

    Raises:
      InputError: For an option, or statistics, that diffusers' model has not.
    """
    if not options.get("gaussian", True):
        raise InputError("gaussian is False, expected True: diffusers' model has a Gaussian")
    attention = [level in options["attention_levels"] for level in range(len(options["channels"]))]
    fields = {
        "_class_name": VIDEOS if temporal else IMAGES,
        "in_channels": options["in_channels"],
        "out_channels": options["out_channels"],
        "latent_channels": options["latent_channels"],
        "block_out_channels": list(options["channels"]),
        "layers_per_block": options["blocks"],
        "down_block_types": [DOWN_BLOCKS[each] for each in attention],
        **_scale_fields(statistics, temporal),
    }
    if temporal:
        _check_two_blocks("options", options["blocks"])
        expected = temporal_decoder_options(fields)
        for name in ("middle_attention", "groups", "use_quant_conv", "use_post_quant_conv"):
            if options[name] != expected[name]:
                raise InputError(
                    f"{name} is {options[name]!r}, expected {expected[name]!r}, as {VIDEOS} has it"
                )
        return fields
    return fields | {
        "up_block_types": [UP_BLOCKS[each] for each in reversed(attention)],
        "act_fn": "silu",
        "norm_num_groups": options["groups"],
        "mid_block_add_attention": options["middle_attention"],
        "use_quant_conv": options["use_quant_conv"],
        "use_post_quant_conv": options["use_post_quant_conv"],
    }


def _given(config: Mapping[str, Any] | TensorFile, *classes: str) -> tuple[str, dict[str, Any]]:
    """What errors call a configuration, and its fields, with diffusers' defaults."""
    where = "the autoencoder's configuration"
    if isinstance(config, TensorFile):
        where = f"config.json of {config.path}"
        if config.config is None:
            raise InputError(
                f"{config.path}: no config.json beside it, which says what no shape tells (groups, "
                "the scale of latents), expected one, or its content"
            )
        config = config.config
    check_class(where, config, classes)
    given = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    if given["act_fn"] not in ("silu", "swish"):
        raise InputError(f"{where}: act_fn is {given['act_fn']!r}, expected 'silu'")
    return where, given


def _common_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of both models."""
    same = {name: given[name] for name in ("in_channels", "out_channels", "latent_channels")}
    return {
        **same,
        "channels": tuple(given["block_out_channels"]),
        "blocks": given["layers_per_block"],
    }


def _attention_levels(
    where: str, given: Mapping[str, Any], name: str, known: tuple[str, ...]
) -> tuple[int, ...]:
    """At which places of a list of blocks there is attention."""
    kinds, count = given[name], len(given["block_out_channels"])
    if len(kinds) != count:
        raise InputError(f"{where}: {name} has {len(kinds)} entries, expected {count}")
    for kind in kinds:
        if kind not in known:
            expected = ", ".join(map(repr, known))
            raise InputError(f"{where}: {name} has {kind!r}, expected one of {expected}")
    return tuple(i for i, kind in enumerate(kinds) if kind.startswith("Attn"))


def _check_two_blocks(where: str, blocks: int) -> None:
    if blocks != 2:
        raise InputError(
            f"{where}: {blocks} blocks for each level, expected 2: with others diffusers' temporal "
            "decoder leaves out the attention, or a block, in the middle"
        )


def _scale_fields(statistics: Mapping[str, Any] | None, temporal: bool) -> dict[str, Any]:
    """How latents are scaled, in diffusers' words; float32 has seven digits."""
    if statistics is None:
        return {"scaling_factor": 1.0}
    mean_C, deviation_C = (
        np.atleast_1d(np.asarray(statistics[name], np.float64)) for name in ("mean", "deviation")
    )
    digits = [[float(f"{x:.7g}") for x in each] for each in (mean_C, deviation_C, 1 / deviation_C)]
    means, deviations, scales = digits
    equal = len(set(means)) == len(set(deviations)) == 1
    if temporal and (not equal or means[0]):
        raise InputError(
            f"statistics are mean {means} and deviation {deviations}, expected mean 0 and one "
            f"deviation for all channels, as {VIDEOS} has them"
        )
    if equal:
        shift = {"shift_factor": means[0]} if means[0] else {}
        return {"scaling_factor": scales[0], **shift}
    return {"scaling_factor": 1.0, "latents_mean": means, "latents_std": deviations}
