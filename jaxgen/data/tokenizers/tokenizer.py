"""The contract of tokenizers: texts to padded ids, mask and spans, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int32, Integer

from jaxgen.data.tokenizers.clean_text import clean_openai
from jaxgen.data.tokenizers.pieces import Pieces, Vocabularies
from jaxgen.data.tokenizers.text_checks import check_texts
from jaxgen.data.tokenizers.token_windows import lay_windows
from jaxgen.data.tokenizers.tokenized import Tokenized
from jaxgen.errors import InputError
from jaxgen.ids import as_ids

Cleaning = Literal["plain", "openai"]


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary with what a model wants around a text; `open_tokenizer` makes one.

    `dataclasses.replace` changes what a model wants otherwise: ``pad=0``, ``length=256``.

    Attributes:
      vocabulary: Splits texts into pieces.
      pad: Id of padding. Stable Diffusion's networks see it, so it matters.
      start: Id of the token before a text; None for none, as in T5.
      end: Id of the token after a text; None for none.
      length: Tokens of a text, start and end among them (77 for CLIP); None pads to the longest
        text of a batch.
      clean: "plain", which leaves texts to the vocabulary's own normalisation, or "openai"
        (`clean_openai`).
    """

    vocabulary: Vocabularies
    pad: int
    start: int | None = None
    end: int | None = None
    length: int | None = None
    clean: Cleaning = "plain"

    def __post_init__(self):
        if self.clean not in get_args(Cleaning):
            raise InputError(f"clean is {self.clean!r}, expected one of {get_args(Cleaning)}")
        for name, found in (("pad", self.pad), ("start", self.start), ("end", self.end)):
            if found is not None and not 0 <= found < self.size:
                raise InputError(f"{name} is {found}, expected an id in [0, {self.size})")
        self._check_length(self.length)

    @property
    def size(self) -> int:
        """Ids that can occur, V: the least number of rows of a table of embeddings."""
        return self.vocabulary.size

    @property
    def marks(self) -> int:
        """Start and end tokens around a text: 0, 1 or 2."""
        return (self.start is not None) + (self.end is not None)

    def encode(
        self,
        texts: Sequence[str],
        *,
        length: int | None = None,
        windows: int = 1,
        truncate: bool = False,
        special: bool = False,
    ) -> Tokenized:
        """Texts as tokens.

        Args:
          texts: B strings. An empty one is start and end alone, the null text of guidance.
          length: Tokens of a text instead of the tokenizer's own.
          windows: Windows of `length` tokens laid side by side, each with a start and an end of its
            own, for texts that are longer: ids are [B, windows * length] (77, 154, 231, ...).
            Where a text ends early, the windows after it are empty texts.
          truncate: Whether what a text has too much is cut off, rather than an error.
          special: Whether the spelling of a special token in a text ("<|endoftext|>") is that
            token, rather than text.

        Raises:
          InputError: They are one string, or not strings; a text is too long (the message shows
            what would be lost); or the length leaves no room for a token.

        Example:
          >>> from jaxgen.data.tokenizers import train_tokenizer
          >>> tokenizer = train_tokenizer(["a red cube", "a blue ball"], 20, "words", length=6)
          >>> found = tokenizer.encode(["a red ball", "cube"])
          >>> found.ids.tolist()
          [[2, 4, 8, 5, 3, 0], [2, 7, 3, 0, 0, 0]]
          >>> tokenizer.decode(found.ids)
          ['a red ball', 'cube']
        """
        self._check_length(length)
        cleaned, pieces = self._split(texts, special)
        if (length := length or self.length) is None:
            if windows != 1:
                raise InputError(f"windows is {windows}, expected a length of each of them")
            longest = max((len(found.ids) for found in pieces), default=0)
            length = max(longest + self.marks, 1)
        around = (self.start, self.end, self.pad)
        return lay_windows(pieces, cleaned, around, length, windows, truncate)

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Ids and mask of texts alone, as what reads captions takes them (`encode`)."""
        found = self.encode(texts)
        return found.ids, found.mask

    def count_windows(self, texts: Sequence[str]) -> int:
        """Windows of the tokenizer's length that the longest of some texts needs; at least 1.

        Raises:
          InputError: The tokenizer has no length; or texts as `encode` refuses them.
        """
        if self.length is None:
            raise InputError("the tokenizer has no length, expected one to count windows of")
        longest = max((len(found.ids) for found in self._split(texts, special=False)[1]), default=0)
        return max(-(-longest // (self.length - self.marks)), 1)

    def decode(self, ids: Integer[np.ndarray, "B L"] | Sequence[Sequence[int]]) -> list[str]:
        """Texts of ids [B, L], without start, end and padding.

        What follows an end is left out until the next start (or, without start tokens, until a
        token that is no padding), so windows come out as one text.

        Raises:
          InputError: They are no integers in two dimensions, or one is outside the vocabulary.
        """
        ids_BL = as_ids(ids, "ids", 0, self.size)
        if ids_BL.ndim != 2:
            raise InputError(f"ids have shape {ids_BL.shape}, expected [B, L]")
        return [self.vocabulary.join(self._inner(row)) for row in ids_BL.tolist()]

    def _split(self, texts: Sequence[str], special: bool) -> tuple[list[str], list[Pieces]]:
        """Texts after cleaning, and their pieces."""
        check_texts(texts)
        cleaned = [clean_openai(text) if self.clean == "openai" else text for text in texts]
        return cleaned, self.vocabulary.split(cleaned, special)

    def _inner(self, row: list[int]) -> list[int]:
        """What stands between starts and ends."""
        inner: list[int] = []
        ended = False
        stop = len(row)
        while stop and row[stop - 1] == self.pad != self.end:
            stop -= 1
        for token in row[:stop]:
            if token == self.start:
                ended = False
            elif token == self.end:
                ended = True
            elif not ended or (self.start is None and token != self.pad):
                ended = False
                inner.append(token)
        return inner

    def _check_length(self, length: int | None) -> None:
        whole = isinstance(length, int | np.integer)
        if length is not None and not (whole and length > self.marks):
            raise InputError(
                f"length is {length}, expected an integer above the {self.marks} tokens around a "
                "text"
            )
