r"""Reading of ARPA files, a part at a time: a file of a gigabyte needs the memory of its tables."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, NoReturn

import numpy as np
from jaxtyping import Float64, Int32, Int64

from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.interop.compressed import reading
from jaxgen.interop.ngram_tables import LOG10_ZERO, NgramTables
from jaxgen.text_rules import line_chunks

_READ_TOGETHER = 1 << 18  # bytes
_ROWS = 1 << 13  # that are parsed together
_SHOWN = 80  # characters of a line in an error message
_LOG10_TOLERANCE = 1e-4  # programs print rounded logarithms, of probabilities up to one
_count_line = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)").fullmatch
_has_empty_field = re.compile(rb"\t *\t").search

Fields = list[bytes]


def read_arpa(path: Path) -> NgramTables:
    r"""Read an ARPA file.

    Text before ``\data\`` and after ``\end\`` is passed over, as are blank lines. At the highest
    order a back-off weight of 0 changes nothing and is read, as KenLM does.

    Args:
      path: the file, plain or gzip.

    Returns:
      Words and n-grams in the order of the file.

    Raises:
      FileNotFoundError: if there is no such file.
      InputError: names file and line: the file ends early or is a damaged gzip file, a section
        is not the expected one or has another number of n-grams than the header says, a line
        has too few, too many or empty fields, something is not a number or not a logarithm of a
        probability, a word is no unigram or not UTF-8, an n-gram is given twice, or the n-gram
        of its first words is missing.
    """
    with reading(path) as file:
        lines = _Lines(path, file)
        counts = _read_header(lines)
        words: list[str] = []
        index: dict[bytes, int] = {}
        orders: list[_Columns] = []
        known: list[np.ndarray] = []
        for k, count in enumerate(counts, start=1):
            sections = _read_section(lines, k, count, is_highest=k == len(counts))
            columns = _Columns(k)
            for section in sections:
                if k == 1:
                    section.add_words(words, index)
                columns.append(section, index)
            columns.join()
            known.append(_check_ngrams(path, columns.ids, known, words))
            orders.append(columns)
        lines.expect(b"\\end\\")
    return NgramTables(
        tuple(words),
        tuple(columns.ids for columns in orders),
        tuple(columns.probabilities for columns in orders),
        tuple(columns.backoffs for columns in orders),
    )


class _Lines:
    """The lines of a file, one after the other, with their numbers."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.number = path, 0
        self._lines = (
            line for lines in line_chunks(file, str(path), _READ_TOGETHER) for line in lines
        )
        self._again: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._again.pop() if self._again else next(self._lines)
        self.number += 1
        return line

    def back(self, line: bytes) -> None:
        """Gives a line back that was read last."""
        self._again.append(line)
        self.number -= 1

    def fail(self, what: str) -> NoReturn:
        """Raises an InputError about the line that was read last."""
        raise InputError(f"{self.path}, line {self.number}: {what}")

    def fail_at_end(self, what: str) -> NoReturn:
        """Raises an InputError about the end of the file."""
        raise InputError(f"{self.path}, line {self.number + 1}: {what}")

    def expect(self, marker: bytes) -> None:
        """Reads up to a line that holds the marker; only blank lines may come before it."""
        for line in self:
            if (found := line.strip()) == marker:
                return
            if found:
                self.fail(f"{_show(found)}, expected {_show(marker)}")
        self.fail_at_end(f"the file ends here, expected {_show(marker)}")


def _read_header(lines: _Lines) -> list[int]:
    """The number of n-grams of each order."""
    if not any(line.strip() == b"\\data\\" for line in lines):
        raise InputError(f"{lines.path}: no line \\data\\, expected an n-gram model in ARPA format")
    start, counts = lines.number, list[int]()
    for line in lines:
        found = line.strip()
        if found.startswith(b"\\"):
            lines.back(line)
            break
        match = _count_line(found)
        if match and int(match[1]) == len(counts) + 1:
            counts.append(int(match[2]))
        elif found:
            lines.fail(f"{_show(found)}, expected 'ngram {len(counts) + 1}=' and a count")
    if not counts:
        raise InputError(f"{lines.path}, line {start}: no line 'ngram 1=' follows \\data\\")
    return counts


