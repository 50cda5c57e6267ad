import collections

import numpy as np
import pytest
from ngram_references import ngrams, random_text

from jaxgen.errors import InputError
from jaxgen.lm.ngram.counts import NgramIndex, build_trie, count_ngrams, find, pick


def listed(counts, order):
    """Tuple of words -> occurrences, from the arrays."""
    index = counts.indexes[order - 1]
    words = np.column_stack([counts.contexts.words(order - 1)[index.contexts], index.words])
    return dict(zip(map(tuple, words.tolist()), counts.counts[order - 1].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", range(1, 6))
def test_counts_agree_with_dictionaries(seed, order):
    tokens = random_text(seed, 120, 6)
    counts = count_ngrams(tokens, order, 6)
    assert counts.order == order
    assert counts.tokens == 120
    for k in range(1, order + 1):
        assert listed(counts, k) == dict(ngrams(tokens, k))
        followed = ngrams(tokens[:-1], k - 1) if k > 1 else collections.Counter({(): 120})
        contexts = map(tuple, counts.contexts.words(k - 1).tolist())
        assert dict(zip(contexts, counts.totals[k - 1].tolist(), strict=True)) == dict(followed)


def test_parents_drop_the_oldest_word():
    contexts = count_ngrams(random_text(1, 200, 5), 4, 5).contexts
    for length in (1, 2, 3):
        words, shorter = contexts.words(length), contexts.words(length - 1)
        np.testing.assert_array_equal(shorter[contexts.parents(length)], words[:, 1:])


def test_walk_finds_every_context_and_no_other():
    tokens = random_text(2, 80, 5)
    contexts = count_ngrams(tokens, 4, 5).contexts
    rows = np.stack(np.meshgrid(*[np.arange(-1, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    nodes = contexts.walk(rows)
    for length in (1, 2, 3):
        known = {words: i for i, words in enumerate(map(tuple, contexts.words(length).tolist()))}
        expected = [known.get(tuple(row[3 - length :]), -1) for row in rows.tolist()]
        np.testing.assert_array_equal(nodes[length], expected)
    np.testing.assert_array_equal(nodes[0], 0)


def test_a_missing_word_is_not_mistaken_for_a_neighbouring_key():
    # The key of (context 1, no word) would be that of (context 0, last word of the vocabulary).
    trie, _ = build_trie(np.array([[2, 0], [0, 1]]), 3)
    assert trie.walk(np.array([[2, 0]]))[-1] == [0]
    assert trie.walk(np.array([[-1, 1]]))[-1] == [-1]


def test_build_trie_includes_what_contexts_end_in():
    trie, nodes = build_trie(np.array([[4, 3, 2], [-1, -1, 7], [-1, 3, 2]]), 10)
    np.testing.assert_array_equal(trie.words(1), [[2], [7]])
    np.testing.assert_array_equal(trie.words(2), [[3, 2]])
    np.testing.assert_array_equal(trie.words(3), [[4, 3, 2]])
    np.testing.assert_array_equal(np.stack(nodes), [[0, 0, 0], [0, 1, 0], [0, -1, 0], [0, -1, -1]])


def test_context_frequencies_use_the_last_words():
    counts = count_ngrams(np.array([1, 2, 1, 2, 3, 1]), 3, 4)
    contexts = np.array([[0, 1, 2], [3, 2, 3], [0, 3, 1], [0, -1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(counts.context_frequencies(contexts), [2, 1, 0, 0, 0])
    np.testing.assert_array_equal(counts.up_to(2).context_frequencies(contexts), [2, 1, 2, 2, 0])
    np.testing.assert_array_equal(counts.up_to(1).context_frequencies(contexts), [6] * 5)


def test_a_vocabulary_of_millions_and_order_six():
    size = 5_000_000
    rng = np.random.default_rng(0)
    tokens = rng.integers(size - 20, size, 3000)
    counts = count_ngrams(tokens, 6, size)
    assert listed(counts, 6) == dict(ngrams(tokens, 6))
    np.testing.assert_array_equal(
        counts.context_frequencies(tokens[None, 100:105]),
        [ngrams(tokens[:-1], 5)[tuple(tokens[100:105].tolist())]],
    )


def test_expand_lists_the_words_of_each_context():
    counts = count_ngrams(np.array([0, 1, 0, 2, 0, 1, 2, 2]), 2, 3)
    node = counts.contexts.walk(np.array([[2], [-1], [0], [0]]))[-1]
    rows, ngram = counts.indexes[1].expand(node)
    words = counts.indexes[1].words[ngram]
    found = list(zip(rows.tolist(), words.tolist(), counts.counts[1][ngram].tolist(), strict=True))
    assert found == [(0, 0, 1), (0, 2, 1), (2, 1, 2), (2, 2, 1), (3, 1, 2), (3, 2, 1)]


def test_lookups_among_nothing():
    nothing = np.empty(0, np.int64)
    np.testing.assert_array_equal(find(nothing, np.array([3, 4])), [-1, -1])
    np.testing.assert_array_equal(pick(nothing, np.array([-1, -1]), 7), [7, 7])
    rows, found = NgramIndex(5, nothing).expand(np.array([0, 1]))
    assert len(rows) == len(found) == 0


def test_bad_input_is_refused():
    text = np.array([0, 1, 2])
    with pytest.raises(InputError, match="order is 0, expected 1 or more"):
        count_ngrams(text, 0, 3)
    with pytest.raises(InputError, match=r"order is 4, expected at most the text's 3 token"):
        count_ngrams(text, 4, 3)
    with pytest.raises(InputError, match=r"order is 1, expected at most the text's 0 token"):
        count_ngrams(text[:0], 1, 3)
    with pytest.raises(InputError, match=r"vocabulary has 1 word\(s\), expected 2"):
        count_ngrams(np.zeros(5, int), 1, 1)
    with pytest.raises(InputError, match=r"tokens contain the id 2, expected ids in \[0, 2\)"):
        count_ngrams(text, 2, 2)
    with pytest.raises(InputError, match="tokens contain the id -1"):
        count_ngrams(text - 1, 2, 3)
    with pytest.raises(InputError, match="order is 3, expected at most the 2 counted"):
        count_ngrams(text, 2, 3).up_to(3)
    with pytest.raises(InputError, match="order is 0"):
        count_ngrams(text, 2, 3).up_to(0)
