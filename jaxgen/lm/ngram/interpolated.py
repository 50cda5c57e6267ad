"""The interpolated n-gram: relative frequencies of every order, mixed by context frequency.

Bengio et al. (2003), section 4.1, after Jelinek & Mercer (1980): for n = 3

    P(w_t | w_{t-2}, w_{t-1}) = a_0 p_0 + a_1 p_1(w_t) + a_2 p_2(w_t | w_{t-1})
                                + a_3 p_3(w_t | w_{t-2}, w_{t-1})

with p_0 = 1/|V| and relative frequencies p_1 ... p_3 of the training part. The weights a depend on
the bin ceil(-log((1 + f) / T)), where f is the frequency in the training part of the whole input
context (here of the pair w_{t-2}, w_{t-1} followed by any word) and T the size of that part.
"""

import dataclasses

import numpy as np
from jaxtyping import Float64, Integer

from jaxgen.errors import InputError
from jaxgen.lm.contexts import (
    check_contexts,
    check_span,
    check_targets,
    check_words,
    windows,
    within_sentences,
)
from jaxgen.lm.ngram.counts import Ids, NgramCounts, pick
from jaxgen.lm.ngram.interpolation_weights import fit_weights, frequency_bin_count, frequency_bins


@dataclasses.dataclass(frozen=True, eq=False)
class InterpolatedModel:
    """A mixture of the uniform distribution and the relative frequencies of orders 1 ... n.

    After a context that the training part never has, the relative frequency of that order is
    undefined: its weight goes to the next lower order. So every distribution sums to one.

    Attributes:
      counts: n-gram counts of the training part.
      weight_CJ: [bins, n+1] weights of p_0 ... p_n for each bin of context frequency.
    """

    counts: NgramCounts
    weight_CJ: Float64[np.ndarray, "bins J"]

    @property
    def order(self) -> int:
        """n."""
        return self.counts.order

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.counts.vocabulary_size

    def probabilities(
        self, contexts_NL: Integer[np.ndarray, "N L"], targets_N: Integer[np.ndarray, "N"]
    ) -> Float64[np.ndarray, "N"]:
        """P(target | context) of each pair; see `jaxgen.lm.protocol.LanguageModel`."""
        checked_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        targets_N = check_targets(targets_N, len(checked_NL), self.vocabulary_size)
        nodes = self.counts.contexts.walk(checked_NL)
        likelihood_NJ = _components(self.counts, nodes, targets_N)
        return (self.weight_CJ[_bins(self.counts, nodes)] * likelihood_NJ).sum(axis=1)

    def distributions(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Float64[np.ndarray, "N V"]:
        """P(w | context) for every word w; each row sums to one."""
        checked_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        counts, nodes = self.counts, self.counts.contexts.walk(checked_NL)
        weight_NJ = _move_undefined(self.weight_CJ[_bins(counts, nodes)], nodes)
        unigram_V = np.zeros(self.vocabulary_size)
        unigram_V[counts.indexes[0].words] = counts.counts[0] / counts.tokens
        probability_NV = weight_NJ[:, 1:2] * unigram_V
        probability_NV += weight_NJ[:, :1] / self.vocabulary_size
        for k in range(2, self.order + 1):
            rows, ngrams = counts.indexes[k - 1].expand(nodes[k - 1])
            frequency = counts.counts[k - 1][ngrams] / counts.totals[k - 1][nodes[k - 1][rows]]
            words = counts.indexes[k - 1].words[ngrams]
            probability_NV[rows, words] += weight_NJ[rows, k] * frequency
        return probability_NV


def fit_interpolated(
    counts: NgramCounts,
    tokens: Integer[np.ndarray, "tokens"],
    start: int,
    stop: int,
    iterations: int = 5,
) -> InterpolatedModel:
    """Fit the weights of an interpolated n-gram by EM on a validation span.

    Args:
      counts: n-gram counts of the training part; their order is the model's. Counted by sentence,
        contexts of the validation span begin with their sentence too.
      tokens: the whole stream, ids in [0, V).
      start: first position of the validation span, which the counts must not contain.
      stop: one past the last position of the validation span.
      iterations: EM iterations (the paper: about five).

    Returns:
      The model. A bin of contexts that the validation span does not have takes the weights of
      the nearest bin (`jaxgen.lm.ngram.interpolation_weights.fit_weights`).

    Raises:
      InputError: if the span is empty or outside the stream, or an id is out of range.
    """
    tokens = np.asarray(tokens)
    check_span(tokens, start, stop)
    if start == stop:
        raise InputError(f"validation span [{start}, {stop}) is empty, expected some positions")
    first = max(start - counts.order + 1, 0)
    text = check_words(tokens[first:stop], counts.vocabulary_size)
    contexts_NL = windows(text, counts.order, start - first, stop - first)
    if counts.marks is not None:
        contexts_NL = within_sentences(contexts_NL, counts.marks)
    nodes = counts.contexts.walk(contexts_NL)
    likelihood_NJ = _components(counts, nodes, text[start - first :])
    bin_count = frequency_bin_count(counts.tokens)
    weight_CJ = fit_weights(likelihood_NJ, _bins(counts, nodes), bin_count, iterations)
    return InterpolatedModel(counts, weight_CJ)


def _bins(counts: NgramCounts, nodes: list[Ids]) -> Ids:
    frequency_N = pick(counts.totals[-1], nodes[-1], 0)
    return frequency_bins(frequency_N, counts.tokens)


def _components(
    counts: NgramCounts, nodes: list[Ids], targets_N: Integer[np.ndarray, "N"]
) -> Float64[np.ndarray, "N J"]:
    """p_0 ... p_n of each target; where p_k is undefined it stands for p_{k-1}."""
    components = [np.full(len(targets_N), 1.0 / counts.vocabulary_size)]
    for k, node_N in enumerate(nodes):
        ngram_N = counts.indexes[k].find(node_N, targets_N)
        frequency_N = pick(counts.counts[k], ngram_N, 0) / pick(counts.totals[k], node_N, 1)
        components.append(np.where(node_N >= 0, frequency_N, components[-1]))
    return np.stack(components, axis=1)


def _move_undefined(
    weight_NJ: Float64[np.ndarray, "N J"], nodes: list[Ids]
) -> Float64[np.ndarray, "N J"]:
    """Weights with those of undefined relative frequencies moved to the next lower order."""
    weight_NJ = weight_NJ.copy()
    for k in range(len(nodes), 1, -1):
        unseen_N = nodes[k - 1] < 0
        weight_NJ[unseen_N, k - 1] += weight_NJ[unseen_N, k]
        weight_NJ[unseen_N, k] = 0.0
    return weight_NJ
