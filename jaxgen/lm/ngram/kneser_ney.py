"""Modified Kneser-Ney smoothing (Chen & Goodman 1999), back-off and interpolated.

Counts a(c w): at the highest order the occurrences of c w in the text; at lower orders the number
of different words that precede c w in it ("continuation counts", Kneser & Ney 1995). Each order has
three discounts from its counts of counts n_i = |{c w : a(c w) = i}|,

    Y = n_1 / (n_1 + 2 n_2),   D_i = i - (i + 1) Y n_{i+1} / n_i   for i = 1, 2, 3,

where D_3 serves for every count of 3 or more. With N_i(c) = |{w : a(c w) = i}|, the mass taken from
a context is

    g(c) = (D_1 N_1(c) + D_2 N_2(c) + D_3 N_3+(c)) / sum_w a(c w).

Interpolated: P(w | c) = (a(c w) - D) / sum_w a(c w) + g(c) P(w | parent(c)).
Back-off: P(w | c) = (a(c w) - D) / sum_w a(c w) for words seen after c; the others share g(c) in
proportion to P(w | parent(c)).

The lowest order is interpolated with 1/|V| in both forms, so that words of the vocabulary that the
text does not have get probability too. An n-gram shorter than n that occurs only at the very start
of the text has no preceding word: its continuation count is 0 and it is not listed.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from jaxgen.errors import InputError
from jaxgen.lm.ngram.backoff import BackoffModel
from jaxgen.lm.ngram.counts import NgramCounts, NgramIndex

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""D_1, D_2, D_3 of an order whose counts of counts do not define them."""

Discounts = tuple[float, float, float]


def modified_discounts(counts_N: Int64[np.ndarray, "ngrams"], order: int) -> Discounts:
    """D_1, D_2, D_3 of one order (Chen & Goodman 1999, equation 26).

    They are undefined where n_1, n_2 or n_3 is zero, and useless where D_i is not in (0, i): such
    an order falls back to :data:`FALLBACK_DISCOUNTS` with a warning. Merging rare words into one
    symbol, which removes low counts, can lead there.

    Args:
        counts_N: a(c w) >= 1 of the order's n-grams.
        order: for the warning.
    """
    n = np.bincount(np.minimum(counts_N, 5), minlength=6)
    if n[1] and n[2] and n[3]:
        y = n[1] / (n[1] + 2 * n[2])
        d_1, d_2, d_3 = (float(i - (i + 1) * y * n[i + 1] / n[i]) for i in (1, 2, 3))
        if 0 < d_1 < 1 and 0 < d_2 < 2 and 0 < d_3 < 3:
            return d_1, d_2, d_3
    warnings.warn(
        f"Kneser-Ney discounts of order {order} are undefined or out of range "
        f"(n_1, n_2, n_3, n_4 = {n[1]}, {n[2]}, {n[3]}, {n[4]}): "
        f"using {FALLBACK_DISCOUNTS} instead",
        stacklevel=3,
    )
    return FALLBACK_DISCOUNTS


def fit_kneser_ney(
    counts: NgramCounts, interpolated: bool = True, discounts: Sequence[Discounts] | None = None
) -> BackoffModel:
    """Estimate a modified Kneser-Ney model.

    Args:
        counts: n-gram counts of the training part; their order is the model's.
        interpolated: mix every order with the lower ones, rather than back off to them for unseen
            words alone.
        discounts: (D_1, D_2, D_3) of each order from 1 to n, instead of those from the counts of
            counts; (d, d, d) is Kneser and Ney's single discount.

    Returns:
        The model in back-off form, which both kinds have exactly. Its distributions sum to one,
        and are positive if the discounts are.

    Raises:
        InputError: if there are not n discounts or a D_i is not in [0, i).

    Warns:
        UserWarning: where the counts of counts do not define an order's discounts.
    """
    _check_discounts(discounts, counts.order)
    size = counts.vocabulary_size
    index, counts_N = NgramIndex(size, np.arange(0)), np.arange(0)
    indexes: list[NgramIndex] = []
    probabilities: list[np.ndarray] = []
    backoffs = [np.ones(1)]
    for order in range(1, counts.order + 1):
        lower = index
        index, counts_N = _adjusted_counts(counts, order)
        taken = discounts[order - 1] if discounts else modified_discounts(counts_N, order)
        if order == 1:
            probability_N = _unigram(index, counts_N, taken)
            index = NgramIndex(size, np.arange(size))
        else:
            parents_N = counts.contexts.parents(order - 1)[index.contexts]
            lower_N = probabilities[-1][lower.find(parents_N, index.words)]
            contexts = counts.contexts.size(order - 1)
            form = _interpolate if interpolated else _back_off
            probability_N, backoff_C = form(
                index, *_discount(index, counts_N, contexts, taken), lower_N
            )
            backoffs.append(backoff_C)
        indexes.append(index)
        probabilities.append(probability_N)
    return BackoffModel(counts.contexts, tuple(indexes), tuple(probabilities), tuple(backoffs))


