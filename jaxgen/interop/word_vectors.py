"""Word vectors in the forms of word2vec, text and binary, and of GloVe.

A line is a word and the numbers of its vector, separated by white space. word2vec begins with a
line "V D", GloVe does not. Numbers are written with nine significant digits, enough to read every
float32 back exactly. Encoding, lines, white space and compression are those of
`jaxgen.text_rules`. The binary form is that of `jaxgen.interop.binary_vectors`; a file is taken for
it that begins with a header and has bytes soon after that no text has.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.ids import check_not_string
from jaxgen.interop.binary_vectors import is_binary, read_binary, write_binary
from jaxgen.interop.compressed import reading, writing
from jaxgen.text_rules import encode_text, is_word, keep_mark, line_chunks, split_words

_CHUNK_BYTES = 1 << 24  # lines are parsed together, so many bytes at a time

_is_number = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?").fullmatch

Lines = list[bytes]


def write_word_vectors(
    path: Path,
    words: Sequence[str],
    vectors_VD: Float[np.ndarray, "V D"],
    form: Literal["word2vec", "glove", "word2vec-binary"] = "word2vec",
) -> None:
    """Writes words and their vectors; words in UTF-8.

    Args:
      path: The file; compressed if its name ends in ``.gz``.
      words: V words. In the form "glove" all but the first may have single spaces inside, as some
        in published files do, if what follows the last space is no number.
      vectors_VD: Their vectors, [V, D]; stored as float32.
      form: "word2vec" is text that begins with the line "V D"; "glove" does not; "word2vec-binary"
        begins with it and has float32 in the place of digits.

    Raises:
      InputError: The shapes do not agree, a word is empty, holds white space or occurs twice, a
        number is not finite, or the first line would be taken for a header: such a file could not
        be read back.
    """
    check_not_string(words, f"{path}: words")
    vectors_VD = np.asarray(vectors_VD, np.float32)
    if vectors_VD.ndim != 2 or len(words) != len(vectors_VD) or 0 in vectors_VD.shape:
        raise InputError(
            f"{path}: {len(words)} words for vectors of shape {vectors_VD.shape},"
            " expected [V, D], a row a word"
        )
    if form not in (forms := ("word2vec", "glove", "word2vec-binary")):
        raise InputError(
            f"{path}: form {form!r}, expected {forms[0]!r}, {forms[1]!r}, {forms[2]!r}"
        )
    _check_words(path, words, form)
    if not np.isfinite(vectors_VD).all():
        row = int(np.argmin(np.isfinite(vectors_VD).all(axis=1)))
        raise InputError(f"{path}: the vector of {words[row]!r} (row {row}) is not finite")
    if form == "word2vec-binary":
        write_binary(path, words, vectors_VD)
        return
    header = f"{len(words)} {vectors_VD.shape[1]}\n" if form == "word2vec" else ""
    lines = _lines(words, vectors_VD)
    first = keep_mark(header + next(lines))
    if not header and _is_header(first.encode("utf-8", "replace").split()):
        raise InputError(f"{path}: line 1 would be {first!r}, a header; give form='word2vec'")
    with writing(path) as handle:
        handle.write(encode_text(first, str(path)))
        for line in lines:
            handle.write(encode_text(line, str(path)))


def _lines(words: Sequence[str], vectors_VD: Float32[np.ndarray, "V D"]) -> Iterator[str]:
    line = "%s" + " %.9g" * vectors_VD.shape[1] + "\n"
    for word, vector in zip(words, vectors_VD, strict=True):
        yield line % (word, *vector.tolist())


def _check_words(path: Path, words: Sequence[str], form: str) -> None:
    seen: set[str] = set()
    for i, word in enumerate(words):
        if not is_word(word) and not (form == "glove" and i and _is_phrase(word)):
            raise InputError(f"{path}: word {i}, {word!r}, is empty or holds white space")
        if word in seen:
            raise InputError(f"{path}: word {i}, {word!r}, occurs twice")
        seen.add(word)


def _is_phrase(word: str) -> bool:
    """Whether a word with spaces inside is read back where a line has no other numbers."""
    parts = split_words(word)
    return " ".join(parts) == word and bool(parts) and not _is_number(parts[-1].encode())


def read_word_vectors(
    path: Path,
    header: bool | None = None,
    *,
    binary: bool | None = None,
    limit: int | None = None,
    repeated: Literal["error", "first"] = "error",
    invalid: Literal["error", "replace", "skip"] = "error",
) -> tuple[tuple[str, ...], Float32[np.ndarray, "V D"]]:
    """Reads a word2vec file, text or binary, or a GloVe file.

    A GloVe word may hold spaces, as some in published files do: the last D fields of a line are
    numbers, and what stands before them is the word if it does not end in a number too.

    Args:
      path: The file, plain or gzip.
      header: Whether the first line is "V D". None: it is if it consists of two whole numbers,
        which is wrong only for one-dimensional GloVe vectors of whole numbers.
      binary: Whether it is word2vec's binary form. None: found out from its bytes.
      limit: Reads no more than so many words, the first of the file (as a rule the most frequent).
      repeated: What a word is that occurs twice: an error, or left out but for its "first" place.
      invalid: What a word is whose bytes are not UTF-8: an error, a word in which U+FFFD stands for
        them ("replace"), or left out ("skip").

    Returns:
      (words, vectors): V distinct words and float32 [V, D], both in the order of the file.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: Names the file and the line: a wrong count of numbers, something that is not a
        finite number, a word that occurs twice, is empty or not UTF-8, an empty line, another
        number of words than the header says; or the file is empty, binary, or a damaged gzip file;
        or an option is none of the above.
    """
    _check_options(limit, repeated, invalid)
    if binary or (binary is None and header is not False and is_binary(path)):
        first_row, names, vectors_ND = 1, *read_binary(path, limit)
        place = "word"
    else:
        first_row, names, vectors_ND = _read_text(path, header, limit)
        place = "line"
    words, rows = _distinct_words(f"{path}, {place}", names, first_row, repeated, invalid)
    return words, vectors_ND if len(rows) == len(names) else vectors_ND[rows]


def _check_options(limit: int | None, repeated: str, invalid: str) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, expected 1 or more words")
    if repeated not in ("error", "first"):
        raise InputError(f"repeated is {repeated!r}, expected 'error' or 'first'")
    if invalid not in ("error", "replace", "skip"):
        raise InputError(f"invalid is {invalid!r}, expected 'error', 'replace' or 'skip'")


def _read_text(
    path: Path, header: bool | None, limit: int | None
) -> tuple[int, Lines, Float32[np.ndarray, "N D"]]:
    """The number of the first word's line, the words as bytes, and the vectors."""
    chunks = _chunks(path)
    first_chunk = next(chunks)
    size = _parse_header(path, first_chunk[0], header)
    first_line = 2 if size else 1
    width = size[1] if size else len(first_chunk[0].split()) - 1
    if width < 1:
        raise InputError(f"{path}, line 1: no numbers after the word")
    words: Lines = []
    blocks: list[np.ndarray] = []
    for lines in itertools.chain([first_chunk[first_line - 1 :]], chunks):
        if limit is not None:
            lines = lines[: limit - len(words)]
        block_words, block_ND = _parse_lines(path, lines, first_line + len(words), width)
        words += block_words
        blocks.append(block_ND)
        if len(words) == limit:
            break
    if len(words) != limit:
        _check_count(path, words, size)
    return first_line, words, np.concatenate(blocks)


