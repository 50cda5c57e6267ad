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
of the text has no preceding word: its count a is 0 and it is not listed. Of a text counted by
sentence, nothing precedes ``<s>``: n-grams that begin with it count by their occurrences at every
order, as in SRILM and KenLM, and ``<s>`` itself has no part of 1/|V|.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from jaxgen.errors import InputError
from jaxgen.lm.ngram.backoff import BackoffModel
from jaxgen.lm.ngram.counts import NgramCounts, NgramIndex
from jaxgen.lm.ngram.discounting import (
    Discounts,
    check_minimum_counts,
    occurrences,
    shortened,
    smooth,
    take_shares,
)

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""D_1, D_2, D_3 of an order whose counts of counts do not define them."""


def modified_discounts(counts_N: Int64[np.ndarray, "ngrams"], order: int) -> Discounts:
    """D_1, D_2, D_3 of one order (Chen & Goodman 1999, equation 26).

    They are undefined where n_1, n_2 or n_3 is zero, and useless where D_i is not in (0, i): such
    an order falls back to :data:`FALLBACK_DISCOUNTS` with a warning. Merging rare words into one
    symbol, which removes low counts, can lead there.

    Args:
      counts_N: a(c w) of the order's n-grams; zeros do not matter.
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
    counts: NgramCounts,
    interpolated: bool = True,
    minimum_counts: Sequence[int] | None = None,
    discounts: Sequence[Discounts] | None = None,
) -> BackoffModel:
    """Estimate a modified Kneser-Ney model.

    Args:
      counts: n-gram counts of the training part; their order is the model's.
      interpolated: mix every order with the lower ones, rather than back off to them for unseen
        words alone.
      minimum_counts: for each order 1 ... n the least a(c w) of an n-gram that is listed; rarer
        ones leave their share to g(c). None lists all. SRILM, the toolkit of Bengio et al.
        (2003), has 1, 1, 2, 2, 2 unless set otherwise. The back-off form wants that: with
        every long context that occurred once, it gets worse as n grows.
      discounts: (D_1, D_2, D_3) of each order 1 ... n, instead of those from the counts of
        counts; (d, d, d) is Kneser and Ney's single discount.

    Returns:
      The model in back-off form, which both kinds have exactly. Its distributions sum to one,
      and are positive if the discounts are.

    Raises:
      InputError: if there are not n discounts or n minimum counts, a D_i is not in [0, i), or a
        minimum count is under 1.

    Warns:
        UserWarning: where the counts of counts do not define an order's discounts.
    """
    minimum_counts = [1] * counts.order if minimum_counts is None else minimum_counts
    check_minimum_counts(minimum_counts, counts.order)
    adjusted = [_adjusted_counts(counts, order) for order in range(1, counts.order + 1)]
    if discounts is None:
        discounts = [modified_discounts(a, order) for order, (_, a) in enumerate(adjusted, start=1)]
    _check_discounts(discounts, counts.order)

    shares = [
        take_shares(*of_order, counts.contexts.size(k), minimum_counts[k], discounts[k])
        for k, of_order in enumerate(adjusted)
    ]
    return smooth(counts, shares, interpolated)


def _adjusted_counts(
    counts: NgramCounts, order: int
) -> tuple[NgramIndex, Int64[np.ndarray, "ngrams"]]:
    """The n-grams of one order (every word, at order 1) and their a(c w)."""
    index, counts_N = occurrences(counts, order)
    if order == counts.order:
        return index, counts_N
    shortened_N = shortened(counts.contexts, counts.indexes[order], order, index)
    continuation_N = np.bincount(shortened_N, minlength=len(index))
    if order == 1:
        return index, continuation_N
    return index, np.where(counts.begins_sentence(order), counts_N, continuation_N)


def _check_discounts(discounts: Sequence[Discounts], orders: int) -> None:
    if np.shape(discounts) != (orders, 3):
        raise InputError(
            f"discounts have shape {np.shape(discounts)}, expected ({orders}, 3): "
            "D_1, D_2, D_3 of each order"
        )
    for order, of_order in enumerate(discounts, start=1):
        for i, discount in enumerate(of_order, start=1):
            if not 0 <= discount < i:
                raise InputError(f"D_{i} of order {order} is {discount}, expected [0, {i})")
