"""The Fréchet distance against closed forms and scipy's root of a matrix."""

import math

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation import Moments, feature_moments, frechet_distance, merge_moments


def gaussian(mean, covariance, count=11) -> Moments:
    """Moments whose mean and covariance are the given ones."""
    covariance = np.atleast_2d(np.asarray(covariance, float))
    return Moments(count, np.atleast_1d(np.asarray(mean, float)), covariance * (count - 1))


def random_covariance(size, rank=None, seed=0):
    factor = np.random.default_rng(seed).normal(size=(size, rank or 2 * size))
    return factor @ factor.T / size


def test_one_dimension():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    for m1, s1, m2, s2 in [(0, 1, 3, 2), (-1, 0.1, -1, 7), (5, 2, 2, 2), (1, 0, 1, 3)]:
        distance = frechet_distance(gaussian(m1, s1**2), gaussian(m2, s2**2))
        assert distance == pytest.approx((m1 - m2) ** 2 + (s1 - s2) ** 2, rel=1e-12)


def test_diagonal_and_commuting_covariances():
    """|m1 - m2|^2 + |sqrt(l1) - sqrt(l2)|^2 in the common eigenvectors."""
    rng = np.random.default_rng(0)
    first, second, mean = rng.uniform(0, 4, size=(3, 7))
    turn = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    expected = np.sum(mean**2) + np.sum((np.sqrt(first) - np.sqrt(second)) ** 2)
    for basis in (np.eye(7), turn):
        distance = frechet_distance(
            gaussian(np.zeros(7), basis @ np.diag(first) @ basis.T),
            gaussian(basis @ mean, basis @ np.diag(second) @ basis.T),
        )
        assert distance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_against_the_root_of_the_product_by_scipy(size):
    from scipy.linalg import sqrtm

    first, second = random_covariance(size, seed=1), random_covariance(size, seed=2)
    mean = np.random.default_rng(3).normal(size=(2, size))
    expected = np.sum((mean[0] - mean[1]) ** 2) + np.trace(
        first + second - 2 * np.real(sqrtm(first @ second))
    )
    distance = frechet_distance(gaussian(mean[0], first), gaussian(mean[1], second))
    assert distance == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(gaussian(mean[1], second), gaussian(mean[0], first)) == pytest.approx(
        distance, rel=1e-10
    )


@pytest.mark.parametrize("rank", [1, 3, 40, 80])
def test_a_set_has_no_distance_to_itself(rank):
    covariance = random_covariance(40, rank)
    same = gaussian(np.ones(40), covariance)
    assert 0 <= frechet_distance(same, same) < 1e-11 * np.trace(covariance)


def test_covariances_without_full_rank():
    """a a^T and b b^T: the root of the product has the trace |a . b|."""
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    distance = frechet_distance(
        gaussian(np.zeros(30), np.outer(a, a)), gaussian(np.zeros(30), np.outer(b, b))
    )
    assert distance == pytest.approx(a @ a + b @ b - 2 * abs(a @ b), rel=1e-6)
    # Disjoint supports: nothing of one is in the other.
    left, right = np.diag([1.0, 2, 0, 0]), np.diag([0, 0, 3.0, 4])
    assert frechet_distance(gaussian([0] * 4, left), gaussian([0] * 4, right)) == pytest.approx(10)


def test_fewer_samples_than_features():
    first, second = np.random.default_rng(0).normal(size=(2, 5, 64))
    moments = [feature_moments([features]) for features in (first, second)]
    distance = frechet_distance(*moments)
    # The root's trace is the sum of singular values of one centred set times the other.
    centred = [features - features.mean(0) for features in (first, second)]
    nuclear = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum() / 4
    expected = np.sum((first.mean(0) - second.mean(0)) ** 2) - 2 * nuclear
    expected += sum(np.sum(c**2) / 4 for c in centred)
    assert distance == pytest.approx(expected, rel=1e-6)


