import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.lm.features import explained_variance, nearest_neighbours, project


def test_neighbours_against_a_loop():
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    ids, cosines = nearest_neighbours(features, [3, 17], 5)
    for word, found, values in zip([3, 17], ids, cosines, strict=True):
        expected = {}
        for other in range(40):
            if other != word:
                a, b = features[word].astype(float), features[other].astype(float)
                expected[other] = a @ b / np.sqrt((a @ a) * (b @ b))
        best = sorted(expected, key=lambda w: (-expected[w], w))[:5]
        assert found.tolist() == best
        np.testing.assert_allclose(values, [expected[w] for w in best], rtol=1e-12)


def test_length_does_not_matter_and_direction_does():
    features = np.array([[1.0, 0], [5, 0.1], [0, 1], [-1, 0], [0, 0]])
    ids, cosines = nearest_neighbours(features, [0], 4)
    assert ids.tolist() == [[1, 2, 4, 3]]
    np.testing.assert_allclose(cosines[0, 1:], [0, 0, -1], atol=1e-12)


def test_projection_keeps_the_variance_and_is_rotation_invariant():
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(60, 2)) * [3, 1]
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    features = plane @ basis[:2] + 7.0
    points = project(features)
    centred = plane - plane.mean(0)
    # A plane is found exactly: distances between the points stay.
    np.testing.assert_allclose(points @ points.T, centred @ centred.T, atol=1e-9)
    assert points[:, 0].var() > points[:, 1].var()
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(abs(project(features @ basis)), abs(points), atol=1e-9)
    np.testing.assert_allclose(project(features + 100), points, atol=1e-9)
    shares = explained_variance(features)
    np.testing.assert_allclose(shares[:2] * shares[:2].sum() ** -1, shares[:2], atol=1e-12)
    np.testing.assert_allclose(
        shares[:2], points.var(0) / points.var(0).sum(), rtol=1e-9, err_msg="shares"
    )


def test_projection_of_few_words():
    features = np.eye(4)
    points = project(features, 3, [0, 1])
    assert points.shape == (2, 3)
    np.testing.assert_allclose(np.linalg.norm(points[0] - points[1]), np.sqrt(2))
    np.testing.assert_allclose(explained_variance(np.ones((3, 2))), 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: nearest_neighbours(f, [9], 1), "id 9"),
        (lambda f: nearest_neighbours(f, [-1], 1), "id -1"),
        (lambda f: nearest_neighbours(f, [0], 4), "k is 4, expected 1 to 3"),
        (lambda f: project(f, 3), "dimensions is 3, expected 1 to 2"),
        (lambda f: project(f, 1, [0]), "1 word"),
        (lambda f: project(f[0], 1), "shape"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call(np.zeros((4, 2)))
