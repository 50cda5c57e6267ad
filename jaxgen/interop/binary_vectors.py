"""The binary form of word2vec: a text header, then each word and its vector as raw float32.

::

    3000000 300\\n        words and dimensions
    word                  bytes up to a space
    300 x 4 bytes         float32, little-endian; word2vec's own program writes \\n after it

A word has no space and does not begin with a line feed.
"""

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32

from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.interop.compressed import reading, writing
from jaxgen.text_rules import encode_text, has_suffix

_READ_TOGETHER = 1 << 20  # bytes
_LOOKED_AT = 1 << 16  # bytes that tell whether a file is text
_NEVER_IN_TEXT = bytes(range(9))


def is_binary(path: Path) -> bool:
    """Whether a file begins with a header and then has bytes under 9, as text never has.

    A file with a header whose name ends in ``.bin`` is binary too: a few vectors may lack them.

    Raises:
      FileNotFoundError, InputError: as `reading`.
    """
    with reading(path) as handle:
        header, _, rest = handle.read(_LOOKED_AT).partition(b"\n")
    fields = header.split()
    is_header = len(fields) == 2 and all(field.isdigit() for field in fields)
    return is_header and (
        has_suffix(str(path), ".bin", ".bin.gz")
        or len(rest.translate(None, _NEVER_IN_TEXT)) < len(rest)
    )


def read_binary(
    path: Path, limit: int | None = None
) -> tuple[list[bytes], Float32[np.ndarray, "V D"]]:
    """The words, as bytes, and the vectors of a file.

    Args:
      path: the file, plain or gzip.
      limit: reads no more than so many words.

    Raises:
      FileNotFoundError: there is no such file.
      InputError: no header, a file that ends early or does not end where the header says, an empty
        word, or a number that is not finite; names the file and the word.
    """
    words: list[bytes] = []
    vectors = bytearray()
    with reading(path) as handle:
        count, width = _read_sizes(path, handle)
        rest, wanted = b"", count if limit is None else min(limit, count)
        while len(words) < wanted:
            block = handle.read(max(_READ_TOGETHER, 8 * width))
            if not block:
                raise InputError(
                    f"{path}: ends after {len(words)} words, expected {count} as the header says"
                )
            rest = _take(path, rest + block, width, wanted, words, vectors)
        if wanted == count and (rest + handle.read(1)).strip():
            raise InputError(f"{path}: has more than the {count} words that the header says")
    vectors_VD = np.frombuffer(vectors, "<f4").reshape(len(words), width)
    finite_V = np.isfinite(vectors_VD).all(axis=1)
    if not finite_V.all():
        raise InputError(f"{path}, word {int(np.argmin(finite_V)) + 1}: a number is not finite")
    return words, vectors_VD.astype(np.float32, copy=False)


def _read_sizes(path: Path, handle: BinaryIO) -> tuple[int, int]:
    line = handle.readline(100)
    fields = line.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields) and line.endswith(b"\n"):
        count, width = map(int, fields)
        if count and width:
            return count, width
    raise InputError(f"{path}, line 1: {line!r}, expected a header: words, then dimensions")


def _take(
    path: Path, data: bytes, width: int, wanted: int, words: list[bytes], vectors: bytearray
) -> bytes:
    """Adds the whole words and vectors at the beginning of some bytes; what is left of them."""
    place = 0
    while len(words) < wanted:
        space = data.find(b" ", place)
        if space < 0 or space + 1 + 4 * width > len(data):
            break
        word = data[place:space].lstrip(b"\n")
        if not word:
            raise InputError(f"{path}, word {len(words) + 1}: an empty word")
        words.append(word)
        place = space + 1 + 4 * width
        vectors += data[space + 1 : place]
    return data[place:]


def write_binary(path: Path, words: Sequence[str], vectors_VD: Float32[np.ndarray, "V D"]) -> None:
    """Writes words, which have no white space, and their vectors as word2vec's program does."""
    with writing(path) as handle:
        handle.write(f"{len(words)} {vectors_VD.shape[1]}\n".encode())
        for word, vector in zip(words, vectors_VD.astype("<f4"), strict=True):
            handle.write(encode_text(word, str(path)) + b" " + vector.tobytes() + b"\n")
