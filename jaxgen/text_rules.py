r"""What all formats of text have in common, whichever module reads or writes them.

Plain text, token files, the Brown corpus, vocabularies, ARPA files and word vectors keep these:

* **Encoding** is UTF-8. A byte-order mark at the beginning of a file is dropped; anywhere else it
  is part of a word. A file that begins with the mark of UTF-16 or UTF-32 is refused by that name
  (the reader of plain text decodes it where ``encoding`` says so).
* **Compression**: what begins as gzip does is decompressed, whatever its name. Under a name that
  ends in ``.gz``, ARPA files and word vectors are written compressed.
* **Lines** end with ``\n``, ``\r\n`` or ``\r``, and with nothing else: U+2028 and U+0085 are signs
  like any other.
* **White space** that separates tokens is ASCII's: space, tab, line ends, vertical tab and form
  feed. U+00A0, U+3000 and the like are part of a word. (Plain text has no tokens yet: its
  tokeniser separates at everything that Unicode calls white space.) In a vocabulary a word is a
  whole line.
* **Composition** is left as it is: an e with a combining accent and the composed letter are two
  words. Normalise texts beforehand (`unicodedata.normalize`) where they mix both.
* **Names** of files, and their suffixes, are recognised in upper and lower case: ``A.TXT``,
  ``b.GZ``.

What a writer accepts, the reader of the same format gives back.
"""

import re
from collections.abc import Iterator
from typing import Any, AnyStr, BinaryIO

from jaxgen.errors import InputError

MARK = "\ufeff"
"""The byte-order mark as a character."""

SENTENCE_START, SENTENCE_END = "<s>", "</s>"
"""The words before and after a sentence, as all programs for n-grams spell them."""

_OTHER_MARKS = {  # UTF-32 first: its little-endian mark begins as that of UTF-16
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_find_words = re.compile(r"[^ \t\n\r\v\f]+").findall


def without_mark(content: bytes, source: str) -> bytes:
    """The beginning of a file of UTF-8 (or all of it) without its byte-order mark.

    Args:
      content: The bytes.
      source: The file's name, for the error message.

    Raises:
      InputError: The mark is that of UTF-16 or UTF-32.
    """
    for mark, name in _OTHER_MARKS.items():
        if content.startswith(mark):
            raise InputError(
                f"{source}: begins with the byte-order mark of {name}, expected UTF-8 text"
            )
    return content.removeprefix(MARK.encode())


def unify_line_ends(text: AnyStr) -> AnyStr:
    """Text in which every line ends with a line feed."""
    if isinstance(text, str):
        return text.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def line_chunks(handle: BinaryIO, source: str, size: int) -> Iterator[list[bytes]]:
    """The lines of a file without their ends, many at a time; the mark at its beginning is dropped.

    Args:
      handle: The file, open for reading bytes.
      source: Its name, for the error message.
      size: Bytes that are read at a time.

    Raises:
      InputError: The file begins with the mark of UTF-16 or UTF-32.
    """
    rest, is_first = b"", True
    size = max(size, max(map(len, _OTHER_MARKS)))  # the first block has the whole mark
    while block := handle.read(size):
        # A carriage return at the end of a block may be the first half of a line's end.
        while block.endswith(b"\r") and (following := handle.read(1)):
            block += following
        block = rest + block
        if is_first:
            block, is_first = without_mark(block, source), False
        *lines, rest = unify_line_ends(block).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


class RepeatedName(ValueError):
    """A JSON object has a name twice, which JSON's reader would pass over."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} occurs twice")
        self.name = name


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for ``object_pairs_hook``.

    Raises:
      RepeatedName: For a name that it has twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RepeatedName(name)
        found[name] = value
    return found


def split_words(text: str) -> list[str]:
    """The words of a text of tokens: what ASCII white space separates."""
    return _find_words(text)


def is_word(word: str) -> bool:
    """Whether a string is one word of a format of tokens: not empty, without ASCII white space."""
    return _find_words(word) == [word]


def keep_mark(text: str) -> str:
    """The content of a file that is to give this text: a mark of its own stands after another."""
    return MARK + text if text.startswith(MARK) else text


def encode_text(text: str, source: str) -> bytes:
    """Text as UTF-8.

    Args:
      text: What to write.
      source: The file's name, for the error message.

    Raises:
      InputError: It has half of a surrogate pair, which is no character.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        part = text[max(error.start - 20, 0) : error.end]
        raise InputError(f"{source}: {part!r} has half of a surrogate pair") from error


def has_suffix(name: str, *suffixes: str) -> bool:
    """Whether a name ends so (``".txt"``), in upper or lower case."""
    return name.lower().endswith(suffixes)
