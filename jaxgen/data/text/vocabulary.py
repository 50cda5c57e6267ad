"""Words and their numbers, and the recipe of Bengio et al. (2003) for choosing the words.

The paper merges words of frequency <= 3 into a single symbol, counting over the whole text
(training, validation and test parts together). Counting over the training part alone gives another
vocabulary and other perplexities; the two are not to be compared.
"""

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Integer

from jaxgen.data.archives import decode_text, read_bytes
from jaxgen.errors import InputError
from jaxgen.files import replacing
from jaxgen.ids import as_ids, check_not_string
from jaxgen.text_rules import encode_text, keep_mark

UNKNOWN = "<unk>"
"""The symbol that rare words are merged into."""


@dataclass(frozen=True)
class Vocabulary:
    """A numbered list of words.

    Attributes:
      words: Id -> word. `count_vocabulary` orders them by falling frequency, ties by first
        appearance.
      unknown: Id of `UNKNOWN`, the symbol of merged words, or None where every word has its own.
    """

    words: tuple[str, ...]
    unknown: int | None = None

    def __post_init__(self):
        check_not_string(self.words, "vocabulary: words")
        if len(self._ids) != len(self.words):
            raise InputError(f"vocabulary: the word {_first_repeated(self.words)!r} occurs twice")
        if "" in self._ids:
            raise InputError(f"vocabulary: word {self._ids['']} is empty")
        if self.unknown != self._ids.get(UNKNOWN):
            raise InputError(
                f"vocabulary: `unknown` is {self.unknown}, but {UNKNOWN!r} has the id"
                f" {self._ids.get(UNKNOWN)}"
            )

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def encode(self, tokens: Iterable[str]) -> Int32[np.ndarray, "N"]:
        """Ids of words, int32 [N]; a word outside the vocabulary becomes `unknown`.

        Raises:
          InputError: A word is outside the vocabulary and there is no `unknown`; or they are no
            words: a string, whose letters would be taken for words, or a list of something else.
        """
        check_not_string(tokens, "tokens")
        default = -1 if self.unknown is None else self.unknown
        tokens = tokens if isinstance(tokens, Sequence) else list(tokens)
        ids = np.fromiter((self._ids.get(t, default) for t in tokens), np.int32, len(tokens))
        for place in np.flatnonzero(ids == default):
            word = tokens[int(place)]
            _check_word(word)
            if default < 0:
                raise InputError(
                    f"the word {word!r} is not in the vocabulary, which has no {UNKNOWN}"
                )
        return ids

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words of ids.

        Raises:
          InputError: An id is not in [0, V), or they are not a list of integers.
        """
        ids_N = as_ids(ids if isinstance(ids, str | bytes | np.ndarray) else list(ids), "ids")
        if ids_N.ndim != 1:
            raise InputError(f"ids have shape {ids_N.shape}, expected one dimension")
        for i in ids_N:
            if not 0 <= i < len(self.words):
                raise InputError(f"id {i} is outside the vocabulary of {len(self.words)} words")
        return [self.words[i] for i in ids_N]

    @property
    def text(self) -> str:
        """One word a line, in the order of the ids: the content of a vocabulary file.

        Raises:
          InputError: A word holds a line break or a zero byte, which this format cannot say.
        """
        for i, word in enumerate(self.words):
            if any(sign in word for sign in "\n\r\0"):
                raise InputError(f"word {i}, {word!r}, holds a line break or a zero byte")
        return keep_mark("".join(word + "\n" for word in self.words))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one word a line, in the order of the ids (`jaxgen.text_rules`).

        Raises:
          InputError: A word holds a line break or a zero byte, which this format cannot say, or is
            no text (half of a surrogate pair).
        """
        try:
            content = encode_text(self.text, "vocabulary")
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        with replacing(path) as handle:
            handle.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Reads a file that `save` wrote; the line `UNKNOWN`, if any, becomes `unknown`.

        A word is a whole line, white space included (`jaxgen.text_rules` says what ends a line).

        Raises:
          FileNotFoundError: There is no such file.
          InputError: The file is empty or not UTF-8, or a line is empty or occurs twice.
        """
        lines = decode_text(read_bytes(path), str(path)).split("\n")
        words = tuple(lines[:-1] if lines[-1] == "" else lines)
        if "" in words:
            raise InputError(f"{path}, line {words.index('') + 1}: an empty word")
        if len(set(words)) != len(words):
            raise InputError(f"{path}: the word {_first_repeated(words)!r} occurs twice")
        return cls(words, words.index(UNKNOWN) if UNKNOWN in words else None)


def _check_word(word: object) -> None:
    if not isinstance(word, str):
        raise InputError(f"tokens contain {word!r}, a {type(word).__name__}, expected words")


def _first_repeated(words: Iterable[str]) -> str:
    seen: set[str] = set()
    for word in words:
        if word in seen:
            return word
        seen.add(word)
    raise AssertionError("no word occurs twice")


def count_vocabulary(
    tokens: Sequence[str],
    rare_frequency: int = 0,
    maximum_size: int | None = None,
    *,
    always_unknown: bool = False,
) -> Vocabulary:
    """Chooses the words of a text: frequent ones have their own id, the others share `UNKNOWN`.

    The vocabulary holds `UNKNOWN` if any word was merged, or if the text has that word itself (as
    PTB and WikiText do); otherwise `unknown` is None. Its place follows its merged frequency.

    Args:
      tokens: The text, [N].
      rare_frequency: Words of frequency <= this are merged. The paper takes 3; 0 merges none.
      maximum_size: At most so many words, `UNKNOWN` included; the least frequent ones are merged.
      always_unknown: Whether to hold `UNKNOWN` in any case, for use on other texts.

    Returns:
      Words by falling frequency, ties in order of first appearance.

    Raises:
      InputError: `rare_frequency` is negative or `maximum_size` is less than two.
    """
    check_not_string(tokens, "tokens")
    if rare_frequency < 0:
        raise InputError(f"rare_frequency is {rare_frequency}, expected 0 or more")
    if maximum_size is not None and maximum_size < 2:
        raise InputError(f"maximum_size is {maximum_size}, expected 2 or more")
    number: dict[str, int] = {}
    types_N = np.fromiter((number.setdefault(token, len(number)) for token in tokens), np.int64)
    for word in number:
        _check_word(word)
    counts_V = np.bincount(types_N, minlength=len(number))
    merged_V = counts_V <= rare_frequency
    if UNKNOWN in number:
        merged_V[number[UNKNOWN]] = True
    kept = np.argsort(-counts_V, kind="stable")
    kept = kept[~merged_V[kept]]
    has_unknown = always_unknown or bool(merged_V.any())
    if maximum_size is not None and len(kept) + has_unknown > maximum_size:
        kept, has_unknown = kept[: maximum_size - 1], True
    words = list(number)
    ordered = [words[i] for i in kept]
    if not has_unknown:
        return Vocabulary(tuple(ordered))
    place = _place_of_unknown(kept, counts_V)
    ordered.insert(place, UNKNOWN)
    return Vocabulary(tuple(ordered), place)


def _place_of_unknown(kept: Integer[np.ndarray, "K"], counts_V: Integer[np.ndarray, "V"]) -> int:
    """Where `UNKNOWN` stands among the kept words: by frequency, then by first appearance."""
    merged_V = np.ones(len(counts_V), bool)
    merged_V[kept] = False
    frequency = counts_V[merged_V].sum()
    first = int(np.argmax(merged_V)) if merged_V.any() else len(counts_V)
    ahead = (counts_V[kept] > frequency) | ((counts_V[kept] == frequency) & (kept < first))
    return int(ahead.sum())
