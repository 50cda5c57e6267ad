"""Precision and recall, density and coverage of a generated set, from nearest neighbours.

Symbols: real features r_1..r_N, generated ones g_1..g_M; ``k(r_i)`` the distance from r_i to its
k-th nearest neighbour among the other real ones. The real manifold is the union of the balls of
radius ``k(r_i)`` around r_i, boundary included; the generated one likewise.

* precision: the share of generated features in the real manifold (are samples realistic?);
* recall: the share of real features in the generated manifold (is everything generated?), both of
  Kynkaanniemi et al. 2019, "Improved precision and recall metric", equations 1 and 2;
* density: how many real balls hold a generated feature, on average, divided by k;
* coverage: the share of real balls with a generated feature in them, both of Naeem et al. 2020,
  "Reliable fidelity and diversity metrics", equations 3 and 4: less moved by single outliers.

For equal distributions and M = N the expectation of density is 1, and that of coverage is
``1 - prod_{i=1..k} (N-i) / (2N-i)``, about 1 - 2^-k.

"Boundary included" matters wherever distances are equal: duplicates, features that are whole
numbers. |r|^2 + |g|^2 - 2 r.g is one product of matrices, but rounds equal distances to different
numbers; (r - g)^2 summed in a fixed order does not (whole numbers are exact), but would take 14
minutes for 10,000 and 10,000 points of 2,048 features, on two cores. So the product gives bounds of
each distance, and differences decide what these leave open: which neighbour a radius belongs to,
and pairs on a boundary. That takes 40 s, as the product alone does (64 features: 9 s and 7 s).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from jaxgen.errors import InputError
from jaxgen.evaluation.features import check_features, check_same_width


class Coverage(NamedTuple):
    """The four measures, each 0 or more; all but `density` at most 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    real: Float[np.ndarray, "N D"],
    generated: Float[np.ndarray, "M D"],
    *,
    neighbours: int = 3,
    chunk: int = 1024,
) -> Coverage:
    """The four measures of the module's text, in float64, with equal distances equal.

    Time grows as (N + M)^2 D; memory as ``chunk`` (N + M).

    Args:
      real: Features of real examples.
      generated: Features of samples, about as many.
      neighbours: k; 3 in the first paper, 5 in the second.
      chunk: Rows of a distance matrix at a time; the result does not depend on it.

    Raises:
      InputError: Features are not finite, not [N, D], of different widths, or fewer than k + 1; or
        k or `chunk` is below 1.
    """
    if neighbours < 1 or chunk < 1:
        raise InputError(f"neighbours is {neighbours}, chunk is {chunk}, expected 1 or more")
    real_ND = check_features(real, "real features", neighbours + 1)
    generated_MD = check_features(generated, "generated features", neighbours + 1)
    check_same_width(real_ND.shape[1], generated_MD.shape[1])
    centre_D = real_ND.mean(axis=0)  # distances stay, and their bounds are closer
    examples, samples = _points(real_ND, centre_D), _points(generated_MD, centre_D)
    real_radius_N = _radii(examples, neighbours, chunk)
    generated_radius_M = _radii(samples, neighbours, chunk)

    precise, balls = 0, 0
    recalled_N = np.zeros(len(real_ND), bool)
    covered_N = np.zeros(len(real_ND), bool)
    for start in range(0, len(generated_MD), chunk):
        rows = slice(start, start + chunk)
        some = _some(samples, rows)
        bounds = _bounds(some, examples)
        inside_BN = _within(some, examples, bounds, real_radius_N[None])
        precise += int(inside_BN.any(axis=1).sum())
        balls += int(inside_BN.sum())
        covered_N |= inside_BN.any(axis=0)
        recalled_N |= _within(some, examples, bounds, generated_radius_M[rows, None]).any(axis=0)
    count = len(generated_MD)
    return Coverage(
        precision=precise / count,
        recall=float(recalled_N.mean()),
        density=balls / (neighbours * count),
        coverage=float(covered_N.mean()),
    )


class _Points(NamedTuple):
    """Features as they are, [N, D]; less a centre, [N, D]; and the squared norms of these, [N]."""

    exact: Any
    centred: Any
    norm: Any


class _Bounds(NamedTuple):
    """What squared distances are at least and at most, [B, N] each."""

    low: Any
    high: Any


def _points(features_ND: Float64[np.ndarray, "N D"], centre_D: np.ndarray) -> _Points:
    centred_ND = features_ND - centre_D
    return _Points(features_ND, centred_ND, np.sum(centred_ND**2, axis=1))


def _some(points: _Points, rows: slice) -> _Points:
    return _Points(*(value[rows] for value in points))


def _bounds(first: _Points, second: _Points) -> _Bounds:
    """Of `_squared_distances`, by one product of matrices.

    A sum of D products is off by at most D eps / 2 of the sum of their sizes (Higham 2002, section
    3.1), whatever its order: so are both norms, twice the product, and the sum of squared
    differences, together 2 D eps (|a|^2 + |b|^2). 8 eps more are for subtractions and additions.
    """
    slack_BN = first.norm[:, None] + second.norm
    low_BN = slack_BN - 2 * (first.centred @ second.centred.T)
    slack_BN *= (2 * first.centred.shape[1] + 8) * np.finfo(np.float64).eps
    high_BN = low_BN + slack_BN
    low_BN -= slack_BN
    return _Bounds(low_BN, high_BN)


def _squared_distances(
    first: _Points, second: _Points, i_P: Int[np.ndarray, "P"], j_P: Int[np.ndarray, "P"]
) -> Float64[np.ndarray, "P"]:
    """Of pairs, by differences: each depends on its two points alone, not on their order."""
    block = max(2**18 // first.exact.shape[1], 1)  # what fits a cache
    result_P = np.empty(len(i_P))
    for start in range(0, len(i_P), block):
        pairs = slice(start, start + block)
        difference_PD = first.exact[i_P[pairs]] - second.exact[j_P[pairs]]
        np.sum(np.square(difference_PD, out=difference_PD), axis=1, out=result_P[pairs])
    return result_P


def _within(
    first: _Points, second: _Points, bounds: _Bounds, radius: Float64[np.ndarray, "#B #N"]
) -> Bool[np.ndarray, "B N"]:
    """Where squared distances are at most `radius`."""
    inside_BN = bounds.high <= radius
    i_P, j_P = np.nonzero((bounds.low <= radius) & ~inside_BN)
    limit_P = np.broadcast_to(radius, inside_BN.shape)[i_P, j_P]
    inside_BN[i_P, j_P] = _squared_distances(first, second, i_P, j_P) <= limit_P
    return inside_BN


def _radii(points: _Points, neighbours: int, chunk: int) -> Float64[np.ndarray, "N"]:
    """The squared distance from each feature to its k-th nearest neighbour but itself."""
    radii = []
    for start in range(0, len(points.exact), chunk):
        some = _some(points, slice(start, start + chunk))
        own = np.arange(len(some.exact))
        low_BN, high_BN = _bounds(some, points)
        low_BN[own, own + start] = high_BN[own, own + start] = np.inf
        high_BN.partition(neighbours - 1, axis=1)
        # k neighbours are no further than the k-th upper bound: the rest begins above it.
        i_P, j_P = np.nonzero(low_BN <= high_BN[:, neighbours - 1, None])
        low_BN.fill(np.inf)
        low_BN[i_P, j_P] = _squared_distances(some, points, i_P, j_P)
        radii.append(np.partition(low_BN, neighbours - 1, axis=1)[:, neighbours - 1])
    return np.concatenate(radii)
