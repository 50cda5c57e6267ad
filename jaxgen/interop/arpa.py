r"""N-gram models in the ARPA format, as written and read by SRILM, KenLM and others.

::

    \data\
    ngram 1=3
    ngram 2=2

    \1-grams:
    -99	<s>	-0.3010
    -0.4771	a	-0.1249
    -0.1761	b

    \2-grams:
    -0.2218	<s> a
    -0.3979	a b

    \end\

A line is a logarithm to base 10 of a probability, the words, and, below the highest order, the
logarithm of the weight with which the n-gram as a context backs off (absent: 0). Probability zero
is written -99. Fields are separated by tabs or spaces; a word is never empty. The unknown word is
spelt ``<unk>`` or ``<UNK>``. Encoding, lines and compression are those of `jaxgen.text_rules`.

``<s>`` keeps the probability that the file gives it: SRILM writes -99. KenLM's lmplz writes 0, that
is one, for a word that sentence models are never asked for: leave it out (`NgramTables.onto`), or
forbid it, before such a model writes text.

Readers see only tables here: `jaxgen.lm.ngram.BackoffModel` computes with them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

import numpy as np
from jaxtyping import Float64, Int32

from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.ids import check_not_string
from jaxgen.interop.compressed import reading, writing
from jaxgen.interop.ngram_tables import LOG10_ZERO, NgramTables, first_repeated
from jaxgen.text_rules import (
    SENTENCE_END,
    SENTENCE_START,
    encode_text,
    is_word,
    unify_line_ends,
    without_mark,
)

_WRITTEN_TOGETHER = 1 << 13  # rows
_SHOWN = 80  # characters of a line in an error message
_LOG10_TOLERANCE = 1e-4  # programs print rounded logarithms, of probabilities up to one
_count_line = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)").fullmatch
_has_empty_field = re.compile(rb"\t *\t").search

Fields = list[bytes]


def write_arpa(path: Path, tables: NgramTables, sentence_marks: bool = False) -> None:
    """Write an ARPA file.

    Logarithms have nine significant digits, so that probabilities return within 1e-7 of their
    size.

    Args:
      path: the file; compressed if its name ends in ``.gz``.
      tables: what to write, in this order of rows.
      sentence_marks: add ``<s>`` and ``</s>`` with probability zero where the words lack them.
        A model of a stream of text has none; KenLM refuses to read a file without.

    Raises:
      InputError: if a word is empty, holds white space or occurs twice, or the shapes disagree.
    """
    _check_tables(path, tables)
    if sentence_marks:
        tables = _add_sentence_marks(tables)
    counts = "".join(f"ngram {k}={len(rows)}\n" for k, rows in enumerate(tables.ngrams, start=1))
    with writing(path) as file:
        file.write(f"\\data\\\n{counts}".encode())
        for k in range(1, tables.order + 1):
            file.write(f"\n\\{k}-grams:\n".encode())
            for text in _formatted(tables, k):
                file.write(encode_text(text, str(path)))
        file.write(b"\n\\end\\\n")


def _formatted(tables: NgramTables, order: int) -> Iterator[str]:
    """The lines of one order, many at a time: one format string for all of them is fastest."""
    words = np.array(tables.words, dtype=object)
    is_highest = order == tables.order
    line = "%.9g\t" + " ".join(["%s"] * order) + ("\n" if is_highest else "\t%.9g\n")
    rows = len(tables.ngrams[order - 1])
    for start in range(0, rows, _WRITTEN_TOGETHER):
        part = slice(start, min(start + _WRITTEN_TOGETHER, rows))
        fields = np.empty((part.stop - start, order + 1 if is_highest else order + 2), object)
        fields[:, 0] = tables.log10_probabilities[order - 1][part]
        fields[:, 1 : order + 1] = words[tables.ngrams[order - 1][part]]
        if not is_highest:
            fields[:, -1] = tables.log10_backoffs[order - 1][part]
        yield line * len(fields) % tuple(fields.ravel().tolist())


def _add_sentence_marks(tables: NgramTables) -> NgramTables:
    missing = [mark for mark in (SENTENCE_START, SENTENCE_END) if mark not in tables.words]
    ids_N1 = np.arange(len(tables.words), len(tables.words) + len(missing))[:, None]
    return NgramTables(
        (*tables.words, *missing),
        (np.concatenate([tables.ngrams[0], ids_N1]), *tables.ngrams[1:]),
        (
            np.append(tables.log10_probabilities[0], np.full(len(missing), LOG10_ZERO)),
            *tables.log10_probabilities[1:],
        ),
        (np.append(tables.log10_backoffs[0], np.zeros(len(missing))), *tables.log10_backoffs[1:]),
    )


def _check_tables(path: Path, tables: NgramTables) -> None:
    check_not_string(tables.words, f"{path}: words")
    for word in tables.words:
        if not is_word(word):
            raise InputError(f"{path}: the word {word!r} is empty or holds white space")
    if len(set(tables.words)) < len(tables.words):
        word = tables.words[first_repeated(tables.words)]
        raise InputError(f"{path}: the word {word!r} is given twice")
    if not 1 <= tables.order == len(tables.log10_probabilities) == len(tables.log10_backoffs):
        raise InputError(f"{path}: the tables have different numbers of orders, or none")
    columns = zip(tables.ngrams, tables.log10_probabilities, tables.log10_backoffs, strict=True)
    for k, (ngrams, *logs) in enumerate(columns, start=1):
        if ngrams.shape != (len(ngrams), k) or any(log.shape != (len(ngrams),) for log in logs):
            raise InputError(
                f"{path}: {k}-grams, probabilities and back-off weights have shapes "
                f"{ngrams.shape}, {logs[0].shape}, {logs[1].shape}, expected [N, {k}], [N], [N]"
            )
        if ngrams.size and not 0 <= ngrams.min() <= ngrams.max() < len(tables.words):
            raise InputError(f"{path}: {k}-grams have ids outside [0, {len(tables.words)})")
        if any(not np.isfinite(log).all() for log in logs):
            raise InputError(f"{path}: {k}-grams have a logarithm that is not finite")
    if np.any(tables.log10_backoffs[-1]):
        raise InputError(f"{path}: {k}-grams have back-off weights, expected 0 at the last order")


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
        lines = unify_line_ends(without_mark(file.read(), str(path))).split(b"\n")
    counts, position = _read_header(path, lines)
    index: dict[bytes, int] = {}
    known: set[bytes] = set()
    orders = []
    for k, count in enumerate(counts, start=1):
        section, position = _read_section(path, lines, position, k, count, k == len(counts))
        known = section.check_names(known)
        if k == 1:
            words = section.words()
            index = {row[1]: i for i, row in enumerate(section.rows)}
        orders.append((section.ids(index), section.probabilities(), section.backoffs()))
    _expect(path, lines, position, b"\\end\\")
    ngrams, probabilities, backoffs = zip(*orders, strict=True)
    return NgramTables(words, ngrams, probabilities, backoffs)


def _read_header(path: Path, lines: Fields) -> tuple[list[int], int]:
    """The number of n-grams of each order, and where the first section begins."""
    start = next((i for i, line in enumerate(lines) if line.strip() == b"\\data\\"), None)
    if start is None:
        raise InputError(f"{path}: no line \\data\\, expected an n-gram model in ARPA format")
    counts: list[int] = []
    for position in range(start + 1, len(lines)):
        line = lines[position].strip()
        if line.startswith(b"\\"):
            break
        match = _count_line(line)
        if match and int(match[1]) == len(counts) + 1:
            counts.append(int(match[2]))
        elif line:
            raise InputError(
                f"{path}, line {position + 1}: {_show(line)}, expected 'ngram {len(counts) + 1}=' "
                "and a count"
            )
    if not counts:
        raise InputError(f"{path}, line {start + 1}: no line 'ngram 1=' follows \\data\\")
    return counts, position


def _expect(path: Path, lines: Fields, position: int, marker: bytes) -> int:
    """The position after a line that holds the marker, blank lines before it passed over."""
    for i in range(position, len(lines)):
        line = lines[i].strip()
        if line == marker:
            return i + 1
        if line:
            raise InputError(f"{path}, line {i + 1}: {_show(line)}, expected {_show(marker)}")
    raise InputError(f"{path}, line {len(lines)}: the file ends here, expected {_show(marker)}")


def _read_section(
    path: Path, lines: Fields, position: int, order: int, count: int, is_highest: bool
) -> tuple["_Section", int]:
    """The n-grams of one order, and where the next section begins."""
    rows, numbers = [], []
    for i in range(_expect(path, lines, position, b"\\%d-grams:" % order), len(lines)):
        fields = lines[i].split()
        if not fields:
            continue
        if fields[0].startswith(b"\\"):
            break
        if _hides_a_word(lines[i], fields, order):
            raise InputError(f"{path}, line {i + 1}: {_show(lines[i])} has an empty field")
        rows.append(fields)
        numbers.append(i + 1)
    else:
        raise InputError(
            f"{path}, line {len(lines)}: the file ends within the {order}-grams, after {len(rows)} "
            f"of {count}"
        )
    section = _Section(path, order, rows, numbers)
    section.check_widths(is_highest)
    if len(rows) != count:
        raise InputError(
            f"{path}, line {i + 1}: {len(rows)} {order}-grams end here, expected {count} as the "
            "header says"
        )
    return section, i


@dataclasses.dataclass(frozen=True, eq=False)
class _Section:
    """The lines of one order, split into fields, with their numbers in the file."""

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

    def check_names(self, contexts: set[bytes]) -> set[bytes]:
        """No n-gram occurs twice and each extends one of the next lower order; returns them."""
        names = [b" ".join(fields[1 : self.order + 1]) for fields in self.rows]
        if len(set(names)) < len(names):
            row = first_repeated(names)
            self.fail(row, f"each {self.order}-gram once")
        if self.order > 1:
            for row, name in enumerate(names):
                if (context := name.rpartition(b" ")[0]) not in contexts:
                    self.fail(row, f"{_show(context)} among the {self.order - 1}-grams")
        return set(names)

    def words(self) -> tuple[str, ...]:
        """The words of unigrams."""
        try:
            return tuple(fields[1].decode() for fields in self.rows)
        except UnicodeDecodeError:
            self.fail_first(lambda fields: not _is_utf8(fields[1]), "a word in UTF-8")

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


def _is_utf8(field: bytes) -> bool:
    return field.decode(errors="replace").encode() == field


def _show(line: bytes) -> str:
    """A line for an error message: quoted, and cut where it is long."""
    text = line.decode(errors="replace")
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
