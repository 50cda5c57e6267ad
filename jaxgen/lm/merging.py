"""A mixture of back-off models as one back-off model, such as one ARPA file can hold.

With weights a_j, every n-gram c w that one of the models lists has the probability of the mixture,
sum_j a_j P_j(w | c), whichever of them list it; the back-off weights are those that make the sums
one. After a context that none of the models lists, and for words that none lists after it, the
probability is close to that of the mixture but is not the same (SRILM's ``ngram -mix-lm -write-lm``
makes the same model; `jaxgen.lm.mixture.Mixture` is exact).
"""

from collections.abc import Sequence

import numpy as np

from jaxgen.errors import InputError
from jaxgen.lm.mixture import fixed_mixture
from jaxgen.lm.ngram.backoff import BackoffModel, pad_contexts
from jaxgen.lm.ngram.counts import NgramIndex, build_trie
from jaxgen.lm.ngram.pruning import normalised


def merge_backoff_models(models: Sequence[BackoffModel], weights: Sequence[float]) -> BackoffModel:
    """The back-off model of a mixture.

    Args:
      models: models over one vocabulary, whose distributions sum to one.
      weights: a_j of each, in [0, 1] with sum one.

    Returns:
      A model of the highest of their orders that lists all their n-grams.

    Raises:
      InputError: if there are no models, their vocabularies differ, or the weights do not fit; or
        if a model is no back-off model.
    """
    for model in models:
        if not isinstance(model, BackoffModel):
            raise InputError(f"model is a {type(model).__name__}, expected a BackoffModel")
    mixture = fixed_mixture(models, weights)
    order, size = mixture.order, mixture.vocabulary_size
    ngrams = [_ngrams(models, k) for k in range(1, order + 1)]
    trie, _ = build_trie(
        np.concatenate([pad_contexts(words[:, :-1], order - 1) for words in ngrams]), size
    )
    indexes, probabilities = [], []
    for words_Nk in ngrams:
        keys = np.unique(trie.walk(words_Nk[:, :-1])[-1] * size + words_Nk[:, -1])
        index = NgramIndex(size, keys)
        contexts_NL = trie.words(words_Nk.shape[1] - 1)[index.contexts]
        indexes.append(index)
        probabilities.append(
            mixture.probabilities(pad_contexts(contexts_NL, order - 1), index.words)
        )
    return normalised(trie, indexes, probabilities)


def _ngrams(models: Sequence[BackoffModel], order: int) -> np.ndarray:
    """The n-grams of one order of all models, [N, order]; some may occur several times."""
    parts = [np.empty((0, order), np.int64)]
    for model in models:
        if order <= model.order:
            index = model.indexes[order - 1]
            contexts_Nk = model.contexts.words(order - 1)[index.contexts]
            parts.append(np.column_stack([contexts_Nk, index.words]))
    return np.concatenate(parts)
