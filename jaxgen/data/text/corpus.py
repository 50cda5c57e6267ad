"""A text as one stream of words, and a corpus as one stream of word ids with named spans.

Readers make a `TokenStream`, normalisation maps streams to streams, and `make_corpus` numbers the
words: after that everything works on int32 arrays.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int32

from jaxgen.data.text.vocabulary import Vocabulary, count_vocabulary
from jaxgen.errors import InputError

Spans = Mapping[str, tuple[int, int]]
"""Name of a part -> (start, stop), positions in the stream."""

PARAGRAPH = "<p>"
"""The mark that stands after each paragraph, where one is asked for."""

PARTS = ("train", "validation", "test")
BROWN_TRAIN, BROWN_VALIDATION = 800_000, 200_000
"""Sizes of the first two parts of the Brown corpus in Bengio et al. (2003); the rest is test."""


@dataclass(frozen=True)
class TokenStream:
    """A text as words, in order.

    Attributes:
      name: What the text is called in tables and errors, often its path.
      tokens: The words, [N].
      tags: Part-of-speech tags of the words, [N], or None.
      spans: Parts that the text was published in, or None where it has none.
    """

    name: str
    tokens: Sequence[str]
    tags: Sequence[str] | None = None
    spans: Spans | None = None

    def __post_init__(self):
        if self.tags is not None and len(self.tags) != len(self.tokens):
            raise InputError(
                f"{self.name}: {len(self.tags)} tags for {len(self.tokens)} words, expected as many"
            )

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Corpus:
    """One stream of word ids and named spans of it.

    Attributes:
      name: What the corpus is called in tables and errors.
      vocabulary: The words.
      tokens: The whole stream, int32 [N].
      spans: "train", "validation" and "test" -> (start, stop).
    """

    name: str
    vocabulary: Vocabulary
    tokens: Int32[np.ndarray, "N"]
    spans: Spans

    def __post_init__(self):
        check_spans(self.spans, len(self.tokens), self.name)
        if len(self.vocabulary) < 2:
            raise InputError(
                f"{self.name}: a vocabulary of {len(self.vocabulary)} word"
                f"{'' if len(self.vocabulary) == 1 else 's'}: there is nothing to predict"
            )

    def split(self, name: str) -> Int32[np.ndarray, "N"]:
        """The ids of one span, a view of `tokens`.

        Raises:
          InputError: There is no span of this name.
        """
        if name not in self.spans:
            raise InputError(f"{self.name}: no span {name!r}; it has {', '.join(self.spans)}")
        start, stop = self.spans[name]
        return self.tokens[start:stop]

    def describe(self) -> str:
        """Name, sizes and share of unknown words, on one line, for a table's caption or a log."""
        parts = ", ".join(f"{name} {stop - start:,}" for name, (start, stop) in self.spans.items())
        line = f"{self.name}: {len(self.tokens):,} tokens ({parts}), |V| = {len(self.vocabulary):,}"
        if self.vocabulary.unknown is None:
            return line
        return f"{line}, {(self.tokens == self.vocabulary.unknown).mean():.1%} unknown"


def check_spans(spans: Spans, total: int, name: str) -> None:
    """Refuses spans that are empty, overlap, or reach outside a text of `total` words.

    Raises:
      InputError: Names the text, the span and the fault.
    """
    for part, (start, stop) in spans.items():
        if not 0 <= start < stop <= total:
            raise InputError(
                f"{name}: span {part!r} is {start} to {stop}, in a text of {total} words,"
                " expected a part of it that is not empty"
            )
    ordered = sorted(spans.items(), key=lambda item: item[1])
    for (part, (_, stop)), (other, (start, _)) in itertools.pairwise(ordered):
        if start < stop:
            raise InputError(f"{name}: spans {part!r} and {other!r} overlap")


def spans_by_size(total: int, train: int, validation: int, name: str = "text") -> Spans:
    """Splits a text in order: `train` words, `validation` words, and the rest for test.

    Args:
      total: Words in the text.
      train: Words in the first part.
      validation: Words in the second part.
      name: The text's name, for the error message.

    Raises:
      InputError: A part would be empty.
    """
    if train < 1 or validation < 1 or train + validation >= total:
        raise InputError(
            f"{name}: {total} words are too few for {train} to train, {validation} to validate"
            " and one at least to test"
        )
    return {
        "train": (0, train),
        "validation": (train, train + validation),
        "test": (train + validation, total),
    }


def spans_by_fraction(
    total: int, train: float = 0.8, validation: float = 0.1, name: str = "text"
) -> Spans:
    """Splits a text in order by fractions of its words; what is left is for test.

    Raises:
      InputError: The fractions are not positive or leave nothing, or a part would be empty.
    """
    if not (train > 0 and validation > 0 and train + validation < 1):
        raise InputError(
            f"{name}: fractions {train} to train and {validation} to validate,"
            " expected positive ones with a sum below 1"
        )
    return spans_by_size(total, round(total * train), round(total * validation), name)


def make_corpus(
    stream: TokenStream,
    spans: Spans | None = None,
    *,
    rare_frequency: int = 3,
    vocabulary_from: Literal["all", "train"] = "all",
    maximum_size: int | None = None,
) -> Corpus:
    """Chooses the vocabulary of a text and numbers its words.

    Args:
      stream: The text.
      spans: Its parts; by default those it was published in, else 0.8, 0.1 and 0.1 of it in order.
      rare_frequency: Words of frequency <= this become one symbol (`count_vocabulary`).
      vocabulary_from: "all" counts over the whole stream, as the paper does; "train" over the
        training part alone, after which words of the other parts may be unknown.
      maximum_size: The most words a vocabulary may have, or None.

    Raises:
      InputError: The text is empty, a span does not fit, or the vocabulary has one word only.
    """
    total = len(stream)
    if not total:
        raise InputError(f"{stream.name}: no words")
    spans = spans or stream.spans or spans_by_fraction(total, name=stream.name)
    check_spans(spans, total, stream.name)
    if vocabulary_from == "all":
        vocabulary = count_vocabulary(stream.tokens, rare_frequency, maximum_size)
    elif vocabulary_from == "train" and "train" in spans:
        start, stop = spans["train"]
        vocabulary = count_vocabulary(
            stream.tokens[start:stop], rare_frequency, maximum_size, always_unknown=True
        )
    else:
        raise InputError(
            f"{stream.name}: vocabulary_from is {vocabulary_from!r}, expected 'all', or 'train' for"
            f" a text with that span (it has {', '.join(spans)})"
        )
    return Corpus(stream.name, vocabulary, vocabulary.encode(stream.tokens), spans)
