"""How good samples of images are: a classifier that an experiment trains and keeps, and figures.

Features come from that classifier, or from Inception or a residual network where a weight file is
given; figures under different features cannot be compared. Samples are compared with the training
part, as is usual; the same figures of real held-out images say what is the best to hope for.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.shared.classifiers import train_classifier
from experiments.shared.digests import digest_of, images_digest, params_digest, tree_digest
from experiments.shared.launch import report
from experiments.shared.output import cached_arrays, format_table, three_decimals, write_text
from experiments.shared.workdir import using_folder
from jaxgen.data import ImageSet, from_unit, to_unit
from jaxgen.errors import InputError
from jaxgen.evaluation import (
    Moments,
    apply_classifier,
    class_accuracy,
    feature_moments,
    frechet_distance,
    precision_recall,
)
from jaxgen.evaluation.cifar_resnet import apply_cifar_resnet, cifar_resnet_params
from jaxgen.evaluation.inception import inception_features, inception_params
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.tensors import without_prefix
from jaxgen.typing import Tree

FRECHET, ACCURACY = "Fréchet distance", "accuracy"
COLUMNS = (FRECHET, "precision", "recall", "density", "coverage", ACCURACY)
NOT_EVALUATED = (
    "Samples are not evaluated: features come from a classifier of the images, which needs at least"
    " two classes"
)
"""What stands where figures would, without a full stop."""

REAL, REAL_COUNT = "real, held out", "images of real"
"""Names of the figures of real images, and of how many they are."""

NEIGHBOURS = 3
MOST_NEIGHBOURS_OF = 2000
"""Images of each side that precision and recall are taken from, at most."""

Features = Callable[[Float[np.ndarray, "N Y X C"]], Float[np.ndarray, "N D"]]
Classify = Callable[
    [Float[np.ndarray, "N Y X C"]], tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N V"]]
]
"""Images in [-1, 1] to features and class probabilities."""


@dataclass(frozen=True)
class Evaluator:
    """The sample quality of one set of images.

    Attributes:
      features: images in [-1, 1] to features; None where there are none.
      classify: the classifier; None for images without labels.
      train: moments of the training part's features.
      real_ND: features of some training images, for precision and recall.
      made_of: a digest of the images and of what makes the features.
    """

    features: Features | None
    classify: Classify | None
    train: Moments | None
    real_ND: Float[np.ndarray, "N D"] | None
    made_of: str = ""

    def figures(
        self, images: Float[np.ndarray, "N Y X C"], labels: Int[np.ndarray, "N"] | None
    ) -> dict[str, float]:
        """The figures of `COLUMNS`, as far as they can be had.

        Args:
          images: in about [-1, 1]; they are rounded to bytes, as pictures are.
          labels: the classes that were asked for.
        """
        images = to_unit(from_unit(images))
        found: dict[str, float] = {}
        known = self.features is not None and self.train is not None and self.real_ND is not None
        if known and min(len(images), self.train.count) > 1:  # one image has no covariance
            features_ND = self.features(images)
            distance = frechet_distance(self.train, feature_moments([features_ND]))
            found[FRECHET] = distance
            count = min(len(features_ND), len(self.real_ND))
            if count > NEIGHBOURS:
                covered = precision_recall(
                    self.real_ND[:count], features_ND[:count], neighbours=NEIGHBOURS
                )
                found |= {name: float(value) for name, value in covered._asdict().items()}
        if self.classify is not None and labels is not None:
            _, p_NV = self.classify(images)
            found[ACCURACY] = class_accuracy(p_NV, labels)
        return found

    def figures_in_blocks(
        self,
        images: Float[np.ndarray, "N Y X C"],
        labels: Int[np.ndarray, "N"] | None,
        size: int,
    ) -> dict[str, float]:
        """The mean figures of as many blocks of `size` images as there are.

        A Fréchet distance falls with the number of images, and precision and recall depend on it
        too: rows of a table are of equally many images each, whatever there are in all.

        Args:
          images: in about [-1, 1].
          labels: the classes that were asked for.
          size: images of a block, at most N.
        """
        blocks = [slice(i, i + size) for i in range(0, len(images) - size + 1, size)]
        found = [self.figures(images[b], None if labels is None else labels[b]) for b in blocks]
        return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


def make_evaluator(
    images: ImageSet,
    folder: pathlib.Path,
    *,
    inception: Tree | None = None,
    resnet: Tree | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evaluator:
    """Takes real features, and trains the classifier of a set or opens the one `folder` holds.

    Args:
      images: the set.
      folder: where the figures of real features are kept, and the classifier, in a folder of its
        own for every set of images.
      inception: parameters of Inception (`open_inception`), if its features are wanted.
      resnet: parameters of a classifier that was trained elsewhere (`open_resnet`), in place of
        one that is trained here.
      seed: of the classifier's training.
      progress: whether to show a bar while it is trained.
    """
    classify, made_by, digest = None, "", images_digest(images)
    name = "classifier"
    if resnet is not None:
        classify = functools.partial(apply_cifar_resnet, resnet)
        made_by = tree_digest(resnet)
        name = f"resnet_{made_by}"
    elif len(images.classes) > 1:
        with using_folder(folder / digest):
            config, params = train_classifier(images, folder / digest, seed, progress)
        classify = functools.partial(apply_classifier, config, params)
        made_by = params_digest(params)
    features: Features | None = None
    if inception is not None:
        features = functools.partial(inception_features, inception)
        name = f"inception_{tree_digest(inception)}"
    elif classify is not None:
        features = _first_of(classify)
    if features is None:
        return Evaluator(None, None, None, None)
    made_of = digest_of(digest, name, made_by)
    real = cached_arrays(
        folder / f"{name}_features.npz", lambda: _real_features(features, images), made_of=made_of
    )
    train = Moments(int(real["count"]), real["mean"], real["scatter"])
    return Evaluator(features, classify, train, real["some"], made_of)


def open_inception(path: str | None) -> Tree | None:
    """Inception's parameters from a weight file (safetensors); None without one.

    A prefix that all its names have ("module.") is left out.

    Raises:
      InputError: for a file that is not Inception's; the message names it.
    """
    if path is None:
        return None
    return inception_params(without_prefix(TensorFile(path), ["Conv2d_1a_3x3.conv.weight"]), path)


def open_resnet(path: str | None, images: ImageSet) -> Tree | None:
    """A classifier's parameters from a weight file (`jaxgen.evaluation.cifar_resnet`).

    Raises:
      InputError: for a file of another network, or one of other classes; the message names it.
    """
    if path is None:
        return None
    params = cifar_resnet_params(without_prefix(TensorFile(path), ["conv1.weight"]), path)
    classes, channels = len(params["linear"]["bias"]), images.images.shape[-1]
    if classes != len(images.classes) or channels != 3:
        raise InputError(
            f"{path}: {classes} classes of images of 3 channels, expected the "
            f"{len(images.classes)} of {images.name}, of {channels}"
        )
    return params


def _first_of(classify: Classify) -> Features:
    """Its features alone."""
    return lambda images: classify(images)[0]


def _real_features(features: Features, images: ImageSet) -> dict[str, np.ndarray]:
    """Moments of the training part's features, and some of them, drawn at random."""
    real_ND = features(to_unit(images.part("train").images))
    moments = feature_moments([real_ND])
    order = np.random.default_rng(0).permutation(len(real_ND))[:MOST_NEIGHBOURS_OF]
    return {
        "count": np.array(moments.count),
        "mean": moments.mean_D,
        "scatter": moments.scatter_DD,
        "some": real_ND[order],
    }


