"""Class accuracy and the Inception score."""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation import class_accuracy, inception_score


def test_accuracy_counts_the_likeliest_class():
    probabilities = np.eye(4)[[0, 1, 2, 3, 3]] * 0.6 + 0.1
    assert class_accuracy(probabilities, np.array([0, 1, 2, 3, 3])) == 1
    assert class_accuracy(np.log(probabilities), np.array([0, 1, 2, 0, 1])) == 0.6


def test_inception_score_of_known_cases():
    """V for sure and even classes, 1 without information, and the mutual information between."""
    assert inception_score(np.tile(np.eye(7), (3, 1))) == pytest.approx(7)
    assert inception_score(np.full((5, 7), 1 / 7)) == pytest.approx(1)
    assert inception_score(np.tile([[0.2, 0.8, 0]], (5, 1))) == pytest.approx(1)
    # A symmetric channel with error 0.1: ln 2 - H(0.1).
    entropy = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9))
    channel = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert np.log(inception_score(channel)) == pytest.approx(np.log(2) - entropy)


def test_inception_score_is_between_one_and_the_number_of_classes():
    logits = np.random.default_rng(0).normal(size=(50, 6)) * 4
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), axis=1)))
    assert inception_score(p.astype(np.float32)) == pytest.approx(expected, rel=1e-5)
    assert 1 < expected < 6


EVEN = np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([0, 1], r"labels are int64 \[2\], expected 3 whole numbers"),
        ([0.0, 1, 1], "labels are float64"),
        ([0, 1, 2], r"labels from 0 to 2, expected them in \[0, 2\)"),
        ([-1, 1, 1], "labels from -1 to 1"),
    ],
)
def test_labels_that_do_not_fit(labels, fault):
    with pytest.raises(InputError, match=fault):
        class_accuracy(EVEN, np.array(labels))


@pytest.mark.parametrize(
    ("probabilities", "fault"),
    [
        (EVEN[0], r"shape \[2\], expected \[N, V\]"),
        (EVEN[:0], r"shape \[0, 2\]"),
        (EVEN * np.nan, "of finite numbers"),
        (EVEN * 1.1, "sum to 1 in each row"),
        (EVEN * [-1, 3], "numbers of 0 or more"),
    ],
    ids=range(5),
)
def test_what_is_no_distribution(probabilities, fault):
    with pytest.raises(InputError, match=fault):
        inception_score(probabilities)