def _read_section(lines: _Lines, order: int, count: int, is_highest: bool) -> Iterator["_Section"]:
    """The n-grams of one order, some thousands at a time."""
    lines.expect(b"\\%d-grams:" % order)
    read, section = 0, _Section(lines.path, order, [], [])
    for line in lines:
        fields = line.split()
        if not fields:
            continue
        if fields[0].startswith(b"\\"):
            lines.back(line)
            break
        if _hides_a_word(line, fields, order):
            lines.fail(f"{_show(line)} has an empty field")
        section.rows.append(fields)
        section.numbers.append(lines.number)
        read += 1
        if len(section.rows) == _ROWS:
            section.check_widths(is_highest)
            yield section
            section = _Section(lines.path, order, [], [])
    else:
        lines.fail_at_end(f"the file ends within the {order}-grams, after {read} of {count}")
    section.check_widths(is_highest)
    if read != count:
        raise InputError(
            f"{lines.path}, line {lines.number + 1}: {read} {order}-grams end here, expected "
            f"{count} as the header says"
        )
    yield section


class _Columns:
    """The n-grams of one order as arrays.

    Attributes:
      ids: word ids.
      probabilities: the first column, with -99 for anything lower.
      backoffs: the last column, with 0 where it is absent.
    """

    def __init__(self, order: int) -> None:
        self._parts: tuple[list[np.ndarray], ...] = ([], [], [])
        self.ids: Int32[np.ndarray, "ngrams k"] = np.empty((0, order), np.int32)
        self.probabilities: Float64[np.ndarray, "ngrams"] = np.empty(0)
        self.backoffs: Float64[np.ndarray, "ngrams"] = np.empty(0)

    def append(self, section: "_Section", index: Mapping[bytes, int]) -> None:
        """Adds some rows."""
        columns = section.ids(index), section.probabilities(), section.backoffs()
        for parts, column in zip(self._parts, columns, strict=True):
            parts.append(column)

    def join(self) -> None:
        """Makes the arrays, one after the other: no more than one of them is there twice."""
        ids, probabilities, backoffs = self._parts
        self.ids = np.concatenate(ids)
        ids.clear()
        self.probabilities = np.concatenate(probabilities)
        probabilities.clear()
        self.backoffs = np.concatenate(backoffs)
        backoffs.clear()


def _check_ngrams(
    path: Path,
    ids_Nk: Int32[np.ndarray, "ngrams k"],
    known: Sequence[np.ndarray],
    words: Sequence[str],
) -> Int64[np.ndarray, "ngrams"]:
    """No n-gram occurs twice, and each extends one of the next lower order.

    Args:
      path: the file.
      ids_Nk: the n-grams of order k.
      known: the sorted keys of the orders below.
      words: id -> word.

    Returns:
      The sorted keys of the n-grams: V times the place of the first k - 1 words among the keys of
      their order, plus the last word.
    """
    order, size = ids_Nk.shape[1], max(len(words), 1)
    keys_N = np.empty(len(ids_Nk), np.int64)
    for first in range(0, len(ids_Nk), 8 * _ROWS):
        rows_Nk = ids_Nk[first : first + 8 * _ROWS]
        place_N = rows_Nk[:, 0].astype(np.int64)
        for j in range(1, order):
            if j > 1:
                place_N = _find(known[j - 1], place_N)
                if place_N.min(initial=0) < 0:
                    break
            place_N = place_N * size + rows_Nk[:, j]
        if place_N.min(initial=0) < 0:
            row = first + int(np.argmax(place_N < 0))
            missing = " ".join(words[i] for i in ids_Nk[row, :-1])
            _fail_at_row(path, order, row, f"{_show(missing.encode())} among the {order - 1}-grams")
        keys_N[first : first + len(rows_Nk)] = place_N
    by_key_N = np.argsort(keys_N, kind="stable")
    keys_N = keys_N[by_key_N]
    is_repeated_N = keys_N[1:] == keys_N[:-1]
    if is_repeated_N.any():
        row = int(by_key_N[1:][is_repeated_N].min())
        _fail_at_row(path, order, row, f"each {order}-gram once")
    return keys_N


def _find(keys: Int64[np.ndarray, "keys"], queries_N: Int64[np.ndarray, "N"]) -> np.ndarray:
    """Where sorted keys have each query, -1 where they lack it."""
    if not len(keys):
        return np.full(len(queries_N), -1)
    place_N = np.minimum(np.searchsorted(keys, queries_N), len(keys) - 1)
    return np.where(keys[place_N] == queries_N, place_N, -1)


def _fail_at_row(path: Path, order: int, row: int, expected: str) -> NoReturn:
    """Raises an InputError about a row of an order, which is looked for in the file again."""
    with reading(path) as file:
        lines = _Lines(path, file)
        counts = _read_header(lines)
        for k, count in enumerate(counts[:order], start=1):
            for section in _read_section(lines, k, count, is_highest=k == len(counts)):
                if k == order and row < len(section.rows):
                    section.fail(row, expected)
                row -= len(section.rows) if k == order else 0
    raise AssertionError("the file has changed")