def test_scale_and_shift():
    """c^2 d^2 for features times c; nothing changes when both are moved alike, however far."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 100, 6))
    second = second * 1.3 + 0.2

    def distance(change):
        return frechet_distance(feature_moments([change(first)]), feature_moments([change(second)]))

    plain = distance(lambda x: x)
    assert plain > 0.1
    assert distance(lambda x: 1e-4 * x) == pytest.approx(1e-8 * plain, rel=1e-9)
    assert distance(lambda x: x + 1e5) == pytest.approx(plain, rel=1e-7)


def test_samples_of_two_gaussians_approach_their_distance():
    rng = np.random.default_rng(0)
    cov = random_covariance(4)
    first = rng.multivariate_normal(np.zeros(4), cov, size=40_000)
    second = rng.multivariate_normal(np.ones(4), np.eye(4), size=40_000)
    true = frechet_distance(gaussian(np.zeros(4), cov), gaussian(np.ones(4), np.eye(4)))
    estimate = frechet_distance(feature_moments([first]), feature_moments([second]))
    assert estimate == pytest.approx(true, rel=0.02)


@pytest.mark.parametrize("cuts", [[], [1], [50], [3, 4, 90], list(range(1, 100))])
def test_moments_of_batches_are_those_of_the_whole(cuts):
    features = np.random.default_rng(0).normal(100, 3, size=(100, 5)).astype(np.float32)
    moments = feature_moments(iter(np.split(features, cuts)))
    assert moments.count == 100
    whole = features.astype(np.float64)
    np.testing.assert_allclose(moments.mean_D, whole.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance_DD, np.cov(whole.T), rtol=1e-9, atol=1e-12)


def test_merging_does_not_depend_on_the_order():
    sets = [np.random.default_rng(i).normal(i, i + 1, size=(i + 1, 3)) for i in range(4)]
    a, b, c, d = (feature_moments([features]) for features in sets)
    left = merge_moments(merge_moments(merge_moments(a, b), c), d)
    right = merge_moments(merge_moments(d, c), merge_moments(b, a))
    np.testing.assert_allclose(left.mean_D, right.mean_D, rtol=1e-12)
    np.testing.assert_allclose(left.scatter_DD, right.scatter_DD, rtol=1e-12)


def test_the_covariance_is_unbiased():
    """Over many sets of three samples its mean is the true one; with 1/N it would be 2/3 of it."""
    draws = np.random.default_rng(0).normal(0, 2, size=(20_000, 3, 1))
    mean = np.mean([feature_moments([draw]).covariance_DD for draw in draws])
    assert mean == pytest.approx(4, abs=4 * 4 / math.sqrt(20_000))


FEW = np.ones((3, 2))


@pytest.mark.parametrize(
    ("batches", "fault"),
    [
        ([], "features: no batches"),
        (iter(()), "features: no batches"),
        ([np.ones(3)], r"features have shape \[3\], expected \[N, D\]"),
        ([np.ones((3, 0))], r"features have shape \[3, 0\]"),
        ([FEW, np.ones((0, 2))], "features: 0 samples, expected 1 or more"),
        ([FEW, np.ones((3, 4))], "features of widths 2 and 4"),
        ([FEW, FEW * [[1], [np.nan], [np.inf]]], "2 of 3 samples are not finite, .* number 1"),
    ],
    ids=range(7),
)
def test_features_that_have_no_moments(batches, fault):
    with pytest.raises(InputError, match=fault):
        feature_moments(batches)


def test_sets_that_have_no_distance():
    one = feature_moments([np.ones((1, 2))])
    with pytest.raises(InputError, match="covariance of 1 samples, expected 2 or more"):
        frechet_distance(one, feature_moments([FEW]))
    with pytest.raises(InputError, match="features of widths 2 and 3, expected one width"):
        frechet_distance(feature_moments([FEW]), feature_moments([np.ones((2, 3))]))