def held_out_figures(evaluator: Evaluator, images: ImageSet, count: int) -> dict[str, float]:
    """The figures of real images that were not trained on: the best to hope for.

    Args:
      evaluator: of the set.
      images: the set; its test part is taken, or else the validation part.
      count: images, at most.
    """
    part = next((part for part in ("test", "validation") if part in images.parts), None)
    if part is None or not count:
        return {}
    held = images.part(part)
    labels = None if held.labels is None else held.labels[:count]
    return evaluator.figures(to_unit(held.images[:count]), labels)


def real_figures(
    evaluator: Evaluator, images: ImageSet, count: int
) -> dict[str, dict[str, float] | int]:
    """By name, the figures of real images and of how many they are; see `held_out_figures`."""
    found = held_out_figures(evaluator, images, count)
    return {REAL: found, REAL_COUNT: held_out_count(images, count)}


def comparable_figures(
    evaluator: Evaluator,
    samples: Float[np.ndarray, "N Y X C"],
    labels: Int[np.ndarray, "N"] | None,
    real: int,
) -> dict[str, Any]:
    """The figures of samples; of more than there are real images, those that compare with them too.

    Args:
      evaluator: of the set.
      samples: in about [-1, 1].
      labels: the classes that were asked for.
      real: how many real images there are (`held_out_count`).

    Returns:
      Figures of all samples and, under "179 images a row", say, means over blocks of so many.
    """
    found: dict[str, Any] = dict(evaluator.figures(samples, labels))
    if real < len(samples):
        found[images_a_row(real)] = evaluator.figures_in_blocks(samples, labels, real)
    return found


def images_a_row(count: int) -> str:
    """What figures of so many images each are called."""
    return f"{count:,} images a row"


def held_out_count(images: ImageSet, count: int) -> int:
    """How many images each row of a table is of, beside real ones: all held-out ones at most."""
    held = next((images.part(part) for part in ("test", "validation") if part in images.parts), ())
    return min(count, len(held)) or count


def write_tables(
    folder: pathlib.Path,
    columns: Mapping[str, str],
    evaluated: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> None:
    """Writes (and reports) ``table.md``, distances, and ``table_accuracy.md``, if there are any.

    Without any figures ``table.md`` says why.

    Args:
      folder: where to.
      columns: what heads each column, by its key in `evaluated`.
      evaluated: figures of `Evaluator.figures` by row and column; a row may lack some columns.
    """
    known = {what for row in evaluated.values() for found in row.values() for what in found}
    if not known:
        show_text(folder / "table.md", f"{NOT_EVALUATED}.")
    for what, suffix in ((FRECHET, ""), (ACCURACY, "_accuracy")):
        if what in known:
            rows = [
                (name, *(three_decimals(row.get(column, {}).get(what)) for column in columns))
                for name, row in evaluated.items()
            ]
            show_text(folder / f"table{suffix}.md", format_table((what, *columns.values()), rows))


def show_text(path: pathlib.Path, text: str) -> None:
    """Prints a table, or what stands in its place, and writes it."""
    report(f"\n{text}\n")
    write_text(path, text)


def quality_table(first: str, evaluated: Mapping[str, Mapping[str, float]]) -> str:
    """Figures of `Evaluator.figures` as a table, one row for each name; `first` heads the names."""
    return format_table(
        (first, *COLUMNS),
        [
            (name, *(three_decimals(found.get(c)) for c in COLUMNS))
            for name, found in evaluated.items()
        ],
    )
