"""Pictures of the experiment on CLIP, written as PNG on the main process."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from experiments.shared.plots import Curve, empty_figure, save_figure

COLUMNS, CHARACTERS = 4, 30


def plot_retrieval(
    path: pathlib.Path,
    images_NYXC: UInt8[np.ndarray, "N Y X C"],
    found: Sequence[str],
    own: Sequence[str],
) -> None:
    """Pictures with the captions that were found for them; wrong ones in red, above the right one.

    Args:
      path: the PNG.
      images_NYXC: the pictures.
      found: a caption for each.
      own: the right one of each.
    """
    rows = -(-len(found) // COLUMNS)
    figure = empty_figure((2.6 * COLUMNS, 2.5 * rows), dpi=100)
    right = sum(a == b for a, b in zip(found, own, strict=True))
    figure.suptitle(f"Nearest captions of test pictures: {right} of {len(own)} right")
    for i, axes in enumerate(np.ravel(figure.subplots(rows, COLUMNS))):
        axes.set_axis_off()
        if i >= len(found):
            continue
        grey = images_NYXC.shape[-1] == 1
        axes.imshow(images_NYXC[i][..., 0] if grey else images_NYXC[i], cmap="gray")
        wrong = found[i] != own[i]
        text = textwrap.fill(found[i], CHARACTERS)
        if wrong:
            text += "\nnot: " + textwrap.fill(own[i], CHARACTERS)
        axes.set_title(text, fontsize=7, color="tab:red" if wrong else "black")
    save_figure(figure, path)


def plot_contrastive(path: pathlib.Path, losses: Mapping[str, Curve], accuracy: Curve) -> None:
    """The contrastive loss, and below it how many pairs of a batch find each other.

    Args:
      path: the PNG.
      losses: name -> updates and losses.
      accuracy: updates and shares of the training batches.
    """
    figure = empty_figure((8, 6), dpi=120)
    above, below = figure.subplots(2, sharex=True)
    for name, (x, y) in losses.items():
        if x:
            above.plot(x, y, label=name, marker="o" if len(x) < 15 else None, markersize=3)
    above.set(ylabel="loss, nats", title="Contrastive loss, and pairs that find each other")
    above.legend(frameon=False)
    below.plot(*accuracy, label="training batches")
    below.set(xlabel="updates", ylabel="share of a batch", ylim=(0, 1.02))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
