"""Metrics: averages over steps, a log of records, and a run's final figures.

A record is a flat dict: ``step``, ``seconds`` (time spent training so far, over all restarts) and
figures by name, such as ``train/loss``. Two equal runs share all but ``seconds`` and figures of
speed, ``speed/NAME`` (`jaxgen.training.speed`).
"""

import csv
import io
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxgen.errors import InputError
from jaxgen.files import append, as_path, replacing
from jaxgen.parallel.distributed import is_main_process
from jaxgen.training.step import WEIGHT

Record = dict[str, Any]
Path = str | os.PathLike[str]

_COUNTED = (WEIGHT, "skipped")


class RunningAverage:
    """Means of metrics over steps, in float64.

    Every metric is averaged in proportion to the step's ``weight`` (1 where it has none), but for
    ``weight`` and ``skipped``, which are summed. A step that was skipped counts nowhere else.
    """

    def __init__(self, sums: Mapping[str, tuple[float, float]] | None = None):
        """Args: sums: name -> (weighted sum, weight), as `sums` gives them."""
        self.sums = {name: (float(s), float(w)) for name, (s, w) in (sums or {}).items()}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Takes in one step's scalars."""
        skipped = bool(metrics.get("skipped", 0))
        weight = float(metrics.get(WEIGHT, 1))
        for name, value in metrics.items():
            if name in _COUNTED:
                if name == "skipped" or not skipped:
                    self._add(name, float(value), 0)
            elif weight and not skipped:  # the mean of nothing may be NaN
                self._add(name, weight * float(value), weight)

    def _add(self, name: str, value: float, weight: float) -> None:
        total, total_weight = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (total + value, total_weight + weight)

    def means(self) -> dict[str, float]:
        """Name -> mean (or sum); a metric whose steps weigh nothing has no mean and is left out."""
        return {
            name: total if name in _COUNTED else total / weight
            for name, (total, weight) in self.sums.items()
            if name in _COUNTED or weight
        }


class MetricsLog:
    """Appends records to ``metrics.jsonl`` and, if asked, to TensorBoard event files beside it.

    Only process 0 writes. A record is in the file once `write` returns, so that a killed run loses
    none; what was written after the checkpoint that a run resumes from is dropped by `resume`. In a
    bucket, where files cannot grow, each record writes the whole file.
    """

    def __init__(self, folder: Path, tensorboard: bool = False):
        """Args: folder: made if it does not exist. tensorboard: needs the package tensorboardX."""
        self.path = as_path(folder) / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._events: Any = None
        if is_main_process():
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def resume(self, step: int) -> None:
        """Drops the records after `step`; 0 starts afresh. To be called before the first `write`.

        Raises:
          InputError: where TensorBoard is asked for and tensorboardX is not installed.
        """
        if not is_main_process():
            return
        kept = [r for r in read_records(self.path) if r["step"] <= step] if step else []
        with replacing(self.path) as handle:
            handle.writelines(_line(record) for record in kept)
        if self._tensorboard:
            self._events = _event_writer(self.path.parent, step)

    def write(self, record: Record) -> None:
        """Appends one record; it must have a ``step``."""
        if not is_main_process():
            return
        append(self.path, _line(record))
        if self._events is not None:
            for name, value in record.items():
                if name != "step":
                    self._events.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Finishes the event file; later records go into ``metrics.jsonl`` only."""
        if self._events is not None:
            self._events.close()
            self._events = None


def _line(record: Record) -> bytes:
    return json.dumps(figures_to_json(record), allow_nan=False).encode() + b"\n"


def _event_writer(folder: pathlib.Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError(
            "tensorboard is True, expected the package tensorboardX: pip install "
            "'jaxgen[experiments]'"
        ) from None
    try:
        return SummaryWriter(str(folder), purge_step=step + 1 if step else 0, flush_secs=10)
    except ImportError as error:  # of what it writes to a bucket with
        raise InputError(f"tensorboard is True in {folder}: {error}") from None


def read_records(path: Path) -> list[Record]:
    """The records of a ``metrics.jsonl``; none where there is no file.

    A last line without an end, as a killed process leaves it, is ignored.

    Raises:
      InputError: for any other line that is no record of numbers, naming file and line.
    """
    path = as_path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = figures_from_json(json.loads(line))
        except (ValueError, RecursionError):
            record = None
        if not (isinstance(record, dict) and type(record.get("step")) is int):
            raise InputError(
                f"{path}, line {number}, is no record, expected a JSON object with a 'step'"
            )
        for name, value in record.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{path}, line {number}: {name} is {value!r}, expected a number")
        records.append(record)
    return records


def write_csv(path: Path, records: Iterable[Record]) -> None:
    """Writes records as a table, one column for each name in order of appearance."""
    records = list(records)
    names = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    with replacing(path) as handle:
        handle.write(text.getvalue().encode())


def write_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Writes a run's final figures by name (``metrics.json``), whole or not at all.

    Values may be nested dicts and lists. JSON has no infinities: they are written as the strings
    "inf", "-inf" and "nan". Only process 0 writes.
    """
    if is_main_process():
        with replacing(path) as handle:
            handle.write(
                json.dumps(figures_to_json(figures), indent=2, allow_nan=False).encode() + b"\n"
            )


def read_figures(path: Path) -> dict[str, Any]:
    """The figures of a file of `write_figures`, infinities among them.

    Raises:
      InputError: where the file holds anything else.
    """
    try:
        figures = json.loads(as_path(path).read_bytes())
    except ValueError as error:
        raise InputError(f"{path}, expected figures by name as JSON ({error})") from None
    if not isinstance(figures, dict):
        raise InputError(f"{path}, expected figures by name as a JSON object")
    return figures_from_json(figures)


def figures_to_json(value: Any) -> Any:
    """Figures as JSON can hold them: numpy and JAX scalars as numbers, infinities as strings."""
    if isinstance(value, Mapping):
        return {str(name): figures_to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [figures_to_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def figures_from_json(value: Any) -> Any:
    """The reverse of `figures_to_json`, in mappings and lists too."""
    if isinstance(value, Mapping):
        return {name: figures_from_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [figures_from_json(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
