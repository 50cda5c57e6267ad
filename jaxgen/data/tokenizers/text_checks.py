"""Checks of texts before they are tokens, and of vocabularies against tables of embeddings."""

import reprlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxgen.data.tokenizers.tokenized import Tokenized
from jaxgen.errors import InputError
from jaxgen.ids import check_not_string
from jaxgen.text_rules import encode_text

PADDED_ROWS = (8, 64, 128)
"""Tables of embeddings may have their rows rounded up to a multiple of one of these."""


class Sized(Protocol):
    """What has as many ids: a tokenizer, or its vocabulary."""

    @property
    def size(self) -> int:
        """One more than the largest id."""
        ...


def check_texts(texts: Sequence[str]) -> None:
    """Refuses anything but a list of texts.

    Raises:
      InputError: It is one string, whose letters would be taken for texts; or one of them is no
        string, or has half of a surrogate pair.
    """
    check_not_string(texts, "texts", f"a list of texts, such as [{reprlib.repr(texts)}]")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {i} is {reprlib.repr(text)}, expected a string")
        encode_text(text, f"text {i}")


def check_not_empty(tokenized: Tokenized, name: str = "captions") -> None:
    """Refuses texts without a token, which would train a model as if they had been dropped out.

    Also those that cleaning or the vocabulary's normalisation leaves nothing of count.

    Raises:
      InputError: Says how many, which is the first and how it reads.
    """
    empty = np.flatnonzero((tokenized.spans[..., 0] < 0).all(axis=1))
    if empty.size:
        raise InputError(
            f"{empty.size} of {len(tokenized.texts)} {name} are empty, the first is number "
            f"{empty[0]}, {tokenized.texts[empty[0]]!r}"
        )


def check_vocabulary(vocabulary: Sized, rows: int, name: str = "the table of embeddings") -> None:
    """Refuses a vocabulary and a table of embeddings that do not belong together.

    A table may have its rows rounded up to a multiple of 8, 64 or 128: T5's 32,100 ids have 32,128.

    Args:
      vocabulary: A tokenizer, or its vocabulary.
      rows: Rows of the table.
      name: What errors call it.

    Raises:
      InputError: The table has other rows; the message says both numbers.
    """
    size = vocabulary.size
    if rows not in {size, *(-(-size // multiple) * multiple for multiple in PADDED_ROWS)}:
        raise InputError(
            f"the vocabulary has {size} ids and {name} has {rows} rows, expected {size} or that "
            f"rounded up to a multiple of {', '.join(map(str, PADDED_ROWS))}"
        )
