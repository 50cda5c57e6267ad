"""Tables and curves of trainings that are compared, means over seeds with standard errors."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.shared.output import format_table
from experiments.shared.plots import Curve, new_figure, save_figure
from experiments.shared.training_runs import VALIDATION_LOSS
from experiments.video.support.sample_evaluation import COLUMNS

SPEED = "examples a second"
TRAINING_COLUMNS: dict[str, tuple[str, int]] = {
    "parameters": ("parameters", 0),
    "updates": ("updates", 0),
    "examples": ("examples", 0),
    "seconds": ("seconds", 1),
    SPEED: (SPEED, 1),
    "padding": ("padding", 3),
    VALIDATION_LOSS: ("held-out loss", 4),
}
"""Figures of a training: what heads their column, decimals."""

EQUAL_LOSS = "seconds at equal loss"


def mean_curve(curves: list[Curve]) -> Curve:
    """The mean over seeds, as far as all of them have got."""
    shortest = min(len(x) for x, _ in curves)
    return curves[0][0][:shortest], np.mean([y[:shortest] for _, y in curves], axis=0).tolist()


def seconds_until(curve: Curve, loss: float) -> float | None:
    """When a curve is first at a loss or below, straight between its points; None for never."""
    x, y = curve
    reached = next((i for i, value in enumerate(y) if value <= loss), None)
    if not reached:  # never, or at the first point, before which nothing is known
        return None if reached is None else x[0]
    share = (y[reached - 1] - loss) / (y[reached - 1] - y[reached])
    return x[reached - 1] + share * (x[reached] - x[reached - 1])


def compared_table(
    figures: Mapping[str, Any],
    rows: Sequence[str],
    columns: Sequence[str],
    equal: Mapping[str, float | None],
    real: Mapping[str, Mapping[str, float]],
) -> str:
    """A line for each row and each size that was sampled, then one for real clips of each size.

    Args:
      figures: by row, then by seed; those of samples by size.
      rows: which rows.
      columns: those of `TRAINING_COLUMNS` to show.
      equal: seconds at equal loss by row; empty for no such column.
      real: figures of real clips by size.
    """
    several = len(real) > 1
    measured = [c for c in COLUMNS if any(c in found for found in real.values())]
    header = ["training", *(TRAINING_COLUMNS[name][0] for name in columns)]
    header += [EQUAL_LOSS] * bool(equal) + ["clips"] * several + measured
    lines: list[list[str | None]] = []
    for name in rows:
        found = list(figures[name].values())
        own = [mean_cell([f.get(key) for f in found], TRAINING_COLUMNS[key][1]) for key in columns]
        own += [mean_cell([equal.get(name)], 1)] * bool(equal)
        for size in real:
            samples = [f.get(size, {}) for f in found]
            cells = [mean_cell([f.get(column) for f in samples], 3) for column in measured]
            lines.append([name, *own, *[size] * several, *cells])
    blank = [None] * (len(columns) + bool(equal))
    for size, of_size in real.items():
        cells = [mean_cell([of_size.get(column)], 3) for column in measured]
        lines.append(["real clips", *blank, *[size] * several, *cells])
    return format_table(header, lines)


def mean_cell(values: list[float | None], digits: int) -> str | None:
    """The mean over seeds and, where they differ, its standard error; None for a blank."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    text = f"{np.mean(known):,.{digits}f}"
    if len(set(known)) == 1:
        return text
    return f"{text} ± {np.std(known, ddof=1) / len(known) ** 0.5:,.{digits}f}"


def plot_curves(path: pathlib.Path, curves: dict[str, Curve], title: str) -> None:
    """Losses against seconds, a line for each row."""
    figure, axes = new_figure(title, 8, 5)
    for name, (x, y) in curves.items():
        axes.plot(x, y, label=name, marker="o", markersize=3)
    axes.set(xlabel="seconds of updates", ylabel="held-out loss", yscale="log")
    if curves:
        axes.legend(frameon=False)
    save_figure(figure, path)
