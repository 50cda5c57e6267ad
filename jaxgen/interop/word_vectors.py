"""Word vectors in the text forms of word2vec and GloVe.

A line is a word and the numbers of its vector, separated by white space. word2vec begins with a
line "V D", GloVe does not. Numbers are written with nine significant digits, enough to read every
float32 back exactly. Files that begin as gzip does are decompressed; a name that ends in ``.gz`` is
written compressed.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import Float, Float32

from jaxgen.errors import InputError
from jaxgen.interop.compressed import Path, reading, writing

_CHUNK_BYTES = 1 << 24  # lines are parsed together, so many bytes at a time

_is_number = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?").fullmatch

Lines = list[bytes]


def write_word_vectors(
    path: Path,
    words: Sequence[str],
    vectors_VD: Float[np.ndarray, "V D"],
    form: Literal["word2vec", "glove"] = "word2vec",
) -> None:
    """Writes words and their vectors as text, UTF-8.

    Args:
      path: The file; compressed if its name ends in ``.gz``.
      words: V words.
      vectors_VD: Their vectors, [V, D]; stored as float32.
      form: "word2vec" begins with the line "V D"; "glove" does not.

    Raises:
      InputError: The shapes do not agree, a word is empty, holds white space or occurs twice, or a
        number is not finite: such a file could not be read back.
    """
    vectors_VD = np.asarray(vectors_VD, np.float32)
    if vectors_VD.ndim != 2 or len(words) != len(vectors_VD) or 0 in vectors_VD.shape:
        raise InputError(
            f"{path}: {len(words)} words for vectors of shape {vectors_VD.shape},"
            " expected [V, D], a row a word"
        )
    if form not in ("word2vec", "glove"):
        raise InputError(f"{path}: form {form!r}, expected 'word2vec' or 'glove'")
    _check_words(path, words)
    if not np.isfinite(vectors_VD).all():
        row = int(np.argmin(np.isfinite(vectors_VD).all(axis=1)))
        raise InputError(f"{path}: the vector of {words[row]!r} (row {row}) is not finite")
    header = f"{len(words)} {vectors_VD.shape[1]}\n" if form == "word2vec" else ""
    with writing(path) as handle:
        _write_lines(handle, header, words, vectors_VD)


def _write_lines(
    handle: BinaryIO, header: str, words: Sequence[str], vectors_VD: Float32[np.ndarray, "V D"]
) -> None:
    handle.write(header.encode())
    line = "%s" + " %.9g" * vectors_VD.shape[1] + "\n"
    for word, vector in zip(words, vectors_VD, strict=True):
        handle.write((line % (word, *vector.tolist())).encode())


def _check_words(path: Path, words: Sequence[str]) -> None:
    seen: set[str] = set()
    for i, word in enumerate(words):
        if word.split() != [word]:
            raise InputError(f"{path}: word {i}, {word!r}, is empty or holds white space")
        if word in seen:
            raise InputError(f"{path}: word {i}, {word!r}, occurs twice")
        seen.add(word)


def read_word_vectors(
    path: Path, header: bool | None = None
) -> tuple[tuple[str, ...], Float32[np.ndarray, "V D"]]:
    """Reads a word2vec or GloVe text file.

    A GloVe word may hold spaces, as some in published files do: the last D fields of a line are
    numbers, and what stands before them is the word if it does not end in a number too.

    Args:
      path: The file, plain or gzip.
      header: Whether the first line is "V D". None: it is if it consists of two whole numbers,
        which is wrong only for one-dimensional GloVe vectors of whole numbers.

    Returns:
      (words, vectors): V distinct words and float32 [V, D], both in the order of the file.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: Names the file and the line: a wrong count of numbers, something that is not a
        finite number, a word that occurs twice or is not UTF-8, an empty line, another number of
        words than the header says; or the file is empty, or a damaged gzip file.
    """
    chunks = _chunks(path)
    first_chunk = next(chunks)
    size = _parse_header(path, first_chunk[0], header)
    first_line = 2 if size else 1
    width = size[1] if size else len(first_chunk[0].split()) - 1
    if width < 1:
        raise InputError(f"{path}, line 1: no numbers after the word")
    words: list[str] = []
    blocks: list[np.ndarray] = []
    for lines in itertools.chain([first_chunk[first_line - 1 :]], chunks):
        block_words, block_ND = _parse_lines(path, lines, first_line + len(words), width)
        words += block_words
        blocks.append(block_ND)
    _check_count(path, words, size)
    _check_distinct(path, words, first_line)
    return tuple(words), np.concatenate(blocks)


def _chunks(path: Path) -> Iterator[Lines]:
    """Whole lines of a file, many at a time.

    Raises:
      FileNotFoundError, InputError: As `reading`; and the file is empty.
    """
    with reading(path) as handle:
        lines = handle.readlines(_CHUNK_BYTES)
        if not lines:
            raise InputError(f"{path}: the file is empty")
        while lines:
            yield lines
            lines = handle.readlines(_CHUNK_BYTES)


def _parse_header(path: Path, line: bytes, header: bool | None) -> tuple[int, int] | None:
    """(V, D) if the first line says so, None if it is a word's line."""
    fields = line.split()
    is_header = len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit()
    if header is False or (header is None and not is_header):
        return None
    if not is_header or 0 in (size := (int(fields[0]), int(fields[1]))):
        raise InputError(
            f"{path}, line 1: {_show(line)}, expected a header: words, then dimensions"
        )
    return size


