"""Counting n-grams with sorted arrays.

An n-gram is a context (its first n-1 words) and a word. Contexts of all lengths form a trie that
grows from the newest word to the oldest: the context (u, v) is a child of the context (v). So the
parent of a context is the context that smoothing falls back to, and one walk finds the contexts
of all lengths of a position.

A node of the trie is the number of its key among the sorted keys of its length, and its key is
``parent * V + oldest word``; an n-gram's key is ``context * V + word``. Keys are int64 and nodes
are no more than the positions of the text, so a vocabulary of millions and any order fit.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, Integer

from jaxgen.errors import InputError
from jaxgen.lm.contexts import (
    NO_WORD,
    SentenceMarks,
    check_contexts,
    check_marks,
    check_order,
    check_text,
    check_vocabulary_size,
    windows,
    within_sentences,
)

Ids = Int64[np.ndarray, "N"]


def find(keys: Int64[np.ndarray, "keys"], queries: Ids) -> Ids:
    """Index of each query among sorted distinct keys, -1 where it is absent."""
    if len(keys) == 0:
        return np.full(len(queries), -1, np.int64)
    index_N = np.searchsorted(keys, queries)
    np.minimum(index_N, len(keys) - 1, out=index_N)
    return np.where(keys[index_N] == queries, index_N, -1)


@dataclasses.dataclass(frozen=True, eq=False)
class ContextTrie:
    """Contexts of every length up to n-1, numbered from 0 within each length.

    Attributes:
      vocabulary_size: V.
      keys: for each length k = 1 ... n-1 the sorted ``parent * V + oldest word``. The one
        context of length 0 has number 0 and needs no key.
    """

    vocabulary_size: int
    keys: tuple[Int64[np.ndarray, "contexts"], ...]

    @property
    def longest(self) -> int:
        """The greatest length of a context, n-1."""
        return len(self.keys)

    def size(self, length: int) -> int:
        """The number of contexts of a length."""
        return 1 if length == 0 else len(self.keys[length - 1])

    def parents(self, length: int) -> Int64[np.ndarray, "contexts"]:
        """For each context of a length >= 1 the number of the context without its oldest word."""
        return self.keys[length - 1] // self.vocabulary_size

    def words(self, length: int) -> Int64[np.ndarray, "contexts {length}"]:
        """The words of each context of a length, the nearest last."""
        words_NL = np.empty((self.size(0), 0), np.int64)
        for k in range(1, length + 1):
            oldest_N = self.keys[k - 1] % self.vocabulary_size
            words_NL = np.column_stack([oldest_N, words_NL[self.parents(k)]])
        return words_NL

    def walk(self, contexts_NL: Integer[np.ndarray, "N L"]) -> list[Ids]:
        """Numbers of the contexts of length 0 ... L that end each row; -1 where never seen."""
        width = contexts_NL.shape[1]
        node_N = np.zeros(len(contexts_NL), np.int64)
        nodes = [node_N]
        for k in range(1, width + 1):
            word_N = contexts_NL[:, width - k]
            found_N = find(self.keys[k - 1], node_N * self.vocabulary_size + word_N)
            node_N = np.where((node_N >= 0) & (word_N >= 0), found_N, -1)
            nodes.append(node_N)
        return nodes

    def up_to(self, length: int) -> "ContextTrie":
        """The trie of the contexts no longer than ``length``."""
        return ContextTrie(self.vocabulary_size, self.keys[:length])


def build_trie(
    contexts_NL: Integer[np.ndarray, "N L"], vocabulary_size: int
) -> tuple[ContextTrie, list[Ids]]:
    """The trie of contexts and of everything that they end in.

    Args:
      contexts_NL: one context a row, the nearest word last, -1 on the left of shorter ones.
      vocabulary_size: V.

    Returns:
      The trie, and for each length 0 ... L the number of each row's context of that length (-1
      where the row is shorter): what :meth:`ContextTrie.walk` would give.
    """
    width = contexts_NL.shape[1]
    node_N = np.zeros(len(contexts_NL), np.int64)
    nodes, keys = [node_N], []
    for k in range(1, width + 1):
        word_N = contexts_NL[:, width - k]
        live_N = (node_N >= 0) & (word_N >= 0)
        key_N = node_N[live_N] * vocabulary_size + word_N[live_N]
        keys_of_length, number_N = np.unique(key_N, return_inverse=True)
        node_N = np.full(len(contexts_NL), -1, np.int64)
        node_N[live_N] = number_N
        nodes.append(node_N)
        keys.append(keys_of_length)
    return ContextTrie(vocabulary_size, tuple(keys)), nodes


@dataclasses.dataclass(frozen=True, eq=False)
class NgramIndex:
    """The distinct n-grams of one order, sorted by context and then by word.

    Attributes:
      vocabulary_size: V.
      keys: sorted ``context * V + word``.
    """

    vocabulary_size: int
    keys: Int64[np.ndarray, "ngrams"]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def contexts(self) -> Int64[np.ndarray, "ngrams"]:
        """The number of each n-gram's context among the contexts of its length."""
        return self.keys // self.vocabulary_size

    @property
    def words(self) -> Int64[np.ndarray, "ngrams"]:
        """The last word of each n-gram."""
        return self.keys % self.vocabulary_size

    def find(self, contexts_N: Ids, words_N: Integer[np.ndarray, "N"]) -> Ids:
        """Index of each (context, word), -1 where absent or where the context is -1."""
        return find(self.keys, contexts_N * self.vocabulary_size + words_N)

    def expand(
        self, contexts_N: Ids
    ) -> tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"]]:
        """Every n-gram of every given context.

        Returns:
          Pairs (row, n-gram): ``row`` counts through ``contexts_N``, ``n-gram`` is an index into
          this order. A context that is -1 has none.
        """
        first_N = np.searchsorted(self.keys, contexts_N * self.vocabulary_size)
        last_N = np.searchsorted(self.keys, (contexts_N + 1) * self.vocabulary_size)
        width_N = last_N - first_N
        rows = np.repeat(np.arange(len(contexts_N)), width_N)
        shift_N = first_N - (np.cumsum(width_N) - width_N)
        return rows, np.arange(len(rows)) + shift_N[rows]


