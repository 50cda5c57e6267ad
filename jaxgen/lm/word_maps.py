"""Word features as something to look at: nearest neighbours and maps (Bengio et al. 2003, 5.2).

Row i of C is the feature vector of word i. Words that are used alike come to lie near each other::

    cos(i, j) = C(i) . C(j) / (|C(i)| |C(j)|)

Everything here is numpy on a table [V, D]; a picture is made from a `WordMap` elsewhere.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float64, Int64, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_ids, check_not_string
from jaxgen.lm.contexts import check_words

_ROWS = 256
"""Queries compared with all words at a time; bounds the memory of [rows, V] similarities."""


def word_features(params: Mapping[str, Any], vocabulary_size: int) -> Float[np.ndarray, "V D"]:
    """The table C of a network's parameters, without padding.

    Args:
      params: a plain tree of parameters with one array named "C", whose rows are words.
      vocabulary_size: V.

    Returns:
      [V, D] in the parameters' type.

    Raises:
      InputError: if the parameters have no such array, or several, or one with too few rows.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in leaves]
    tables = [(path, x) for path, x in paths if path.split("/")[-1] == "C"]
    if len(tables) != 1:
        names = ", ".join(path for path, _ in paths)
        raise InputError(f"parameters are {names}, expected exactly one table of features named C")
    path, table = tables[0]
    if table.ndim != 2 or table.shape[0] < vocabulary_size:
        raise InputError(f"{path} has shape {table.shape}, expected [{vocabulary_size}, m]")
    return np.asarray(table)[:vocabulary_size]


