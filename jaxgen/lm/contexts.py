"""Positions of a text: which words are the context of which target, and the checks of word ids.

A text is one stream of ids. A model of order n predicts ``tokens[i]`` from
``tokens[i-n+1 : i]``; a span of the stream is visited at every position, and contexts reach back
over its start. Where the stream itself begins, the missing words are :data:`NO_WORD`.
"""

import numpy as np
from jaxtyping import Int, Int32

from jaxgen.errors import InputError

NO_WORD = -1
"""The id in a context where the text has no word: never seen in training, never predicted."""


def windows(
    tokens: Int[np.ndarray, "tokens"], order: int, start: int, stop: int
) -> Int32[np.ndarray, "N L"]:
    """Contexts of the positions ``start <= i < stop`` of a text, the nearest word last.

    Args:
      tokens: the whole stream, ids in [0, V).
      order: n of the model; a context has L = n - 1 words.
      start: first position of the span.
      stop: one past the last position of the span.

    Returns:
      int32 [N, L] with N = stop - start: row i is ``tokens[start+i-L : start+i]``, with
      :data:`NO_WORD` for words before the start of the stream.

    Raises:
      InputError: if the order is under 1 or the span does not lie within the stream.
    """
    check_order(order)
    check_span(tokens, start, stop)
    index_NL = np.arange(start, stop)[:, None] + np.arange(1 - order, 0)
    words_NL = np.asarray(tokens)[np.maximum(index_NL, 0)]
    return np.where(index_NL >= 0, words_NL, NO_WORD).astype(np.int32)


def check_order(order: int) -> None:
    """Raise an InputError unless the order (words of a context plus one) is at least 1."""
    if order < 1:
        raise InputError(f"order is {order}, expected 1 or more (words of the context plus one)")


def check_span(tokens: Int[np.ndarray, "tokens"], start: int, stop: int) -> None:
    """Raise an InputError unless ``[start, stop)`` lies within a one-dimensional stream of ids."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(
            f"tokens have shape {tokens.shape} and type {tokens.dtype}, "
            "expected one dimension of integer ids"
        )
    if not 0 <= start <= stop <= len(tokens):
        raise InputError(
            f"span [{start}, {stop}) does not lie within the text of {len(tokens)} tokens"
        )


def check_words(words: Int[np.ndarray, "..."], vocabulary_size: int, name: str = "tokens") -> None:
    """Raise an InputError unless every id is an integer in [0, V)."""
    _check_range(np.asarray(words), 0, vocabulary_size, name)


def check_contexts(
    contexts_NL: Int[np.ndarray, "N L"], order: int, vocabulary_size: int
) -> Int32[np.ndarray, "N {order}-1"]:
    """The last ``order - 1`` columns of contexts, checked.

    Args:
      contexts_NL: ids in [0, V) or :data:`NO_WORD`; at least ``order - 1`` columns, the nearest
        word last. Further columns on the left are ignored.
      order: n of the model.
      vocabulary_size: V.

    Returns:
      int32 [N, order - 1].

    Raises:
      InputError: if there are too few columns or an id is out of range.
    """
    contexts_NL = np.asarray(contexts_NL)
    if contexts_NL.ndim != 2 or contexts_NL.shape[1] < order - 1:
        raise InputError(
            f"contexts have shape {contexts_NL.shape}, expected [N, {order - 1}] or wider "
            f"for a model of order {order}"
        )
    used_NL = contexts_NL[:, contexts_NL.shape[1] - (order - 1) :]
    _check_range(used_NL, NO_WORD, vocabulary_size, "contexts")
    return used_NL.astype(np.int32, copy=False)


def check_targets(
    targets_N: Int[np.ndarray, "N"], count: int, vocabulary_size: int
) -> Int32[np.ndarray, "N"]:
    """Targets as int32, checked to be ``count`` ids in [0, V).

    Raises:
      InputError: if their number differs from the number of contexts or an id is out of range.
    """
    targets_N = np.asarray(targets_N)
    if targets_N.shape != (count,):
        raise InputError(f"targets have shape {targets_N.shape}, expected ({count},)")
    _check_range(targets_N, 0, vocabulary_size, "targets")
    return targets_N.astype(np.int32, copy=False)


def _check_range(ids: np.ndarray, low: int, stop: int, name: str) -> None:
    if ids.size == 0:
        return
    if not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{name} have type {ids.dtype}, expected integer ids")
    smallest, largest = int(ids.min()), int(ids.max())
    if smallest < low or largest >= stop:
        wrong = smallest if smallest < low else largest
        raise InputError(f"{name} contain the id {wrong}, expected ids in [{low}, {stop})")


def check_vocabulary_size(vocabulary_size: int) -> None:
    """Raise an InputError unless there are at least two words to choose from."""
    if vocabulary_size < 2:
        raise InputError(f"vocabulary has {vocabulary_size} word(s), expected 2 or more")
