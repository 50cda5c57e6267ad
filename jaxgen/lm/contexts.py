"""Positions of a text: which words are the context of which target, and the checks of word ids.

A text is one stream of ids. A model of order n predicts ``tokens[i]`` from
``tokens[i-n+1 : i]``; a span of the stream is visited at every position, and contexts reach back
over its start. Where the stream itself begins, the missing words are :data:`NO_WORD`.

A text of sentences is the same stream with ``</s>`` after each sentence, and a model of sentences
is given contexts that do not reach into the sentence before: `within_sentences`. ``<s>`` is a word
of contexts alone.
"""

import dataclasses

import numpy as np
from jaxtyping import Int32, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_ids

NO_WORD = -1
"""The id in a context where the text has no word: never seen in training, never predicted."""


@dataclasses.dataclass(frozen=True)
class SentenceMarks:
    """The ids of the marks of sentences.

    Attributes:
      start: of ``<s>``, the context of a sentence's first word; never predicted.
      end: of ``</s>``, which follows each sentence and is predicted.
    """

    start: int
    end: int


def within_sentences(
    contexts_NL: Integer[np.ndarray, "N L"], marks: SentenceMarks
) -> Int32[np.ndarray, "N L"]:
    """Contexts of a stream cut to their own sentence.

    Args:
      contexts_NL: as `windows` gives them, the nearest word last.
      marks: the ids of ``<s>`` and ``</s>``.

    Returns:
      int32 [N, L]: every word up to the last ``</s>``, ``<s>`` or :data:`NO_WORD` of a row is
      ``<s>``. (N-grams list ``<s>`` at most once: a model that does not know ``<s> <s>`` takes
      the shorter context. Networks want a word at each place.)
    """
    words_NL = as_ids(contexts_NL, "contexts")
    ends_NL = np.isin(words_NL, (marks.start, marks.end, NO_WORD))
    before_NL = np.logical_or.accumulate(ends_NL[:, ::-1], axis=1)[:, ::-1]
    return np.where(before_NL, np.int32(marks.start), words_NL)


def check_marks(marks: SentenceMarks, vocabulary_size: int) -> None:
    """Raise an InputError unless the marks are two different words of the vocabulary."""
    check_words(np.array([marks.start, marks.end]), vocabulary_size, "sentence marks")
    if marks.start == marks.end:
        raise InputError(f"sentence marks are both {marks.start}, expected two different words")


def windows(
    tokens: Integer[np.ndarray, "tokens"], order: int, start: int, stop: int
) -> Int32[np.ndarray, "N L"]:
    """Contexts of the positions ``start <= i < stop`` of a text, the nearest word last.

    Args:
      tokens: the whole stream, ids in [0, V) of any integer type.
      order: n of the model; a context has L = n - 1 words.
      start: first position of the span.
      stop: one past the last position of the span.

    Returns:
      int32 [N, L] with N = stop - start: row i is ``tokens[start+i-L : start+i]``, with
      :data:`NO_WORD` for words before the start of the stream.

    Raises:
      InputError: if the order is under 1 or the span does not lie within the stream.

    Example:
      >>> windows(np.array([7, 8, 9]), order=3, start=0, stop=3)  # NO_WORD is -1
      array([[-1, -1],
             [-1,  7],
             [ 7,  8]], dtype=int32)
    """
    check_order(order)
    check_span(tokens, start, stop)
    index_NL = np.arange(start, stop)[:, None] + np.arange(1 - order, 0)
    words_NL = as_ids(np.asarray(tokens)[np.maximum(index_NL, 0)])
    return np.where(index_NL >= 0, words_NL, np.int32(NO_WORD))


def check_order(order: int) -> None:
    """Raise an InputError unless the order (words of a context plus one) is at least 1."""
    if order < 1:
        raise InputError(f"order is {order}, expected 1 or more (words of the context plus one)")


def check_span(
    tokens: Integer[np.ndarray, "..."], start: int, stop: int, name: str = "tokens"
) -> None:
    """Raise an InputError unless ``[start, stop)`` lies within a one-dimensional stream of ids."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(
            f"{name} have shape {tokens.shape} and type {tokens.dtype}, "
            "expected one dimension of integer ids"
        )
    if not 0 <= start <= stop <= len(tokens):
        raise InputError(
            f"span [{start}, {stop}) does not lie within the text of {len(tokens)} tokens"
        )


def check_words(
    words: Integer[np.ndarray, "..."], vocabulary_size: int, name: str = "tokens"
) -> Int32[np.ndarray, "..."]:
    """Ids as int32, checked to be integers in [0, V); an InputError names the first that is not."""
    return as_ids(words, name, 0, vocabulary_size)


def check_text(
    tokens: Integer[np.ndarray, "tokens"], vocabulary_size: int, name: str = "tokens"
) -> Int32[np.ndarray, "tokens"]:
    """A whole text as int32.

    Raises:
      InputError: unless it has one dimension, of integer ids in [0, V).
    """
    check_span(tokens, 0, 0, name)
    return check_words(tokens, vocabulary_size, name)


def check_contexts(
    contexts_NL: Integer[np.ndarray, "N L"], order: int, vocabulary_size: int
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
    return as_ids(used_NL, "contexts", NO_WORD, vocabulary_size)


def check_targets(
    targets_N: Integer[np.ndarray, "N"], count: int, vocabulary_size: int
) -> Int32[np.ndarray, "N"]:
    """Targets as int32, checked to be ``count`` ids in [0, V).

    Raises:
      InputError: if their number differs from the number of contexts or an id is out of range.
    """
    if np.shape(targets_N) != (count,):
        raise InputError(f"targets have shape {np.shape(targets_N)}, expected ({count},)")
    return as_ids(targets_N, "targets", 0, vocabulary_size)


def check_vocabulary_size(vocabulary_size: int) -> None:
    """Raise an InputError unless there are at least two words to choose from."""
    if vocabulary_size < 2:
        raise InputError(f"vocabulary has {vocabulary_size} word(s), expected 2 or more")
