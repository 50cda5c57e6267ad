"""How well texts and images go together, from unit vectors of both: in numpy, by any encoder.

With unit vectors i of images and t of texts, as CLIP's towers make them, the similarity of a pair
is ``<i, t>``.

* zero-shot classification (Radford et al. 2021, section 3.1.4): a class is the mean of the unit
  vectors of several texts about it, normalised again; probabilities are ``softmax(s <i, t>)``;
* retrieval: the share of images among whose k nearest texts is one of its own, and of texts among
  whose k nearest images is one of theirs. Texts that mean the same are each other's hits;
* CLIP score (Hessel et al. 2021): the mean of ``w max(<i, t>, 0)`` over pairs. The paper has
  w = 2.5, torchmetrics 100, tables of text-to-image models mostly 1;
* R-precision (Park et al. 2021; Xu et al. 2018): the share of images that are closer to their own
  text than to every one of 99 others, drawn among those that mean something else.

Equal similarities, to 1e-12, count against: vectors that are all the same find nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from jaxgen.errors import InputError
from jaxgen.evaluation.features import check_features, check_same_width

UNIT = 1e-2
"""How far the length of a unit vector may be from 1; bfloat16 has three digits."""

TIE = 1e-12
"""Similarities that differ by less are equal; products of matrices round equal ones differently."""

ROWS = 1024
"""Rows of a matrix of similarities at a time."""


class Retrieval(NamedTuple):
    """Shares of what is found, by k.

    Attributes:
      text_of_image: of images whose text is among the k nearest texts.
      image_of_text: of texts whose image is among the k nearest images.
    """

    text_of_image: dict[int, float]
    image_of_text: dict[int, float]


def class_vectors(text_CTD: Float[np.ndarray, "C T D"]) -> Float64[np.ndarray, "C D"]:
    """The vector of each class from the unit vectors of its texts: their mean, normalised.

    Args:
      text_CTD: a unit vector for each class and template.

    Raises:
      InputError: for other than unit vectors, or texts of a class that cancel each other.
    """
    values = np.asarray(text_CTD)
    if values.ndim != 3 or not values.shape[1]:
        raise InputError(f"texts have vectors {values.shape}, expected [classes, templates, D]")
    flat = _unit(values.reshape(-1, values.shape[-1]), "texts")
    mean_CD = flat.reshape(values.shape).mean(axis=1)
    length_C1 = np.linalg.norm(mean_CD, axis=1, keepdims=True)
    if length_C1.min() < 1e-12:
        raise InputError(
            f"texts of class {int(length_C1.argmin())} have the mean 0, expected a direction"
        )
    return mean_CD / length_C1


def zero_shot_probabilities(
    image_ND: Float[np.ndarray, "N D"], class_CD: Float[np.ndarray, "C D"], scale: float = 100.0
) -> Float64[np.ndarray, "N C"]:
    """P(class | image) = ``softmax(s <i, t>)``; `class_accuracy` takes them.

    Args:
      image_ND: unit vectors of images.
      class_CD: those of classes (`class_vectors`).
      scale: s, which CLIP has learnt.
    """
    image_ND, class_CD = _pair(image_ND, class_CD, "classes")
    logits_NC = scale * image_ND @ class_CD.T
    weights_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return weights_NC / weights_NC.sum(axis=1, keepdims=True)


def clip_score(
    image_ND: Float[np.ndarray, "N D"], text_ND: Float[np.ndarray, "N D"], weight: float = 1.0
) -> float:
    """The mean over pairs of ``w max(<i, t>, 0)``.

    Args:
      image_ND: unit vectors of images.
      text_ND: those of their texts.
      weight: w, see the module's text.

    Raises:
      InputError: for other than unit vectors, or unequal numbers.
    """
    image_ND, text_ND = _pair(image_ND, text_ND, "texts")
    _check_pairs(len(image_ND), len(text_ND))
    return float(weight * np.maximum(np.sum(image_ND * text_ND, axis=1), 0).mean())


def text_image_retrieval(
    image_ND: Float[np.ndarray, "N D"],
    text_MD: Float[np.ndarray, "M D"],
    image_meaning_N: Int[np.ndarray, "N"] | None = None,
    text_meaning_M: Int[np.ndarray, "M"] | None = None,
    at: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    """Recall at k in both directions.

    Args:
      image_ND: unit vectors of images.
      text_MD: those of texts.
      image_meaning_N: an id for each image, equal to that of its texts; None: image and text n
        belong together and to no other.
      text_meaning_M: an id for each text; texts that mean the same have the same.
      at: each k.

    Raises:
      InputError: for other than unit vectors, a k below 1, ids for one side alone, or an image
        without a text or a text without an image.
    """
    image_ND, text_MD = _pair(image_ND, text_MD, "texts")
    if min(at, default=0) < 1:
        raise InputError(f"at is {tuple(at)}, expected one or more numbers of 1 or more")
    if image_meaning_N is None and text_meaning_M is None:
        _check_pairs(len(image_ND), len(text_MD))
        image_meaning_N = text_meaning_M = np.arange(len(image_ND))
    meanings = _meanings(image_meaning_N, len(image_ND)), _meanings(text_meaning_M, len(text_MD))
    ranks = _ranks(image_ND, text_MD, *meanings), _ranks(text_MD, image_ND, *meanings[::-1])
    return Retrieval(*({k: float(np.mean(rank < k)) for k in at} for rank in ranks))


def r_precision(
    image_ND: Float[np.ndarray, "N D"],
    text_ND: Float[np.ndarray, "N D"],
    meaning_N: Int[np.ndarray, "N"] | None = None,
    others: int = 99,
    seed: int = 0,
) -> float:
    """The share of images closer to their own text than to each of some others.

    Args:
      image_ND: unit vectors of images.
      text_ND: those of their texts.
      meaning_N: an id for each text; texts that mean the same are not drawn. None: all differ.
      others: how many texts an image's own is compared with.
      seed: of the draw.

    Raises:
      InputError: for other than unit vectors, unequal numbers, or fewer texts to draw from than
        ``others``.
    """
    image_ND, text_ND = _pair(image_ND, text_ND, "texts")
    count = len(image_ND)
    _check_pairs(count, len(text_ND))
    meaning_N = np.arange(count) if meaning_N is None else _meanings(meaning_N, count)
    rng = np.random.default_rng(seed)
    right = 0
    for n in range(count):
        pool = np.flatnonzero(meaning_N != meaning_N[n])
        if not 1 <= others <= len(pool):
            raise InputError(
                f"others is {others}, expected 1 to {len(pool)}, the texts that mean something "
                f"else than text {n}"
            )
        drawn = rng.choice(pool, others, replace=False)
        nearest = (text_ND[drawn] @ image_ND[n]).max()
        right += bool(image_ND[n] @ text_ND[n] >= nearest + TIE)
    return right / count


def _ranks(
    own_ND: np.ndarray, other_MD: np.ndarray, own_meaning_N: np.ndarray, meaning_M: np.ndarray
) -> Int[np.ndarray, "N"]:
    """How many of the others that mean something else are as near as the nearest that does not."""
    ranks = []
    for start in range(0, len(own_ND), ROWS):
        rows = slice(start, start + ROWS)
        similarity_NM = own_ND[rows] @ other_MD.T
        hit_NM = own_meaning_N[rows, None] == meaning_M
        missing_N = ~hit_NM.any(axis=1)
        if missing_N.any():
            raise InputError(
                f"id {own_meaning_N[rows][missing_N][0]} is that of a text or image alone, "
                "expected one of each kind or more"
            )
        best_N1 = np.where(hit_NM, similarity_NM, -np.inf).max(axis=1, keepdims=True)
        ranks.append(np.sum(~hit_NM & (similarity_NM > best_N1 - TIE), axis=1))
    return np.concatenate(ranks)


def _meanings(ids: Any, count: int) -> Int[np.ndarray, "N"]:
    values = np.asarray(ids)
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"ids of meaning are {values.dtype} {list(values.shape)}, expected {count} integers"
        )
    return values


def _pair(image: Any, text: Any, what: str) -> tuple[Any, Any]:
    """Unit vectors of one width, in float64."""
    image, text = _unit(image, "images"), _unit(text, what)
    check_same_width(image.shape[1], text.shape[1])
    return image, text


def _unit(vectors: Any, what: str) -> Float64[np.ndarray, "N D"]:
    values = check_features(vectors, f"vectors of {what}", 1)
    wrong = np.abs(np.linalg.norm(values, axis=1) - 1)
    if wrong.max() > UNIT:
        length = np.linalg.norm(values[wrong.argmax()])
        raise InputError(
            f"vectors of {what}: number {wrong.argmax()} has the length {length:.4g}, expected "
            "unit vectors"
        )
    return values


def _check_pairs(images: int, texts: int) -> None:
    if images != texts:
        raise InputError(f"there are {images} images and {texts} texts, expected one text for each")