def _check_discounts(discounts: Sequence[Discounts] | None, orders: int) -> None:
    if discounts is None:
        return
    if np.shape(discounts) != (orders, 3):
        raise InputError(
            f"discounts have shape {np.shape(discounts)}, expected ({orders}, 3): "
            "D_1, D_2, D_3 of each order"
        )
    for order, of_order in enumerate(discounts, start=1):
        for i, discount in enumerate(of_order, start=1):
            if not 0 <= discount < i:
                raise InputError(f"D_{i} of order {order} is {discount}, expected [0, {i})")


def _adjusted_counts(
    counts: NgramCounts, order: int
) -> tuple[NgramIndex, Int64[np.ndarray, "ngrams"]]:
    """a(c w) of one order, and the n-grams that have any."""
    index = counts.indexes[order - 1]
    if order == counts.order:
        return index, counts.counts[order - 1]
    longer = counts.indexes[order]
    shortened_N = counts.contexts.parents(order)[longer.contexts]
    preceding_N = np.bincount(index.find(shortened_N, longer.words), minlength=len(index))
    return NgramIndex(index.vocabulary_size, index.keys[preceding_N > 0]), preceding_N[
        preceding_N > 0
    ]


def _discount(
    index: NgramIndex, counts_N: Int64[np.ndarray, "ngrams"], contexts: int, discounts: Discounts
) -> tuple[Float64[np.ndarray, "ngrams"], Float64[np.ndarray, "contexts"]]:
    """(a(c w) - D) / sum_w a(c w) of each n-gram, and g(c) of each context (1 if it has none)."""
    taken_N = np.array([0.0, *discounts])[np.minimum(counts_N, 3)]
    total_C = np.bincount(index.contexts, counts_N, minlength=contexts)
    mass_C = np.bincount(index.contexts, taken_N, minlength=contexts)
    mass_C[total_C == 0] = 1.0
    total_C[total_C == 0] = 1.0
    return (counts_N - taken_N) / total_C[index.contexts], mass_C / total_C


def _unigram(
    index: NgramIndex, counts_N: Int64[np.ndarray, "ngrams"], discounts: Discounts
) -> Float64[np.ndarray, "V"]:
    discounted_N, mass_C = _discount(index, counts_N, 1, discounts)
    probability_V = np.full(index.vocabulary_size, mass_C[0] / index.vocabulary_size)
    probability_V[index.words] += discounted_N
    return probability_V


def _interpolate(
    index: NgramIndex,
    discounted_N: Float64[np.ndarray, "ngrams"],
    mass_C: Float64[np.ndarray, "contexts"],
    lower_N: Float64[np.ndarray, "ngrams"],
) -> tuple[Float64[np.ndarray, "ngrams"], Float64[np.ndarray, "contexts"]]:
    return discounted_N + mass_C[index.contexts] * lower_N, mass_C


def _back_off(
    index: NgramIndex,
    discounted_N: Float64[np.ndarray, "ngrams"],
    mass_C: Float64[np.ndarray, "contexts"],
    lower_N: Float64[np.ndarray, "ngrams"],
) -> tuple[Float64[np.ndarray, "ngrams"], Float64[np.ndarray, "contexts"]]:
    """Probabilities and weights such that unseen words get g(c) together.

    Where every word of the vocabulary was seen after c there is none to give g(c) to: the seen
    words keep it, in proportion.
    """
    contexts_N = index.contexts
    seen_C = np.bincount(contexts_N, minlength=len(mass_C))
    full_C = seen_C == index.vocabulary_size
    unseen_C = 1.0 - np.bincount(contexts_N, lower_N, minlength=len(mass_C))
    backoff_C = np.where(full_C, 1.0, mass_C) / np.where(full_C, 1.0, unseen_C)
    kept_C = np.where(full_C, 1.0 - mass_C, 1.0)
    return discounted_N / kept_C[contexts_N], backoff_C
