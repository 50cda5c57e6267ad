"""Pieces of texts laid into windows of one length, each with its own start and end."""

from collections.abc import Sequence

import numpy as np

from jaxgen.data.tokenizers.pieces import Pieces
from jaxgen.data.tokenizers.tokenized import NO_SPAN, Tokenized
from jaxgen.errors import InputError

SHOWN = 60
"""Characters of a lost text that an error shows."""

Around = tuple[int | None, int | None, int]
"""Ids of start, end and padding."""


def lay_windows(
    pieces: Sequence[Pieces],
    texts: Sequence[str],
    around: Around,
    length: int,
    windows: int,
    truncate: bool,
) -> Tokenized:
    """Texts in windows side by side, as people lay long prompts for Stable Diffusion.

    The k-th window of a text holds its pieces from k * room on, where room is `length` less start
    and end: what a text of those pieces alone would be.

    Args:
      pieces: Of B texts.
      texts: The texts that spans refer to.
      around: Ids of start, end and padding.
      length: Tokens of a window, more than start and end.
      windows: Windows of each text.
      truncate: Whether to cut off what does not fit.

    Returns:
      Arrays of [B, windows * length].

    Raises:
      InputError: `windows` is no whole number from 1, or a text does not fit and is not to be cut.
    """
    if not isinstance(windows, int | np.integer) or windows < 1:
        raise InputError(f"windows is {windows!r}, expected a whole number from 1")
    start, end, pad = around
    before, after = ([] if mark is None else [mark] for mark in (start, end))
    room = length - len(before) - len(after)
    shape = (len(texts), windows * length)
    ids = np.full(shape, pad, np.int32)
    mask = np.zeros(shape, bool)
    spans = np.full((*shape, 2), NO_SPAN, np.int32)
    for b, found in enumerate(pieces):
        if len(found.ids) > windows * room and not truncate:
            raise InputError(_describe_lost(b, found, texts[b], room, windows))
        for k in range(windows):
            part = slice(k * room, (k + 1) * room)
            row = [*before, *found.ids[part], *after]
            place = k * length
            ids[b, place : place + len(row)] = row
            mask[b, place : place + len(row)] = True
            place += len(before)
            inner = found.spans[part]
            spans[b, place : place + len(inner)] = np.array(inner, np.int32).reshape(-1, 2)
    return Tokenized(ids, mask, spans, tuple(texts))


def _describe_lost(number: int, found: Pieces, text: str, room: int, windows: int) -> str:
    """What is wrong with a text that is too long, and what can be done."""
    lost = text[found.spans[windows * room][0] :].strip()
    shown = lost if len(lost) <= SHOWN else f"{lost[:SHOWN]}..."
    needed = -(-len(found.ids) // room)
    return (
        f"text {number} has {len(found.ids)} tokens, expected at most {windows * room}; {shown!r} "
        f"would be lost (truncate=True cuts it off, windows={needed} lays it side by side)"
    )
