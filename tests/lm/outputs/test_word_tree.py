import fractions
import heapq

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.lm.outputs.word_tree import (
    class_tree,
    feature_tree,
    huffman_merges,
    tree_from_merges,
)


def check_tree(tree, words):
    """The words are the distinct leaves of one binary tree with V-1 internal nodes, root 0."""
    assert tree.vocabulary_size == words
    assert tree.paths_VD.shape == tree.bits_VD.shape == (words, tree.depth)
    assert (tree.paths_VD.dtype, tree.bits_VD.dtype) == (np.int32, np.int8)
    assert tree.lengths_V.dtype == np.int32
    assert tree.lengths_V.max() == tree.depth
    assert sum(fractions.Fraction(1, 2 ** int(n)) for n in tree.lengths_V) == 1
    children = {}
    for word, length in enumerate(tree.lengths_V):
        path, bits = tree.paths_VD[word, :length].tolist(), tree.bits_VD[word, :length].tolist()
        assert path[0] == 0
        assert path == sorted(set(path))  # parents are numbered before their children
        for node, bit, child in zip(path, bits, [*path[1:], f"word {word}"], strict=True):
            assert children.setdefault((node, bit), child) == child
        assert not tree.paths_VD[word, length:].any()
        assert not tree.bits_VD[word, length:].any()
    # V-1 internal nodes with two children each; everything but the root is a child just once.
    assert set(children) == {(node, bit) for node in range(words - 1) for bit in (0, 1)}
    assert len(set(children.values())) == 2 * words - 2


def least_code_length(counts):
    """Total length of an optimal prefix code: the sum of the weights of all Huffman merges."""
    heap, total = [int(n) for n in counts], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        weight = heapq.heappop(heap) + heapq.heappop(heap)
        total += weight
        heapq.heappush(heap, weight)
    return total


def random_text(seed, words, length=400):
    rng = np.random.default_rng(seed)
    return rng.integers(0, max(1, words - 2), size=length)


@pytest.mark.parametrize("words", [2, 3, 4, 5, 17, 64, 101])
def test_builders_make_trees(words):
    rng = np.random.default_rng(words)
    check_tree(feature_tree(rng.normal(size=(words, 4))), words)
    check_tree(tree_from_merges(huffman_merges(rng.integers(0, 50, size=words))), words)
    for classes in (1, 2, 5):
        classes_V = rng.integers(0, classes, size=words) * 10
        check_tree(class_tree(random_text(words, words), classes_V), words)


def test_a_tree_of_two_and_of_three_words():
    tree = tree_from_merges(np.array([[0, 1]]))
    np.testing.assert_array_equal(tree.paths_VD, [[0], [0]])
    np.testing.assert_array_equal(tree.bits_VD, [[0], [1]])
    tree = tree_from_merges(np.array([[2, 0], [3, 1]]))
    np.testing.assert_array_equal(tree.paths_VD, [[0, 1], [0, 0], [0, 1]])
    np.testing.assert_array_equal(tree.bits_VD, [[0, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(tree.lengths_V, [2, 1, 2])


@pytest.mark.parametrize("seed", range(3))
def test_huffman_trees_are_optimal(seed):
    counts = np.random.default_rng(seed).geometric(0.02, size=60)
    tree = tree_from_merges(huffman_merges(counts))
    assert (tree.lengths_V * counts).sum() == least_code_length(counts)
    assert tree.mean_length(counts) == pytest.approx(least_code_length(counts) / counts.sum())
    assert tree_from_merges(huffman_merges(np.zeros(64, int))).depth == 6


def test_words_of_a_class_share_a_subtree_and_like_classes_are_neighbours():
    # Words 0-3 and 4-7 behave alike (first halves of pairs), and so do 8-11 (second halves).
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.integers(0, 8, 500), rng.integers(8, 12, 500)], axis=1).ravel()
    classes_V = np.repeat([2, 0, 1], 4)
    tree = class_tree(tokens, classes_V)
    inside = [set.intersection(*map(set, tree.paths_VD[classes_V == k].tolist())) for k in range(3)]
    assert all(len(nodes) >= 2 for nodes in inside)
    assert set(tree.bits_VD[:8, 0]) != set(tree.bits_VD[8:, 0])
    assert len(set(tree.bits_VD[:8, 0])) == len(set(tree.bits_VD[8:, 0])) == 1


@pytest.mark.parametrize("words", [2, 7, 100, 128, 1000])
def test_feature_trees_are_balanced(words):
    features = np.random.default_rng(1).normal(size=(words, 3))
    lengths = feature_tree(features).lengths_V
    assert lengths.min() == np.floor(np.log2(words))
    assert lengths.max() == np.ceil(np.log2(words))


def test_feature_trees_split_clusters_from_the_top():
    rng = np.random.default_rng(2)
    centres = np.repeat([[0, 0], [0, 3], [50, 0], [50, 3]], 16, axis=0)
    order = rng.permutation(64)
    features = (centres + rng.uniform(-1, 1, size=(64, 2)))[order]
    top_V = feature_tree(features).bits_VD[:, :2] @ [2, 1]
    group_V = order // 16
    assert all(len(set(top_V[group_V == k])) == 1 for k in range(4))
    assert len(set(top_V)) == 4


def test_alike_features_still_make_a_balanced_tree():
    check_tree(feature_tree(np.ones((9, 3))), 9)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="1 word"):
        feature_tree(np.zeros((1, 3)))
    with pytest.raises(InputError, match="1 word"):
        class_tree(np.array([0]), np.array([0]))
    with pytest.raises(InputError, match="1 word"):
        tree_from_merges(np.zeros((0, 2), int))
    with pytest.raises(InputError, match="finite"):
        feature_tree(np.array([[0.0], [np.nan]]))
    with pytest.raises(InputError, match=r"\[V, F\]"):
        feature_tree(np.zeros(4))
    with pytest.raises(InputError, match="id 2"):
        class_tree(np.array([0, 1, 2]), np.array([0, 0]))
    for merges in ([[0, 1], [0, 2]], [[0, 3], [1, 2]], [[0, 1], [3, 4]]):
        with pytest.raises(InputError, match="one binary tree of 3 leaves"):
            tree_from_merges(np.array(merges))
