"""Figures of the experiments, written as PNG on the main process.

matplotlib is imported when something is first plotted: it takes longer than all else but JAX.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jaxgen.files import replacing
from jaxgen.parallel import is_main_process

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y of the points of a line."""

_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf")
_GREY = "0.45"


def plot_perplexity(
    path: pathlib.Path,
    curves: Mapping[str, Curve],
    levels: Mapping[str, float],
    title: str,
    x_label: str = "updates",
) -> None:
    """Perplexity over the course of training, with other models as horizontal lines.

    Args:
      path: the PNG.
      curves: name -> updates and perplexities.
      levels: name -> perplexity, named at the right end of its line.
      title: what is shown.
      x_label: what the x axis counts.
    """
    figure, axes = new_figure(title, 8, 5)
    for (name, (x, y)), color in zip(curves.items(), _cycle(len(curves)), strict=True):
        axes.plot(x, y, label=name, color=color, marker="o" if len(x) < 40 else None, markersize=3)
    for level in levels.values():
        axes.axhline(level, color=_GREY, linestyle="--", linewidth=1)
    axes.set(xlabel=x_label, ylabel="perplexity", yscale="log")
    _set_perplexity_ticks(axes, [y for _, ys in curves.values() for y in ys] + [*levels.values()])
    _name_levels(axes, levels)
    axes.legend(frameon=False)
    save_figure(figure, path)


def plot_cost(path: pathlib.Path, curves: Mapping[str, Curve], reference: str, title: str) -> None:
    """Perplexities over training, and below how far each is above one of them, in percent.

    Args:
      path: the PNG.
      curves: name -> updates and perplexities, all at the same updates.
      reference: the name of the one that the others are compared with.
      title: what is shown.
    """
    figure = empty_figure((8, 7), dpi=120)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    figure.suptitle(title)
    _, compared_with = curves[reference]
    for (name, (x, y)), color in zip(curves.items(), _cycle(len(curves)), strict=True):
        above.plot(x, y, label=name, color=color, marker="o", markersize=3)
        cost = 100 * (np.array(y) / compared_with - 1)
        below.plot(x, cost, color=color, marker="o", markersize=3)
    above.set(ylabel="perplexity", yscale="log")
    _set_perplexity_ticks(above, [y for _, ys in curves.values() for y in ys])
    above.legend(frameon=False)
    below.set(xlabel="updates", ylabel=f"% above '{reference}'")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def plot_ratios(
    path: pathlib.Path, ours: Mapping[str, float], paper: Mapping[str, float], title: str, what: str
) -> None:
    """One row for each model: a filled point for our figure, an open one for the paper's.

    Args:
      path: the PNG.
      ours: model -> figure, the first on top.
      paper: model -> figure; models may be missing.
      title: what is shown.
      what: what the figures are.
    """
    figure, axes = new_figure(title, 8, 1.2 + 0.25 * len(ours))
    place = {name: -i for i, name in enumerate(ours)}
    for name in ours.keys() & paper.keys():
        axes.plot([ours[name], paper[name]], [place[name]] * 2, color=_GREY, linewidth=0.8)
    reported = [name for name in ours if name in paper]
    if reported:
        axes.scatter(
            [paper[name] for name in reported],
            [place[name] for name in reported],
            facecolors="white",
            edgecolors=_COLORS[0],
            label="the paper",
            zorder=3,
        )
    axes.scatter([*ours.values()], [*place.values()], color=_COLORS[0], label="here", zorder=4)
    axes.set(xlabel=what)
    axes.set_yticks([*place.values()], [*place])
    axes.grid(axis="x", linewidth=0.4)
    axes.legend(loc="upper right", frameon=False)
    save_figure(figure, path)


