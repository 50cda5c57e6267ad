"""Whether samples show what their captions say: a classifier of attributes, trained apart."""

import dataclasses
import pathlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from experiments.shared.classifiers import fit_classifier
from experiments.shared.workdir import using_folder
from experiments.text_to_image.support.captioned_data import pictures_digest
from jaxgen.data import BatchPlan, CaptionedSet, from_unit, to_unit
from jaxgen.evaluation import (
    ClassifierConfig,
    Moments,
    apply_classifier,
    attribute_accuracy,
    attribute_codes,
    attribute_loss,
    feature_moments,
    frechet_distance,
)
from jaxgen.typing import Batch, Tree

FRECHET = "Fréchet distance"
SEEN_FRAMES = 8
"""So many frames of a longer clip, evenly chosen, are looked at."""


@dataclass(frozen=True)
class AttributeEvaluator:
    """Finds the attributes of pictures, or of clips.

    Attributes:
      names: of the attributes that differ between pictures.
      values: the names of the values of each.
      config: of the classifier.
      params: its parameters.
      test: moments of the features of real pictures, those of the test part.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    config: ClassifierConfig
    params: Tree
    test: Moments

    def figures(
        self, images: Float[np.ndarray, "N *T Y X C"], wanted_NF: Int[np.ndarray, "N F"]
    ) -> dict[str, float]:
        """The share with each attribute as asked, with all, and the distance to real pictures.

        Args:
          images: in about [-1, 1]; they are rounded to bytes, as pictures are.
          wanted_NF: what was asked for, -1 for nothing.
        """
        features_ND, found_NF = self.look(to_unit(from_unit(images)))
        figures = attribute_accuracy(found_NF, wanted_NF, self.names)
        return figures | {FRECHET: frechet_distance(self.test, feature_moments([features_ND]))}

    def compared_with(self, part: CaptionedSet) -> "AttributeEvaluator":
        """The same with the distance to other real pictures, such as those of validation."""
        return dataclasses.replace(self, test=_moments(self.config, self.params, part))

    def look(
        self, images: Float[np.ndarray, "N *T Y X C"]
    ) -> tuple[Float[np.ndarray, "N D"], Int[np.ndarray, "N F"]]:
        """Features, and the most likely values of the attributes."""
        features_ND, p_NV = apply_classifier(self.config, self.params, seen_frames(images))
        return features_ND, attribute_codes(p_NV, [len(values) for values in self.values])


def evaluated_names(pictures: CaptionedSet) -> tuple[str, ...]:
    """The attributes that have more than one value; none for a set without attributes."""
    if pictures.attributes is None:
        return ()
    return tuple(name for name, values in pictures.attributes.values.items() if len(values) > 1)


def codes_of(pictures: CaptionedSet) -> Int[np.ndarray, "N F"]:
    """The codes of those attributes."""
    assert pictures.attributes is not None
    return np.stack([pictures.attributes.of(name) for name in evaluated_names(pictures)], axis=1)


def make_attribute_evaluator(
    pictures: CaptionedSet,
    folder: pathlib.Path,
    seed: int = 0,
    progress: bool = True,
    *,
    widths: tuple[int, ...] | None = None,
    examples: int | None = None,
    updates: int | None = None,
) -> AttributeEvaluator | None:
    """Trains the evaluator of a set, or opens the one that `folder` holds.

    Args:
      pictures: the set.
      folder: where evaluators are kept, each in a folder of its own for every set.
      seed: of its training.
      progress: whether to show a bar.
      widths: of the classifier; None: those for the size of the pictures, half of them for clips.
      examples: it learns from so many pictures; None: all for training.
      updates: of its training; None: those of some epochs.

    Returns:
      The evaluator; None for a set without attributes.
    """
    names = evaluated_names(pictures)
    if not names:
        return None
    assert pictures.attributes is not None
    values = tuple(pictures.attributes.values[name] for name in names)
    sizes = [len(one) for one in values]
    code_NF = codes_of(pictures).astype(np.int32)
    usual = ClassifierConfig.for_images(pictures.images.shape[1:], sum(sizes))
    widths = widths or tuple(width // (1 + usual.temporal) for width in usual.widths)
    config = dataclasses.replace(usual, widths=widths, coordinates=True)

    def data(plan: BatchPlan, step: int) -> Batch:
        chosen = plan.positions(step)
        images = to_unit(seen_frames(pictures.images[chosen]))
        return {"image": images, "codes": code_NF[chosen]}

    own = folder / pictures_digest(pictures)
    with using_folder(own):
        loss_fn, (start, stop) = attribute_loss(config, sizes), pictures.parts["train"]
        span = start, stop if examples is None else min(stop, start + examples)
        params = fit_classifier(
            *(config, loss_fn, data, span, own, seed, progress), updates=updates
        )
    moments = _moments(config, params, pictures.part("test"))
    return AttributeEvaluator(names, values, config, params, moments)


def seen_frames(images: Shaped[np.ndarray, "N *T Y X C"]) -> Shaped[np.ndarray, "N *T2 Y X C"]:
    """The frames that the classifier looks at; pictures are what they are."""
    if images.ndim == 4 or images.shape[1] <= SEEN_FRAMES:
        return images
    return images[:, np.linspace(0, images.shape[1] - 1, SEEN_FRAMES).round().astype(int)]


def _moments(config: ClassifierConfig, params: Tree, pictures: CaptionedSet) -> Moments:
    images = to_unit(seen_frames(pictures.images))
    return feature_moments([apply_classifier(config, params, images)[0]])