def _distinct_words(
    place: str, names: Lines, first_row: int, repeated: str, invalid: str
) -> tuple[tuple[str, ...], list[int]]:
    """The words that are kept, and their places in the file."""
    row_of: dict[str, int] = {}
    for row, name in enumerate(names):
        try:
            word = name.decode("utf-8", "strict" if invalid != "replace" else "replace")
        except UnicodeDecodeError as error:
            if invalid == "skip":
                continue
            raise InputError(
                f"{place} {first_row + row}: the word {name!r} is not UTF-8"
            ) from error
        if row_of.setdefault(word, row) != row and repeated == "error":
            where = f"{place.rpartition(' ')[2]} {first_row + row_of[word]}"
            raise InputError(f"{place} {first_row + row}: the word {word!r} was on {where} already")
    return tuple(row_of), list(row_of.values())


def _chunks(path: Path) -> Iterator[Lines]:
    """Whole lines of a file, many at a time.

    Raises:
      FileNotFoundError, InputError: As `reading`; and the file is empty.
    """
    is_empty = True
    with reading(path) as handle:
        for lines in line_chunks(handle, str(path), _CHUNK_BYTES):
            is_empty = False
            yield lines
    if is_empty:
        raise InputError(f"{path}: the file is empty")


def _parse_header(path: Path, line: bytes, header: bool | None) -> tuple[int, int] | None:
    """(V, D) if the first line says so, None if it is a word's line."""
    fields = line.split()
    is_header = _is_header(fields)
    if header is False or (header is None and not is_header):
        return None
    if not is_header or 0 in (size := (int(fields[0]), int(fields[1]))):
        raise InputError(
            f"{path}, line 1: {_show(line)}, expected a header: words, then dimensions"
        )
    return size


def _is_header(fields: Lines) -> bool:
    return len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit()


def _parse_lines(
    path: Path, lines: Lines, first: int, width: int
) -> tuple[Lines, Float32[np.ndarray, "N D"]]:
    """Words and vectors of some lines, the first of which has the number `first` in the file."""
    for i, line in enumerate(lines):
        if line[:1].isspace() and line.strip():
            raise InputError(f"{path}, line {first + i}: {_show(line)} begins with an empty word")
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
    return [pair[0] for pair in pairs], block_ND


def _parse_numbers(rows: Lines, width: int) -> Float32[np.ndarray, "N D"] | None:
    """The numbers of rows, or None where they are not `width` numbers a row."""
    if not rows:
        return np.zeros((0, width), np.float32)
    try:
        text = [row.decode("ascii") for row in rows]
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
            hint = "; word2vec's binary form has a header" if b"\0" in line else ""
            raise InputError(f"{path}, line {number}: {_show(field)} is not a finite number{hint}")
    return [b" ".join(word), b" ".join(vector)]


def _show(content: bytes) -> str:
    """Bytes for an error message, short and on one line."""
    return repr(content[:40].decode("utf-8", "replace").strip())


def _check_count(path: Path, words: Lines, expected: tuple[int, int] | None) -> None:
    if expected and len(words) != expected[0]:
        raise InputError(
            f"{path}: the header promises {expected[0]} words, the file has {len(words)}"
        )
