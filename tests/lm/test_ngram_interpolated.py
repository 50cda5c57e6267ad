import math

import numpy as np
import pytest
from ngram_references import Interpolated, random_text, some_contexts

from jaxgen.errors import InputError
from jaxgen.lm.contexts import windows
from jaxgen.lm.evaluation import perplexity, span_probabilities
from jaxgen.lm.ngram import InterpolatedModel, count_ngrams, fit_interpolated
from jaxgen.lm.ngram.interpolation_weights import fit_weights, frequency_bin_count, frequency_bins


def fitted(seed, order, size=7, iterations=5):
    tokens = random_text(seed, 400, size)
    counts = count_ngrams(tokens[:300], order, size)
    return tokens, fit_interpolated(counts, tokens, 300, 400, iterations)


def test_bins_of_context_frequency():
    # T = 100: ceil(-log((1 + f) / 100)) by hand.
    frequency = np.array([0, 1, 2, 13, 14, 35, 36, 37, 99, 100])
    np.testing.assert_array_equal(frequency_bins(frequency, 100), [5, 4, 4, 2, 2, 2, 1, 1, 0, 0])
    assert frequency_bin_count(100) == 6
    assert frequency_bins(np.array([0, 1]), 1).tolist() == [0, 0]


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("seed", range(3))
def test_weights_and_probabilities_agree_with_dictionaries(seed, order):
    tokens, model = fitted(seed, order)
    reference = Interpolated(tokens[:300], order, 7)
    contexts = windows(tokens, order, 300, 400).tolist()
    pairs = list(zip(contexts, tokens[300:].tolist(), strict=True))
    weights = reference.fit(pairs, len(model.weight_CJ), 5)
    for b, expected in enumerate(weights):
        if expected is not None:
            np.testing.assert_allclose(model.weight_CJ[b], expected, rtol=0, atol=1e-12)

    some = some_contexts(seed, tokens[:300], order, 7)
    got = model.distributions(some)
    for row, context in enumerate(some.tolist()):
        for word in range(7):
            parts = reference.components(context, word)
            expected = sum(
                a * p for a, p in zip(model.weight_CJ[reference.bin(context)], parts, strict=True)
            )
            assert abs(got[row, word] - expected) < 1e-12


@pytest.mark.parametrize("order", range(1, 6))
def test_distributions_sum_to_one_and_hold_the_probabilities(order):
    tokens, model = fitted(4, order)
    contexts = some_contexts(4, tokens, order, 7)
    table = model.distributions(contexts)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    assert table.min() > 0
    for word in range(7):
        targets = np.full(len(contexts), word)
        np.testing.assert_allclose(
            model.probabilities(contexts, targets), table[:, word], rtol=0, atol=1e-14
        )


def test_the_weight_of_an_undefined_frequency_moves_down():
    # After (3, 0): the pair is new, 0 is followed by 1 and by 2. After (3, 3): 3 is new too.
    counts = count_ngrams(np.array([0, 1, 0, 2, 0, 1]), 3, 4)
    weights = np.tile([0.1, 0.2, 0.3, 0.4], (frequency_bin_count(6), 1))
    model = InterpolatedModel(counts, weights)
    unigram = np.array([3, 2, 1, 0]) / 6
    after_0 = np.array([0, 2, 1, 0]) / 3
    np.testing.assert_allclose(
        model.distributions(np.array([[3, 0], [3, 3]])),
        [0.1 / 4 + 0.2 * unigram + 0.7 * after_0, 0.1 / 4 + 0.9 * unigram],
        rtol=1e-14,
    )


def test_em_never_lowers_the_likelihood():
    tokens = random_text(5, 600, 9)
    counts = count_ngrams(tokens[:450], 3, 9)
    likelihood = [
        np.log(
            span_probabilities(fit_interpolated(counts, tokens, 450, 600, n), tokens, 450, 600)
        ).sum()
        for n in range(12)
    ]
    gains = np.diff(likelihood)
    assert gains.min() > -1e-9
    assert gains[0] > 1.0


