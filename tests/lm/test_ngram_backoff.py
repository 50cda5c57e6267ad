import itertools

import numpy as np
import pytest
from ngram_references import random_text, some_contexts

from jaxgen.errors import InputError
from jaxgen.lm.ngram import BackoffModel, count_ngrams, fit_kneser_ney

may_fall_back = pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")


def random_tables(seed, size=5, order=4):
    """Tables as pruning may leave them: contexts present, but not everything that they end in."""
    rng = np.random.default_rng(seed)
    ngrams = [np.arange(size)[:, None]]
    for _ in range(order - 1):
        grown = np.array([[*row, w] for row in ngrams[-1].tolist() for w in range(size)])
        ngrams.append(grown[rng.random(len(grown)) < 0.4])
    return (
        ngrams,
        [np.log10(rng.random(len(rows))) for rows in ngrams],
        [np.log10(rng.random(len(rows)) * 2) for rows in ngrams[:-1]] + [np.zeros(len(ngrams[-1]))],
    )


def evaluate(tables, context, word):
    """P(word | context) by the definition, from dictionaries."""
    names = [tuple(row) for rows in tables[0] for row in rows.tolist()]
    probability = dict(zip(names, 10 ** np.concatenate(tables[1]), strict=True))
    backoff = dict(zip(names, 10 ** np.concatenate(tables[2]), strict=True))
    factor = 1.0
    while (*context, word) not in probability:
        factor *= backoff.get(context, 1.0)
        context = context[1:]
    return factor * probability[*context, word]


@pytest.mark.parametrize("seed", range(3))
def test_any_tables_are_evaluated_by_the_definition(seed):
    tables = random_tables(seed)
    shuffled = [np.random.default_rng(seed).permutation(len(rows)) for rows in tables[0]]
    model = BackoffModel.from_tables(
        *([rows[p] for rows, p in zip(part, shuffled, strict=True)] for part in tables), 5
    )
    contexts = np.array(list(itertools.product(range(-1, 5), repeat=3)))
    contexts = contexts[~((contexts[:, :-1] >= 0) & (contexts[:, 1:] < 0)).any(axis=1)]
    table = model.distributions(contexts)
    for row, context in enumerate(contexts.tolist()):
        known = tuple(w for w in context if w >= 0)
        expected = [evaluate(tables, known, word) for word in range(5)]
        np.testing.assert_allclose(table[row], expected, rtol=1e-12)
    for word in range(5):
        got = model.probabilities(contexts, np.full(len(contexts), word))
        np.testing.assert_allclose(got, table[:, word], rtol=1e-13)


@may_fall_back
@pytest.mark.parametrize("minimum", [None, [1, 1, 2, 3]])
@pytest.mark.parametrize("interpolated", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_tables_hold_the_whole_model(seed, interpolated, minimum):
    size = 7
    tokens = random_text(seed, 300, size)
    model = fit_kneser_ney(count_ngrams(tokens, 4, size), interpolated, minimum)
    tables = model.tables()
    again = BackoffModel.from_tables(*tables, size)
    contexts = some_contexts(seed, tokens, 4, size)
    np.testing.assert_allclose(
        again.distributions(contexts), model.distributions(contexts), rtol=1e-12
    )
    np.testing.assert_array_equal(tables.ngrams[0], np.arange(size)[:, None])
    for shorter, longer in itertools.pairwise(tables.ngrams):
        listed = set(map(tuple, shorter.tolist()))
        assert len(listed) == len(shorter)
        assert {tuple(row) for row in longer[:, :-1].tolist()} <= listed


def test_contexts_that_are_no_ngrams_are_listed_with_their_own_probability():
    # The text begins 4 3 2 1: none of (4, 3), (4, 3, 2) is preceded by a word, so neither has a
    # continuation count; but (4, 3, 2, 1) is listed, and needs both in the file.
    tokens = np.array([4, 3, 2, 1, 0, 1, 2, 0, 1, 0, 0, 2, 1, 0])
    with pytest.warns(UserWarning, match="Kneser-Ney"):
        model = fit_kneser_ney(count_ngrams(tokens, 4, 5))
    tables = model.tables()
    for order, ngram in ((2, [4, 3]), (3, [4, 3, 2])):
        assert len(tables.ngrams[order - 1]) == len(model.indexes[order - 1]) + 1
        row = np.flatnonzero((tables.ngrams[order - 1] == ngram).all(axis=1))[0]
        context = np.array([[-1] * (4 - order) + ngram[:-1]])
        own = model.probabilities(context, np.array(ngram[-1:]))[0]
        np.testing.assert_allclose(10 ** tables.log10_probabilities[order - 1][row], own)


def test_words_without_a_unigram_and_minus_99_have_probability_zero():
    model = BackoffModel.from_tables(
        [np.array([[0], [1]])], [np.array([-99.0, np.log10(0.5)])], [np.zeros(2)], 3
    )
    np.testing.assert_allclose(model.distributions(np.empty((1, 0), int)), [[0.0, 0.5, 0.0]])
    ngrams, log10_probabilities, _ = model.tables()
    np.testing.assert_array_equal(ngrams[0], [[0], [1], [2]])
    np.testing.assert_allclose(log10_probabilities[0], [-99, np.log10(0.5), -99])


@may_fall_back
def test_order_one_has_no_contexts():
    model = fit_kneser_ney(count_ngrams(np.array([0, 1, 1, 2]), 1, 4))
    assert [len(part) for part in model.tables()] == [1, 1, 1]
    np.testing.assert_allclose(model.distributions(np.zeros((2, 3), int)).sum(axis=1), [1, 1])


def test_bad_input_is_refused():
    unigrams, zeros = np.array([[0], [1]]), np.zeros(2)
    bigrams = np.array([[0, 1], [0, 1]])

    def tables(ngrams, size=2, **changed):
        logs = [np.zeros(len(rows)) for rows in ngrams]
        given = {"log10_probabilities": logs, "log10_backoffs": logs, **changed}
        return BackoffModel.from_tables(ngrams, vocabulary_size=size, **given)

    with pytest.raises(InputError, match=r"the 2-gram of the ids \[0, 1\] is given twice"):
        tables([unigrams, bigrams])
    with pytest.raises(InputError, match=r"2-grams have shape \(2, 1\), expected \[N, 2\]"):
        tables([unigrams, unigrams])
    with pytest.raises(InputError, match=r"vocabulary has 1 word\(s\), expected 2"):
        tables([unigrams], size=1)
    with pytest.raises(InputError, match=r"1-grams contain the id 5, expected ids in \[0, 2\)"):
        tables([unigrams + 4])
    with pytest.raises(InputError, match="order is 0"):
        tables([])
    with pytest.raises(InputError, match="2 of probabilities and 1 of back-off"):
        tables([unigrams], log10_probabilities=[zeros, zeros])
    with pytest.raises(InputError, match="1-grams have 2 rows"):
        tables([unigrams], log10_backoffs=[np.zeros(3)])
