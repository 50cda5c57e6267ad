"""Measures from the class probabilities that a classifier gives to samples."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from jaxgen.errors import InputError


def class_accuracy(probabilities: Float[np.ndarray, "N V"], labels: Int[np.ndarray, "N"]) -> float:
    """The share of samples that a classifier takes for the class they were made for.

    Args:
      probabilities: P(class | sample), or logits.
      labels: The classes asked for, in [0, V).

    Raises:
      InputError: The shapes do not fit, numbers are not finite, or a label is outside [0, V).
    """
    values_NV, labels_N = _check(probabilities), np.asarray(labels)
    if labels_N.shape != values_NV.shape[:1] or not np.issubdtype(labels_N.dtype, np.integer):
        raise InputError(
            f"labels are {labels_N.dtype} {list(labels_N.shape)}, expected {len(values_NV)} whole"
            " numbers, one for each sample"
        )
    if not 0 <= labels_N.min() <= labels_N.max() < values_NV.shape[1]:
        raise InputError(
            f"labels from {labels_N.min()} to {labels_N.max()}, expected them in"
            f" [0, {values_NV.shape[1]})"
        )
    return float(np.mean(values_NV.argmax(axis=1) == labels_N))


def inception_score(probabilities: Float[np.ndarray, "N V"]) -> float:
    """``exp(mean_i KL(p(y | x_i) || p(y)))`` with p(y) the mean over the samples.

    From 1 (all samples look alike to the classifier, or it is undecided on each) to V (each is
    clear, and all classes are as frequent). Salimans et al. 2016, "Improved techniques for training
    GANs", section 4; over one split. With another classifier than Inception it is another score.

    Raises:
      InputError: The probabilities are not [N, V], not finite, negative, or do not sum to 1.
    """
    p_NV = _check(probabilities)
    if p_NV.min() < 0 or np.abs(p_NV.sum(axis=1) - 1).max() > 1e-3:
        raise InputError(
            "probabilities are no distributions, expected numbers of 0 or more that sum to 1 in "
            "each row"
        )
    mean_V = np.broadcast_to(p_NV.mean(axis=0), p_NV.shape)
    seen = p_NV > 0  # 0 log 0 = 0; then the mean is not 0 either
    divergence = np.sum(p_NV[seen] * np.log(p_NV[seen] / mean_V[seen])) / len(p_NV)
    return float(np.exp(divergence))


def _check(probabilities: Any) -> Float64[np.ndarray, "N V"]:
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise InputError(
            f"probabilities have shape {list(values.shape)}, expected [N, V] of finite numbers, N"
            " and V of 1 or more"
        )
    return values
