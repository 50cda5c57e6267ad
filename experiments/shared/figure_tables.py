"""Tables of figures, written and shown."""

import pathlib
from collections.abc import Mapping

from experiments.shared.launch import report
from experiments.shared.output import figures_table, write_text


def write_rows(path: pathlib.Path, first: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Writes figures as a table (`figures_table`), and shows it."""
    table = figures_table(first, rows)
    write_text(path, table)
    report("\n" + table)
