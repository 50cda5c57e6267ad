"""Binary trees over the words of a vocabulary, for tree-structured output probabilities.

A hierarchical softmax (Bengio et al. 2003, section 5.2; Morin & Bengio 2005) writes P(w | context)
as a product of binary decisions on the path from the root to the leaf w, so that a word costs the
length of its path instead of |V|. Two ways to build the tree:

* :func:`class_tree`: word classes, merged by least loss of mutual information
  (`jaxgen.lm.classes.class_merging`), with a Huffman tree over the words of each class below;
* :func:`feature_tree`: recursive halving of word-feature vectors, all paths of equal length (to 1).

Builders describe a tree by *merges*: leaves are nodes 0 .. V-1, and row i of ``merges_M2`` names
the two nodes that become children of node V + i. :func:`tree_from_merges` turns them into paths.
"""

import dataclasses
import heapq

import numpy as np
from jaxtyping import Float, Int8, Int32, Int64, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_integers
from jaxgen.lm.classes.class_merging import merge_classes
from jaxgen.lm.classes.clustering import class_bigrams
from jaxgen.lm.contexts import check_text

_POWER_ITERATIONS = 20
"""Steps towards the principal direction, where a split of :func:`feature_tree` starts."""

_MOST_REFINEMENTS = 10
"""Rounds of balanced 2-means that improve each split of :func:`feature_tree`."""


@dataclasses.dataclass(frozen=True, eq=False)
class BinaryTree:
    """A binary tree with the V words as leaves, as the path from the root to each of them.

    Internal nodes are numbered 0 .. V-2, parents before their children; the root is 0. The words
    are distinct leaves, so sum_w 2^-length(w) = 1.

    Attributes:
      paths_VD: int32 [V, D], internal nodes from the root on; 0 after the end of a path.
      bits_VD: int8 [V, D], which child is taken at each of them, 0 or 1; 0 after the end.
      lengths_V: int32 [V], the number of decisions that lead to each word, at least 1.
    """

    paths_VD: Int32[np.ndarray, "V D"]
    bits_VD: Int8[np.ndarray, "V D"]
    lengths_V: Int32[np.ndarray, "V"]

    @property
    def vocabulary_size(self) -> int:
        """V, the number of words."""
        return len(self.lengths_V)

    @property
    def depth(self) -> int:
        """D, the length of the longest path."""
        return self.paths_VD.shape[1]

    def mean_length(self, count_V: Integer[np.ndarray, "V"]) -> float:
        """Decisions per token of a text in which each word occurs ``count_V`` times."""
        return float(np.average(self.lengths_V, weights=count_V))


def class_tree(
    tokens_N: Integer[np.ndarray, "N"], classes_V: Integer[np.ndarray, "V"]
) -> BinaryTree:
    """The tree of word classes by least loss of mutual information, Huffman trees below them.

    Args:
      tokens_N: the training text, ids in [0, V).
      classes_V: the class of each word, such as `jaxgen.lm.classes.clustering` finds; any
        numbers.

    Returns:
      The tree. The words of a class are the leaves of one subtree.

    Raises:
      InputError: if there are fewer than two words or an id is out of range.
    """
    classes_V = np.asarray(classes_V)
    words = len(classes_V)
    _check_leaves(words)
    tokens_N = check_text(tokens_N, words)
    class_V = np.unique(classes_V, return_inverse=True)[1]
    size = int(class_V.max()) + 1
    count_V = np.bincount(tokens_N, minlength=words)
    merges: list[np.ndarray] = []
    root_C = np.empty(size, np.int64)
    made = words
    for k in range(size):
        members_G = np.flatnonzero(class_V == k)
        merges_M2 = huffman_merges(count_V[members_G])
        nodes = np.concatenate([members_G, made + np.arange(len(merges_M2))])
        merges.append(nodes[merges_M2])
        root_C[k] = nodes[-1]
        made += len(merges_M2)
    class_merges_M2, _ = merge_classes(class_bigrams(tokens_N, class_V, size))
    nodes = np.concatenate([root_C, made + np.arange(size - 1)])
    merges.append(nodes[class_merges_M2])
    return tree_from_merges(np.concatenate(merges))


def feature_tree(features_VF: Float[np.ndarray, "V F"]) -> BinaryTree:
    """Halve the words again and again so that those with like features stay together.

    A split starts at the median of the projections on the principal direction and is refined by
    2-means with halves of equal size: project on the difference of the halves' means, cut at the
    median. Deterministic; paths have floor(log2 V) or ceil(log2 V) decisions.

    Args:
      features_VF: a vector for each word.

    Raises:
      InputError: if there are fewer than two words, or the features are not a finite matrix.
    """
    features_VF = np.asarray(features_VF, np.float64)
    if features_VF.ndim != 2 or not np.isfinite(features_VF).all():
        raise InputError(
            f"features have shape {features_VF.shape}, expected [V, F] and finite numbers"
        )
    words = len(features_VF)
    _check_leaves(words)
    merges: list[tuple[int, int]] = []

    def build(members_G: Int64[np.ndarray, "G"]) -> int:
        if len(members_G) == 1:
            return int(members_G[0])
        first = _first_half(features_VF[members_G])
        merges.append((build(members_G[first]), build(members_G[~first])))
        return words + len(merges) - 1

    build(np.arange(words))
    return tree_from_merges(np.array(merges))


