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
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

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
    """The four measures of the module's text, in float64.

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
        raise InputError(f"neighbours is {neighbours}, chunk is {chunk}; expected 1 or more")
    real_ND = check_features(real, "real features", neighbours + 1)
    generated_MD = check_features(generated, "generated features", neighbours + 1)
    check_same_width(real_ND.shape[1], generated_MD.shape[1])
    centre_D = real_ND.mean(axis=0)  # distances stay, and squares lose fewer digits
    real_ND, generated_MD = real_ND - centre_D, generated_MD - centre_D
    real_radius_N = _radii(real_ND, neighbours, chunk)
    generated_radius_M = _radii(generated_MD, neighbours, chunk)

    precise, balls = 0, 0
    recalled_N = np.zeros(len(real_ND), bool)
    covered_N = np.zeros(len(real_ND), bool)
    for start in range(0, len(generated_MD), chunk):
        rows = slice(start, start + chunk)
        distance_BN = _squared_distances(generated_MD[rows], real_ND)
        inside_BN = distance_BN <= real_radius_N
        precise += int(inside_BN.any(axis=1).sum())
        balls += int(inside_BN.sum())
        covered_N |= inside_BN.any(axis=0)
        recalled_N |= (distance_BN <= generated_radius_M[rows, None]).any(axis=0)
    samples = len(generated_MD)
    return Coverage(
        precision=precise / samples,
        recall=float(recalled_N.mean()),
        density=balls / (neighbours * samples),
        coverage=float(covered_N.mean()),
    )


def _squared_distances(
    first_BD: Float64[np.ndarray, "B D"], second_ND: Float64[np.ndarray, "N D"]
) -> Float64[np.ndarray, "B N"]:
    """Squared distances by one product of matrices."""
    norms_BN = np.sum(first_BD**2, axis=1)[:, None] + np.sum(second_ND**2, axis=1)
    return np.maximum(norms_BN - 2 * (first_BD @ second_ND.T), 0)


def _radii(
    features_ND: Float64[np.ndarray, "N D"], neighbours: int, chunk: int
) -> Float64[np.ndarray, "N"]:
    """The squared distance from each feature to its k-th nearest neighbour but itself."""
    radii = []
    for start in range(0, len(features_ND), chunk):
        rows = np.arange(start, min(start + chunk, len(features_ND)))
        distance_BN = _squared_distances(features_ND[rows], features_ND)
        distance_BN[rows - start, rows] = np.inf
        radii.append(np.partition(distance_BN, neighbours - 1, axis=1)[:, neighbours - 1])
    return np.concatenate(radii)