def test_em_finds_the_best_weights():
    # Two components on two words: the likelihood a^m (1-a)^n is largest at a = m / (m + n).
    likelihood = np.array([[1.0, 0.0]] * 30 + [[0.0, 1.0]] * 10)
    weights = fit_weights(likelihood, np.zeros(40, int), 1, iterations=1)
    np.testing.assert_allclose(weights, [[0.75, 0.25]], rtol=1e-15)


def test_a_bin_without_words_takes_the_nearest_weights():
    likelihood = np.array([[1.0, 0.0], [0.0, 1.0]])
    weights = fit_weights(likelihood, np.array([1, 5]), 8, iterations=1)
    first, second = [1.0, 0.0], [0.0, 1.0]
    assert weights.tolist() == [first] * 3 + [second] * 5  # bin 3 is between: the rarer one


def test_words_that_no_component_explains_say_nothing():
    likelihood = np.array([[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(fit_weights(likelihood, np.zeros(2, int), 1), [[1.0, 0.0]])
    np.testing.assert_array_equal(fit_weights(likelihood[:1], np.zeros(1, int), 1), [[0.5, 0.5]])


def test_a_uniform_text_has_the_vocabulary_size_as_perplexity():
    tokens = np.random.default_rng(0).integers(0, 4, 8000)
    model = fit_interpolated(count_ngrams(tokens[:6000], 3, 4), tokens, 6000, 7000)
    assert perplexity(model, tokens, 7000, 8000) == pytest.approx(4.0, rel=0.01)


def test_weights_on_a_certain_text_in_closed_form():
    # Every word has p_0 = p_1 = 1/5 and p_2 = 1, so n iterations leave weights in proportion p^n.
    tokens = np.tile(np.arange(5), 400)
    model = fit_interpolated(count_ngrams(tokens[:1000], 2, 5), tokens, 1000, 1500, iterations=5)
    expected = (1 + 2 * 0.2**5) / (1 + 2 * 0.2**6)
    assert perplexity(model, tokens, 1500, 2000) == pytest.approx(expected, rel=1e-13)


def test_bad_input_is_refused():
    tokens = random_text(0, 100, 5)
    counts = count_ngrams(tokens[:50], 3, 5)
    with pytest.raises(InputError, match=r"validation span \[60, 60\) is empty"):
        fit_interpolated(counts, tokens, 60, 60)
    with pytest.raises(InputError, match="does not lie within the text of 100 tokens"):
        fit_interpolated(counts, tokens, 60, 101)
    with pytest.raises(InputError, match="iterations is -1"):
        fit_interpolated(counts, tokens, 60, 70, iterations=-1)
    with pytest.raises(InputError, match=r"tokens contain the id 5, expected ids in \[0, 5\)"):
        fit_interpolated(counts, np.append(tokens, 5), 60, 101)
    with pytest.raises(InputError, match="held-out text is empty"):
        fit_weights(np.empty((0, 2)), np.empty(0, int), 3)
    model = fit_interpolated(counts, tokens, 60, 70)
    with pytest.raises(InputError, match="contexts contain the id 5"):
        model.probabilities(np.array([[5, 0]]), np.array([0]))
    with pytest.raises(InputError, match="targets contain the id 5"):
        model.probabilities(np.array([[0, 0]]), np.array([5]))
    with pytest.raises(InputError, match=r"expected \[N, 2\] or wider"):
        model.distributions(np.array([[0]]))


def test_the_trigram_of_the_paper_on_brown(data_folder):
    from jaxgen.data import load_corpus

    corpus = load_corpus(data_folder / "brown", paragraph_mark=None)
    tokens, size = corpus.tokens, len(corpus.vocabulary)
    model = fit_interpolated(
        count_ngrams(corpus.split("train"), 3, size), tokens, *corpus.spans["validation"]
    )
    # The paper has 31, 352, 336 with another tokenisation and vocabulary.
    assert math.isclose(perplexity(model, tokens, 0, 100_000), 31.0, rel_tol=0.01)
    assert math.isclose(perplexity(model, tokens, *corpus.spans["validation"]), 373.0, rel_tol=0.01)
    assert math.isclose(perplexity(model, tokens, *corpus.spans["test"]), 352.6, rel_tol=0.01)
