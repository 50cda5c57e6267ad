"""Precision, recall, density and coverage on sets where they are known."""

import math

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation import Coverage, precision_recall


def normal(count, size=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, size))


def by_definition(real, generated, k) -> Coverage:
    """The definitions, pair by pair."""

    def radius(features, i):
        others = [math.dist(features[i], x) for j, x in enumerate(features) if j != i]
        return sorted(others)[k - 1]

    r_radius = [radius(real, i) for i in range(len(real))]
    g_radius = [radius(generated, i) for i in range(len(generated))]
    inside = [[math.dist(g, r) <= c for r, c in zip(real, r_radius)] for g in generated]  # noqa: B905
    recalled = [any(math.dist(g, r) <= c for g, c in zip(generated, g_radius)) for r in real]  # noqa: B905
    return Coverage(
        np.mean([any(row) for row in inside]),
        np.mean(recalled),
        np.sum(inside) / (k * len(generated)),
        np.mean(np.any(inside, axis=0)),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_against_the_definitions(k, chunk):
    real, generated = normal(40), 1.5 * normal(31, seed=1) + 0.5
    expected = by_definition(real, generated, k)
    found = precision_recall(real, generated, neighbours=k, chunk=chunk)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert 0.2 < expected.precision < 1


def test_a_set_against_itself():
    real = normal(50, 8)
    found = precision_recall(real, real)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # Each point is in its own ball and in those of which it is one of three neighbours.
    assert found.density == pytest.approx(4 / 3)


def test_sets_that_are_far_apart():
    assert precision_recall(normal(20), normal(20) + 100) == (0, 0, 0, 0)


def test_one_mode_of_two_is_precise_and_not_complete():
    left, right = normal(300), normal(300, seed=1) + np.array([50, 0])
    real, generated = np.concatenate([left, right]), normal(300, seed=2)
    found = precision_recall(real, generated)
    assert found.precision > 0.9
    assert found.recall == pytest.approx(0.5, abs=0.05)
    assert found.coverage == pytest.approx(0.5, abs=0.06)
    other = precision_recall(generated, real)
    assert other.precision == pytest.approx(found.recall)
    assert other.recall == pytest.approx(found.precision)


def test_an_outlier_moves_precision_more_than_density():
    """One real point far off makes a ball that holds everything (Naeem et al. 2020, figure 2)."""
    generated = normal(200, seed=1) + np.array([15, 0])
    real = np.concatenate([normal(200), [[30.0, 0]]])
    found = precision_recall(real, generated, neighbours=1)
    assert found.precision > 0.9
    assert found.density < 1.2
    assert found.coverage < 0.02


@pytest.mark.parametrize("k", [1, 3])
def test_expectation_for_equal_distributions(k):
    """E coverage = 1 - (N-1)...(N-k) / ((2N-1)...(2N-k)), E density = 1 (Naeem et al., 3.3)."""
    n = 200
    found = [
        precision_recall(normal(n, 3, seed=i), normal(n, 3, seed=100 + i), neighbours=k)
        for i in range(20)
    ]
    density, coverage = (
        np.mean([getattr(f, name) for f in found]) for name in Coverage._fields[2:]
    )
    missed = math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert coverage == pytest.approx(1 - missed, abs=0.02)
    assert density == pytest.approx(1, abs=0.05)


def test_scale_shift_and_turn_change_nothing():
    real, generated = normal(60, 4), 1.2 * normal(60, 4, seed=1)
    plain = precision_recall(real, generated)
    turn = np.linalg.qr(normal(4, 4, seed=2))[0]
    for change in (lambda x: 1e-3 * x, lambda x: x + 1e4, lambda x: x @ turn):
        assert precision_recall(change(real), change(generated)) == pytest.approx(plain)


def whole_numbers(count, size, seed, most=2):
    return np.random.default_rng(seed).integers(0, most + 1, (count, size)).astype(float)


def twice_over(count, size, seed):
    """Points of any kind, each of them several times."""
    return np.repeat(normal(-(-count // 4), size, seed), 4, axis=0)[:count]


def one_hot(count, size, seed):
    return np.eye(size)[np.random.default_rng(seed).integers(0, size, count)]


def exactly(real, generated, k) -> Coverage:
    """The definitions, on squared distances of whole numbers."""
    real, generated = real.astype(int), generated.astype(int)

    def squares(first, second):
        return ((first[:, None] - second) ** 2).sum(-1)

    def radii(points):
        others = squares(points, points) + 10**9 * np.eye(len(points), dtype=int)
        return np.sort(others, axis=1)[:, k - 1]

    d_MN = squares(generated, real)
    inside, recalled = d_MN <= radii(real), d_MN <= radii(generated)[:, None]
    return Coverage(
        inside.any(1).mean(),
        recalled.any(0).mean(),
        inside.sum() / (k * len(d_MN)),
        inside.any(0).mean(),
    )


@pytest.mark.parametrize("chunk", [1, 7, 64, 1024])
@pytest.mark.parametrize("size", [3, 16, 200])
@pytest.mark.parametrize("k", [1, 3])
def test_whole_numbers_are_exact(k, size, chunk):
    """Many distances are equal, and the boundary belongs to the ball."""
    real, generated = whole_numbers(90, size, 0), whole_numbers(75, size, 1)
    assert precision_recall(real, generated, neighbours=k, chunk=chunk) == exactly(
        real, generated, k
    )
    far = 1e6 + np.arange(size) ** 2
    found = precision_recall(real + far, generated + far, neighbours=k, chunk=chunk)
    assert found == exactly(real, generated, k)


@pytest.mark.parametrize("make", [whole_numbers, twice_over, one_hot])
@pytest.mark.parametrize("size", [3, 16, 200])
def test_nothing_depends_on_the_chunk(make, size):
    real, generated = make(90, size, 0) / 3 + 0.1, make(75, size, 1) / 3 + 0.1
    found = {precision_recall(real, generated, chunk=n) for n in (1, 2, 7, 64, 75, 89, 1024)}
    assert len(found) == 1


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_every_point_twice_is_on_a_boundary(chunk):
    """A point's nearest neighbour is its copy; its second is where two others are."""
    points = np.repeat(normal(40, 33) + 5, 2, axis=0)
    copies = points[np.random.default_rng(2).permutation(len(points))]
    found = precision_recall(points, copies, neighbours=1, chunk=chunk)
    assert found == (1, 1, 2, 1)  # a ball of radius zero holds both copies
    found = precision_recall(points, copies, neighbours=2, chunk=chunk)
    assert found == (1, 1, 2, 1)  # it holds the copies and the two of the next


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_distances_are_exact_far_from_the_centre(times, chunk):
    """Two clusters, each with duplicates, where squares of norms have no digits left for them."""
    sides = np.where(np.arange(60) % 2, 1.0, -1.0)[:, None] * 2.0**26
    real, generated = (np.repeat(whole_numbers(60, 8, i) + sides, times, axis=0) for i in (0, 1))
    expected = exactly(real, generated, 3)
    assert precision_recall(real, generated, chunk=chunk) == expected
    assert 0 < expected.precision < 1


@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, 1e8 + 0.3])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_all_points_equal(value, chunk):
    real, generated = np.full((50, 24), value), np.full((41, 24), value)
    found = precision_recall(real, generated, chunk=chunk)
    assert found == (1, 1, pytest.approx(50 / 3), 1)  # every sample is in all 50 balls
    apart = precision_recall(real, np.nextafter(generated, np.inf), chunk=chunk)
    assert apart == ((0, 0, 0, 0) if value else (1, 1, pytest.approx(50 / 3), 1))


def test_equal_points_have_balls_of_radius_zero():
    same = np.repeat(normal(6, 64), 5, axis=0)
    found = precision_recall(same, same + 0)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    apart = precision_recall(same, same + 1e-3)
    assert (apart.precision, apart.recall, apart.coverage) == (0, 0, 0)


GOOD = normal(5)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((GOOD[:3], GOOD), "real features: 3 samples, expected 4 or more"),
        ((GOOD, GOOD[:3]), "generated features: 3 samples, expected 4 or more"),
        ((GOOD, normal(5, 3)), "features of widths 2 and 3"),
        ((GOOD, GOOD * np.inf), "generated features: 5 of 5 samples are not finite"),
        ((GOOD[0], GOOD), r"real features have shape \[2\], expected \[N, D\]"),
    ],
    ids=range(5),
)
def test_bad_features(arguments, fault):
    with pytest.raises(InputError, match=fault):
        precision_recall(*arguments)


def test_bad_numbers():
    with pytest.raises(InputError, match="neighbours is 0, chunk is 9"):
        precision_recall(GOOD, GOOD, neighbours=0, chunk=9)
    with pytest.raises(InputError, match="chunk is 0, expected 1 or more"):
        precision_recall(GOOD, GOOD, chunk=0)