@dataclasses.dataclass(frozen=True, eq=False)
class _Section:
    """Some lines of one order, split into fields, with their numbers in the file."""

    path: Path
    order: int
    rows: list[Fields]
    numbers: list[int]

    def fail(self, row: int, expected: str) -> NoReturn:
        """Raises an InputError about a row."""
        line = _show(b" ".join(self.rows[row]))
        raise InputError(f"{self.path}, line {self.numbers[row]}: {line}, expected {expected}")

    def fail_first(self, is_wrong: Callable[[Fields], bool], expected: str) -> NoReturn:
        """Raises an InputError about the first row that is wrong."""
        self.fail(next(i for i, fields in enumerate(self.rows) if is_wrong(fields)), expected)

    def check_widths(self, is_highest: bool) -> None:
        """Every row has a logarithm, its words, perhaps a back-off weight (0 at the last order)."""
        widths = self.order + 1, self.order + 2
        if not set(map(len, self.rows)) <= set(widths):
            back_off = "" if is_highest else " and perhaps a back-off weight"
            row = next(i for i, fields in enumerate(self.rows) if len(fields) not in widths)
            count, most = len(self.rows[row]), widths[0] if is_highest else widths[1]
            fault = f"{count} fields" if count < widths[0] else f"{count - most} too many"
            self.fail(row, f"a logarithm, {self.order} word(s){back_off}: {fault}")
        if is_highest:
            for row, fields in enumerate(self.rows):
                if len(fields) == widths[1] and not _is_zero(fields[-1]):
                    self.fail(
                        row, f"no back-off weight but 0 at the last order: {_show(fields[-1])}"
                    )

    def add_words(self, words: list[str], index: dict[bytes, int]) -> None:
        """Adds the words of unigrams to the list and to the ids by word."""
        for row, fields in enumerate(self.rows):
            if fields[1] in index:
                self.fail(row, "each 1-gram once")
            index[fields[1]] = len(words)
            try:
                words.append(fields[1].decode())
            except UnicodeDecodeError:
                self.fail(row, "a word in UTF-8")

    def ids(self, index: Mapping[bytes, int]) -> Int32[np.ndarray, "ngrams k"]:
        """The ids of the words."""
        try:
            ids = [index[word] for fields in self.rows for word in fields[1 : self.order + 1]]
        except KeyError as error:
            word = error.args[0]
            self.fail_first(
                lambda fields: word in fields[1 : self.order + 1],
                f"{_show(word)} among the 1-grams",
            )
        return np.array(ids, np.int32).reshape(len(self.rows), self.order)

    def probabilities(self) -> Float64[np.ndarray, "ngrams"]:
        """The first column, with -99 for anything lower."""
        log10_N = self._numbers(0)
        wrong_N = np.isnan(log10_N) | (log10_N > _LOG10_TOLERANCE)
        if wrong_N.any():
            self.fail(int(wrong_N.argmax()), "the logarithm of a probability first")
        return np.clip(log10_N, LOG10_ZERO, 0.0)

    def backoffs(self) -> Float64[np.ndarray, "ngrams"]:
        """The last column, with 0 where it is absent."""
        log10_N = self._numbers(self.order + 1)
        wrong_N = np.isnan(log10_N) | (log10_N == np.inf)
        if wrong_N.any():
            self.fail(int(wrong_N.argmax()), "the logarithm of a back-off weight last")
        return np.maximum(log10_N, LOG10_ZERO)

    def _numbers(self, column: int) -> Float64[np.ndarray, "ngrams"]:
        try:
            return np.array(
                [float(fields[column]) if column < len(fields) else 0.0 for fields in self.rows]
            )
        except ValueError:
            self.fail_first(
                lambda fields: column < len(fields) and not _is_number(fields[column]),
                "a number " + ("last" if column else "first"),
            )


def _hides_a_word(line: bytes, fields: Fields, order: int) -> bool:
    """Whether a line has an empty word, so that its back-off weight would be taken for a word.

    Two tabs have nothing between them; several spaces may be one separator, unless a logarithm
    stands where the last word is due.
    """
    if b"\t" in line and _has_empty_field(line.strip()):
        return True
    is_short = len(fields) == order + 1 and fields[-1].startswith(b"-")
    return is_short and b"  " in line.strip() and _is_number(fields[-1])


def _is_zero(field: bytes) -> bool:
    return _is_number(field) and float(field) == 0


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _show(line: bytes) -> str:
    """A line for an error message: quoted, and cut where it is long."""
    text = line.decode(errors="replace")
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
