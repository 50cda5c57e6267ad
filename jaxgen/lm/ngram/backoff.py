"""The back-off n-gram: what an ARPA file holds, on arrays.

    P(w | c) = p(c w)                 if the n-gram c w is listed
               b(c) P(w | parent(c))  otherwise,

where parent(c) is c without its oldest word and b(c) = 1 for a context that is not listed (Katz
1987; the file format is that of Doug Paul's MIT Lincoln Laboratory tools, "ARPA").
Interpolated models have this form too: p(c w) is then the whole interpolated probability and b(c)
the weight of the lower order.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64, Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_ids
from jaxgen.lm.contexts import (
    NO_WORD,
    check_contexts,
    check_order,
    check_targets,
    check_vocabulary_size,
    check_words,
)
from jaxgen.lm.ngram.counts import ContextTrie, Ids, NgramIndex, build_trie, pick

LOG10_ZERO = -99.0
"""The logarithm that stands for probability zero in ARPA files."""


class BackoffTables(NamedTuple):
    """The n-grams of orders 1 ... n as a file lists them.

    Attributes:
      ngrams: for each order k the word ids of its n-grams, [ngrams, k].
      log10_probabilities: for each order log10 p(c w), -99 for zero.
      log10_backoffs: for each order log10 b of the n-gram as a context, 0 where it is none.
    """

    ngrams: tuple[Int64[np.ndarray, "ngrams k"], ...]
    log10_probabilities: tuple[Float64[np.ndarray, "ngrams"], ...]
    log10_backoffs: tuple[Float64[np.ndarray, "ngrams"], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class BackoffModel:
    """Back-off probabilities for a batch of contexts at a time.

    Attributes:
      contexts: the contexts of lengths 0 ... n-1 that have n-grams or a back-off weight.
      indexes: the n-grams of orders 1 ... n.
      ngram_probabilities: for each order p(c w) of each n-gram.
      backoffs: for each length 0 ... n-1 the weight b(c) of each context; that of length 0
        multiplies the probability zero of a word that is not listed, so it has no effect.
    """

    contexts: ContextTrie
    indexes: tuple[NgramIndex, ...]
    ngram_probabilities: tuple[Float64[np.ndarray, "ngrams"], ...]
    backoffs: tuple[Float64[np.ndarray, "contexts"], ...]

    @property
    def order(self) -> int:
        """n."""
        return len(self.indexes)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.contexts.vocabulary_size

    def probabilities(
        self, contexts_NL: Integer[np.ndarray, "N L"], targets_N: Integer[np.ndarray, "N"]
    ) -> Float64[np.ndarray, "N"]:
        """P(target | context) of each pair; see `jaxgen.lm.protocol.LanguageModel`."""
        checked_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        targets_N = check_targets(targets_N, len(checked_NL), self.vocabulary_size)
        probability_N = np.zeros(len(checked_NL))
        for k, node_N in enumerate(self.contexts.walk(checked_NL)):
            ngram_N = self.indexes[k].find(node_N, targets_N)
            listed_N = pick(self.ngram_probabilities[k], ngram_N, 0.0)
            backed_off_N = pick(self.backoffs[k], node_N, 1.0) * probability_N
            probability_N = np.where(ngram_N >= 0, listed_N, backed_off_N)
        return probability_N

    def ngram_lengths(
        self, contexts_NL: Integer[np.ndarray, "N L"], targets_N: Integer[np.ndarray, "N"]
    ) -> Int64[np.ndarray, "N"]:
        """The words of the longest listed n-gram that ends each context and its target.

        1 where no longer n-gram is listed, as KenLM counts (also for a word without a unigram).
        """
        checked_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        targets_N = check_targets(targets_N, len(checked_NL), self.vocabulary_size)
        length_N = np.ones(len(checked_NL), np.int64)
        for k, node_N in enumerate(self.contexts.walk(checked_NL)[1:], start=1):
            length_N[self.indexes[k].find(node_N, targets_N) >= 0] = k + 1
        return length_N

    def distributions(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Float64[np.ndarray, "N V"]:
        """P(w | context) for every word w; each row sums to one if the tables are normalised."""
        checked_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        nodes = self.contexts.walk(checked_NL)
        # scales[k] is the product of the back-off weights of the contexts longer than k.
        scales = [np.ones(len(checked_NL))]
        for backoff_C, node_N in zip(self.backoffs[:0:-1], nodes[:0:-1], strict=True):
            scales.insert(0, scales[0] * pick(backoff_C, node_N, 1.0))
        probability_NV = scales[0][:, None] * self.unigrams()
        for k in range(1, self.order):
            rows, ngrams = self.indexes[k].expand(nodes[k])
            probability_NV[rows, self.indexes[k].words[ngrams]] = (
                scales[k][rows] * self.ngram_probabilities[k][ngrams]
            )
        return probability_NV

    def unigrams(self) -> Float64[np.ndarray, "V"]:
        """P(w) without a context; 0 for a word that is not listed."""
        probability_V = np.zeros(self.vocabulary_size)
        probability_V[self.indexes[0].words] = self.ngram_probabilities[0]
        return probability_V

    def tables(self) -> BackoffTables:
        """The n-grams as an ARPA file lists them.

        The format keeps b(c) beside the n-gram c, and wants the context of every n-gram to be
        listed itself. Contexts that are no n-gram of the model are therefore added, with the
        probability that the model gives them anyway. Every word is listed, in order of ids.
        """
        return _tables(self)

    @classmethod
    def from_tables(
        cls,
        ngrams: Sequence[Int[np.ndarray, "ngrams k"]],
        log10_probabilities: Sequence[Float64[np.ndarray, "ngrams"]],
        log10_backoffs: Sequence[Float64[np.ndarray, "ngrams"]],
        vocabulary_size: int,
    ) -> "BackoffModel":
        """The model of tables as in :class:`BackoffTables`, in any order of rows.

        A logarithm of -99 or less stands for zero. Words without a unigram have probability zero
        wherever no longer n-gram gives them one. Nothing is normalised.

        Raises:
          InputError: if shapes disagree, an id is out of range, or an n-gram is given twice.
        """
        _check_tables(ngrams, log10_probabilities, log10_backoffs, vocabulary_size)
        ngrams = [as_ids(words_Nk, "n-grams") for words_Nk in ngrams]
        return _from_tables(ngrams, log10_probabilities, log10_backoffs, vocabulary_size)


def _from_log10(log10_N: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    return np.where(log10_N <= LOG10_ZERO, 0.0, np.power(10.0, log10_N))


def _to_log10(value_N: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    return np.log10(np.where(value_N > 0, value_N, 10.0**LOG10_ZERO))


def _from_tables(
    ngrams: Sequence[np.ndarray],
    log10_probabilities: Sequence[np.ndarray],
    log10_backoffs: Sequence[np.ndarray],
    vocabulary_size: int,
) -> BackoffModel:
    order = len(ngrams)
    # Contexts: whatever precedes a word, and whatever has a weight.
    weighted = [rows[log10 != 0] for rows, log10 in zip(ngrams, log10_backoffs, strict=True)]
    rows_by_length = [rows[:, :-1] for rows in ngrams] + weighted[:-1]
    trie, _ = build_trie(
        np.concatenate([pad_contexts(rows, order - 1) for rows in rows_by_length]), vocabulary_size
    )
    indexes, probabilities = [], []
    backoffs = [np.ones(trie.size(length)) for length in range(order)]
    for k in range(1, order + 1):
        words_Nk, log10_N = ngrams[k - 1], log10_backoffs[k - 1]
        keys = trie.walk(words_Nk[:, :-1])[-1] * vocabulary_size + words_Nk[:, -1]
        by_key = np.argsort(keys)
        _check_distinct(keys[by_key], words_Nk[by_key])
        indexes.append(NgramIndex(vocabulary_size, keys[by_key]))
        probabilities.append(_from_log10(log10_probabilities[k - 1][by_key]))
        if k < order:
            node_N = trie.walk(words_Nk[log10_N != 0])[-1]
            backoffs[k][node_N] = _from_log10(log10_N[log10_N != 0])
    return BackoffModel(trie, tuple(indexes), tuple(probabilities), tuple(backoffs))


def _tables(model: BackoffModel) -> BackoffTables:
    ngrams: list[np.ndarray] = []
    probabilities: list[np.ndarray] = []
    added_Nk = np.empty((0, model.order + 1), np.int64)
    for order in range(model.order, 1, -1):
        index = model.indexes[order - 1]
        listed_Nk = np.column_stack([model.contexts.words(order - 1)[index.contexts], index.words])
        # The contexts of n-grams added to the next order have to be listed, too.
        added_Nk = _missing(model, np.concatenate([added_Nk[:, :-1], _weighted(model, order)]))
        contexts_NL = pad_contexts(added_Nk[:, :-1], model.order - 1)
        added_N = model.probabilities(contexts_NL, added_Nk[:, -1])
        ngrams.insert(0, np.concatenate([listed_Nk, added_Nk]))
        probabilities.insert(0, np.concatenate([model.ngram_probabilities[order - 1], added_N]))
    ngrams.insert(0, np.arange(model.vocabulary_size)[:, None])
    probabilities.insert(0, model.unigrams())
    backoffs = [
        pick(model.backoffs[order], model.contexts.walk(words_Nk)[-1], 1.0)
        for order, words_Nk in enumerate(ngrams[:-1], start=1)
    ]
    backoffs.append(np.ones(len(ngrams[-1])))
    return BackoffTables(
        tuple(ngrams), tuple(map(_to_log10, probabilities)), tuple(map(_to_log10, backoffs))
    )


def _missing(
    model: BackoffModel, ngrams_Nk: Int64[np.ndarray, "N k"]
) -> Int64[np.ndarray, "missing k"]:
    """Those of the n-grams that the model does not list, each once."""
    node_N = model.contexts.walk(ngrams_Nk[:, :-1])[-1]
    found_N = model.indexes[ngrams_Nk.shape[1] - 1].find(node_N, ngrams_Nk[:, -1])
    return np.unique(ngrams_Nk[found_N < 0], axis=0)


def _weighted(model: BackoffModel, length: int) -> Int64[np.ndarray, "N {length}"]:
    """The contexts of a length that have n-grams or a weight other than one."""
    if length == model.order:
        return np.empty((0, length), np.int64)
    has_effect_C = model.backoffs[length] != 1.0
    has_effect_C[model.indexes[length].contexts] = True
    return model.contexts.words(length)[has_effect_C]


def pad_contexts(words_NL: Integer[np.ndarray, "N L"], width: int) -> Int[np.ndarray, "N width"]:
    """Contexts with "no word" on the left, so that there are `width` columns."""
    padding = np.full((len(words_NL), width - words_NL.shape[1]), NO_WORD, words_NL.dtype)
    return np.concatenate([padding, words_NL], axis=1)


def _check_tables(
    ngrams: Sequence[np.ndarray],
    log10_probabilities: Sequence[np.ndarray],
    log10_backoffs: Sequence[np.ndarray],
    vocabulary_size: int,
) -> None:
    check_order(len(ngrams))
    check_vocabulary_size(vocabulary_size)
    if not len(ngrams) == len(log10_probabilities) == len(log10_backoffs):
        raise InputError(
            f"tables have {len(ngrams)} orders of n-grams, {len(log10_probabilities)} of "
            f"probabilities and {len(log10_backoffs)} of back-off weights, expected the same"
        )
    for k, (words, *logs) in enumerate(
        zip(ngrams, log10_probabilities, log10_backoffs, strict=True), start=1
    ):
        if np.ndim(words) != 2 or np.shape(words)[1] != k:
            raise InputError(f"{k}-grams have shape {np.shape(words)}, expected [N, {k}]")
        check_words(words, vocabulary_size, f"{k}-grams")
        if any(np.shape(log10) != (len(words),) for log10 in logs):
            raise InputError(
                f"{k}-grams have {len(words)} rows, expected as many probabilities and "
                f"back-off weights, got shapes {np.shape(logs[0])} and {np.shape(logs[1])}"
            )


def _check_distinct(sorted_keys: Ids, words_Nk: Integer[np.ndarray, "N k"]) -> None:
    twice = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
    if len(twice):
        words = words_Nk[twice[0]].tolist()
        raise InputError(f"the {len(words)}-gram of the ids {words} is given twice")
