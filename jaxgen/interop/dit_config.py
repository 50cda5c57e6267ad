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
