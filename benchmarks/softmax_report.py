"""Curves of training against time, as a table and a figure: part of `softmax_alternatives`."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from jaxgen.lm.nplm import NPLMConfig

CLOCKS = ("wall", "processor")


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a contender stood after a stretch."""

    updates: int
    wall: float
    processor: float
    perplexity: float
    samples: int
    ess: float
    exact: float


def to_row(
    name: str,
    config: NPLMConfig,
    set_up: float,
    curve: Sequence[Point],
    reference: float,
    within: Sequence[float],
) -> dict:
    """What is said of a contender; ``reference`` is the best that the full softmax reached."""
    best, last = min(point.perplexity for point in curve), curve[-1]
    return {
        "name": name,
        "outputs": config.outputs,
        "parameters": config.parameter_count,
        "set_up": set_up,
        "best": best,
        "ratio": best / reference,
        "milliseconds": {clock: 1e3 * getattr(last, clock) / last.updates for clock in CLOCKS},
        "reached": [
            {clock: time_to_reach(curve, reference * (1 + share), clock) for clock in CLOCKS}
            for share in within
        ],
        "curve": [dataclasses.asdict(point) for point in curve],
    }


def time_to_reach(curve: Sequence[Point], target: float, clock: str) -> float | None:
    """Seconds at which the perplexity first is at most the target, or None.

    Between points, log-perplexity is taken as linear in time.
    """
    for before, after in zip([None, *curve], curve, strict=False):
        if after.perplexity <= target:
            if before is None:
                return getattr(after, clock)
            x: Float64[np.ndarray, "2"] = np.log([before.perplexity, after.perplexity])
            share = (x[0] - np.log(target)) / (x[0] - x[1])
            return getattr(before, clock) + share * (getattr(after, clock) - getattr(before, clock))
    return None


def to_markdown(report: dict) -> str:
    """The table: cost of an update, best perplexity, time to come near the full softmax."""
    clock = report["clock"]
    targets = zip(report["within"], report["targets"], strict=True)
    near = [f"within {100 * share:g} %: {target:.1f}" for share, target in targets]
    header = ["", "outputs", "ms / update", "best perplexity", "against full", *near]
    full = next(row for row in report["rows"] if row["name"] == "full")
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    for row in report["rows"]:
        cells = [
            row["name"],
            f"{row['outputs']:,}",
            f"{row['milliseconds'][clock]:.2f}",
            f"{row['best']:.1f}",
            f"{row['ratio']:.3f}",
        ]
        for mine, reference in zip(row["reached"], full["reached"], strict=True):
            seconds = mine[clock]
            cells.append(
                "-" if seconds is None else f"{seconds:.1f} s ({reference[clock] / seconds:.1f}x)"
            )
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{report['corpus']}: |V| = {report['vocabulary_size']:,}; {report['updates']:,} updates "
        f"each; {clock} seconds of updates alone. Set-up seconds: "
        + ", ".join(f"{row['name']} {row['set_up']:.1f}" for row in report["rows"])
        + ".",
    ]
    return "\n".join(lines)


def plot(path: pathlib.Path, report: dict) -> None:
    """Validation perplexity against seconds, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for row in report["rows"]:
        seconds = [point[report["clock"]] for point in row["curve"]]
        perplexity = [point["perplexity"] for point in row["curve"]]
        axes.plot(seconds, perplexity, marker="o", markersize=3, label=row["name"])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=f"{report['clock']} seconds of training",
        ylabel="validation perplexity",
        title=f"{report['corpus']}, |V| = {report['vocabulary_size']:,}",
    )
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
