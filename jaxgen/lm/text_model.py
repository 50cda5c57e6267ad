"""A language model with its words: what has a file, and what scores sentences."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float64, Int, Int32

from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.ids import check_not_string
from jaxgen.lm.contexts import NO_WORD, SentenceMarks
from jaxgen.lm.ngram.backoff import BackoffModel
from jaxgen.lm.protocol import LanguageModel
from jaxgen.lm.saved_models import read_model_file, write_model_file
from jaxgen.text_rules import SENTENCE_END, SENTENCE_START

UNKNOWN_WORDS = ("<unk>", "<UNK>")
"""How the word that stands for all others is spelt."""


class TablesWithWords(Protocol):
    """What an ARPA file holds (`jaxgen.interop.arpa.read_arpa`)."""

    @property
    def words(self) -> tuple[str, ...]:
        """Id -> word."""
        ...

    @property
    def ngrams(self) -> tuple[Int[np.ndarray, "ngrams k"], ...]:
        """Word ids of the n-grams of each order."""
        ...

    @property
    def log10_probabilities(self) -> tuple[Float64[np.ndarray, "ngrams"], ...]:
        """Logarithms of their probabilities."""
        ...

    @property
    def log10_backoffs(self) -> tuple[Float64[np.ndarray, "ngrams"], ...]:
        """Logarithms of their back-off weights."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class TextModel:
    """A language model and its vocabulary.

    Attributes:
      model: any language model: n-grams, classes, mixtures, networks.
      words: id -> word. ``<s>`` and ``</s>`` among them are the marks of sentences, ``<unk>`` or
        ``<UNK>`` is the word for all others.

    Raises:
      InputError: if the words are not as many as the model has, or one of them occurs twice.
    """

    model: LanguageModel
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Checks the words."""
        check_not_string(self.words, "words")
        object.__setattr__(self, "words", tuple(self.words))
        if len(self.words) != self.model.vocabulary_size:
            raise InputError(
                f"words are {len(self.words)}, expected the {self.model.vocabulary_size} words of "
                "the model"
            )
        if len(self.ids) < len(self.words):
            raise InputError("words contain one twice, expected each once")

    @functools.cached_property
    def ids(self) -> Mapping[str, int]:
        """Word -> id."""
        return {word: i for i, word in enumerate(self.words)}

    @property
    def unknown(self) -> int | None:
        """Id of the word that stands for all others, None where there is none."""
        return next((self.ids[word] for word in UNKNOWN_WORDS if word in self.ids), None)

    @property
    def marks(self) -> SentenceMarks | None:
        """Ids of ``<s>`` and ``</s>``, None where one is missing."""
        if SENTENCE_START not in self.ids or SENTENCE_END not in self.ids:
            return None
        return SentenceMarks(self.ids[SENTENCE_START], self.ids[SENTENCE_END])

    def encode(self, tokens: Iterable[str]) -> Int32[np.ndarray, "N"]:
        """Ids of words; a word outside the vocabulary is ``<unk>``, or -1 where there is none."""
        check_not_string(tokens, "tokens")
        other = NO_WORD if self.unknown is None else self.unknown
        return np.array([self.ids.get(token, other) for token in tokens], np.int32)

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Words of ids."""
        return [self.words[i] for i in ids]

    def save(self, path: Path) -> None:
        """Writes model and words into one file, whole or not at all; `open_model` reads it.

        The file is a zip archive of JSON and arrays of numpy, without pickle. Equal models give
        equal files.

        Raises:
          InputError: for a model with a part that has no saved form, such as a function of one's
            own.
        """
        write_model_file(path, self.model, self.words)

    @classmethod
    def from_tables(cls, tables: TablesWithWords) -> "TextModel":
        """The back-off model of an ARPA file: ``TextModel.from_tables(read_arpa(path))``."""
        model = BackoffModel.from_tables(
            tables.ngrams, tables.log10_probabilities, tables.log10_backoffs, len(tables.words)
        )
        return cls(model, tables.words)


def open_model(path: Path) -> TextModel:
    """Opens a file that `TextModel.save` wrote.

    Probabilities are those of the model that was saved, to the last bit.

    Raises:
      FileNotFoundError: if there is no such file.
      InputError: if it is no such file, is damaged, or has a newer format; the message names it.
    """
    return TextModel(*read_model_file(path))
