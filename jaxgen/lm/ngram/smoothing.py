"""Smoothing by Witten & Bell, by absolute discounting, and by adding a constant to every count.

With N(c w) occurrences of c w in the text, N(c) those of c followed by any word, t(c) different
words after c, and parent(c) the context without its oldest word:

    Witten-Bell (1991)             kept = N(c w) / (N(c) + t(c)),    g(c) = t(c) / (N(c) + t(c))
    absolute discounting           kept = (N(c w) - D) / N(c),       g(c) = D t(c) / N(c)
      (Ney, Essen & Kneser 1994)
    add-k (Lidstone)               P(w | c) = (N(c w) + k) / (N(c) + k |V|)

`jaxgen.lm.ngram.discounting` says how g(c) goes to the lower order. D of an order is n_1 / (n_1 +
2 n_2), where n_1 and n_2 n-grams of it occur once and twice. Add-k has no lower order: after a
context that the text lacks, all words are equally likely. |V| does not count ``<s>`` where the text
was counted by sentence.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from jaxgen.errors import InputError, check_positive
from jaxgen.lm.ngram.backoff import BackoffModel
from jaxgen.lm.ngram.counts import NgramCounts, NgramIndex
from jaxgen.lm.ngram.discounting import (
    Shares,
    check_minimum_counts,
    occurrences,
    smooth,
    take_shares,
)

_FALLBACK_DISCOUNT = 0.5


def fit_witten_bell(
    counts: NgramCounts, interpolated: bool = True, minimum_counts: Sequence[int] | None = None
) -> BackoffModel:
    """Estimate a Witten-Bell model (their method C; Witten & Bell 1991).

    Args:
      counts: n-gram counts of the training part; their order is the model's.
      interpolated: mix every order with the lower ones, rather than back off to them for unseen
        words alone.
      minimum_counts: for each order 1 ... n the least count of an n-gram that is listed; rarer
        ones leave their share to g(c). None lists all.

    Returns:
      The model; its distributions sum to one and are positive (but for ``<s>``).

    Raises:
      InputError: if there are not n minimum counts, or one is under 1.
    """
    minimum_counts = [1] * counts.order if minimum_counts is None else minimum_counts
    check_minimum_counts(minimum_counts, counts.order)
    shares = [
        _witten_bell(*occurrences(counts, k + 1), counts.contexts.size(k), minimum)
        for k, minimum in enumerate(minimum_counts)
    ]
    return smooth(counts, shares, interpolated)


def _witten_bell(
    index: NgramIndex, counts_N: Int64[np.ndarray, "ngrams"], contexts: int, minimum_count: int
) -> Shares:
    context_N = index.contexts
    listed_N = counts_N >= minimum_count
    total_C = np.bincount(context_N, counts_N, minlength=contexts)
    total_C += np.bincount(context_N, counts_N > 0, minlength=contexts)
    kept_N = np.where(listed_N, counts_N, 0.0) / total_C[context_N]
    kept_C = np.bincount(context_N, kept_N, minlength=contexts)
    return Shares(index, listed_N, kept_N, 1.0 - kept_C)


def fit_absolute_discounting(
    counts: NgramCounts,
    interpolated: bool = True,
    minimum_counts: Sequence[int] | None = None,
    discounts: Sequence[float] | None = None,
) -> BackoffModel:
    """Estimate a model with one discount an order, from occurrences rather than continuations.

    Args:
      counts: n-gram counts of the training part; their order is the model's.
      interpolated: as for `fit_witten_bell`.
      minimum_counts: as for `fit_witten_bell`.
      discounts: D of each order 1 ... n, in [0, 1); None: n_1 / (n_1 + 2 n_2), and 0.5 where an
        order has no n-grams that occur once or none that occur twice.

    Returns:
      The model; its distributions sum to one, and are positive if the discounts are.

    Raises:
      InputError: if there are not n discounts or n minimum counts, or one is out of range.
    """
    minimum_counts = [1] * counts.order if minimum_counts is None else minimum_counts
    check_minimum_counts(minimum_counts, counts.order)
    if discounts is None:
        discounts = [leaving_one_out_discount(counts_N) for counts_N in counts.counts]
    if len(discounts) != counts.order or not all(0 <= d < 1 for d in discounts):
        raise InputError(
            f"discounts are {list(discounts)}, expected {counts.order} numbers in [0, 1)"
        )
    shares = [
        take_shares(*occurrences(counts, k + 1), counts.contexts.size(k), minimum, (d, d, d))
        for k, (minimum, d) in enumerate(zip(minimum_counts, discounts, strict=True))
    ]
    return smooth(counts, shares, interpolated)


def leaving_one_out_discount(counts_N: Int64[np.ndarray, "ngrams"]) -> float:
    """n_1 / (n_1 + 2 n_2), the leaving-one-out estimate; 0.5 where n_1 or n_2 is zero.

    Args:
      counts_N: the counts of n-grams, of which n_1 are 1 and n_2 are 2.
    """
    once, twice = int((counts_N == 1).sum()), int((counts_N == 2).sum())
    return once / (once + 2 * twice) if once and twice else _FALLBACK_DISCOUNT


def fit_add_k(counts: NgramCounts, k: float = 1.0) -> BackoffModel:
    """Estimate an add-k model; k = 1 is Laplace's.

    Counts of whole contexts alone: n - 1 words, or those from ``<s>`` on. The model has the form of
    a back-off model whose order 1 is uniform.

    Args:
      counts: n-gram counts of the training part; their order is the model's.
      k: what is added to every count, > 0.

    Returns:
      The model; its distributions sum to one and are positive (but for ``<s>``).

    Raises:
      InputError: if k is not positive.
    """
    check_positive("k", k)
    size = counts.vocabulary_size
    uniform_V = counts.uniform()
    added = k * int((uniform_V > 0).sum())
    indexes, probabilities, backoffs = [], [], []
    for order in range(1, counts.order + 1):
        index, counts_N = occurrences(counts, order)
        total_C = counts.totals[order - 1]
        is_whole_N = counts.begins_sentence(order) | (order == counts.order)
        added_N = np.where(uniform_V[index.words] > 0, k, 0.0)
        probability_N = (counts_N + added_N) / (total_C[index.contexts] + added)
        if order == 1 and counts.order > 1:
            is_whole_N, probability_N = np.ones(size, bool), uniform_V
        is_whole_C = np.zeros(len(total_C), bool)
        is_whole_C[index.contexts[is_whole_N]] = True
        indexes.append(NgramIndex(size, index.keys[is_whole_N]))
        probabilities.append(probability_N[is_whole_N])
        backoffs.append(np.where(is_whole_C, added / (total_C + added), 1.0))
    return BackoffModel(counts.contexts, tuple(indexes), tuple(probabilities), tuple(backoffs))
