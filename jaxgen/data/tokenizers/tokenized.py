"""Texts as tokens: ids, a mask, and which characters and words of a text a token stands for."""

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32

from jaxgen.errors import InputError

NO_SPAN = (-1, -1)
"""The span of a token that stands for no text: start, end, padding."""

_at_word = re.compile(r"\S").search
_words = re.compile(r"\S+").finditer


@dataclass(frozen=True, eq=False)
class Tokenized:
    """Texts as tokens, padded to one length L.

    Attributes:
      ids: The tokens, int32 [B, L].
      mask: False where a position is padding, bool [B, L]; start and end are no padding.
      spans: Characters [first, stop) of the text that a token stands for, int32 [B, L, 2];
        `NO_SPAN` for start, end and padding. White space before a word may be part of its token.
      texts: The texts that spans refer to: as they were given, after cleaning.
    """

    ids: Int32[np.ndarray, "B L"]
    mask: Bool[np.ndarray, "B L"]
    spans: Int32[np.ndarray, "B L 2"]
    texts: tuple[str, ...]

    def words(self, example: int) -> list[str]:
        """The words of a text: what white space separates, as Prompt-to-Prompt counts them."""
        return self.texts[example].split()

    @property
    def first_characters(self) -> Int32[np.ndarray, "B L"]:
        """The first character of the text that a token stands for and that is no white space.

        int32 [B, L]; -1 for start, end and padding. A token of white space alone (T5's "▁" before a
        word that has pieces) counts to the character after it.
        """
        found = np.full(self.ids.shape, -1, np.int32)
        for b, i in np.argwhere(self.spans[..., 0] >= 0):
            visible = _at_word(self.texts[b], self.spans[b, i, 0])
            found[b, i] = -1 if visible is None else visible.start()
        return found

    @property
    def word_indices(self) -> Int32[np.ndarray, "B L"]:
        """Which of `words` a token belongs to, int32 [B, L]; -1 for start, end and padding."""
        found = self.first_characters
        for b, text in enumerate(self.texts):
            starts = [word.start() for word in _words(text)]
            found[b] = np.where(found[b] < 0, -1, np.searchsorted(starts, found[b], "right") - 1)
        return found

    def positions(self, example: int, phrase: str) -> Int32[np.ndarray, "N"]:
        """Positions of the tokens of a word or phrase, int32 [N]; of each of its occurrences.

        Args:
          example: Row of the batch.
          phrase: In upper or lower case; it has to begin and end where words do ("cat" is found in
            "a cat, sleeping" and not in "cattle").

        Raises:
          InputError: There is no such row; the text does not hold it, or it is empty; or all its
            tokens were cut off.
        """
        if not 0 <= example < len(self.texts):
            raise InputError(f"example is {example}, expected 0 to {len(self.texts) - 1}")
        text = self.texts[example]
        pattern = rf"(?<!\w){re.escape(phrase)}(?!\w)"
        places = [found.span() for found in re.finditer(pattern, text, re.IGNORECASE)]
        if not phrase or not places:
            raise InputError(f"the text {text!r} does not hold the word {phrase!r}")
        first = self.first_characters[example]
        stop = np.maximum(self.spans[example, :, 1], first + 1)
        inside = [(first < last) & (stop > begin) for begin, last in places]
        hits = np.flatnonzero(np.any(inside, axis=0) & (first >= 0))
        if not hits.size:
            raise InputError(f"the tokens of {phrase!r} were cut off the text {text!r}")
        return hits.astype(np.int32)
