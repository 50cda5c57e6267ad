"""Texts of sentences, one a line, as SRILM, KenLM and others read them.

ASCII white space separates the words of a line; nothing else is changed. Blank lines are passed
over. ``<s>`` before and ``</s>`` after a line's words are the marks of a sentence and are left out;
anywhere else they are an error.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int32

from jaxgen.data.archives import Path, decode_text, read_bytes
from jaxgen.data.text.corpus import (
    Corpus,
    Spans,
    TokenStream,
    spans_by_fraction,
    spans_by_size,
)
from jaxgen.data.text.vocabulary import UNKNOWN, Vocabulary, count_vocabulary
from jaxgen.errors import InputError
from jaxgen.text_rules import SENTENCE_END, SENTENCE_START, split_words

Sentences = Sequence[Sequence[str]]


def read_sentences(path: Path, encoding: str = "utf-8") -> list[list[str]]:
    """The sentences of a text file, plain or gzip, one a line.

    Args:
      path: the file.
      encoding: a codec of Python's.

    Raises:
      FileNotFoundError: there is no such file.
      InputError: an empty file, one that is not text in this encoding (names the byte), no words at
        all, or a mark of sentences inside a line (names the line).
    """
    sentences = []
    text = decode_text(read_bytes(path), str(path), encoding)
    for number, line in enumerate(text.split("\n"), start=1):
        words = split_words(line)
        words = words[words[:1] == [SENTENCE_START] :]
        words = words[: len(words) - (words[-1:] == [SENTENCE_END])]
        for mark in (SENTENCE_START, SENTENCE_END):
            if mark in words:
                raise InputError(f"{path}, line {number}: {mark} among the words of a sentence")
        if words:
            sentences.append(words)
    if not sentences:
        raise InputError(f"{path}: no words, only white space")
    return sentences


def sentence_stream(sentences: Iterable[Sequence[str]], name: str = "text") -> TokenStream:
    """Sentences as one stream of words, ``</s>`` after each."""
    return TokenStream(name, [word for words in sentences for word in (*words, SENTENCE_END)])


def sentence_vocabulary(
    sentences: Iterable[Sequence[str]], cutoff: int = 0, maximum_size: int | None = None
) -> Vocabulary:
    """The vocabulary of a model of sentences: ``<unk>``, ``<s>``, ``</s>``, the words by frequency.

    Args:
      sentences: the training text.
      cutoff: words of at most this frequency are ``<unk>``.
      maximum_size: the most words, ``<unk>`` and the marks among them; None: no limit.

    Raises:
      InputError: the cutoff is negative, or it or the size leaves no words.
    """
    tokens = [word for words in sentences for word in words]
    if maximum_size is not None and maximum_size < 4:
        raise InputError(f"maximum_size is {maximum_size}, expected 4 or more")
    limit = None if maximum_size is None else maximum_size - 2
    counted = count_vocabulary(tokens, cutoff, limit, always_unknown=True)
    words = [word for word in counted.words if word != UNKNOWN]
    if not words:
        raise InputError(f"cutoff is {cutoff}, expected less: no word is more frequent")
    return Vocabulary((UNKNOWN, SENTENCE_START, SENTENCE_END, *words), 0)


def encode_sentences(sentences: Sentences, vocabulary: Vocabulary) -> Int32[np.ndarray, "N"]:
    """The stream of ids of sentences, the id of ``</s>`` after each.

    Raises:
      InputError: a word is not in a vocabulary without ``<unk>``, or that has no ``</s>``.
    """
    if SENTENCE_END not in vocabulary:
        raise InputError(f"vocabulary has no {SENTENCE_END}, expected one of sentences")
    return vocabulary.encode(sentence_stream(sentences).tokens)


def load_sentences(
    path: Path,
    *,
    split: tuple[int, int] | tuple[float, float] = (0.8, 0.1),
    cutoff: int = 3,
    vocabulary_from: Literal["all", "train"] = "all",
    encoding: str = "utf-8",
) -> Corpus:
    """A text file of sentences as a corpus that is trained on and evaluated by sentence.

    Its stream has ``</s>`` after each sentence, its vocabulary ``<s>`` too, which the stream lacks.

    Args:
      path: the file, a sentence a line.
      split: sizes of the training and validation parts as words or fractions, moved to the ends of
        sentences; the rest is for test.
      cutoff: words of at most this frequency are ``<unk>``.
      vocabulary_from: "all" counts the words of the whole text, "train" those of the training part.
      encoding: a codec of Python's.

    Raises:
      FileNotFoundError, InputError: as `read_sentences`; or the text is too short for three parts.
    """
    sentences = read_sentences(path, encoding)
    stops = np.cumsum([len(words) + 1 for words in sentences])
    spans = _spans_of_sentences(stops, split, str(path))
    trained = int(np.searchsorted(stops, spans["train"][1])) + 1
    counted = sentences if vocabulary_from == "all" else sentences[:trained]
    vocabulary = sentence_vocabulary(counted, cutoff)
    return Corpus(str(path), vocabulary, encode_sentences(sentences, vocabulary), spans)


def _spans_of_sentences(
    stops: np.ndarray, split: tuple[int, int] | tuple[float, float], name: str
) -> Spans:
    """Parts of a text that end where a sentence does, the first end after the wanted one."""
    total, (train, validation) = int(stops[-1]), split
    if isinstance(train, int) and isinstance(validation, int):
        spans = spans_by_size(total, train, validation, name)
    else:
        spans = spans_by_fraction(total, train, validation, name)
    wanted = [spans["train"][1], spans["validation"][1]]
    first, second = stops[np.searchsorted(stops, wanted)].tolist()
    if not first < second < total:
        raise InputError(f"{name}: {len(stops)} sentences are too few for three parts")
    return {"train": (0, first), "validation": (first, second), "test": (second, total)}
