"""The Fréchet distance between two sets of features, as between two Gaussians.

Symbols: m mean [D] and S covariance [D, D] of one set of N features, computed in float64::

    d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)

(Fréchet 1957, Dowson & Landau 1982; with Inception features the FID of Heusel et al. 2017). As in
all of the literature, it is the square that is called the distance.

The eigenvalues of ``S_1 S_2`` are those of the symmetric ``A^T A``, A = S_1^(1/2) S_2^(1/2), so
the last trace is the sum of the singular values of A. The roots come from the eigenvalues of S_1
and S_2 with negative ones, which are rounding, set to 0. Nothing is inverted and nothing iterates,
so that covariances without full rank (fewer samples than features) need no special care. The
singular values, rather than the roots of the eigenvalues of ``A^T A``, keep half of the digits from
being lost to the squares.

With few samples the distance is too large, by about a constant over N: compare values of one N.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from jaxgen.errors import InputError
from jaxgen.evaluation.features import check_features, check_same_width


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of a set of features; sets are joined by `merge_moments`.

    Attributes:
      count: N.
      mean_D: m, float64.
      scatter_DD: ``sum_i (x_i - m)(x_i - m)^T``, float64.
    """

    count: int
    mean_D: Float64[np.ndarray, "D"]
    scatter_DD: Float64[np.ndarray, "D D"]

    @property
    def covariance_DD(self) -> Float64[np.ndarray, "D D"]:
        """S, the unbiased estimate: the scatter over N - 1.

        Raises:
          InputError: There are fewer than two samples.
        """
        if self.count < 2:
            raise InputError(f"covariance of {self.count} samples, expected 2 or more")
        return self.scatter_DD / (self.count - 1)


def feature_moments(batches: Iterable[Float[np.ndarray, "N D"]]) -> Moments:
    """The moments of features that come batch by batch; only one batch is in memory.

    Args:
      batches: Features [N_i, D], at least one batch; an array [N, D] is put in a list.

    Raises:
      InputError: No batch, or one that is empty, not [N, D], not finite, or of another width.
    """
    moments = map(_moments_of, batches)
    first = next(moments, None)
    if first is None:
        raise InputError("features: no batches, expected one or more")
    return functools.reduce(merge_moments, moments, first)


def _moments_of(features: Float[np.ndarray, "N D"]) -> Moments:
    features_ND = check_features(features, "features")
    mean_D = features_ND.mean(axis=0)
    centred_ND = features_ND - mean_D
    return Moments(len(features_ND), mean_D, centred_ND.T @ centred_ND)


def merge_moments(first: Moments, second: Moments) -> Moments:
    """The moments of both sets together (Chan, Golub & LeVeque 1983).

    Raises:
      InputError: Their features have different widths.
    """
    check_same_width(len(first.mean_D), len(second.mean_D))
    count = first.count + second.count
    step_D = second.mean_D - first.mean_D
    between_DD = np.outer(step_D, step_D) * (first.count * second.count / count)
    return Moments(
        count,
        first.mean_D + step_D * (second.count / count),
        first.scatter_DD + second.scatter_DD + between_DD,
    )


def frechet_distance(first: Moments, second: Moments) -> float:
    """``d^2`` of the module's equation, 0 or more; symmetric in the two sets.

    Raises:
      InputError: A set has fewer than two samples, or their features have different widths.
    """
    check_same_width(len(first.mean_D), len(second.mean_D))
    covariances = [first.covariance_DD, second.covariance_DD]
    roots = [_root(covariance_DD) for covariance_DD in covariances]
    trace_root = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    traces = sum(np.trace(covariance_DD) for covariance_DD in covariances)
    distance = np.sum((first.mean_D - second.mean_D) ** 2) + traces - 2 * trace_root
    return max(float(distance), 0.0)


def _root(covariance_DD: Float64[np.ndarray, "D D"]) -> Float64[np.ndarray, "D D"]:
    """The symmetric root of a covariance."""
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    return (vectors_DD * np.sqrt(np.maximum(values_D, 0))) @ vectors_DD.T
