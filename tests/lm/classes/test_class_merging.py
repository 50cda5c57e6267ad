import itertools

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.lm.classes.class_merging import merge_classes
from jaxgen.lm.classes.clustering import class_bigram_log_likelihood, class_bigrams


def information(count_CC):
    """Total mutual information of adjacent classes, in nats: sum N log(N total / (row column))."""
    row_C, column_C, total = count_CC.sum(axis=1), count_CC.sum(axis=0), count_CC.sum()
    c, d = np.nonzero(count_CC)
    n = count_CC[c, d]
    return float((n * np.log(n * total / (row_C[c] * column_C[d]))).sum())


def merged(count_CC, i, j):
    """The counts with class j poured into class i."""
    joined = np.array(count_CC)
    joined[i] += joined[j]
    joined[:, i] += joined[:, j]
    return np.delete(np.delete(joined, j, axis=0), j, axis=1)


def merge_by_trying(count_CC):
    """Brown et al.'s algorithm without any table: try every pair of classes."""
    nodes = list(range(len(count_CC)))
    merges, losses = [], []
    new_node = len(nodes)
    while len(nodes) > 1:
        before = information(count_CC)
        pairs = list(itertools.combinations(range(len(nodes)), 2))
        loss = [before - information(merged(count_CC, i, j)) for i, j in pairs]
        i, j = pairs[int(np.argmin(loss))]
        merges.append({nodes[i], nodes[j]})
        losses.append(min(loss))
        count_CC = merged(count_CC, i, j)
        nodes[i] = new_node
        del nodes[j]
        new_node += 1
    return merges, losses


def random_counts(seed, size=9, density=0.6):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 60, size=(size, size)) * (rng.random((size, size)) < density)


@pytest.mark.parametrize("seed", range(6))
def test_merges_are_those_of_least_loss(seed):
    count_CC = random_counts(seed)
    merges_M2, loss_M = merge_classes(count_CC)
    expected_merges, expected_losses = merge_by_trying(count_CC)
    assert [set(pair) for pair in merges_M2.tolist()] == expected_merges
    np.testing.assert_allclose(loss_M, expected_losses, atol=1e-8)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_losses_add_up_to_all_the_information(density):
    count_CC = random_counts(7, size=40, density=density)
    loss_M = merge_classes(count_CC)[1]
    assert loss_M.sum() == pytest.approx(information(count_CC), rel=1e-10)
    assert loss_M.min() > -1e-9


def test_a_loss_is_what_the_class_bigram_model_loses():
    tokens = np.random.default_rng(0).integers(0, 6, size=500)
    merges_M2, loss_M = merge_classes(class_bigrams(tokens, np.arange(6), 6))
    classes = np.arange(6)
    classes[merges_M2[0, 1]] = merges_M2[0, 0]
    before = class_bigram_log_likelihood(tokens, np.arange(6))
    after = class_bigram_log_likelihood(tokens, classes)
    assert loss_M[0] == pytest.approx(before - after, rel=1e-9)


def test_classes_that_never_occur_are_merged_at_no_loss():
    count_CC = random_counts(3, size=6, density=1.0)
    count_CC[[1, 4]] = 0
    count_CC[:, [1, 4]] = 0
    loss_M = merge_classes(count_CC)[1]
    np.testing.assert_allclose(loss_M[:2], 0.0, atol=1e-9)
    assert loss_M[2] > 1e-3


def test_one_class_has_nothing_to_merge_and_the_input_is_left_alone():
    merges_M2, loss_M = merge_classes(np.array([[5]]))
    assert merges_M2.shape == (0, 2)
    assert loss_M.shape == (0,)
    count_CC = random_counts(1)
    before = count_CC.copy()
    merge_classes(count_CC)
    np.testing.assert_array_equal(count_CC, before)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((2, 3), int), "square"),
        (np.zeros((0, 0), int), "square"),
        (np.array([[1, -1], [0, 2]]), "integers >= 0"),
        (np.ones((2, 2)), "integers >= 0"),
    ],
)
def test_bad_counts_are_refused(counts, message):
    with pytest.raises(InputError, match=message):
        merge_classes(counts)