def nearest_words(
    features_VD: Float[np.ndarray, "V D"],
    queries_QD: Float[np.ndarray, "Q D"],
    k: int,
    exclude_Q: Integer[np.ndarray, "Q"] | None = None,
) -> tuple[Float64[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
    """The words whose features have the greatest cosine with each query.

    Args:
      features_VD: the features of all words.
      queries_QD: any vectors of the same width.
      k: how many words for each query, 1 to V (V - 1 with ``exclude_Q``).
      exclude_Q: a word to leave out for each query, such as the query itself.

    Returns:
      Cosines [Q, k] in falling order and ids [Q, k], the lower id first among equals. A vector of
      length zero has the cosine 0 with every other.

    Raises:
      InputError: for shapes that do not fit each other, or k out of range.
    """
    features_VD, queries_QD = np.asarray(features_VD), np.asarray(queries_QD)
    _check_table(features_VD)
    words, width = features_VD.shape
    if queries_QD.ndim != 2 or queries_QD.shape[1] != width:
        raise InputError(f"queries have shape {queries_QD.shape}, expected [Q, {width}]")
    most = words if exclude_Q is None else words - 1
    if not 1 <= k <= most:
        raise InputError(f"k is {k}, expected 1 to {most} neighbours")
    if exclude_Q is not None:
        if np.shape(exclude_Q) != (len(queries_QD),):
            raise InputError(
                f"exclude has shape {np.shape(exclude_Q)}, expected ({len(queries_QD)},)"
            )
        exclude_Q = check_words(exclude_Q, words, "exclude")
    unit_VD, unit_QD = _unit(features_VD), _unit(queries_QD)
    cosine_QK, ids_QK = np.empty((len(unit_QD), k)), np.empty((len(unit_QD), k), np.int64)
    for first in range(0, len(unit_QD), _ROWS):
        rows = slice(first, first + _ROWS)
        cosine_QV = unit_QD[rows] @ unit_VD.T
        if exclude_Q is not None:
            np.put_along_axis(cosine_QV, exclude_Q[rows, None], -np.inf, axis=1)
        ids_QK[rows] = np.argsort(-cosine_QV, axis=1, kind="stable")[:, :k]
        cosine_QK[rows] = np.take_along_axis(cosine_QV, ids_QK[rows], axis=1)
    return cosine_QK, ids_QK


def neighbours(
    features_VD: Float[np.ndarray, "V D"], words_Q: Integer[np.ndarray, "Q"], k: int
) -> tuple[Float64[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
    """The nearest neighbours of words, each but the word itself; see `nearest_words`."""
    words_Q = check_words(words_Q, len(features_VD), "words")
    return nearest_words(features_VD, np.asarray(features_VD)[words_Q], k, exclude_Q=words_Q)


@dataclasses.dataclass(frozen=True)
class Projection:
    """An affine map of feature vectors to a few dimensions.

    Attributes:
      mean_D: what is taken away first.
      axes_DK: orthogonal columns; of length one unless whitened.
      share: part of the variance that the axes hold, in [0, 1].
    """

    mean_D: Float64[np.ndarray, "D"]
    axes_DK: Float64[np.ndarray, "D K"]
    share: float

    def __call__(self, features_ND: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "N K"]:
        """The coordinates of feature vectors."""
        return (np.asarray(features_ND, np.float64) - self.mean_D) @ self.axes_DK


def principal_axes(
    features_ND: Float[np.ndarray, "N D"], dimensions: int = 2, whiten: bool = False
) -> Projection:
    """The projection on the directions of the greatest variance, by singular values.

    The sign of an axis is such that its entry of the greatest size is positive, so the same
    features give the same map.

    Args:
      features_ND: the vectors, [N, D].
      dimensions: axes to keep, 1 to min(N, D).
      whiten: whether coordinates are scaled to variance one over the vectors given.

    Raises:
      InputError: for dimensions out of range, or to whiten a direction without variance.
    """
    features_ND = np.asarray(features_ND, np.float64)
    _check_table(features_ND)
    if not 1 <= dimensions <= min(features_ND.shape):
        raise InputError(
            f"dimensions is {dimensions}, expected 1 to {min(features_ND.shape)} for features "
            f"of shape {features_ND.shape}"
        )
    mean_D = features_ND.mean(axis=0)
    _, singular_K, axes_KD = np.linalg.svd(features_ND - mean_D, full_matrices=False)
    axes_DK = axes_KD[:dimensions].T
    axes_DK = axes_DK * np.sign(axes_DK[np.abs(axes_DK).argmax(axis=0), np.arange(dimensions)])
    total = np.sum(singular_K**2)
    share = float(np.sum(singular_K[:dimensions] ** 2) / total) if total > 0 else 1.0
    if whiten:
        deviation_K = singular_K[:dimensions] / len(features_ND) ** 0.5
        if np.any(deviation_K <= 1e-12 * singular_K[0]):
            raise InputError(f"features of rank under {dimensions} cannot be whitened")
        axes_DK = axes_DK / deviation_K
    return Projection(mean_D, axes_DK, share)


@dataclasses.dataclass(frozen=True)
class WordMap:
    """Points to plot and the words to write beside them.

    Attributes:
      words: the words.
      ids_N: their ids.
      points_N2: where they are.
      share: part of the variance of these words' features that the plane shows.
    """

    words: tuple[str, ...]
    ids_N: Int64[np.ndarray, "N"]
    points_N2: Float64[np.ndarray, "N 2"]
    share: float


def word_map(
    features_VD: Float[np.ndarray, "V D"],
    words: Sequence[str],
    count: int,
    exclude: Sequence[int] = (),
) -> WordMap:
    """The most frequent words on a plane.

    Two features are shown as they are; more are projected on the two principal axes of the words
    shown.

    Args:
      features_VD: the features of all words, D >= 2.
      words: all words by id, which is by falling frequency.
      count: how many words to show (fewer if there are no more).
      exclude: ids to leave out, such as merged rare words and punctuation.

    Raises:
      InputError: if words and features differ in number, D < 2, or fewer than two words are left.
    """
    features_VD = np.asarray(features_VD)
    _check_table(features_VD)
    check_not_string(words, "words")
    if len(words) != len(features_VD) or features_VD.shape[1] < 2:
        raise InputError(
            f"features have shape {features_VD.shape}, expected [{len(words)}, 2 or more]: "
            "a row for each word"
        )
    ids_N = np.setdiff1d(np.arange(len(words)), as_ids(exclude, "excluded words"))[:count]
    if len(ids_N) < 2:
        raise InputError(f"{len(ids_N)} word(s) to show, expected 2 or more")
    chosen_ND = features_VD[ids_N].astype(np.float64)
    names = tuple(words[i] for i in ids_N)
    if features_VD.shape[1] == 2:
        return WordMap(names, ids_N, chosen_ND, share=1.0)
    plane = principal_axes(chosen_ND)
    return WordMap(names, ids_N, plane(chosen_ND), plane.share)


def _unit(vectors_ND: np.ndarray) -> Float64[np.ndarray, "N D"]:
    """Vectors of length one in float64; those of length zero stay zero."""
    vectors_ND = np.asarray(vectors_ND, np.float64)
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(length_N1 > 0, length_N1, 1.0)


def _check_table(features_VD: np.ndarray) -> None:
    if features_VD.ndim != 2 or features_VD.size == 0:
        raise InputError(f"features have shape {features_VD.shape}, expected [V, D], none empty")
