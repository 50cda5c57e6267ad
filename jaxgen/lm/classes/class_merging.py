"""Agglomerative clustering of word classes: a binary tree by least loss of mutual information.

Brown, Della Pietra, de Souza, Lai & Mercer (1992), "Class-based n-gram models of natural language",
section 3: of all pairs of classes merge the one that costs the least average mutual information of
adjacent classes, until one class is left. In counts, N times that information is, up to a constant,

    sum_cd f(N(c, d)) - sum_c f(N(c, .)) - sum_d f(N(., d)),        f(n) = n log n,

so that a loss is also the log-likelihood (nats) that the class-bigram model of
`jaxgen.lm.classes.clustering` loses. The gain of every pair is kept in a table; a merge changes a
pair only through the entries that both share with the merged classes, so C - 1 merges cost O(C^3)
additions at worst, and far fewer as long as the counts are sparse.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_integers
from jaxgen.lm.classes.clustering import tabulate_xlogx


def merge_classes(
    count_CC: Integer[np.ndarray, "C C"],
) -> tuple[Int64[np.ndarray, "M 2"], Float64[np.ndarray, "M"]]:
    """Merge classes two at a time, always the pair that loses the least mutual information.

    Args:
      count_CC: [first class, second class], how often the one precedes the other.

    Returns:
      Merges int64 [C - 1, 2], each the two nodes merged, where nodes 0 .. C-1 are the classes and
      C + i is the node that merge i makes; and float64 [C - 1], the nats that each merge loses.

    Raises:
      InputError: if the counts are not a square matrix of integers >= 0.
    """
    count_CC = np.asarray(count_CC)
    if count_CC.ndim != 2 or count_CC.shape[0] != count_CC.shape[1] or len(count_CC) == 0:
        raise InputError(f"class bigrams have shape {count_CC.shape}, expected a square matrix")
    if not np.issubdtype(count_CC.dtype, np.integer) or count_CC.min() < 0:
        raise InputError("class bigrams must be integers >= 0")
    count_CC = as_integers(count_CC, "class bigrams").copy()
    classes = len(count_CC)
    merging = _Merging(count_CC)
    merges_M2 = np.empty((classes - 1, 2), np.int64)
    loss_M = np.empty(classes - 1)
    for merge in range(classes - 1):
        merges_M2[merge], loss_M[merge] = merging.merge_best(new_node=classes + merge)
    return merges_M2, loss_M


class _Merging:
    """The classes that are left, their bigrams, and what merging each pair of them would gain.

    The classes left fill the first `left` rows and columns; the last moves into a slot set free.
    """

    def __init__(self, count_CC: Int64[np.ndarray, "C C"]) -> None:
        self._left = len(count_CC)
        self._node_C = np.arange(self._left)
        self._count_CC = count_CC
        self._first_C, self._second_C = count_CC.sum(axis=1), count_CC.sum(axis=0)
        self._xlogx = tabulate_xlogx(int(count_CC.sum()))
        self._gain_CC = np.zeros(count_CC.shape)
        for d in range(self._left):
            self._add_shared(d, 1)
        for slot in range(self._left):
            self._gain_CC[slot, : slot + 1] += self._own_terms(slot)[: slot + 1]
            self._gain_CC[: slot + 1, slot] = self._gain_CC[slot, : slot + 1]
        np.fill_diagonal(self._gain_CC, -np.inf)

    def merge_best(self, new_node: int) -> tuple[tuple[int, int], float]:
        """Merge the pair of largest gain into `new_node`; return its two nodes and the loss."""
        left = self._left
        gain_CC = self._gain_CC[:left, :left]
        keep, drop = sorted(divmod(int(gain_CC.argmax()), left))
        nodes = int(self._node_C[keep]), int(self._node_C[drop])
        loss = -float(gain_CC[keep, drop])
        self._add_shared(keep, -1)
        self._add_shared(drop, -1)
        count_CC = self._count_CC[:left, :left]
        count_CC[keep] += count_CC[drop]
        count_CC[:, keep] += count_CC[:, drop]
        for total_C in (self._first_C, self._second_C):
            total_C[keep] += total_C[drop]
        self._free(drop)
        self._node_C[keep] = new_node
        self._add_shared(keep, 1)
        self._set_gains(keep)
        return nodes, loss

    def _free(self, slot: int) -> None:
        """Forget the class in a slot: the last class takes its place."""
        last = self._left - 1
        for table_CC in (self._count_CC, self._gain_CC):
            table_CC[slot] = table_CC[last]
            table_CC[:, slot] = table_CC[:, last]
        self._gain_CC[slot, slot] = -np.inf
        for value_C in (self._node_C, self._first_C, self._second_C):
            value_C[slot] = value_C[last]
        self._left = last

    def _add_shared(self, d: int, sign: int) -> None:
        """Add to the gain of every pair (i, j) what d contributes as their common neighbour.

        That is H(N(i, d), N(j, d)) + H(N(d, i), N(d, j)) with H(x, y) = f(x + y) - f(x) - f(y),
        which is zero unless both x and y are positive.
        """
        f = self._f
        for count_C in (self._count_CC[: self._left, d], self._count_CC[d, : self._left]):
            with_d = np.flatnonzero(count_C)
            count_I = count_C[with_d]
            before_I = f(count_I)
            shared_II = f(count_I[:, None] + count_I) - before_I[:, None] - before_I
            self._gain_CC[np.ix_(with_d, with_d)] += sign * shared_II

    def _set_gains(self, slot: int) -> None:
        """Recompute the gains of merging the class in a slot with every other."""
        f, left = self._f, self._left
        gain_C = self._own_terms(slot)
        for count_CC in (self._count_CC[:left, :left], self._count_CC[:left, :left].T):
            common = np.flatnonzero(count_CC[slot])
            mine_I, theirs_CI = count_CC[slot, common], count_CC[:, common]
            gain_C += (f(theirs_CI + mine_I) - f(theirs_CI)).sum(axis=1) - f(mine_I).sum()
        self._gain_CC[slot, :left] = self._gain_CC[:left, slot] = gain_C
        self._gain_CC[slot, slot] = -np.inf

    def _own_terms(self, slot: int) -> Float64[np.ndarray, "C"]:
        """The part of the gain of (slot, j) that does not come from common neighbours.

        The margins lose f(x + y) - f(x) - f(y). And the four entries of the pair among themselves
        become one, which the sums over neighbours count twice and by halves.
        """
        f, left = self._f, self._left
        count_CC = self._count_CC[:left, :left]
        own = count_CC[slot, slot]
        from_C, to_C, self_C = count_CC[slot], count_CC[:, slot], count_CC.diagonal()
        corner_C = f(own + from_C + to_C + self_C) + f(own) + f(from_C) + f(to_C) + f(self_C)
        corner_C -= f(own + to_C) + f(from_C + self_C) + f(own + from_C) + f(to_C + self_C)
        for total_C in (self._first_C[:left], self._second_C[:left]):
            corner_C -= f(total_C + total_C[slot]) - f(total_C) - f(total_C[slot])
        return corner_C

    def _f(self, n: Any) -> Any:
        # Only a class paired with itself, a gain that is thrown away, exceeds the table.
        return self._xlogx.take(n, mode="clip")