@dataclasses.dataclass(frozen=True, eq=False)
class NgramCounts:
    """How often each n-gram of orders 1 ... n occurs in a text.

    Attributes:
      contexts: the contexts of lengths 0 ... n-1 that are followed by a word.
      indexes: the n-grams of order 1 ... n.
      counts: for each order the occurrences of each n-gram, int64.
      totals: for each order the occurrences of each context, followed by any word.
      marks: the marks of sentences where the text was counted by sentence, else None.
    """

    contexts: ContextTrie
    indexes: tuple[NgramIndex, ...]
    counts: tuple[Int64[np.ndarray, "ngrams"], ...]
    totals: tuple[Int64[np.ndarray, "contexts"], ...]
    marks: SentenceMarks | None = None

    @property
    def order(self) -> int:
        """n, the greatest order counted."""
        return len(self.indexes)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.contexts.vocabulary_size

    @property
    def tokens(self) -> int:
        """T, the number of tokens of the text."""
        return int(self.totals[0][0])

    def up_to(self, order: int) -> "NgramCounts":
        """The counts of the orders 1 ... ``order`` alone.

        Raises:
          InputError: if the order is under 1 or was not counted.
        """
        check_order(order)
        if order > self.order:
            raise InputError(f"order is {order}, expected at most the {self.order} counted")
        return NgramCounts(
            self.contexts.up_to(order - 1),
            self.indexes[:order],
            self.counts[:order],
            self.totals[:order],
            self.marks,
        )

    def uniform(self) -> Float64[np.ndarray, "V"]:
        """P(w) of a word of which nothing is known: equal for all words but ``<s>``, which has 0.

        What the lowest order of every model is interpolated with.
        """
        size = self.vocabulary_size
        if self.marks is None:
            return np.full(size, 1.0 / size)
        probability_V = np.full(size, 1.0 / (size - 1))
        probability_V[self.marks.start] = 0.0
        return probability_V

    def begins_sentence(self, order: int) -> Bool[np.ndarray, "ngrams"]:
        """Whether the first word of each n-gram of an order is ``<s>``."""
        index = self.indexes[order - 1]
        if self.marks is None or order == 1:
            return np.zeros(len(index), bool)
        oldest_C = self.contexts.keys[order - 2] % self.vocabulary_size
        return (oldest_C == self.marks.start)[index.contexts]

    def context_frequencies(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Ids:
        """How often the text has each context (its last n-1 words), followed by any word.

        Args:
          contexts_NL: ids in [0, V) or -1, at least n-1 columns, the nearest word last.

        Returns:
          int64 [N]; 0 for a context never seen. Of order 1, T for every row.
        """
        checked_NL = check_contexts(contexts_NL, self.order, self.vocabulary_size)
        return pick(self.totals[-1], self.contexts.walk(checked_NL)[-1], 0)


def pick(values: np.ndarray, index_N: Ids, missing: float) -> np.ndarray:
    """``values[index]``, and ``missing`` where the index is -1 (all of them if there are none)."""
    if len(values) == 0:
        return np.full(len(index_N), missing, values.dtype)
    return np.where(index_N >= 0, values[index_N], np.asarray(missing, values.dtype))


def count_ngrams(
    tokens: Integer[np.ndarray, "tokens"],
    order: int,
    vocabulary_size: int,
    marks: SentenceMarks | None = None,
) -> NgramCounts:
    """Count the n-grams of orders 1 ... ``order`` of a text.

    Position i contributes an n-gram of each order k <= i+1: the text is one stream, and no word is
    assumed before its start. With `marks`, n-grams do not cross the ends of sentences, and the
    longest ones of a sentence's first words begin with one ``<s>``, as in SRILM and KenLM.

    Args:
      tokens: the text (a training part), ids in [0, V) of any integer type; by sentence, each of
        them followed by ``</s>``, without ``<s>``.
      order: the greatest order n.
      vocabulary_size: V.
      marks: counts by sentence; None: the text is one stream.

    Returns:
      The counts, on arrays.

    Raises:
      InputError: if the order is under 1 or larger than the text, the vocabulary has fewer than
        two words, an id is out of range, or a text counted by sentence has ``<s>`` or does not
        end with ``</s>``.
    """
    check_order(order)
    check_vocabulary_size(vocabulary_size)
    tokens = check_text(tokens, vocabulary_size)
    contexts_NL = _contexts(tokens, order, vocabulary_size, marks)
    trie, nodes = build_trie(contexts_NL, vocabulary_size)
    indexes, counts, totals = [], [], []
    for length, node_N in enumerate(nodes):
        seen_N = node_N >= 0
        found = np.unique_counts(node_N[seen_N] * vocabulary_size + tokens[seen_N])
        indexes.append(NgramIndex(vocabulary_size, found.values))
        counts.append(found.counts)
        totals.append(np.bincount(node_N[seen_N], minlength=trie.size(length)))
    return NgramCounts(trie, tuple(indexes), tuple(counts), tuple(totals), marks)


def _contexts(
    tokens: Int32[np.ndarray, "tokens"],
    order: int,
    vocabulary_size: int,
    marks: SentenceMarks | None,
) -> Int32[np.ndarray, "tokens L"]:
    """The context of each position, -1 where it has no word."""
    if marks is None:
        if len(tokens) < order:
            raise InputError(
                f"order is {order}, expected at most the text's {len(tokens)} token(s)"
            )
        return windows(tokens, order, 0, len(tokens))
    check_marks(marks, vocabulary_size)
    if len(tokens) == 0 or tokens[-1] != marks.end:
        raise InputError("text does not end with </s>, expected it after each sentence")
    if np.any(tokens == marks.start):
        raise InputError("text has <s>, expected sentences without it, each followed by </s>")
    contexts_NL = within_sentences(windows(tokens, order, 0, len(tokens)), marks)
    is_start_NL = contexts_NL == marks.start
    # One <s> is enough: those before it are no word.
    contexts_NL[:, :-1][is_start_NL[:, :-1] & is_start_NL[:, 1:]] = NO_WORD
    return contexts_NL
