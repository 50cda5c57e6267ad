"""Pruning of back-off models by relative entropy, and back-off weights that make models sum to one.

Stolcke (1998), "Entropy-based pruning of backoff language models". Removing the n-gram h w from a
model changes P(w | h) to a'(h) P(w | h'), where h' is h without its oldest word and a' the back-off
weight that keeps the sum at one; nothing else but a(h) changes. The relative entropy of the model
with it and the one without is

    D = -P(h) { P(w | h) [log P(w | h') + log a'(h) - log P(w | h)]
                + [log a'(h) - log a(h)] (1 - sum of P(v | h) over the listed h v) }

and an n-gram goes where the perplexity rises by a factor of less than 1 + threshold: exp(D) - 1 <
threshold. P(h) is the model's own probability of the words of h, one after the other.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

from jaxgen.errors import check_not_negative
from jaxgen.lm.contexts import SentenceMarks
from jaxgen.lm.ngram.backoff import BackoffModel, pad_contexts
from jaxgen.lm.ngram.counts import ContextTrie, NgramIndex

_ROUNDING = 1e-12


def prune(
    model: BackoffModel, threshold: float, marks: SentenceMarks | None = None
) -> BackoffModel:
    """The model without the n-grams that it hardly needs, with new back-off weights.

    From the highest order down to 2, every n-gram is looked at as if it were the only one to go.
    One whose words are the context of n-grams that stay, stays too.

    Args:
      model: a model whose distributions sum to one.
      threshold: by how much, in parts of it, the perplexity may rise for an n-gram to go; 1e-8 or
        1e-7 are usual. 0 removes what changes nothing.
      marks: of a model of sentences: a context that begins with ``<s>`` is as likely as its words
        after an ``</s>``, as in SRILM. None: of a stream.

    Returns:
      The smaller model; its distributions sum to one.

    Raises:
      InputError: if the threshold is negative or not finite.
    """
    check_not_negative("threshold", threshold)
    indexes, probabilities = list(model.indexes), list(model.ngram_probabilities)
    for k in range(model.order - 1, 0, -1):
        goes_N = _rise(model, k, marks) < threshold
        if k + 1 < model.order:
            goes_N &= ~_is_context(model.contexts, indexes[k], k, indexes[k + 1])
        indexes[k] = NgramIndex(model.vocabulary_size, indexes[k].keys[~goes_N])
        probabilities[k] = probabilities[k][~goes_N]
    return normalised(model.contexts, indexes, probabilities)


def _rise(
    model: BackoffModel, length: int, marks: SentenceMarks | None
) -> Float64[np.ndarray, "ngrams"]:
    """By how much the perplexity rises without each n-gram of order length + 1, in parts of it."""
    index, p_N = model.indexes[length], model.ngram_probabilities[length]
    context_N, contexts = index.contexts, model.contexts.size(length)
    words_CL = model.contexts.words(length)
    lower_N = model.probabilities(
        pad_contexts(words_CL[:, 1:], model.order - 1)[context_N], index.words
    )
    rest_C = 1.0 - np.bincount(context_N, p_N, minlength=contexts)
    lower_rest_C = 1.0 - np.bincount(context_N, lower_N, minlength=contexts)
    with np.errstate(divide="ignore", invalid="ignore"):
        after_N = np.log((rest_C[context_N] + p_N) / (lower_rest_C[context_N] + lower_N))
        change_N = after_N - np.log(model.backoffs[length])[context_N]
        moved_N = p_N * (np.log(lower_N) + after_N - np.log(p_N))
        divergence_N = -_context_probabilities(model, words_CL, marks)[context_N] * (
            moved_N + change_N * np.maximum(rest_C, 0.0)[context_N]
        )
    # Not a number where nothing is left for other words, or the lower order lacks the word.
    return np.where(np.isfinite(divergence_N), np.expm1(divergence_N), np.inf)


def _context_probabilities(
    model: BackoffModel, words_CL: Int64[np.ndarray, "C L"], marks: SentenceMarks | None
) -> Float64[np.ndarray, "C"]:
    probability_C = np.ones(len(words_CL))
    for i in range(words_CL.shape[1]):
        targets_C = words_CL[:, i]
        if i == 0 and marks is not None:
            targets_C = np.where(targets_C == marks.start, marks.end, targets_C)
        contexts_CL = pad_contexts(words_CL[:, :i], model.order - 1)
        probability_C *= model.probabilities(contexts_CL, targets_C)
    return probability_C


def _is_context(
    trie: ContextTrie, index: NgramIndex, length: int, longer: NgramIndex
) -> Bool[np.ndarray, "ngrams"]:
    """Whether each n-gram of order length + 1 is the context of one of the next order."""
    words_Nk = np.column_stack([trie.words(length)[index.contexts], index.words])
    used_C = np.zeros(trie.size(length + 1) + 1, bool)  # the last entry is for "no context", -1
    used_C[longer.contexts] = True
    return used_C[trie.walk(words_Nk)[-1]]


def normalised(
    contexts: ContextTrie,
    indexes: list[NgramIndex],
    ngram_probabilities: list[Float64[np.ndarray, "ngrams"]],
) -> BackoffModel:
    """The back-off model of these n-grams whose distributions sum to one.

    Args:
      contexts: all contexts of the n-grams.
      indexes: the n-grams of orders 1 ... n; the probabilities of order 1 sum to one.
      ngram_probabilities: p(c w) of each n-gram.

    Returns:
      The model, with the weights b(c) = (1 - sum p(c w)) / (1 - sum P(w | parent(c))), the sums
      over the listed n-grams c w. Contexts without n-grams have b = 1.
    """
    backoffs = [np.ones(1)]
    for k in range(1, len(indexes)):
        lower = BackoffModel(
            contexts.up_to(k - 1),
            tuple(indexes[:k]),
            tuple(ngram_probabilities[:k]),
            tuple(backoffs),
        )
        index, size = indexes[k], contexts.size(k)
        parents_NL = contexts.words(k)[:, 1:][index.contexts]
        lower_N = lower.probabilities(parents_NL, index.words)
        rest_C = 1.0 - np.bincount(index.contexts, ngram_probabilities[k], minlength=size)
        lower_C = 1.0 - np.bincount(index.contexts, lower_N, minlength=size)
        has_rest_C = lower_C > _ROUNDING
        backoffs.append(
            np.where(has_rest_C, np.maximum(rest_C, 0.0) / np.where(has_rest_C, lower_C, 1.0), 1.0)
        )
    return BackoffModel(contexts, tuple(indexes), tuple(ngram_probabilities), tuple(backoffs))
