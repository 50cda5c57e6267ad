"""What discounting models share: what n-grams keep, and how the rest goes to the lower order.

Of each context's probability its n-grams keep shares, and g(c) is left for the lower order:

    interpolated   P(w | c) = kept(c w) + g(c) P(w | parent(c))
    back-off       P(w | c) = kept(c w) for listed words; the others share g(c) in proportion to
                   P(w | parent(c))

The lowest order is interpolated with the uniform distribution in both forms, so that words of the
vocabulary that the text does not have get probability too. `jaxgen.lm.ngram.kneser_ney` and
`jaxgen.lm.ngram.smoothing` say what is kept.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from jaxgen.errors import InputError
from jaxgen.lm.ngram.backoff import BackoffModel
from jaxgen.lm.ngram.counts import ContextTrie, Ids, NgramCounts, NgramIndex

Discounts = tuple[float, float, float]
"""D_1, D_2, D_3 of n-grams that occur once, twice, and three times or more."""

_ROUNDING = 1e-12  # a sum of probabilities this small is zero but for rounding


@dataclasses.dataclass(frozen=True, eq=False)
class Shares:
    """What the n-grams of an order keep of their contexts' probability, and what they leave.

    Attributes:
      index: the n-grams.
      listed_N: whether an n-gram's count reaches the minimum.
      kept_N: (a(c w) - D) / sum_w a(c w), 0 where not listed.
      left_C: g(c), with the whole share of n-grams that are not listed.
    """

    index: NgramIndex
    listed_N: Bool[np.ndarray, "ngrams"]
    kept_N: Float64[np.ndarray, "ngrams"]
    left_C: Float64[np.ndarray, "contexts"]


def take_shares(
    index: NgramIndex,
    counts_N: Int64[np.ndarray, "ngrams"],
    contexts: int,
    minimum_count: int,
    discounts: Discounts,
) -> Shares:
    """The shares of an order's n-grams by absolute discounting.

    Args:
      index: the n-grams.
      counts_N: how often each of them counts.
      contexts: the number of contexts of their length.
      minimum_count: the least count of an n-gram that is listed.
      discounts: what is taken from a count of one, two, three or more.
    """
    context_N = index.contexts
    listed_N = counts_N >= minimum_count
    discount_N = np.array([0.0, *discounts])[np.minimum(counts_N, 3)]
    total_C = np.bincount(context_N, counts_N, minlength=contexts)
    left_C = np.bincount(context_N, np.where(listed_N, discount_N, counts_N), minlength=contexts)
    # A context without listed n-grams hands everything on.
    empty_C = np.bincount(context_N, listed_N, minlength=contexts) == 0
    total_C[total_C == 0] = 1.0
    kept_N = np.where(listed_N, counts_N - discount_N, 0.0) / total_C[context_N]
    return Shares(index, listed_N, kept_N, np.where(empty_C, 1.0, left_C / total_C))


def smooth(counts: NgramCounts, shares: Sequence[Shares], interpolated: bool) -> BackoffModel:
    """The model whose orders 1 ... n have these shares; its n-grams of order 1 are all words."""
    indexes: list[NgramIndex] = []
    probabilities: list[np.ndarray] = []
    backoffs: list[np.ndarray] = []
    lower_N = counts.uniform()
    for k, of_order in enumerate(shares):
        method = interpolate_shares if interpolated or k == 0 else back_off_shares
        probability_N, backoff_C = method(of_order, lower_N)
        listed_N = of_order.listed_N if k else np.ones(counts.vocabulary_size, bool)
        indexes.append(NgramIndex(counts.vocabulary_size, of_order.index.keys[listed_N]))
        probabilities.append(probability_N[listed_N])
        backoffs.append(backoff_C)
        if k + 1 < counts.order:
            longer = shares[k + 1].index
            lower_N = probability_N[shortened(counts.contexts, longer, k + 1, of_order.index)]
    return BackoffModel(counts.contexts, tuple(indexes), tuple(probabilities), tuple(backoffs))


def shortened(contexts: ContextTrie, index: NgramIndex, length: int, lower: NgramIndex) -> Ids:
    """Where the lower order has each n-gram of ``index`` without its oldest word."""
    return lower.find(contexts.parents(length)[index.contexts], index.words)


def occurrences(counts: NgramCounts, order: int) -> tuple[NgramIndex, Int64[np.ndarray, "ngrams"]]:
    """The n-grams of one order (every word, at order 1) and how often the text has them."""
    if order > 1:
        return counts.indexes[order - 1], counts.counts[order - 1]
    counts_V = np.zeros(counts.vocabulary_size, np.int64)
    counts_V[counts.indexes[0].words] = counts.counts[0]
    return NgramIndex(counts.vocabulary_size, np.arange(counts.vocabulary_size)), counts_V


def interpolate_shares(
    shares: Shares, lower_N: Float64[np.ndarray, "ngrams"]
) -> tuple[Float64[np.ndarray, "ngrams"], Float64[np.ndarray, "contexts"]]:
    """P(w | c) of each n-gram and b(c) of each context, from P(w | parent(c)) of each n-gram."""
    return shares.kept_N + shares.left_C[shares.index.contexts] * lower_N, shares.left_C


def back_off_shares(
    shares: Shares, lower_N: Float64[np.ndarray, "ngrams"]
) -> tuple[Float64[np.ndarray, "ngrams"], Float64[np.ndarray, "contexts"]]:
    """P(w | c) of each n-gram and b(c) of each context, from P(w | parent(c)) of each n-gram.

    b(c) is such that the words not listed after c get g(c) together. Where the listed words are all
    that the lower order gives probability to, they keep g(c), in proportion.
    """
    context_N, listed_N, contexts = shares.index.contexts, shares.listed_N, len(shares.left_C)
    listed_C = np.bincount(context_N, listed_N, minlength=contexts)
    rest_C = 1.0 - np.bincount(context_N, np.where(listed_N, lower_N, 0.0), minlength=contexts)
    full_C = (listed_C == shares.index.vocabulary_size) | (rest_C < _ROUNDING)
    backoff_C = np.where(full_C, 1.0, shares.left_C / np.where(full_C, 1.0, rest_C))
    kept_N = shares.kept_N / np.where(full_C, 1.0 - shares.left_C, 1.0)[context_N]
    return np.where(listed_N, kept_N, backoff_C[context_N] * lower_N), backoff_C


def check_minimum_counts(minimum_counts: Sequence[int], orders: int) -> None:
    """Raise an InputError unless there is a minimum count of 1 or more for each order."""
    if len(minimum_counts) != orders:
        raise InputError(f"there are {len(minimum_counts)} minimum counts, expected {orders}")
    if min(minimum_counts) < 1:
        raise InputError(f"minimum counts are {list(minimum_counts)}, expected 1 or more each")
