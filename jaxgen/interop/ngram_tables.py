"""The content of an ARPA file as arrays, and how it is mapped onto another list of words."""

import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float64, Int

from jaxgen.errors import InputError
from jaxgen.ids import check_not_string

LOG10_ZERO = -99.0
"""What stands for the logarithm of zero."""

UNKNOWN = ("<unk>", "<UNK>")
"""How the unknown word is spelt; the second form is that of Sphinx and HTK."""


@dataclasses.dataclass(frozen=True, eq=False)
class NgramTables:
    """The content of an ARPA file.

    Attributes:
      words: id -> word.
      ngrams: for each order k = 1 ... n the word ids of its n-grams, int32 [ngrams, k].
      log10_probabilities: for each order log10 of each n-gram's probability, -99 for zero.
      log10_backoffs: for each order log10 of each n-gram's back-off weight, 0 where it has none
        (everywhere at the highest order).
    """

    words: tuple[str, ...]
    ngrams: tuple[Int[np.ndarray, "ngrams k"], ...]
    log10_probabilities: tuple[Float64[np.ndarray, "ngrams"], ...]
    log10_backoffs: tuple[Float64[np.ndarray, "ngrams"], ...]

    @property
    def order(self) -> int:
        """n."""
        return len(self.ngrams)

    def onto(self, words: Sequence[str]) -> "NgramTables":
        """The same model with ids of another list of words.

        N-grams with words that the list lacks are left out (as a rule ``<s>`` and ``</s>``); their
        probability is lost, so that distributions may sum to less than one. ``<unk>`` and
        ``<UNK>`` are one word where the tables have one of them and the list the other. Words that
        the tables lack share its unigram probability evenly, if the tables have it and the list
        does not; otherwise their probability is zero.

        Args:
          words: the wanted words in the order of their ids, all different.

        Raises:
          InputError: if a word of the list occurs twice, or the tables have none of them.
        """
        check_not_string(words, "words")
        new_id = {word: i for i, word in enumerate(words)}
        if len(new_id) < len(words):
            raise InputError(
                f"the word {words[first_repeated(words)]!r} is twice in the list of words"
            )
        if new_id.keys().isdisjoint(self.words):
            raise InputError(
                f"none of the {len(words)} words of the list is among the "
                f"{len(self.words)} words of the tables"
            )
        unknown, listed = _unknown_of(self.words), _unknown_of(words)
        if unknown is not None and listed is not None and listed not in self.words:
            new_id[unknown] = new_id[listed]
        id_of_old = np.array([new_id.get(word, -1) for word in self.words], np.int32)
        ngrams = [id_of_old[words_Nk] for words_Nk in self.ngrams]
        kept = [(words_Nk >= 0).all(axis=1) for words_Nk in ngrams]
        tables = NgramTables(
            tuple(words),
            tuple(rows[keep] for rows, keep in zip(ngrams, kept, strict=True)),
            tuple(rows[keep] for rows, keep in zip(self.log10_probabilities, kept, strict=True)),
            tuple(rows[keep] for rows, keep in zip(self.log10_backoffs, kept, strict=True)),
        )
        return tables if listed or not unknown else self._share_unknown(tables, unknown)

    def _share_unknown(self, tables: "NgramTables", unknown: str) -> "NgramTables":
        """Gives the words without a unigram equal parts of that of the unknown word."""
        missing_N = np.setdiff1d(np.arange(len(tables.words)), tables.ngrams[0][:, 0])
        if len(missing_N) == 0:
            return tables
        row = np.flatnonzero(self.ngrams[0][:, 0] == self.words.index(unknown))[0]
        log10_share = self.log10_probabilities[0][row] - math.log10(len(missing_N))
        added = (
            missing_N[:, None].astype(np.int32),
            np.full(len(missing_N), max(log10_share, LOG10_ZERO)),
            np.full(len(missing_N), self.log10_backoffs[0][row]),
        )
        columns = (tables.ngrams, tables.log10_probabilities, tables.log10_backoffs)
        extended = (
            (np.concatenate([column[0], more]), *column[1:])
            for column, more in zip(columns, added, strict=True)
        )
        return NgramTables(tables.words, *extended)


def _unknown_of(words: Sequence[str]) -> str | None:
    """The unknown word as a list of words spells it, None where it has none."""
    return next((word for word in UNKNOWN if word in words), None)


def first_repeated(names: Sequence[Hashable]) -> int:
    """The position of the first element that has occurred before."""
    seen: set[Hashable] = set()
    for position, name in enumerate(names):
        if name in seen:
            return position
        seen.add(name)
    raise ValueError("nothing is repeated")
