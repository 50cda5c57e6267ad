"""Which options of a U-Net belong together."""

from typing import Any, Literal, get_args

from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.attention import Implementation
from jaxgen.nn.dense import check_dtype
from jaxgen.nn.relative import check_buckets
from jaxgen.unet.residual_blocks import Activation
from jaxgen.unet.text_states import TextReading

Labels = Literal["classes", "numbers"]
Down = Literal["residual", "conv", "conv_end"]
Up = Literal["residual", "conv", "conv_first"]
FrameLayer = Literal["attention", "convolution"]

CHOICES: dict[str, Any] = {
    "activation": Activation,
    "labels": Labels,
    "attention": Implementation,
    "text_attention": TextReading,
    "temporal_layer": FrameLayer,
}
"""Fields that have one of a few values."""


def check_unet_options(config: Any) -> None:
    """Refuses options that are no network.

    Args:
      config: a `jaxgen.unet.UNetConfig`.

    Raises:
      InputError: naming the field, its value and what was expected.
    """
    _check_sizes(config)
    _check_choices(config)
    _check_labels(config)
    _check_attention(config)
    _check_text(config)
    _check_groups(config)
    if config.temporal:
        check_buckets(config.temporal_buckets, config.temporal_distance)


def _check_sizes(config: Any) -> None:
    if not config.channels:
        raise InputError("channels is empty, expected the channels of each level")
    check_sizes(config, "in_channels", "out_channels", "groups")
    blocks = per_level(config, "blocks")
    if min(blocks) < 0 or not any(blocks):
        raise InputError(f"blocks is {config.blocks}, expected 0 or more, and 1 or more somewhere")
    counts = {f"channels[{i}]": size for i, size in enumerate(config.channels)}
    for name, value in (counts | {"embedding": config.embedding_width}).items():
        if value < 1:
            raise InputError(f"{name} is {value}, expected 1 or more")
    for name in ("dropout", "class_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}, expected 0 <= p < 1")
    for name, value in (("skip", config.skip_divisor), ("middle", config.middle_skip_divisor)):
        if value <= 0:
            raise InputError(f"{name}_divisor is {value}, expected a positive number")
    if not config.frequency_shift < config.channels[0] // 2:
        raise InputError(
            f"frequency_shift is {config.frequency_shift}, "
            f"expected less than {config.channels[0] // 2}, half of channels[0]"
        )


def _check_choices(config: Any) -> None:
    check_dtype(config.dtype)
    for name, choices in CHOICES.items():
        if getattr(config, name) not in get_args(choices):
            expected = ", ".join(get_args(choices))
            raise InputError(f"{name} is {getattr(config, name)!r}, expected one of {expected}")
    for name, choices in (("downsampling", Down), ("upsampling", Up)):
        given = getattr(config, name)
        kinds = (given,) if isinstance(given, str) else given
        if not isinstance(given, str) and len(kinds) != config.levels - 1:
            raise InputError(
                f"{name} has {len(kinds)} entries, expected one or {config.levels - 1}: "
                f"one for each of {config.levels} levels but the last"
            )
        for kind in set(kinds) - set(get_args(choices)):
            expected = ", ".join(get_args(choices))
            raise InputError(f"{name} is {kind!r}, expected one of {expected}")


def _check_labels(config: Any) -> None:
    if config.num_classes < 0:
        raise InputError(f"num_classes is {config.num_classes}, expected 0 or more")
    if config.labels == "numbers" and config.num_classes:
        raise InputError(
            f"num_classes is {config.num_classes} where labels are numbers, expected 0"
        )
    if config.num_classes and config.class_dropout and not config.null_class:
        raise InputError(
            f"class_dropout is {config.class_dropout} without a null class, "
            "expected null_class=True or class_dropout=0"
        )


def _check_attention(config: Any) -> None:
    if (config.heads is None) == (config.head_size is None):
        raise InputError(
            f"heads is {config.heads} and head_size is {config.head_size}, expected one of them"
        )
    name = "heads" if config.head_size is None else "head_size"
    sizes = per_level(config, name)
    for size in sizes:
        if size < 1:
            raise InputError(f"{name} is {getattr(config, name)}, expected 1 or more")
    levels = {*config.attention_levels, *config.attention_levels_up}
    for level in levels:
        if not 0 <= level < config.levels:
            raise InputError(
                f"attention at level {level}, expected levels from 0 to {config.levels - 1}"
            )
    for level in levels | ({config.levels - 1} if config.middle_attention else set()):
        if config.channels[level] % sizes[level]:
            raise InputError(
                f"channels[{level}] is {config.channels[level]}, "
                f"expected a multiple of {name}={sizes[level]}"
            )


def _check_text(config: Any) -> None:
    check_sizes(config, "text_width", "pooled_width", least=0)
    if min(per_level(config, "transformer_depth")) < 1:
        raise InputError(f"transformer_depth is {config.transformer_depth}, expected 1 or more")
    if config.text_attention == "alone" and not config.text_width:
        raise InputError("text_width is 0 with text_attention 'alone', expected the texts' width")
    if config.text_width and config.text_attention == "cross":
        for name in ("skip_divisor", "middle_groups"):
            value, usual = getattr(config, name), type(config).__dataclass_fields__[name].default
            if value != usual:
                raise InputError(
                    f"{name} is {value} with transformer blocks, which have none, expected {usual}"
                )


def _check_groups(config: Any) -> None:
    """Every norm's channels are a multiple of its groups, also where a skip is joined."""
    if config.middle_groups is not None and config.middle_groups < 0:
        raise InputError(f"middle_groups is {config.middle_groups}, expected 0 or more")
    for level, size in enumerate(config.channels):
        if size % config.groups:
            raise InputError(
                f"channels[{level}] is {size}, expected a multiple of groups={config.groups}"
            )
    if config.middle_groups and config.channels[-1] % config.middle_groups:
        raise InputError(
            f"channels[{config.levels - 1}] is {config.channels[-1]}, "
            f"expected a multiple of middle_groups={config.middle_groups}"
        )


def per_level(config: Any, name: str) -> tuple[int, ...]:
    """A field that has one number, or one for each level, as one for each.

    Args:
      config: a `jaxgen.unet.UNetConfig`.
      name: of the field.

    Raises:
      InputError: for another number of them.
    """
    value = getattr(config, name)
    values = value if isinstance(value, tuple) else (value,) * config.levels
    if len(values) != config.levels:
        raise InputError(
            f"{name} has {len(values)} entries, expected one or {config.levels}: one for each level"
        )
    return values
