"""The Brown corpus (Francis and Kucera 1964) in the form that NLTK distributes."""

import re

from jaxgen.data.archives import Path, decode_text, last_name, read_members
from jaxgen.data.text.corpus import PARAGRAPH, TokenStream
from jaxgen.errors import InputError

is_brown_file = re.compile(r"c[a-r]\d\d").fullmatch


def read_brown(
    path: Path,
    *,
    paragraph_mark: str | None = PARAGRAPH,
    text_mark: str | None = None,
    tags: bool = False,
) -> TokenStream:
    """Reads the Brown corpus: the 500 texts in the order of their names, `ca01` to `cr09`.

    The complete corpus gives 1,161,192 words; 1,176,859 with one mark after each paragraph.
    Case and punctuation are kept. The paper counts text and paragraph separators as tokens, hence
    the default.

    Args:
      path: The zip archive or the unpacked folder; a part of the 500 files will do.
      paragraph_mark: Word put after each paragraph (texts separate them by blank lines), or None.
      text_mark: Word put after each text, or None.
      tags: Whether to keep the part-of-speech tags; a mark's tag is the mark.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: A damaged zip, no Brown files in it, one of them twice, or a word without a
        tag (names file and line).
    """
    members = read_members(path, is_brown_file, "Brown files (ca01, ...)")
    _check_names(path, list(members))
    words: list[str] = []
    labels: list[str] = []
    for name, content in members.items():
        source = f"{path}: {name}"
        _read_text(decode_text(content, source), source, paragraph_mark, words, labels)
        if text_mark is not None:
            words.append(text_mark)
            labels.append(text_mark)
    return TokenStream(str(path), words, labels if tags else None)


def _check_names(path: Path, names: list[str]) -> None:
    first: dict[str, str] = {}
    for name in names:
        if last_name(name) in first:
            raise InputError(f"{path}: the same text twice, {first[last_name(name)]} and {name}")
        first[last_name(name)] = name


def _read_text(
    text: str, source: str, paragraph_mark: str | None, words: list[str], labels: list[str]
) -> None:
    """Appends the words and tags of one file; a sentence a line, blank lines end a paragraph."""
    inside = False
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        tokens = line.split()
        for token in tokens:
            word, slash, tag = token.rpartition("/")
            if not (word and slash and tag):
                raise InputError(f"{source}, line {number}: {token!r}, expected word/tag")
            words.append(word)
            labels.append(tag)
        if inside and not tokens and paragraph_mark is not None:
            words.append(paragraph_mark)
            labels.append(paragraph_mark)
        inside = bool(tokens)
