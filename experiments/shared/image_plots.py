"""Pictures of the diffusion experiments, written as PNG on the main process."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from experiments.shared.plots import Curve, empty_figure, new_figure, save_figure
from jaxgen.data import from_unit
from jaxgen.files import replacing
from jaxgen.parallel import is_main_process

_PIXELS = 64
"""Least side of a picture's image, in pixels of the screen."""

_GAP = 0.08
"""Between images, as a share of their side."""


def tile(images_RQYXC: UInt8[np.ndarray, "R Q Y X C"], gap: int = 1) -> UInt8[np.ndarray, "Y X C"]:
    """Rows of columns of images as one image, on white."""
    rows, columns, height, width, channels = images_RQYXC.shape
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    whole = np.full(shape, 255, np.uint8)
    for r in range(rows):
        for q in range(columns):
            top, left = r * (height + gap), q * (width + gap)
            whole[top : top + height, left : left + width] = images_RQYXC[r, q]
    return whole


def tile_videos(
    videos_RQTYXC: UInt8[np.ndarray, "R Q T Y X C"],
) -> UInt8[np.ndarray, "T Y X C"]:
    """Rows of columns of videos as one video, on white."""
    return np.stack([tile(frame, gap=2) for frame in np.moveaxis(videos_RQTYXC, 2, 0)])


def plot_images(
    path: pathlib.Path,
    images_RQYXC: Float[np.ndarray, "R Q Y X C"],
    title: str,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> None:
    """A table of images with names above the columns and before the rows.

    Args:
      path: the PNG.
      images_RQYXC: rows of images in [-1, 1].
      title: what is shown.
      columns: a name for each column, or none.
      rows: a name for each row, or none.
    """
    count_r, count_q, height, width, _ = images_RQYXC.shape
    gap = max(1, round(_GAP * width))
    whole = tile(from_unit(images_RQYXC), gap)
    scale = max(1, round(_PIXELS / max(height, width))) / 100
    lines = [line for row in rows for line in row.split("\n")]
    margin = 0.2 + 0.1 * max(map(len, lines), default=0)
    size = (whole.shape[1] * scale + margin, whole.shape[0] * scale + 0.7)
    figure = empty_figure((max(size[0], 4.0), size[1] + 0.2), dpi=100)
    axes = figure.add_subplot()
    letters = int(max(size[0], 4.0) * 14)
    larger = max(1.0, size[0] / 12)  # letters that can be read where a large picture is shown small
    axes.set_title("\n".join(textwrap.wrap(title, letters)), fontsize=10 * larger)
    shown = whole[..., 0] if whole.shape[-1] == 1 else whole
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=8 * larger)
    axes.set_xticks(_centres(count_q, width, gap) if columns else [], list(columns))
    axes.set_yticks(_centres(count_r, height, gap) if rows else [], list(rows))
    figure.set_layout_engine("compressed")  # the picture keeps its shape, so names get the room
    save_figure(figure, path)


def write_png(path: pathlib.Path, image_YXC: UInt8[np.ndarray, "Y X C"]) -> None:
    """Writes an image as it is, whole or not at all, on the main process."""
    if is_main_process():
        with replacing(path) as handle:
            from matplotlib.image import imsave

            imsave(handle, image_YXC, format="png")


def _centres(count: int, side: int, gap: int) -> list[float]:
    return [i * (side + gap) + (side - 1) / 2 for i in range(count)]


def plot_losses(
    path: pathlib.Path, curves: Mapping[str, Curve], levels: Mapping[str, Curve], title: str
) -> None:
    """The loss in the course of training, and below what it is at different noise levels.

    Args:
      path: the PNG.
      curves: name -> updates and losses.
      levels: range of the log-SNR -> updates and mean losses in that range.
      title: what is shown.
    """
    figure = empty_figure((8, 7), dpi=120)
    above, below = figure.subplots(2, sharex=True)
    figure.suptitle(title)
    for axes, lines in ((above, curves), (below, levels)):
        for name, (x, y) in lines.items():
            axes.plot(x, y, label=name, marker="o" if len(x) < 15 else None, markersize=3)
        axes.set(ylabel="loss", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        if lines:
            axes.legend(frameon=False)
    below.set(xlabel="updates")
    save_figure(figure, path)


def plot_by_steps(
    path: pathlib.Path,
    curves: Mapping[str, Curve],
    title: str,
    y_label: str,
    levels: Mapping[str, float] | None = None,
    x_label: str = "network evaluations (NFE)",
) -> None:
    """A figure of quality against the number of steps, both on logarithmic axes.

    Args:
      path: the PNG.
      curves: name -> steps and figures.
      title: what is shown.
      y_label: what the figure is.
      levels: name -> a value that does not depend on steps, as a dashed line.
      x_label: what the x axis counts.
    """
    figure, axes = new_figure(title, 8, 5)
    for name, (x, y) in curves.items():
        axes.plot(x, y, label=name, marker="o", markersize=4)
    for name, level in (levels or {}).items():
        axes.axhline(level, color="0.45", linestyle="--", linewidth=1, label=name)
    steps = sorted({step for x, _ in curves.values() for step in x})
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.minorticks_off()
    lowest, highest = axes.get_ylim()
    if highest < 100 * lowest:  # powers of ten alone would leave one number on the axis
        from matplotlib.ticker import LogLocator

        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)
    save_figure(figure, path)


def some_of(previews: Float[np.ndarray, "S N Y X C"], most: int) -> tuple[list[int], Any]:
    """Evenly spaced steps of a series, first and last included: their numbers, and the images."""
    chosen = np.unique(np.linspace(0, len(previews) - 1, min(most, len(previews))).round())
    index = chosen.astype(int).tolist()
    return index, previews[index]