def huffman_merges(count_G: Integer[np.ndarray, "G"]) -> Int64[np.ndarray, "M 2"]:
    """Huffman's merges of leaves: always the two of least count; ties by order of creation.

    Args:
      count_G: a weight >= 0 for each leaf.

    Returns:
      int64 [G - 1, 2], the two nodes merged; leaves are 0 .. G-1, merge i makes node G + i. The
      mean path length under the weights is the least that any binary tree has.
    """
    heap = [(int(count), node) for node, count in enumerate(count_G)]
    heapq.heapify(heap)
    merges_M2 = np.empty((len(heap) - 1, 2), np.int64)
    for merge in range(len(merges_M2)):
        count, node = heapq.heappop(heap)
        other_count, other = heapq.heappop(heap)
        merges_M2[merge] = node, other
        heapq.heappush(heap, (count + other_count, len(count_G) + merge))
    return merges_M2


def tree_from_merges(merges_M2: Integer[np.ndarray, "M 2"]) -> BinaryTree:
    """The tree that V - 1 merges of V leaves make (see the module for their form).

    Raises:
      InputError: if there are no merges, or they do not make every node but the last the child
        of exactly one later node.
    """
    merges_M2 = as_integers(merges_M2, "merges")
    words = len(merges_M2) + 1
    _check_leaves(words)
    made_M = words + np.arange(words - 1)
    if (merges_M2 >= made_M[:, None]).any() or (
        np.sort(merges_M2, axis=None) != np.arange(2 * words - 2)
    ).any():
        raise InputError(f"the {words - 1} merges do not make one binary tree of {words} leaves")
    parent, bit = np.full(2 * words - 1, -1), np.zeros(2 * words - 1, np.int8)
    parent[merges_M2] = made_M[:, None]
    bit[merges_M2[:, 1]] = 1
    return _tree_from_parents(parent, bit, words)


def _tree_from_parents(
    parent: Int64[np.ndarray, "nodes"], bit: Int8[np.ndarray, "nodes"], words: int
) -> BinaryTree:
    """Climb from all leaves to the root together, then turn the paths round."""
    root = len(parent) - 1
    climbed, bits = [], []
    node_V = np.arange(words)
    while (node_V != root).any():
        # A path that has arrived waits at the root; what it repeats there is cut off below.
        bits.append(bit[node_V])
        node_V = np.where(node_V == root, root, parent[node_V])
        climbed.append(node_V)
    from_leaf_VD, bits_VD = np.stack(climbed, axis=1), np.stack(bits, axis=1)
    arrived_VD = from_leaf_VD == root
    length_V = arrived_VD.argmax(axis=1) + 1
    step_VD = length_V[:, None] - 1 - np.arange(from_leaf_VD.shape[1])
    inside_VD = step_VD >= 0
    step_VD = np.maximum(step_VD, 0)
    paths_VD = root - np.take_along_axis(from_leaf_VD, step_VD, axis=1)
    return BinaryTree(
        np.where(inside_VD, paths_VD, 0).astype(np.int32),
        np.where(inside_VD, np.take_along_axis(bits_VD, step_VD, axis=1), 0).astype(np.int8),
        length_V.astype(np.int32),
    )


def _first_half(features_GF: Float[np.ndarray, "G F"]) -> np.ndarray:
    """Mask of the half of the rows (the larger, if odd) on one side of a balanced 2-means cut."""
    centred_GF = features_GF - features_GF.mean(axis=0)
    first = _lower_half(centred_GF @ _principal_direction(centred_GF))
    for _ in range(_MOST_REFINEMENTS):
        difference_F = centred_GF[~first].mean(axis=0) - centred_GF[first].mean(axis=0)
        refined = _lower_half(centred_GF @ difference_F)
        if (refined == first).all():
            break
        first = refined
    return first


def _principal_direction(centred_GF: Float[np.ndarray, "G F"]) -> Float[np.ndarray, "F"]:
    """Power iteration from the row that lies farthest out: near enough to start 2-means from."""
    direction_F = centred_GF[np.square(centred_GF).sum(axis=1).argmax()]
    for _ in range(_POWER_ITERATIONS):
        next_F = (centred_GF @ direction_F) @ centred_GF
        norm = np.linalg.norm(next_F)
        if norm == 0:  # all rows alike
            break
        direction_F = next_F / norm
    return direction_F


def _lower_half(position_G: Float[np.ndarray, "G"]) -> np.ndarray:
    lower = np.zeros(len(position_G), bool)
    lower[np.argsort(position_G, kind="stable")[: (len(position_G) + 1) // 2]] = True
    return lower


def _check_leaves(words: int) -> None:
    if words < 2:
        raise InputError(f"vocabulary of {words} word(s), expected at least two for a tree")
