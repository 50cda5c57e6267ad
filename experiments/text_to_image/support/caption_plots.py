"""Pictures of the experiments on pictures and texts, written as PNG on the main process."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from experiments.shared.plots import Curve, empty_figure, save_figure

COLUMNS, CHARACTERS = 4, 30


def plot_captions(
    path: pathlib.Path,
    images_NYXC: UInt8[np.ndarray, "N Y X C"],
    found: Sequence[str],
    own: Sequence[str],
    title: str,
) -> None:
    """Pictures with the captions that were found for them; wrong ones in red, above the right one.

    Args:
      path: the PNG.
      images_NYXC: the pictures.
      found: a caption for each.
      own: the right one of each.
      title: of the whole, before how many are right.
    """
    rows = -(-len(found) // COLUMNS)
    height, width = images_NYXC.shape[1:3]
    figure = empty_figure((2.6 * COLUMNS, (1.9 * height / width + 0.6) * rows), dpi=100)
    right = sum(a == b for a, b in zip(found, own, strict=True))
    figure.suptitle(f"{title}: {right} of {len(own)} right")
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
    title = "Contrastive loss, and pairs that find each other"
    shares = {"training batches": accuracy}
    plot_losses_and_shares(path, losses, shares, title, "share of a batch")


def plot_by_time(path: pathlib.Path, shares: Mapping[float, float], captions: int) -> None:
    """How often the caption of a noisy picture is found, by time.

    Args:
      path: the PNG.
      shares: time -> share.
      captions: among how many it is looked for.
    """
    figure = empty_figure((6, 4), dpi=120)
    axes = figure.add_subplot()
    axes.plot(list(shares), list(shares.values()), marker="o", label="found")
    axes.axhline(1 / captions, color="0.5", linestyle="--", label="by chance")
    axes.set(xlabel="time t (0 picture, 1 noise)", ylabel="share of test pictures", ylim=(0, 1.02))
    axes.set_title(f"The caption of a noisy picture among {captions:,}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)


def plot_losses_and_shares(
    path: pathlib.Path,
    losses: Mapping[str, Curve],
    shares: Mapping[str, Curve],
    title: str,
    what: str,
) -> None:
    """Losses, and below them shares of what is right.

    Args:
      path: the PNG.
      losses: name -> updates and losses.
      shares: name -> updates and shares.
      title: of the whole.
      what: the shares are of.
    """
    figure = empty_figure((8, 6), dpi=120)
    above, below = figure.subplots(2, sharex=True)
    for axes, curves in ((above, losses), (below, shares)):
        for name, (x, y) in curves.items():
            if x:
                axes.plot(x, y, label=name, marker="o" if len(x) < 15 else None, markersize=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    above.set(ylabel="loss, nats", yscale="log", title=title)
    below.set(xlabel="updates", ylabel=what, ylim=(0, 1.02))
    save_figure(figure, path)
