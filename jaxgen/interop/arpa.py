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

from collections.abc import Iterator

import numpy as np

from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.ids import check_not_string
from jaxgen.interop.arpa_reading import read_arpa
from jaxgen.interop.compressed import writing
from jaxgen.interop.ngram_tables import LOG10_ZERO, NgramTables, first_repeated
from jaxgen.text_rules import (
    SENTENCE_END,
    SENTENCE_START,
    encode_text,
    is_word,
)

_WRITTEN_TOGETHER = 1 << 13  # rows
__all__ = ["NgramTables", "read_arpa", "write_arpa"]


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
