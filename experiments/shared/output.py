"""What experiments write besides figures: tables, texts, arrays; and progress bars."""

import contextlib
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from jaxgen.files import replacing
from jaxgen.parallel import is_main_process
from jaxgen.training.metrics import write_figures


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


def _is_number(cell: str) -> bool:
    return not cell or re.fullmatch(r"-?[\d,]+(\.\d+)?", cell) is not None


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all, on the main process."""
    if is_main_process():
        with replacing(path) as handle:
            handle.write(text.rstrip("\n").encode() + b"\n")


def cached_arrays(
    path: pathlib.Path, compute: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file; without the file, those that `compute` gives, saved in it."""
    if not path.exists():
        save_arrays(path, arrays := dict(compute()))
        return arrays
    return load_arrays(path)


def cached_figures(path: pathlib.Path, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a ``.json`` file; without it, those that `compute` gives, saved in it."""
    if not path.exists():
        write_figures(path, figures := dict(compute()))
        return figures
    return json.loads(path.read_text())


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name."""
    with np.load(path) as arrays:
        return dict(arrays)


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an ``.npz`` file, whole or not at all, and its folder, on the main process."""
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as handle:
            np.savez(handle, **arrays)


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
