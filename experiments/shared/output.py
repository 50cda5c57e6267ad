"""What experiments write besides figures: tables, texts, arrays; and progress bars."""

import contextlib
import io
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from experiments.shared.digests import digest_of
from jaxgen.files import replacing
from jaxgen.parallel import is_main_process
from jaxgen.training.metrics import figures_from_json, figures_to_json, write_figures

_SEAL = "made of"
"""In files kept for a second start: a digest of what they were made of, and of their content."""


def format_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns, as readable in a terminal as on a page.

    Numbers are aligned to the right, floats given with one decimal; None is left blank.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(value) for value in column) for column in zip(*cells, strict=True)]
    widths = [max(3, *map(len, column)) for column in zip(header, *cells, strict=True)]

    def line(values: Sequence[str]) -> str:
        padded = [
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(header), line(rule), *map(line, cells)])


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def three_decimals(value: float | None) -> str | None:
    """A cell of `format_table` for figures near one."""
    return None if value is None else f"{value:.3f}"


def figures_table(first: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Figures near one as a Markdown table; a column for each name that any row has.

    Args:
      first: above the names of the rows.
      rows: name of a row -> name of a column -> figure.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [(name, *(three_decimals(row.get(c)) for c in columns)) for name, row in rows.items()]
    return format_table((first, *columns), cells)


def _is_number(cell: str) -> bool:
    return not cell or re.fullmatch(r"-?[\d,]+(\.\d+)?", cell) is not None


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all, on the main process."""
    if is_main_process():
        with replacing(path) as handle:
            handle.write(text.rstrip("\n").encode() + b"\n")


def remove_table(path: pathlib.Path, columns: Sequence[str], instead: str | None = None) -> None:
    """Removes a table of an earlier run, which would be of other samples; nothing else.

    Args:
      path: the file.
      columns: what heads the columns of the table.
      instead: how a file begins that stands in the place of one.
    """
    if is_main_process() and path.is_file():
        first, *_ = path.read_bytes().decode(errors="replace").split("\n")
        stands_in = instead is not None and first.startswith(instead)
        if stands_in or all(column in first for column in columns):
            path.unlink()


def cached_arrays(
    path: pathlib.Path, compute: Callable[[], Mapping[str, np.ndarray]], *, made_of: Any
) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file made of the same things; else what `compute` gives, saved.

    Args:
      path: the file. One that is damaged, or made of other things, is written again.
      compute: gives the arrays.
      made_of: all that they depend on, data by their digests (`experiments.shared.digests`).
    """
    arrays = known_arrays(path, made_of)
    if arrays is None:
        save_arrays(path, arrays := dict(compute()), made_of=made_of)
    return arrays


def known_arrays(path: pathlib.Path, made_of: Any) -> dict[str, np.ndarray] | None:
    """The arrays of a file of `save_arrays`; None where it is missing or another one."""
    try:
        arrays = load_arrays(path)
        seal = str(arrays.pop(_SEAL))
    except Exception:  # zip and npy have many ways to be damaged
        return None
    return arrays if seal == digest_of(made_of, arrays) else None


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name."""
    with path.open("rb") as handle, np.load(handle) as arrays:
        return dict(arrays)


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, made_of: Any) -> None:
    """Writes an ``.npz`` file, whole or not at all, and its folder, on the main process."""
    if is_main_process():
        content = io.BytesIO()  # a zip file that a full disk cuts complains twice
        seal = np.array(digest_of(made_of, {k: np.asarray(v) for k, v in arrays.items()}))
        np.savez(content, **arrays, **{_SEAL: seal})
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as handle:
            handle.write(content.getbuffer())


def cached_figures(
    path: pathlib.Path, compute: Callable[[], Mapping[str, Any]], *, made_of: Any
) -> dict[str, Any]:
    """The figures of a ``.json`` file; as `cached_arrays`."""
    figures = known_figures(path, made_of)
    if figures is None:
        save_figures(path, figures := dict(compute()), made_of=made_of)
    return figures


def known_figures(path: pathlib.Path, made_of: Any) -> dict[str, Any] | None:
    """The figures of a file of `save_figures`; None where it is missing or another one."""
    try:
        figures = json.loads(path.read_bytes())
        if figures.pop(_SEAL) == digest_of(made_of, figures):
            return figures_from_json(figures)
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return None


def save_figures(path: pathlib.Path, figures: Mapping[str, Any], *, made_of: Any) -> None:
    """Writes figures by name as JSON, whole or not at all, and its folder, on the main process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = json.loads(json.dumps(figures_to_json(figures)))
    write_figures(path, {**written, _SEAL: digest_of(made_of, written)})


@contextlib.contextmanager
def progress_bar(
    name: str, unit: str, total: int | None = None
) -> Iterator[Callable[[int], object]]:
    """A bar on the main process, which goes when it is done; ``advance(count)``.

    In a log file, a line every ten seconds.
    """
    silent, seconds = not is_main_process(), 0.1 if sys.stderr.isatty() else 10
    with tqdm(
        desc=name, unit=unit, total=total, leave=False, disable=silent, mininterval=seconds
    ) as bar:
        yield bar.update
