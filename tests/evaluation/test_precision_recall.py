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
        ((GOOD[:3], GOOD), "real features: 3 samples; expected 4 or more"),
        ((GOOD, GOOD[:3]), "generated features: 3 samples; expected 4 or more"),
        ((GOOD, normal(5, 3)), "features of widths 2 and 3"),
        ((GOOD, GOOD * np.inf), "generated features: 5 of 5 samples are not finite"),
        ((GOOD[0], GOOD), r"real features have shape \[2\]; expected \[N, D\]"),
    ],
    ids=range(5),
)
def test_bad_features(arguments, fault):
    with pytest.raises(InputError, match=fault):
        precision_recall(*arguments)


def test_bad_numbers():
    with pytest.raises(InputError, match="neighbours is 0, chunk is 9"):
        precision_recall(GOOD, GOOD, neighbours=0, chunk=9)
    with pytest.raises(InputError, match="chunk is 0; expected 1 or more"):
        precision_recall(GOOD, GOOD, chunk=0)
