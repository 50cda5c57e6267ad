"""Texts of sentences, one a line, as SRILM, KenLM and others read them.

ASCII white space separates the words of a line; nothing else is changed. Blank lines are passed
over. ``<s>`` before and ``</s>`` after a line's words are the marks of a sentence and are left out;
anywhere else they are an error.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32

from jaxgen.data.archives import Path, decode_text, read_bytes
from jaxgen.data.text.corpus import TokenStream
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
      InputError: the cutoff is negative, or the size leaves no words.
    """
    tokens = [word for words in sentences for word in words]
    if maximum_size is not None and maximum_size < 4:
        raise InputError(f"maximum_size is {maximum_size}, expected 4 or more")
    limit = None if maximum_size is None else maximum_size - 2
    counted = count_vocabulary(tokens, cutoff, limit, always_unknown=True)
    words = [word for word in counted.words if word != UNKNOWN]
    return Vocabulary((UNKNOWN, SENTENCE_START, SENTENCE_END, *words), 0)


def encode_sentences(sentences: Sentences, vocabulary: Vocabulary) -> Int32[np.ndarray, "N"]:
    """The stream of ids of sentences, the id of ``</s>`` after each.

    Raises:
      InputError: a word is not in a vocabulary without ``<unk>``, or that has no ``</s>``.
    """
    if SENTENCE_END not in vocabulary:
        raise InputError(f"vocabulary has no {SENTENCE_END}, expected one of sentences")
    return vocabulary.encode(sentence_stream(sentences).tokens)
