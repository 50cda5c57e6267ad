"""One front door for corpora: a name or a path in, a `Corpus` out."""

import os
import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from jaxgen.data.archives import Path, is_container, list_members, plain_name
from jaxgen.data.text.brown import is_brown_file, read_brown
from jaxgen.data.text.builtin_text import read_builtin
from jaxgen.data.text.corpus import (
    BROWN_TRAIN,
    BROWN_VALIDATION,
    PARAGRAPH,
    Corpus,
    Spans,
    TokenStream,
    make_corpus,
    spans_by_fraction,
    spans_by_size,
)
from jaxgen.data.text.plain_text import read_plain_text
from jaxgen.data.text.tfds_text import read_tfds
from jaxgen.data.text.token_files import match_part, read_token_files
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

ACCEPTED = (
    "'builtin', 'tfds:NAME', a text file, or a folder or zip archive with the Brown corpus (ca01,"
    " ...), token files (train, valid and test .txt or .tokens) or mostly text files (.txt)"
)

Kind = Literal["builtin", "tfds", "brown", "token files", "plain text"]

RARE_FREQUENCY: dict[Kind, int] = {
    "builtin": 2,
    "tfds": 3,
    "brown": 3,
    "token files": 0,
    "plain text": 3,
}
"""The default cut-off: the paper's; none where words were merged before publication."""


def load_corpus(
    name: Path,
    *,
    split: tuple[int, int] | tuple[float, float] | None = None,
    rare_frequency: int | None = None,
    vocabulary_from: Literal["all", "train"] = "all",
    maximum_size: int | None = None,
    paragraph_mark: str | None = PARAGRAPH,
    normalise: Callable[[TokenStream], TokenStream] | None = None,
    data_dir: Path | None = None,
    encoding: str = "utf-8",
) -> Corpus:
    """Reads, splits and numbers a text, recognised by what it holds.

    Args:
      name: "builtin" (`jaxgen.data.text.builtin_text`), "tfds:NAME" (`jaxgen.data.text.tfds_text`),
        or a path: a text file; a folder or zip archive with the Brown corpus, with token files
        (Penn Treebank, WikiText) or with text files; or a folder whose only corpus is one such
        archive.
      split: Sizes of the training and validation parts in order, as words or as fractions; the rest
        is for test. By default the parts that the text was published in; 800,000 and 200,000 words
        for the Brown corpus (the paper's); fractions 0.8 and 0.1 for others.
      rare_frequency: Words of frequency <= this become one symbol. By default 3 (the paper's),
        2 for the built-in text, 0 for token files.
      vocabulary_from: "all" counts over the whole stream (the paper's), "train" over its part.
      maximum_size: The most words a vocabulary may have, or None.
      paragraph_mark: Word put after each paragraph, or None. Token files have their own mark.
      normalise: Applied to the stream before words are counted (`jaxgen.data.text.normalise`); tags
        are read for it where the text has them.
      data_dir: Where prepared tfds sets lie.
      encoding: Of plain text, a codec of Python's; all else is UTF-8.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Nothing that is accepted is there, or the reader, the split or the vocabulary
        refuses it; the message names the file and the fault.
    """
    kind, source = recognise(name)
    if kind != "plain text" and encoding.lower().replace("-", "").replace("_", "") != "utf8":
        raise InputError(f"{name}: encoding is {encoding}, expected utf-8 of a corpus of {kind}")
    stream = _read(kind, source, paragraph_mark, data_dir, encoding, tags=normalise is not None)
    stream = replace(stream, left_out=(*stream.left_out, *_beside(name, source)))
    if normalise is not None:
        stream = normalise(stream)
    return make_corpus(
        stream,
        _spans(kind, stream, split),
        rare_frequency=RARE_FREQUENCY[kind] if rare_frequency is None else rare_frequency,
        vocabulary_from=vocabulary_from,
        maximum_size=maximum_size,
    )


def recognise(name: Path) -> tuple[Kind, Path]:
    """What kind of text a name or path is, and the name or path to read.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: It is none of the kinds that are accepted, or cannot be read.
    """
    if name == "builtin":
        return "builtin", name
    if isinstance(name, str) and name.startswith("tfds:"):
        return "tfds", name.removeprefix("tfds:")
    if not os.path.lexists(name):
        raise FileNotFoundError(f"{name}: no such file or folder; a corpus is {ACCEPTED}")
    if not is_container(name):
        return "plain text", name
    members = list_members(name).names
    kind = _kind_of_members([plain_name(member) for member in members])
    if kind is not None:
        return kind, name
    archives = [member for member in members if has_suffix(member, ".zip")]
    if len(archives) == 1 and pathlib.Path(name).is_dir():
        return recognise(pathlib.Path(name) / archives[0])
    found = ", ".join(members[:3]) + (", ..." if len(members) > 3 else "")
    raise InputError(
        f"{name}: no corpus in it (found: {found or 'nothing'}); a corpus is {ACCEPTED}"
    )


def _beside(name: Path, source: Path) -> list[str]:
    """The other files of a folder of which one archive is read."""
    if source == name or not os.path.isdir(name):
        return []
    members = list_members(name)
    archive = pathlib.Path(source).relative_to(name).as_posix()
    return [member for member in (*members.names, *members.hidden) if member != archive]


def _kind_of_members(names: list[str]) -> Kind | None:
    if any(is_brown_file(name) for name in names):
        return "brown"
    if any(match_part(name) for name in names):
        return "token files"
    if 2 * sum(has_suffix(name, ".txt") for name in names) > len(names):
        return "plain text"
    return None


def _read(
    kind: Kind,
    source: Path,
    paragraph_mark: str | None,
    data_dir: Path | None,
    encoding: str,
    *,
    tags: bool,
) -> TokenStream:
    if kind == "builtin":
        return read_builtin(paragraph_mark)
    if kind == "tfds":
        return read_tfds(str(source), record_mark=paragraph_mark, data_dir=data_dir)
    if kind == "brown":
        return read_brown(source, paragraph_mark=paragraph_mark, tags=tags)
    if kind == "token files":
        return read_token_files(source)
    return read_plain_text(source, paragraph_mark=paragraph_mark, encoding=encoding)


def _spans(
    kind: Kind, stream: TokenStream, split: tuple[int, int] | tuple[float, float] | None
) -> Spans:
    total = len(stream)
    if split is None and stream.spans is not None:
        return stream.spans
    if split is None:
        split = (BROWN_TRAIN, BROWN_VALIDATION) if kind == "brown" else (0.8, 0.1)
    train, validation = split
    if isinstance(train, int) and isinstance(validation, int):
        return spans_by_size(total, train, validation, stream.name)
    return spans_by_fraction(total, train, validation, stream.name)
