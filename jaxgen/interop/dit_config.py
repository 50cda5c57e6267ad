"""What diffusers' ``config.json`` says of a diffusion transformer besides its shapes."""

from collections.abc import Mapping
from typing import Any

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_agrees, check_class

PUBLISHED_HEADS = {(12, 384): 6, (12, 768): 12, (24, 1024): 16, (28, 1152): 16}
"""Heads of DiT-S, B, L and XL by depth and width (Peebles & Xie 2023, table 1)."""

CLASS_NAMES = ("DiTTransformer2DModel", "Transformer2DModel")
FIXED = {
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
"""Fields of diffusers' configuration that DiT has in one way alone."""


def told_by_config(
    where: str, config: Mapping[str, Any], options: Mapping[str, Any], rows: int
) -> dict[str, Any]:
    """The fields of `jaxgen.spacetime.DiTConfig` that a configuration adds to what shapes tell.

    Args:
      where: What errors call the configuration.
      config: Its fields.
      options: The fields that shapes tell.
      rows: Of the table of classes.

    Raises:
      InputError: For the configuration of another model, or of another network than the shapes.
    """
    check_class(where, config, CLASS_NAMES)
    given = {field: value for field, value in config.items() if value is not None}
    if "out_channels" in config and "in_channels" in given:
        given.setdefault("out_channels", given["in_channels"])
    shapes = {"num_layers": "depth", "patch_size": "patch"}
    shapes |= {field: field for field in ("in_channels", "out_channels")}
    known = {field: options[ours] for field, ours in shapes.items()}
    check_agrees(where, given, {**known, **FIXED})
    told: dict[str, Any] = {}
    if (heads := _heads_in(where, given, options["width"])) is not None:
        told["heads"] = heads
    if (classes := given.get("num_embeds_ada_norm")) is not None:
        if classes not in (rows, rows - 1):
            raise InputError(
                f"{where}: num_embeds_ada_norm is {classes!r}, but the table has {rows} rows, "
                f"expected {rows - 1}, or {rows} without a null class"
            )
        told["null_class"] = rows > classes
    if (epsilon := given.get("norm_eps")) is not None:
        told["mlp_norm_epsilon"] = float(epsilon)
    return told


def _heads_in(where: str, given: Mapping[str, Any], width: int) -> int | None:
    """The heads that a configuration says, by their number, their size or both."""
    for field in ("num_attention_heads", "attention_head_dim"):
        value = given.get(field, 1)
        if not isinstance(value, int) or value < 1 or width % value:
            raise InputError(f"{where}: {field} is {value!r}, expected a divisor of {width}")
    size = given.get("attention_head_dim")
    heads = given.get("num_attention_heads", None if size is None else width // size)
    if heads is not None and size is not None and heads * size != width:
        raise InputError(
            f"{where}: num_attention_heads is {heads} and attention_head_dim {size}, expected a "
            f"product of {width}, the width"
        )
    return heads


DIFFUSERS_SHIFT = 1.0
"""The frequency shift that diffusers computes with, whatever the weights were trained with."""


def dit_fields(config: Any, sample_size: int) -> dict[str, Any]:
    """The ``config.json`` of a ``DiTTransformer2DModel``; the inverse of `told_by_config`.

    Args:
      config: A `jaxgen.spacetime.DiTConfig`.
      sample_size: Height and width of the images or latents, in pixels.

    Returns:
      The fields; ``frequency_shift`` among them, which diffusers passes over, where it is not what
      diffusers computes with.

    Raises:
      InputError: For a field that diffusers' network has in one way alone.
    """
    fixed = {"mlp_ratio": 4.0, "conditioning": "adaln_zero", "qk_norm": False, "null_class": True}
    for name, value in fixed.items():
        if getattr(config, name) != value:
            raise InputError(
                f"{name} is {getattr(config, name)!r}, expected {value!r}, which diffusers' DiT has"
            )
    if sample_size < 1 or sample_size % config.patch:
        raise InputError(
            f"sample_size is {sample_size}, expected a multiple of the patch, {config.patch}"
        )
    fields = {
        "_class_name": CLASS_NAMES[0],
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "sample_size": sample_size,
        "patch_size": config.patch,
        "num_embeds_ada_norm": config.num_classes,
        "upcast_attention": False,
        "norm_eps": config.mlp_norm_epsilon,
        **FIXED,
    }
    if config.frequency_shift != DIFFUSERS_SHIFT:
        fields["frequency_shift"] = config.frequency_shift
    return fields
