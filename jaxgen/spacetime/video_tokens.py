"""Tokens of clips or packs with what belongs to them: places, views, rows of the condition."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real, Shaped

from jaxgen.nn.packs import of_tokens, own_tokens
from jaxgen.nn.positions import grid_places
from jaxgen.nn.visibility import View
from jaxgen.spacetime.attention_patterns import Views, attention_ids
from jaxgen.spacetime.text_context import TextContext


class VideoTokens(NamedTuple):
    """The noisy patches of clips or packs, and what belongs to them.

    Attributes:
      values_BLF: the patches.
      place: [..., L, 3], frame, row and column, scaled by the spacing.
      side: [..., L or 1, 3], frames, rows and columns of the example.
      views: what attention goes over.
      own_BL: of packs, the ids of the examples for attention; None of clips.
      row_BL: which row of the condition a token has, -1 for none; None where it needs no telling.
    """

    values_BLF: Float[Array, "B L F"]
    place: Any
    side: Any
    views: Views
    own_BL: Int[Array, "B L"] | None = None
    row_BL: Int[Array, "B L"] | None = None


def clip_tokens(
    values_BLF: Float[Array, "B L F"],
    grid: tuple[int, ...],
    views: Views,
    time: Float[Array, "B *L"],
    spacing: Real[Any, "... 3"] | None = None,
) -> VideoTokens:
    """The patches of clips of one size.

    Args:
      values_BLF: the patches.
      grid: T, Y, X in patches.
      views: what attention goes over.
      time: of examples [B], frames [B, T] or tokens [B, L].
      spacing: what places are multiplied by.
    """
    place: Any = grid_places(grid)
    if spacing is not None:
        place = jnp.asarray(place) * jnp.asarray(spacing)[..., None, :]
    batch, length = values_BLF.shape[:2]
    row_BL = None
    if time.ndim == 2 and time.shape[1] != length:
        row_L = jnp.repeat(jnp.arange(grid[0]), length // grid[0])
        row_BL = jnp.broadcast_to(row_L, (batch, length))
    return VideoTokens(values_BLF, place, np.array([grid]), views, None, row_BL)


def pack_tokens(
    values_BLF: Float[Array, "B L F"],
    place_BLA: Real[Array, "B L 3"],
    segment_BL: Int[Array, "B L"],
    views: Views,
    time: Float[Array, "B E *N"],
    spacing_BE3: Real[Array, "B E 3"] | None = None,
    *,
    from_first: bool = False,
) -> VideoTokens:
    """The patches of packed examples.

    Args:
      values_BLF: the patches.
      place_BLA: frame, row and column of each in its own example.
      segment_BL: e + 1 where a token is of example e, 0 for padding.
      views: what attention goes over.
      time: of examples [B, E], or of their frames [B, E, N].
      spacing_BE3: what the places of each example are multiplied by.
      from_first: whether places count from the first of each example.
    """
    first_BEA, last_BEA = first_and_last(place_BLA, segment_BL, time.shape[1])
    place: Any = place_BLA
    if from_first:
        place = place - of_tokens(first_BEA, segment_BL)
    if spacing_BE3 is not None:
        place = place * of_tokens(spacing_BE3, segment_BL)
    row_BL = segment_BL - 1
    if time.ndim == 3:
        row_BL = frame_rows(place_BLA[..., 0], first_BEA[..., 0], segment_BL, time.shape[2])
    side = of_tokens(last_BEA - first_BEA + 1, segment_BL)
    return VideoTokens(values_BLF, place, side, views, attention_ids(segment_BL), row_BL)


def rows_of_tokens(row_BL: Int[Array, "B L"], rows: int) -> Float[Array, "B L E"]:
    """1 where a token has a row, else 0; all 0 where it has none."""
    return (row_BL[..., None] == jnp.arange(rows)).astype(jnp.float32)


def finite_examples(
    tokens_BLF: Float[Array, "B L F"],
    segment_BL: Int[Array, "B L"],
    time_BE: Float[Array, "B E"] | Float[Array, "B E N"],
    spacing_BE3: Real[Array, "B E 3"] | None,
) -> Bool[Array, "B E"]:
    """Which examples of a pack have neither nan nor infinity in tokens, times and spacing.

    Args:
      tokens_BLF: noisy patches.
      segment_BL: e + 1 where a token is of example e, 0 for padding.
      time_BE: of each example, or of each of its frames.
      spacing_BE3: what places are multiplied by, or None.
    """
    batch, examples = time_BE.shape[:2]
    finite_BE = jnp.isfinite(time_BE).reshape(batch, examples, -1).all(axis=-1)
    finite_BE &= hold_for_all(jnp.isfinite(tokens_BLF).all(axis=-1), segment_BL, examples)
    return finite_BE if spacing_BE3 is None else finite_BE & jnp.isfinite(spacing_BE3).all(axis=-1)


def hold_for_all(
    flag_BL: Bool[Array, "B L"], segment_BL: Int[Array, "B L"], examples: int
) -> Bool[Array, "B E"]:
    """Whether something holds for all tokens of an example."""
    fails_BLE = own_tokens(segment_BL, examples) & ~flag_BL[..., None]
    return ~fails_BLE.any(axis=1)


def first_and_last(
    place_BLA: Shaped[Array, "B L A"], segment_BL: Int[Array, "B L"], examples: int
) -> tuple[Shaped[Array, "B E A"], Shaped[Array, "B E A"]]:
    """The least and the greatest place of each example on each axis; 0 where there is none."""
    own_BLE1 = own_tokens(segment_BL, examples)[..., None]
    place_BL1A = jnp.asarray(place_BLA)[:, :, None]
    lowest, highest = place_BL1A.min(), place_BL1A.max()
    first_BEA = jnp.where(own_BLE1, place_BL1A, highest).min(axis=1)
    last_BEA = jnp.where(own_BLE1, place_BL1A, lowest).max(axis=1)
    return first_BEA, last_BEA


def frame_rows(
    t_BL: Shaped[Array, "B L"],
    first_BE: Shaped[Array, "B E"],
    segment_BL: Int[Array, "B L"],
    frames: int,
) -> Int[Array, "B L"]:
    """The row e N + n of a token in frame n of example e, for N frames at most; of padding -1."""
    n_BL = jnp.floor(t_BL - of_tokens(first_BE, segment_BL)).astype(jnp.int32)
    row_BL = (segment_BL - 1) * frames + jnp.clip(n_BL, 0, frames - 1)
    return jnp.where(segment_BL == 0, -1, row_BL)


def condition_tokens(conditions: list[Array]) -> Float[Array, "B N D"]:
    """Embeddings [B, D] or [B, ..., D] as tokens, those of an example, or a row, side by side."""
    stacked = jnp.stack(jnp.broadcast_arrays(*conditions), axis=-2)
    return stacked.reshape(len(stacked), -1, stacked.shape[-1])


def context_beside(
    tokens: VideoTokens, conditions: list[Array] | None, text: TextContext | None, examples: int
) -> tuple[Float[Array, "B N D"], VideoTokens]:
    """Tokens that stand beside those of the video, and views and rows for all of them together.

    Args:
      tokens: those of the video.
      conditions: embeddings that are tokens themselves, or None.
      text: texts that are, or None.
      examples: E, of packs.
    """
    batch = len(tokens.values_BLF)
    parts, ids = [], []
    if conditions is not None:
        parts.append(condition_tokens(conditions))
        example_E = jnp.arange(1, examples + 1) if tokens.own_BL is not None else jnp.zeros(1, int)
        ids.append(jnp.tile(jnp.repeat(example_E, len(conditions)), (batch, 1)))
    if text is not None:
        parts.append(text.tokens_BND)
        ids.append(text.segment_BN)
    extra_BND, id_BN = jnp.concatenate(parts, axis=1), jnp.concatenate(ids, axis=1)
    view = View()
    if tokens.own_BL is not None or text is not None:
        own_BL = tokens.own_BL
        if own_BL is None:
            own_BL = jnp.zeros(tokens.values_BLF.shape[:2], jnp.int32)
        view = View(segments_BL=jnp.concatenate([own_BL, id_BN], axis=1))
    row_BL = tokens.row_BL
    if row_BL is not None:
        row_BL = jnp.concatenate([row_BL, jnp.maximum(id_BN - 1, -1)], axis=1)
    return extra_BND, tokens._replace(views={"all": view}, row_BL=row_BL)


def padded_length(values: Any, added: int) -> Any:
    """Values of tokens, [..., L, D] or [B, L, H, D], with zeros for so many more; None is None."""
    if values is None:
        return None
    axis = 1 if values.ndim == 4 else values.ndim - 2
    return jnp.pad(values, [(0, added * (i == axis)) for i in range(values.ndim)])
