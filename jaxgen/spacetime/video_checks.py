"""What a `jaxgen.spacetime.VideoDiT` refuses: options and arrays that do not belong together."""

from typing import Any, get_args

from jaxtyping import Array

from jaxgen.errors import InputError
from jaxgen.nn.embeddings import check_condition
from jaxgen.nn.patches import patch_grid
from jaxgen.nn.rotary import rotary_split
from jaxgen.nn.text_inputs import (
    check_pooled,
    check_text_mask,
    check_text_tokens,
    check_text_widths,
)
from jaxgen.nn.video_rotary import RotaryForm, rotary_form
from jaxgen.spacetime.attention_patterns import AttentionPattern
from jaxgen.spacetime.text_context import TextBlocks, TextUse
from jaxgen.spacetime.transformer_blocks import VideoConditioning
from jaxgen.spacetime.transformer_config import check_wave_width
from jaxgen.spacetime.video_positions import Positions, TimeWaves


def check_options(config: Any) -> None:
    """Validates the fields of a `jaxgen.spacetime.VideoDiTConfig`.

    Raises:
      InputError: for the first that does not fit.
    """
    for name, literal in (
        ("positions", Positions),
        ("attention_pattern", AttentionPattern),
        ("time_waves", TimeWaves),
        ("conditioning", VideoConditioning),
        ("text", TextUse),
        ("text_blocks", TextBlocks),
        ("rotary", RotaryForm),
    ):
        value = getattr(config, name)
        if value not in get_args(literal):
            raise InputError(f"{name} is {value!r}, expected one of {', '.join(get_args(literal))}")
    if config.positions == "sincos":
        check_wave_width(config.width)
    if config.positions == "rotary":
        _check_rotary(config)
    if config.attention_pattern == "split_heads" and config.heads % 2:
        raise InputError(f"heads are {config.heads}, expected an even number for split_heads")
    if config.window is not None and config.window < 0:
        raise InputError(f"window is {config.window}, expected 0 frames or more, or None")
    if len(config.max_grid) != 3 or min(config.max_grid) < 1:
        raise InputError(f"max_grid is {config.max_grid}, expected three sizes of 1 or more")
    check_text_widths(config)
    if config.has_context and (config.attention_pattern != "joint" or config.time_is_limited):
        raise InputError(
            f"attention_pattern is {config.attention_pattern!r} with tokens of conditions in "
            "context, expected 'joint' without causal or window: such tokens are in no frame"
        )


def _check_rotary(config: Any) -> None:
    head_size = config.width // config.heads
    if config.rotary == "wan":
        rotary_split(head_size)
    elif config.rotary != "ltx":
        rotary_form(config.rotary, head_size)
    elif config.width < 6:
        raise InputError(f"width is {config.width}, expected 6 or more for rotary positions of ltx")


def check_clip(
    config: Any,
    z: Array,
    time: Array,
    label: Any,
    numbers: Any,
    text: Any,
    mask: Any,
    pooled: Any,
    spacing: Any,
) -> tuple[int, ...]:
    """Refuses what does not fit the network; returns the grid of patches.

    Raises:
      InputError: naming the array, its shape and what was expected.
    """
    grid = patch_grid(z.shape, config.patch, config.in_channels)
    batch, length = len(z), grid[0] * grid[1] * grid[2]
    if time.ndim == 2 and (len(time) != batch or time.shape[1] not in (grid[0], length)):
        raise InputError(
            f"time has shape {time.shape}, expected [{batch}], [{batch}, {grid[0]}] for frames or "
            f"[{batch}, {length}] for tokens"
        )
    _check_own_times(config, time.ndim > 1)
    check_condition(batch, time[:, 0] if time.ndim == 2 else time, label, config.num_classes)
    _check_numbers(config, numbers, (batch,))
    check_text_tokens(config, text, batch, needed=not config.null_text)
    check_text_mask(mask, text)
    check_pooled(config, pooled, (batch,))
    _check_spacing(config, spacing, ((3,), (batch, 3)))
    sizes = zip(grid, config.max_grid, strict=True)
    if config.positions in ("learned", "absolute") and any(size > most for size, most in sizes):
        raise InputError(
            f"videos have shape {z.shape}, a grid of {grid}, expected at most {config.max_grid}: "
            "positions are learnt for that size"
        )
    return grid


def check_pack(
    config: Any,
    tokens: Array,
    place: Array,
    segment: Array,
    time: Array,
    label: Any,
    numbers: Any,
    text: Any,
    text_segment: Any,
    pooled: Any,
    spacing: Any,
) -> None:
    """Refuses arrays that make no pack for this network, naming the first.

    Raises:
      InputError: with the array's shape and what was expected.
    """
    width = config.patch_outputs // config.out_channels * config.in_channels
    if tokens.ndim != 3 or tokens.shape[-1] != width:
        raise InputError(
            f"tokens have shape {tokens.shape}, expected [B, L, {width}]: {config.in_channels} "
            f"channels of patches of {config.patch}"
        )
    if time.ndim not in (2, 3):
        raise InputError(f"times have shape {time.shape}, expected [{len(tokens)}, E]")
    _check_own_times(config, time.ndim > 2)
    for name, array, shape in (
        ("places", place, (*tokens.shape[:2], 3)),
        ("segment ids", segment, tokens.shape[:2]),
        ("times", time, (len(tokens), *time.shape[1:])),
    ):
        if array.shape != shape:
            raise InputError(f"{name} have shape {array.shape}, expected {list(shape)}")
    of_examples = time.shape[:2]
    wanted = list(of_examples) if config.num_classes else None
    found = None if label is None else list(label.shape)
    if found != wanted:
        raise InputError(f"labels have shape {found}, expected {wanted}, as times")
    _check_numbers(config, numbers, of_examples)
    check_text_tokens(config, text, len(tokens), needed=not config.null_text)
    check_pooled(config, pooled, of_examples)
    if (text is None) != (text_segment is None) or (
        text is not None and text_segment.shape != text.shape[:2]
    ):
        found = None if text_segment is None else text_segment.shape
        raise InputError(f"segment ids of texts have shape {found}, expected those of the tokens")
    _check_spacing(config, spacing, ((*of_examples, 3),))


def _check_own_times(config: Any, given: bool) -> None:
    if given and config.has_context:
        raise InputError(
            "times are given for frames, expected one for each example: the network has tokens "
            "of conditions in context, which are in no frame"
        )


def _check_numbers(config: Any, numbers: Any, leading: tuple[int, ...]) -> None:
    wanted = (*leading, len(config.numbers)) if config.numbers else None
    found = None if numbers is None else numbers.shape
    if found != wanted:
        expected = None if wanted is None else list(wanted)
        names = f": {', '.join(config.numbers)}" if config.numbers else ""
        raise InputError(f"numbers have shape {found}, expected {expected}{names}")


def _check_spacing(config: Any, spacing: Any, shapes: Any) -> None:
    if spacing is None:
        return
    if config.positions not in ("sincos", "rotary"):
        raise InputError(
            f"spacing is given with positions {config.positions!r}, expected sincos or rotary"
        )
    if spacing.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise InputError(f"spacing has shape {spacing.shape}, expected {expected}")