def plot_words(
    path: pathlib.Path,
    words: Sequence[str],
    points_N2: Float[np.ndarray, "N 2"],
    title: str,
) -> None:
    """Words on a plane; a label that would cover an earlier one is left out, its point is not.

    Args:
      path: the PNG.
      words: the most important ones first.
      points_N2: where they are.
      title: what is shown.
    """
    figure, axes = new_figure(title, 10, 8)
    axes.scatter(*points_N2.T, s=5, color=_COLORS[0], alpha=0.4, linewidths=0)
    low_2, high_2 = np.percentile(points_N2, [0.5, 99.5], axis=0)
    margin_2 = 0.05 * (high_2 - low_2)
    axes.set_xlim(low_2[0] - margin_2[0], high_2[0] + margin_2[0])
    axes.set_ylim(low_2[1] - margin_2[1], high_2[1] + margin_2[1])
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.canvas.draw()
    taken: list[Any] = []
    frame = axes.get_window_extent()
    for word, point in zip(words, points_N2, strict=True):
        label = axes.annotate(
            _plain(word), point, xytext=(2, 2), textcoords="offset points", fontsize=8
        )
        box = label.get_window_extent().padded(1)
        inside = frame.containsx(box.x0) and frame.containsx(box.x1)
        inside = inside and frame.containsy(box.y0) and frame.containsy(box.y1)
        if inside and not any(box.overlaps(other) for other in taken):
            taken.append(box)
        else:
            label.remove()
    save_figure(figure, path)


def plot_weights(
    path: pathlib.Path,
    weights: Mapping[str, Float[np.ndarray, "bins"]],
    share_C: Float[np.ndarray, "bins"],
    frequencies: Sequence[str],
    title: str,
) -> None:
    """The weights of a mixture's members by context-frequency bin, and how many words each bin has.

    Args:
      path: the PNG.
      weights: member -> its weight in each bin.
      share_C: share of the words that are in each bin.
      frequencies: how often the contexts of each bin occur, in words.
      title: what is shown.
    """
    figure, axes = new_figure(title, 8, 4.5)
    place_C = np.arange(len(share_C))
    bottom_C = np.zeros(len(share_C))
    for (name, weight_C), color in zip(weights.items(), _cycle(len(weights)), strict=True):
        axes.bar(place_C, weight_C, bottom=bottom_C, label=name, color=color, alpha=0.85)
        bottom_C = bottom_C + weight_C
    for place, share in zip(place_C, share_C, strict=True):
        axes.annotate(f"{share:.0%}", (place, 1.01), ha="center", fontsize=8, color=_GREY)
    axes.set(
        xlabel="occurrences of the two words before, in training (above: share of test words)",
        ylabel="weight",
        ylim=(0, 1.2),
        yticks=np.linspace(0, 1, 6),
    )
    axes.set_xticks(place_C, frequencies)
    axes.legend(loc="upper center", ncols=len(weights), frameon=False)
    save_figure(figure, path)


def empty_figure(size: tuple[float, float], dpi: int) -> "Figure":
    """A figure of a size in inches, whose parts are laid out so that nothing overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=dpi, layout="constrained")


def new_figure(title: str, width: float, height: float) -> tuple["Figure", Any]:
    """A figure with one pair of axes, width and height in inches."""
    figure = empty_figure((width, height), dpi=120)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cycle(count: int) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(count)]


def _set_perplexity_ticks(axes: Any, values: Sequence[float]) -> None:
    """Round numbers in plain figures on a logarithmic axis, some eight of them."""
    low, high = min(values), min(max(values), 20 * float(np.median(values)))
    axes.set_ylim(low / 1.08, high * 1.08)
    steps = np.array([1, 1.5, 2, 3, 4, 5, 6, 8])
    candidates = np.concatenate([steps * 10**k for k in range(7)])
    if ((candidates >= low) & (candidates <= high)).sum() < 3:
        from matplotlib.ticker import MaxNLocator

        candidates = np.asarray(MaxNLocator(7).tick_values(low, high))
    inside = candidates[(candidates >= low / 1.08) & (candidates <= high * 1.08)]
    axes.set_yticks(inside, [f"{value:g}" for value in inside])
    axes.minorticks_off()


def _name_levels(axes: Any, levels: Mapping[str, float]) -> None:
    """Names at the right end of horizontal lines, moved apart where lines are close."""
    low, high = np.log(axes.get_ylim())
    least = 0.035 * (high - low)
    height = -np.inf
    for name, level in sorted(levels.items(), key=lambda item: item[1]):
        height = max(np.log(level), height + least)
        axes.annotate(
            f" {name} {level:.0f}",
            (1, np.exp(height)),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color=_GREY,
            annotation_clip=False,
        )


def _plain(word: str) -> str:
    """A dollar sign would start mathematics."""
    return word.replace("$", r"\$")


def save_figure(figure: "Figure", path: pathlib.Path) -> None:
    """Writes a PNG, whole or not at all, on the main process."""
    if is_main_process():
        with replacing(path) as handle:
            figure.savefig(handle, format="png")
