"""What a vocabulary does with a text: pieces with the characters that they stand for."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Pieces(NamedTuple):
    """A text in pieces, without start, end and padding.

    Attributes:
      ids: Ids of the pieces.
      spans: Characters [first, stop) of the text that each stands for.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


class Vocabularies(Protocol):
    """Splits texts into pieces and joins pieces: `JsonVocabulary` or `SentencePieceVocabulary`."""

    @property
    def size(self) -> int:
        """One more than the largest id."""
        ...

    def split(self, texts: Sequence[str], special: bool) -> list[Pieces]:
        """Splits texts.

        Args:
          texts: Strings without halves of surrogate pairs.
          special: Whether the spelling of a special token ("</s>") is that token, or text.
        """
        ...

    def join(self, ids: Sequence[int]) -> str:
        """The text of ids in [0, `size`)."""
        ...
