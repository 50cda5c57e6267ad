"""Weights of a mixture of distributions, one vector for each bin of context frequency.

Used by deleted interpolation (Bengio et al. 2003, section 4.1, after Jelinek & Mercer 1980) and by
mixtures of models whose weights depend on the context's frequency.
"""

import numpy as np
from jaxtyping import Float64, Int64, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_integers


def frequency_bins(frequency_N: Integer[np.ndarray, "N"], tokens: int) -> Int64[np.ndarray, "N"]:
    """The bin ceil(-log((1 + f) / T)) of contexts that occur f times in a text of T tokens.

    Bin 0 holds the most frequent contexts, the last one contexts never seen. Logarithms are
    natural.

    Args:
      frequency_N: f >= 0, at most T.
      tokens: T.

    Returns:
      int64 [N], bins in [0, ``frequency_bin_count(tokens)``).
    """
    bin_N = np.ceil(-np.log((1 + as_integers(frequency_N, "frequencies")) / tokens))
    return np.maximum(bin_N, 0).astype(np.int64)


def frequency_bin_count(tokens: int) -> int:
    """The number of bins that a text of T tokens needs: that of a context never seen, plus one."""
    return int(frequency_bins(np.zeros(1, np.int64), tokens)[0]) + 1


def fit_weights(
    likelihood_NJ: Float64[np.ndarray, "N J"],
    bin_N: Integer[np.ndarray, "N"],
    bin_count: int,
    iterations: int = 5,
    tolerance: float = 0.0,
) -> Float64[np.ndarray, "bins J"]:
    """Mixture weights that EM finds on held-out words, separately for each bin.

    Starts from equal weights. An iteration multiplies the weight of component j of bin b by
    g_bj, the mean over the bin's words of p_j / sum_i w_bi p_i, which never lowers the likelihood.
    Its logarithm, by word, is below the greatest one by log(max_j g_bj) at most (Jensen). A bin
    without words gets the weights of the nearest bin that has some; of two equally near, those of
    the higher number (rarer contexts, whose weights trust long contexts less).

    Args:
      likelihood_NJ: p_j of each held-out word, for each component j.
      bin_N: the bin of each word, in [0, bin_count).
      bin_count: the number of bins.
      iterations: EM iterations, at most.
      tolerance: those of a bin end where max_j g_bj - 1 is no more than this: so many nats a word,
        or such a part of the perplexity, is what better weights could still gain.

    Returns:
      float64 [bins, J]; each row is at least zero and sums to one.

    Raises:
      InputError: if there are no words or ``iterations`` is negative.
    """
    words, components = likelihood_NJ.shape
    if words == 0:
        raise InputError("the held-out text is empty, expected words to fit mixture weights to")
    if iterations < 0:
        raise InputError(f"iterations is {iterations}, expected 0 or more")
    weight_CJ = np.full((bin_count, components), 1.0 / components)
    filled_C = np.bincount(bin_N, minlength=bin_count) > 0
    for b in np.flatnonzero(filled_C):
        weight_CJ[b] = _best_weights(likelihood_NJ[bin_N == b], iterations, tolerance)
    return _fill_empty_bins(weight_CJ, filled_C)


def _best_weights(
    likelihood_NJ: Float64[np.ndarray, "N J"], iterations: int, tolerance: float
) -> Float64[np.ndarray, "J"]:
    """EM for one bin. A word that no component can produce says nothing about the weights."""
    weight_J = np.full(likelihood_NJ.shape[1], 1.0 / likelihood_NJ.shape[1])
    best_N1 = likelihood_NJ.max(axis=1, keepdims=True, initial=0)
    possible_N = best_N1[:, 0] > 0
    if not possible_N.any():
        return weight_J
    ratio_NJ = likelihood_NJ[possible_N] / best_N1[possible_N]
    for _ in range(iterations):
        gain_J = (1.0 / (ratio_NJ @ weight_J)) @ ratio_NJ / len(ratio_NJ)
        if gain_J.max() <= 1 + tolerance:
            break
        weight_J = weight_J * gain_J
    return weight_J / weight_J.sum()


def _fill_empty_bins(
    weight_CJ: Float64[np.ndarray, "bins J"], filled_C: np.ndarray
) -> Float64[np.ndarray, "bins J"]:
    # Searching from the highest number down makes argmin prefer it among equals.
    filled = np.flatnonzero(filled_C)[::-1]
    distance = np.abs(np.arange(len(weight_CJ))[:, None] - filled)
    return weight_CJ[filled[distance.argmin(axis=1)]]
