"""The one module that imports tokenizers, sentencepiece and ftfy."""

import contextlib
from collections.abc import Iterator
from typing import Any

from jaxgen.errors import InputError


def import_tokenizers() -> Any:
    """The package tokenizers, which has byte-level BPE, unigrams and whole words.

    Raises:
      InputError: It is not installed.
    """
    with _needed_for("tokenizers of CLIP and files tokenizer.json"):
        import tokenizers
    return tokenizers


def import_sentencepiece() -> Any:
    """The package sentencepiece, which reads ``spiece.model``.

    Raises:
      InputError: It is not installed.
    """
    with _needed_for("files spiece.model"):
        import sentencepiece
    return sentencepiece


def import_ftfy() -> Any:
    """The package ftfy, which mends texts that were decoded with a wrong encoding.

    Raises:
      InputError: It is not installed.
    """
    with _needed_for("clean='openai'"):
        import ftfy
    return ftfy


@contextlib.contextmanager
def _needed_for(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InputError(f"{what} need the packages of the extra jaxgen[text] ({error})") from error
