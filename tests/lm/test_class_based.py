import collections
import itertools
import warnings

import numpy as np
import pytest

from jaxgen.data import count_vocabulary, read_brown
from jaxgen.errors import InputError
from jaxgen.lm.classes.clustering import exchange_clustering
from jaxgen.lm.contexts import NO_WORD, windows
from jaxgen.lm.evaluation import perplexity
from jaxgen.lm.ngram import count_ngrams, fit_kneser_ney
from jaxgen.lm.ngram.class_based import NO_CLASS, fit_class_model

WORDS, UNSEEN = 60, [57, 58, 59]

pytestmark = pytest.mark.filterwarnings("ignore:Kneser-Ney discounts of order [2-9]")


def zipf_text(seed, length=3000):
    """A text in which words 0 .. 56 have falling frequency and each prefers some successors."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, WORDS - len(UNSEEN) + 1)
    shifts = rng.integers(0, 5, size=length)
    drawn = rng.choice(len(weights), size=length, p=weights / weights.sum())
    return (drawn + shifts * (drawn % 3)) % len(weights)


def random_classes(seed, classes=6):
    return np.random.default_rng(seed).integers(0, classes, size=WORDS)


def some_contexts(tokens, width):
    """Contexts of the text, random ones (seen and unseen), unseen words, and no words."""
    rng = np.random.default_rng(9)
    return np.concatenate(
        [
            windows(tokens, width + 1, 0, 40),
            rng.integers(0, WORDS, size=(40, width)),
            np.full((1, width), UNSEEN[0]),
            np.full((1, width), NO_WORD),
        ]
    )


def class_bigram_by_dictionary(sequence, classes):
    """P(d | c), interpolated Kneser-Ney with discounts 0.5, 1, 1.5 at both orders."""
    bigrams = collections.Counter(itertools.pairwise(sequence))
    before = collections.Counter(d for _, d in bigrams)
    discount = {0: 0.0, 1: 0.5, 2: 1.0}

    def smoothed(count, lower):
        total = sum(count.values())
        freed = sum(discount.get(n, 1.5) for n in count.values())
        return {
            d: (count.get(d, 0) - discount.get(count.get(d, 0), 1.5) + freed * lower[d]) / total
            for d in range(classes)
        }

    unigram = smoothed(before, dict.fromkeys(range(classes), 1.0 / classes))
    following = collections.defaultdict(dict)
    for (c, d), n in bigrams.items():
        following[c][d] = n
    return {c: smoothed(following[c], unigram) for c in following}


def test_a_class_bigram_equals_its_definition():
    tokens, classes_V = zipf_text(0, length=200), random_classes(0, 3)
    # Few counts: no order has well-defined discounts, so both use the documented fall-back.
    with pytest.warns(UserWarning, match="order 2"):
        model = fit_class_model(tokens, classes_V, 2)
    table = class_bigram_by_dictionary(classes_V[tokens].tolist(), 3)

    count_V = np.bincount(tokens, minlength=WORDS)
    once, twice = (count_V == 1).sum(), (count_V == 2).sum()
    b = once / (once + 2 * twice)
    unseen = (count_V == 0).sum()
    total_C = np.bincount(classes_V, count_V)
    types_C = np.bincount(classes_V, count_V > 0)
    for v, w in itertools.product(np.flatnonzero(count_V)[::7], range(WORDS)):
        class_C = np.array([table[classes_V[v]][d] for d in range(3)])
        if count_V[w]:
            c = classes_V[w]
            expected = class_C[c] * (count_V[w] - b) / total_C[c]
        else:
            expected = class_C @ (b * types_C / total_C) / unseen
        got = model.probabilities(np.array([[v]]), np.array([w]))[0]
        assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("interpolated", [True, False])
def test_distributions_sum_to_one_and_agree_with_probabilities(order, interpolated):
    tokens = zipf_text(1)
    model = fit_class_model(tokens, random_classes(1), order, interpolated)
    contexts_NL = some_contexts(tokens, order - 1)
    rows_NV = model.distributions(contexts_NL)
    assert rows_NV.dtype == np.float64
    assert rows_NV.shape == (len(contexts_NL), WORDS)
    np.testing.assert_allclose(rows_NV.sum(axis=1), 1.0, atol=1e-12)
    assert rows_NV.min() > 0
    for word in range(WORDS):
        targets_N = np.full(len(contexts_NL), word)
        np.testing.assert_allclose(
            model.probabilities(contexts_NL, targets_N), rows_NV[:, word], rtol=1e-12
        )


@pytest.mark.parametrize("interpolated", [True, False])
def test_a_class_for_each_word_is_the_word_model(interpolated):
    tokens = zipf_text(2) % 25  # every word occurs
    counts = count_ngrams(tokens, 3, 25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_words = fit_kneser_ney(counts, interpolated, minimum_counts=[1, 1, 2])
    by_classes = fit_class_model(
        tokens, np.random.default_rng(0).permutation(25), 3, interpolated, minimum_counts=[1, 1, 2]
    )
    contexts_NL = np.random.default_rng(1).integers(0, 25, size=(50, 2))
    np.testing.assert_allclose(
        by_classes.distributions(contexts_NL), by_words.distributions(contexts_NL), rtol=1e-12
    )


def test_names_of_classes_and_classes_of_unseen_words_do_not_matter():
    tokens, classes_V = zipf_text(3), random_classes(3)
    contexts_NL = some_contexts(tokens, 2)
    expected_NV = fit_class_model(tokens, classes_V, 3).distributions(contexts_NL)
    renamed_V = np.array([40, 3, 17, 0, 5, 99])[classes_V]
    renamed_V[UNSEEN] = 1000
    renamed = fit_class_model(tokens, renamed_V, 3)
    np.testing.assert_allclose(renamed.distributions(contexts_NL), expected_NV, rtol=1e-10)
    assert renamed.class_count == 6
    assert (renamed.classes_V[UNSEEN] == NO_CLASS).all()


def test_a_context_acts_through_its_classes_alone():
    tokens, classes_V = zipf_text(4), random_classes(4)
    model = fit_class_model(tokens, classes_V, 3)
    alike = np.flatnonzero((classes_V == classes_V[0]) & (np.bincount(tokens, minlength=60) > 0))
    assert len(alike) > 3
    contexts_NL = np.stack([np.full(len(alike), 5), alike], axis=1)
    rows_NV = model.distributions(contexts_NL)
    np.testing.assert_array_equal(rows_NV, np.broadcast_to(rows_NV[0], rows_NV.shape))
    # An unseen word hides what is beyond it.
    hidden_NV = model.distributions(np.array([[5, UNSEEN[0]], [6, UNSEEN[1]], [NO_WORD, NO_WORD]]))
    np.testing.assert_array_equal(hidden_NV, np.broadcast_to(hidden_NV[2], hidden_NV.shape))


def test_columns_on_the_left_are_ignored():
    tokens = zipf_text(5)
    model = fit_class_model(tokens, random_classes(5), 3)
    wide_NL = windows(tokens, 6, 50, 90)
    np.testing.assert_array_equal(
        model.probabilities(wide_NL, tokens[50:90]),
        model.probabilities(wide_NL[:, -2:], tokens[50:90]),
    )


def test_unseen_words_share_what_absolute_discounting_frees():
    # Two classes: a (6 tokens, words 0 and 1), b (4 tokens, words 2, 3, 4); words 5 and 6 unseen.
    tokens = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 4])
    model = fit_class_model(tokens, np.array([0, 0, 1, 1, 1, 0, 0]), 1)
    b = 2 / (2 + 2 * 2)  # words 3 and 4 once, 1 and 2 twice
    expected = [(4 - b) / 6, (2 - b) / 6, (2 - b) / 4, (1 - b) / 4, (1 - b) / 4, 0, 0]
    np.testing.assert_allclose(model.share_V, expected, rtol=1e-12)
    np.testing.assert_allclose(model.unseen_share_C, [b * 2 / 6 / 2, b * 3 / 4 / 2], rtol=1e-12)
    # No word occurs twice: the fall-back; no unseen word: nothing to free.
    model = fit_class_model(np.array([0, 0, 0, 1]), np.array([0, 1, 0]), 1)
    np.testing.assert_allclose(model.share_V, [2.5 / 3, 0.5, 0], rtol=1e-12)
    model = fit_class_model(np.array([0, 0, 0, 1]), np.array([0, 1]), 1)
    np.testing.assert_array_equal(model.share_V, [1, 1])


@pytest.mark.parametrize(
    ("tokens", "classes", "order", "message"),
    [
        ([0, 1, 2], [0, 0, 0], 2, "in 1 class"),
        ([0, 1, 0], [0, 0, 1], 2, "in 1 class"),
        ([0, 1, 2], [0, 1], 2, "id 2"),
        ([0, 1, 2], [0, -1, 1], 2, "classes contain -1"),
        ([0, 1, 2], [0.0, 1.0, 1.0], 2, "one integer for each word"),
        ([0, 1, 2], [0, 1, 1], 0, "order is 0"),
        ([0, 1, 2], [0, 1, 1], 4, "order is 4"),
    ],
)
def test_bad_input_is_refused(tokens, classes, order, message):
    with pytest.raises(InputError, match=message):
        fit_class_model(np.array(tokens), np.array(classes), order)


def test_contexts_and_targets_are_checked():
    model = fit_class_model(zipf_text(6), random_classes(6), 3)
    with pytest.raises(InputError, match=r"expected \[N, 2\] or wider"):
        model.distributions(np.zeros((4, 1), int))
    with pytest.raises(InputError, match="targets contain the id 60"):
        model.probabilities(np.zeros((1, 2), int), np.array([60]))


def test_brown_gets_a_class_trigram_that_beats_the_word_trigram(data_folder):

    stream = read_brown(data_folder / "brown" / "brown.zip", paragraph_mark=None)
    vocabulary = count_vocabulary(stream.tokens, rare_frequency=3)
    tokens = vocabulary.encode(stream.tokens)
    train = tokens[:800_000]
    found = exchange_clustering(train, len(vocabulary), 200, sweeps=2)
    by_classes = fit_class_model(train, found.classes_V, 3)
    by_words = fit_kneser_ney(count_ngrams(train, 3, len(vocabulary)))
    got, baseline = (perplexity(m, tokens, 800_000, 1_000_000) for m in (by_classes, by_words))
    # 339.8 and 350.3 were measured; with all sweeps the classes reach 337.2.
    assert got < 0.98 * baseline
    assert got < 345