def _parse_lines(
    path: Path, lines: Lines, first: int, width: int
) -> tuple[list[str], Float32[np.ndarray, "N D"]]:
    """Words and vectors of some lines, the first of which has the number `first` in the file."""
    pairs = [line.split(None, 1) for line in lines]
    block_ND = None
    if all(len(pair) == 2 for pair in pairs):
        block_ND = _parse_numbers([pair[1] for pair in pairs], width)
    if block_ND is None:  # a fault, or a word with spaces
        pairs = [_split_line(path, first + i, line, width) for i, line in enumerate(lines)]
        block_ND = _parse_numbers([pair[1] for pair in pairs], width)
        assert block_ND is not None
    finite_N = np.isfinite(block_ND).all(axis=1)
    if not finite_N.all():
        raise InputError(f"{path}, line {first + int(np.argmin(finite_N))}: a number is not finite")
    return [_decode(path, first + i, pair[0]) for i, pair in enumerate(pairs)], block_ND


def _parse_numbers(rows: Lines, width: int) -> Float32[np.ndarray, "N D"] | None:
    """The numbers of rows, or None where they are not `width` numbers a row."""
    if not rows:
        return np.zeros((0, width), np.float32)
    try:
        text = [row.decode("latin-1") for row in rows]
        block = np.loadtxt(text, dtype=np.float32, comments=None, ndmin=2)
    except ValueError:
        return None
    return block if block.shape == (len(rows), width) else None


def _split_line(path: Path, number: int, line: bytes, width: int) -> list[bytes]:
    """[word, numbers] of a line, checked field by field."""
    fields = line.split()
    if not fields:
        raise InputError(f"{path}, line {number}: an empty line")
    word, vector = fields[: max(len(fields) - width, 1)], fields[max(len(fields) - width, 1) :]
    if len(vector) < width or (len(word) > 1 and _is_number(word[-1])):
        raise InputError(
            f"{path}, line {number}: {len(fields) - 1} numbers after the word, expected {width}"
        )
    for field in vector:
        if not _is_number(field):
            raise InputError(f"{path}, line {number}: {_show(field)} is not a finite number")
    return [b" ".join(word), b" ".join(vector)]


def _decode(path: Path, number: int, word: bytes) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number}: the word {word!r} is not UTF-8") from error


def _show(content: bytes) -> str:
    """Bytes for an error message, short and on one line."""
    return repr(content[:40].decode("utf-8", "replace").strip())


def _check_count(path: Path, words: list[str], expected: tuple[int, int] | None) -> None:
    if expected and len(words) != expected[0]:
        raise InputError(
            f"{path}: the header promises {expected[0]} words, the file has {len(words)}"
        )


def _check_distinct(path: Path, words: list[str], first_line: int) -> None:
    lines: dict[str, int] = {}
    for number, word in enumerate(words, start=first_line):
        if word in lines:
            raise InputError(
                f"{path}, line {number}: the word {word!r} was on line {lines[word]} already"
            )
        lines[word] = number
