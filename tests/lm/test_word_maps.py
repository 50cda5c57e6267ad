"""Nearest neighbours and maps of word features: closed forms and invariances."""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.lm.word_maps import (
    nearest_words,
    neighbours,
    principal_axes,
    word_features,
    word_map,
)

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(700, 6)).astype(np.float32)


def test_the_table_of_a_network_without_padding():
    params = {"context": {"C": TABLE, "H": np.zeros((2, 2))}, "b": np.zeros(700)}
    assert np.array_equal(word_features(params, 690), TABLE[:690])
    with pytest.raises(InputError, match=r"context/C has shape \(700, 6\), expected \[701, m\]"):
        word_features(params, 701)
    with pytest.raises(InputError, match="parameters are b, context/H, expected exactly one table"):
        word_features({"context": {"H": np.zeros(1)}, "b": np.zeros(1)}, 1)
    with pytest.raises(InputError, match="expected exactly one table"):
        word_features({"a": {"C": TABLE}, "b": {"C": TABLE}}, 1)


def test_neighbours_have_the_greatest_cosines():
    """More queries than one pass holds, against a loop over pairs."""
    words = RNG.permutation(700)[:300]
    cosine_QK, ids_QK = neighbours(TABLE, words, 5)
    assert cosine_QK.dtype == np.float64
    for word, cosines, ids in zip(words, cosine_QK, ids_QK, strict=True):
        x = TABLE.astype(np.float64)
        all_cosines = np.array(
            [x[word] @ x[j] / np.linalg.norm(x[word]) / np.linalg.norm(x[j]) for j in range(700)]
        )
        all_cosines[word] = -2
        expected = np.argsort(-all_cosines)[:5]
        assert np.array_equal(ids, expected)
        np.testing.assert_allclose(cosines, all_cosines[expected], rtol=1e-12)


def test_lengths_and_rotations_do_not_matter():
    scale = RNG.uniform(0.1, 10, size=(700, 1))
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    expected = neighbours(TABLE, np.arange(20), 4)
    found = neighbours(scale * TABLE @ rotation, np.arange(20), 4)
    assert np.array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)


def test_any_vector_may_be_a_query():
    cosine_QK, ids_QK = nearest_words(TABLE, 3.0 * TABLE[7:9], 2)
    assert ids_QK[:, 0].tolist() == [7, 8]
    np.testing.assert_allclose(cosine_QK[:, 0], 1, rtol=1e-12)


def test_a_vector_of_zeros_is_near_nothing():
    table = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    cosines, ids = neighbours(table, np.array([0, 1]), 3)
    assert np.array_equal(cosines, [[0, 0, 0], [0, 0, -1]])
    assert np.array_equal(ids, [[1, 2, 3], [0, 3, 2]])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((TABLE, TABLE[:, :5], 2), r"queries have shape \(700, 5\), expected \[Q, 6\]"),
        ((TABLE, TABLE, 701), "k is 701, expected 1 to 700"),
        ((TABLE, TABLE, 700, np.arange(700)), "k is 700, expected 1 to 699"),
        ((TABLE, TABLE, 1, np.arange(3)), r"exclude has shape \(3,\), expected \(700,\)"),
        ((TABLE, TABLE[:1], 1, np.array([700])), "exclude contain the id 700"),
        ((TABLE[0], TABLE, 1), r"features have shape \(6,\), expected \[V, D\]"),
    ],
)
def test_neighbours_that_cannot_be_found(arguments, fault):
    with pytest.raises(InputError, match=fault):
        nearest_words(*arguments)
    with pytest.raises(InputError, match="words contain the id 700"):
        neighbours(TABLE, np.array([700]), 1)


def test_principal_axes_recover_a_plane():
    """Points of a plane in space, with variances 9 and 1 along known directions."""
    first, second = np.array([0.6, 0.8, 0.0]), np.array([0.0, 0.0, -1.0])
    along = RNG.normal(size=(500, 2))
    along -= along.mean(0)
    along = np.linalg.qr(along)[0] * 500**0.5  # exactly uncorrelated, of variance one
    points = 5 + 3 * along[:, :1] * first + along[:, 1:] * second
    plane = principal_axes(points)
    np.testing.assert_allclose(plane.axes_DK[:, 0], first, atol=1e-12)
    np.testing.assert_allclose(plane.axes_DK[:, 1], -second, atol=1e-12)  # the sign rule
    np.testing.assert_allclose(
        plane(points), np.stack([3 * along[:, 0], -along[:, 1]], 1), atol=1e-9
    )
    np.testing.assert_allclose(plane.share, 1, rtol=1e-12)
    np.testing.assert_allclose(principal_axes(points, 1).share, 0.9, rtol=1e-12)
    white = principal_axes(points, whiten=True)
    np.testing.assert_allclose(np.cov(white(points).T, bias=True), np.eye(2), atol=1e-10)


def test_the_sign_is_settled():
    plane = principal_axes(TABLE)
    again = principal_axes(TABLE[::-1])
    np.testing.assert_allclose(again.axes_DK, plane.axes_DK, atol=1e-10)
    largest = np.abs(plane.axes_DK).argmax(0)
    assert np.all(plane.axes_DK[largest, [0, 1]] > 0)


@pytest.mark.parametrize(
    ("features", "dimensions", "whiten", "fault"),
    [
        (TABLE, 7, False, "dimensions is 7, expected 1 to 6"),
        (TABLE[:1], 2, False, "dimensions is 2, expected 1 to 1"),
        (np.outer(np.arange(5), [1, 2, 3]), 2, True, "rank under 2 cannot be whitened"),
    ],
)
def test_axes_that_do_not_exist(features, dimensions, whiten, fault):
    with pytest.raises(InputError, match=fault):
        principal_axes(features, dimensions, whiten)


def test_a_map_shows_the_most_frequent_words():
    words = [f"w{i}" for i in range(700)]
    shown = word_map(TABLE, words, 10, exclude=(0, 3))
    assert shown.ids_N.tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert shown.words == tuple(f"w{i}" for i in shown.ids_N)
    chosen = TABLE[shown.ids_N].astype(np.float64)
    np.testing.assert_allclose(shown.points_N2, principal_axes(chosen)(chosen), rtol=1e-9)
    assert 2 / 6 < shown.share < 1
    assert len(word_map(TABLE, words, 10_000).words) == 700


def test_two_features_are_their_own_map():
    shown = word_map(TABLE[:, :2], [str(i) for i in range(700)], 50)
    assert np.array_equal(shown.points_N2, TABLE[:50, :2].astype(np.float64))
    assert shown.share == 1


def test_maps_that_cannot_be_drawn():
    with pytest.raises(InputError, match=r"features have shape \(700, 6\), expected \[3, 2"):
        word_map(TABLE, ["a", "b", "c"], 2)
    with pytest.raises(InputError, match=r"1 word\(s\) to show"):
        word_map(TABLE[:2], ["a", "b"], 5, exclude=(0,))
