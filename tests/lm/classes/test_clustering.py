import collections
import itertools
import math

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.lm.classes.clustering import (
    ExchangeState,
    class_bigram_log_likelihood,
    class_bigrams,
    exchange_clustering,
    frequency_classes,
)


def random_text(seed, words=12, length=300):
    """A text with frequent and rare words, repeats of a word, and some words that never occur."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, words - 1)
    tokens = rng.choice(words - 2, size=length, p=weights / weights.sum())
    tokens[10:14] = 0
    return tokens


def alternating_text(seed, length=400):
    """Even words are always followed by odd ones, and odd by even."""
    rng = np.random.default_rng(seed)
    return 2 * rng.integers(0, 4, size=length) + np.arange(length) % 2


def likelihood_by_dictionary(tokens, classes):
    """sum_i log P(c_i | c_{i-1}) P(w_i | c_i), by relative frequencies."""
    pairs = list(itertools.pairwise(tokens.tolist()))
    transition = collections.Counter((classes[v], classes[w]) for v, w in pairs)
    leaving = collections.Counter(classes[v] for v, _ in pairs)
    entering = collections.Counter(classes[w] for _, w in pairs)
    predicted = collections.Counter(w for _, w in pairs)
    return sum(
        math.log(transition[classes[v], classes[w]] / leaving[classes[v]])
        + math.log(predicted[w] / entering[classes[w]])
        for v, w in pairs
    )


@pytest.mark.parametrize("seed", range(4))
def test_likelihood_is_that_of_the_class_bigram_model(seed):
    tokens = random_text(seed)
    classes = np.random.default_rng(seed).integers(0, 4, size=12)
    expected = likelihood_by_dictionary(tokens, classes)
    assert class_bigram_log_likelihood(tokens, classes) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_gains_are_differences_of_likelihood(seed):
    tokens = random_text(seed)
    classes = np.random.default_rng(seed).integers(0, 4, size=12)
    state = ExchangeState(tokens, classes, 4)
    before = likelihood_by_dictionary(tokens, classes)
    for word in range(12):
        gain_C = state.gains(word)
        for target in range(4):
            moved = np.where(np.arange(12) == word, target, classes)
            expected = likelihood_by_dictionary(tokens, moved) - before
            assert gain_C[target] == pytest.approx(expected, abs=1e-9)


class CheckedState(ExchangeState):
    """Recomputes the likelihood around every move that a sweep makes."""

    gained: list

    def move(self, word, target):
        before = likelihood_by_dictionary(self.tokens, self.classes_V)
        super().move(word, target)
        self.gained.append(likelihood_by_dictionary(self.tokens, self.classes_V) - before)


@pytest.mark.parametrize("seed", range(4))
def test_every_move_gains_and_the_tables_stay_exact(seed):
    tokens = random_text(seed, words=30, length=600)
    state = CheckedState(tokens, frequency_classes(tokens, 30, 5), 5)
    state.tokens, state.gained = tokens, []
    moves = state.sweep()
    assert moves == len(state.gained) > 5
    assert min(state.gained) > 0

    fresh = ExchangeState(tokens, state.classes_V, 5)
    for here, there in ((state.next, fresh.next), (state.previous, fresh.previous)):
        np.testing.assert_array_equal(here.count_CC, there.count_CC)
        np.testing.assert_array_equal(here.step_CC, there.step_CC)
        np.testing.assert_array_equal(here.total_C, there.total_C)
    np.testing.assert_array_equal(state.words_in_C, fresh.words_in_C)
    np.testing.assert_array_equal(state.next.count_CC.T, class_bigrams(tokens, state.classes_V, 5))
    assert state.log_likelihood() == pytest.approx(fresh.log_likelihood(), rel=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_at_the_end_no_single_move_gains(seed):
    tokens = random_text(seed)
    found = exchange_clustering(tokens, 12, 3, sweeps=100, tolerance=0.0)
    best = likelihood_by_dictionary(tokens, found.classes_V)
    for word, target in itertools.product(range(12), range(3)):
        moved = np.where(np.arange(12) == word, target, found.classes_V)
        assert likelihood_by_dictionary(tokens, moved) < best + 1e-6


def test_planted_classes_are_found_and_are_the_global_optimum():
    tokens = alternating_text(0)
    found = exchange_clustering(tokens, 8, 2)
    assert len(set(found.classes_V[::2])) == 1
    assert len(set(found.classes_V[1::2])) == 1
    best = max(
        likelihood_by_dictionary(tokens, classes)
        for classes in itertools.product(range(2), repeat=8)
    )
    assert found.log_likelihoods[-1] == pytest.approx(best, rel=1e-12)


def test_likelihoods_rise_are_reported_and_belong_to_the_classes():
    tokens = random_text(1, words=40, length=2000)
    reported = []
    found = exchange_clustering(tokens, 40, 6, progress=lambda *news: reported.append(news))
    assert (np.diff(found.log_likelihoods[:-1]) > 0).all()
    assert reported == list(enumerate(found.log_likelihoods))[1:]
    expected = likelihood_by_dictionary(tokens, found.classes_V)
    assert found.log_likelihoods[-1] == pytest.approx(expected, rel=1e-12)
    assert found.classes_V.dtype == np.int32
    assert set(found.classes_V) == set(range(6))


def test_a_sweep_that_gains_little_is_the_last():
    tokens = random_text(1, words=40, length=2000)
    exact = exchange_clustering(tokens, 40, 6, tolerance=0.0)
    gains = np.diff(exact.log_likelihoods) / len(tokens)
    assert len(gains) > 2
    tolerance = (gains[0] + gains[1]) / 2
    coarse = exchange_clustering(tokens, 40, 6, tolerance=tolerance)
    assert coarse.log_likelihoods == exact.log_likelihoods[:3]
    assert exchange_clustering(tokens, 40, 6, sweeps=1).log_likelihoods == exact.log_likelihoods[:2]


def test_the_same_text_gives_the_same_classes():
    tokens = random_text(2, words=40, length=2000)
    first, second = (exchange_clustering(tokens, 40, 6) for _ in range(2))
    np.testing.assert_array_equal(first.classes_V, second.classes_V)


def test_the_start_has_frequent_words_alone():
    tokens = np.array([3, 3, 3, 1, 1, 0, 2, 3])
    np.testing.assert_array_equal(frequency_classes(tokens, 5, 3), [2, 1, 2, 0, 2])


def test_as_many_classes_as_words_is_the_bigram_model():
    tokens = random_text(3, words=8)
    found = exchange_clustering(tokens, 8, 8)
    assert sorted(found.classes_V) == list(range(8))
    pairs = list(itertools.pairwise(tokens.tolist()))
    bigrams, firsts = collections.Counter(pairs), collections.Counter(v for v, _ in pairs)
    expected = sum(n * math.log(n / firsts[v]) for (v, _), n in bigrams.items())
    assert found.log_likelihoods[-1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("tokens", "words", "size", "message"),
    [
        ([0, 1, 2], 3, 1, "1 classes of words, expected from 2 to the 3"),
        ([0, 1, 2], 3, 4, "4 classes of words, expected from 2 to the 3"),
        ([0, 3, 2], 3, 2, "id 3"),
        ([0, -1, 2], 3, 2, "id -1"),
        ([0], 3, 2, "text of 1 tokens"),
        ([0.0, 1.0], 3, 2, "integer ids"),
    ],
)
def test_bad_input_is_refused(tokens, words, size, message):
    with pytest.raises(InputError, match=message):
        exchange_clustering(np.array(tokens), words, size)
