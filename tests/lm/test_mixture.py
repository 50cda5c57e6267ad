import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from jaxgen.errors import InputError
from jaxgen.lm.contexts import NO_WORD, windows
from jaxgen.lm.evaluation import perplexity, perplexity_of, span_probabilities
from jaxgen.lm.mixture import (
    FrequencyBins,
    Mixture,
    fit_mixture,
    fixed_mixture,
    learn_weights,
    mix,
)
from jaxgen.lm.ngram import count_ngrams
from jaxgen.lm.ngram.class_based import fit_class_model
from jaxgen.lm.ngram.interpolation_weights import frequency_bins
from jaxgen.lm.protocol import LanguageModel

WORDS = 9


@dataclasses.dataclass(frozen=True)
class Table:
    """P(w | the words `order - 1` back), a random table; the last row is for "no word"."""

    order: int
    seed: int
    vocabulary_size: int = WORDS

    @property
    def rows(self):
        shape = (self.vocabulary_size + 1, self.vocabulary_size)
        table = np.random.default_rng(self.seed).gamma(0.5, size=shape) + 1e-3
        return table / table.sum(axis=1, keepdims=True)

    def probabilities(self, contexts_NL, targets_N):
        return self.distributions(contexts_NL)[np.arange(len(targets_N)), targets_N]

    def distributions(self, contexts_NL):
        return self.rows[contexts_NL[:, 1 - self.order]]


NEAR, FAR = Table(2, 0), Table(4, 1)


def sampled_text(seed, length=4000):
    """Three words in ten follow FAR, the others NEAR."""
    rng = np.random.default_rng(seed)
    tokens = list(rng.integers(0, WORDS, size=3))
    near, far = NEAR.rows, FAR.rows
    for _ in range(length):
        row = far[tokens[-3]] if rng.random() < 0.3 else near[tokens[-1]]
        tokens.append(rng.choice(WORDS, p=row))
    return np.array(tokens)


TEXT = sampled_text(0)


def member_probabilities(tokens=TEXT, start=3):
    return np.stack(
        [span_probabilities(model, tokens, start, len(tokens)) for model in (NEAR, FAR)], axis=1
    )


def bins_of(tokens):
    counts = count_ngrams(tokens, 2, WORDS)
    return FrequencyBins(counts.context_frequencies, counts.tokens)


def log_likelihood(weight, probability_NJ):
    return np.log(probability_NJ @ [weight, 1 - weight]).sum()


def test_the_learned_weight_is_the_best_one():
    probability_NJ = member_probabilities()
    weight_CJ = learn_weights(probability_NJ)
    best = minimize_scalar(
        lambda a: -log_likelihood(a, probability_NJ),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert weight_CJ.shape == (1, 2)
    assert weight_CJ[0, 0] == pytest.approx(best.x, abs=1e-6)
    assert weight_CJ[0, 0] == pytest.approx(0.7, abs=0.05)
    assert weight_CJ.sum() == pytest.approx(1, abs=1e-12)


def test_a_member_that_adds_nothing_gets_no_weight():
    """q = p (1 + d) where d is 0.6 or -0.58, each at half of the words: its mean of q / p is 1.01,
    so q has a little weight, that of a closed form; with -0.62 it is 0.99, and q has none. After a
    hundred iterations from equal weights these were far from it."""
    low, high = -0.58, 0.6
    probability_NJ = np.column_stack([np.full(4000, 0.1), np.tile([0.1 + 0.1 * low, 0.16], 2000)])
    # 0 = high / (1 + a high) + low / (1 + a low)
    best = -(high + low) / (2 * high * low)
    assert learn_weights(probability_NJ)[0, 1] == pytest.approx(best, abs=1e-7)
    probability_NJ[::2, 1] = 0.1 - 0.062
    assert learn_weights(probability_NJ)[0, 1] < 1e-7
    hundred = learn_weights(probability_NJ, iterations=100)[0]
    assert hundred[1] > 0.01


def test_weights_of_bins_are_those_learned_on_each_bin_alone():
    probability_NJ = member_probabilities()
    bin_N = np.random.default_rng(1).integers(0, 3, size=len(probability_NJ)) * 2
    weight_CJ = learn_weights(probability_NJ, bin_N, 6)
    for b in (0, 2, 4):
        alone = learn_weights(probability_NJ[bin_N == b])
        np.testing.assert_allclose(weight_CJ[b], alone[0], rtol=1e-10)
    # Bins without words: the nearest with some, and of two equally near the rarer contexts'.
    np.testing.assert_array_equal(weight_CJ[[1, 3, 5]], weight_CJ[[2, 4, 4]])


def test_no_iteration_lowers_the_likelihood():
    probability_NJ = np.column_stack([member_probabilities(), np.full(4000, 1 / WORDS)])
    bin_N = np.random.default_rng(2).integers(0, 4, size=len(probability_NJ))
    likelihoods = [
        np.log(mix(probability_NJ, learn_weights(probability_NJ, bin_N, 4, k), bin_N)).sum()
        for k in range(12)
    ]
    gains = np.diff(likelihoods)
    assert gains.min() >= 0
    assert gains[0] > 1


def test_three_members_are_at_a_maximum():
    probability_NJ = np.column_stack([member_probabilities(), np.full(4000, 1 / WORDS)])
    weight_J = learn_weights(probability_NJ, iterations=2000)[0]
    # At the maximum on the simplex, mean(p_j / mixture) is 1 where the weight is positive, else <1.
    slope_J = (probability_NJ / (probability_NJ @ weight_J)[:, None]).mean(axis=0)
    positive = weight_J > 1e-4
    np.testing.assert_allclose(slope_J[positive], 1, atol=1e-4)
    assert (slope_J < 1 + 1e-4).all()


def test_mix_is_the_weighted_mean():
    probability_NJ = np.array([[0.2, 0.4], [0.1, 0.9], [1.0, 0.0]])
    np.testing.assert_allclose(mix(probability_NJ, [[0.25, 0.75]]), [0.35, 0.7, 0.25])
    weight_CJ = [[0.5, 0.5], [1.0, 0.0]]
    np.testing.assert_allclose(mix(probability_NJ, weight_CJ, [1, 0, 0]), [0.2, 0.5, 0.5])


def test_a_certain_member_takes_all_the_weight():
    probability_NJ = np.array([[0.5, 1.0], [0.2, 1.0]])
    np.testing.assert_allclose(learn_weights(probability_NJ)[0], [0, 1], atol=1e-9)


@pytest.mark.parametrize("binned", [False, True])
def test_a_mixture_is_a_language_model(binned):
    bins = bins_of(TEXT) if binned else None
    mixture: LanguageModel = fit_mixture([NEAR, FAR], TEXT, 3, len(TEXT), bins)
    assert (mixture.order, mixture.vocabulary_size) == (4, WORDS)
    contexts_NL = np.concatenate(
        [windows(TEXT, 4, 0, 60), [[NO_WORD] * 3, [0, NO_WORD, 3], [8, 8, NO_WORD]]]
    )
    rows_NV = mixture.distributions(contexts_NL)
    np.testing.assert_allclose(rows_NV.sum(axis=1), 1, atol=1e-12)
    for word in range(WORDS):
        got_N = mixture.probabilities(contexts_NL, np.full(len(contexts_NL), word))
        np.testing.assert_allclose(got_N, rows_NV[:, word], rtol=1e-12)


@pytest.mark.parametrize("binned", [False, True])
def test_the_model_equals_the_arrays(binned):
    bins = bins_of(TEXT) if binned else None
    bin_N = bins(windows(TEXT, 4, 3, len(TEXT))) if bins else None
    done = []
    mixture = fit_mixture([NEAR, FAR], TEXT, 3, len(TEXT), bins, progress=done.append)
    assert sum(done) == 2 * 4000
    weight_CJ = learn_weights(member_probabilities(), bin_N, bins.size if bins else 1)
    np.testing.assert_array_equal(mixture.weight_CJ, weight_CJ)
    expected = perplexity_of(mix(member_probabilities(), weight_CJ, bin_N))
    assert perplexity(mixture, TEXT, 3, len(TEXT)) == pytest.approx(expected, rel=1e-12)


def test_a_mixture_is_as_wide_as_its_bins():
    """The paper's bins look at two words, whatever the members look at."""
    trigrams = count_ngrams(TEXT[:2000], 3, WORDS)
    bins = FrequencyBins(trigrams.context_frequencies, trigrams.tokens)
    assert bins.order == 3
    members = [NEAR, Table(2, 5)]
    mixture = fit_mixture(members, TEXT, 2000, 3000, bins)
    assert mixture.order == 3
    stacked_NJ = np.stack([span_probabilities(m, TEXT, 3000, 4003) for m in members], axis=1)
    bin_N = bins(windows(TEXT, 3, 3000, 4003))
    expected = perplexity_of(mix(stacked_NJ, mixture.weight_CJ, bin_N))
    assert perplexity(mixture, TEXT, 3000, 4003) == pytest.approx(expected, rel=1e-12)
    assert Mixture((mixture, NEAR), np.array([[0.5, 0.5]])).order == 3
    # A function of its own says what it looks at, or takes what the members need.
    looks = lambda contexts_NL: trigrams.context_frequencies(contexts_NL)  # noqa: E731
    assert FrequencyBins(looks, 2000, order=3).order == 3
    assert FrequencyBins(looks, 2000).order == 1
    assert fixed_mixture([NEAR, FAR]).order == 4


def test_learning_beats_halves_and_bins_beat_one_weight_where_they_are_learned():
    bins = bins_of(TEXT)
    figures = [
        perplexity(mixture, TEXT, 3, len(TEXT))
        for mixture in (
            fixed_mixture([NEAR, FAR]),
            fit_mixture([NEAR, FAR], TEXT, 3, len(TEXT)),
            fit_mixture([NEAR, FAR], TEXT, 3, len(TEXT), bins),
        )
    ]
    assert figures[0] > figures[1] > figures[2]
    assert figures[0] < min(perplexity(m, TEXT, 3, len(TEXT)) for m in (NEAR, FAR))


def test_fixed_weights():
    mixture = fixed_mixture([NEAR, FAR])
    np.testing.assert_array_equal(mixture.weight_CJ, [[0.5, 0.5]])
    contexts_NL = windows(TEXT, 4, 3, 10)
    expected_NV = 0.5 * NEAR.distributions(contexts_NL) + 0.5 * FAR.distributions(contexts_NL)
    np.testing.assert_allclose(mixture.distributions(contexts_NL), expected_NV, rtol=1e-14)
    only_near = fixed_mixture([NEAR, FAR], [1.0, 0.0])
    np.testing.assert_array_equal(
        only_near.distributions(contexts_NL), NEAR.distributions(contexts_NL)
    )


def test_bins_follow_the_frequency_of_the_context():
    frequency = {0: 0, 1: 3, 2: 999}
    bins = FrequencyBins(lambda contexts_NL: np.vectorize(frequency.get)(contexts_NL[:, -1]), 1000)
    got = bins(np.array([[5, 0], [5, 1], [5, 2]]))
    np.testing.assert_array_equal(got, np.ceil(-np.log(np.array([1, 4, 1000]) / 1000)))
    np.testing.assert_array_equal(got, frequency_bins(np.array([0, 3, 999]), 1000))
    assert bins.size == 8


def test_ngrams_are_members_too_and_mixtures_of_mixtures():
    with pytest.warns(UserWarning, match="Kneser-Ney"):
        by_classes = fit_class_model(TEXT[:200], np.arange(WORDS) % 3, 3)
    mixture = fixed_mixture([by_classes, fixed_mixture([NEAR, FAR])], [0.2, 0.8])
    contexts_NL = windows(TEXT, 4, 300, 340)
    np.testing.assert_allclose(mixture.distributions(contexts_NL).sum(axis=1), 1, atol=1e-12)
    assert mixture.order == 4


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ((NEAR, FAR), [1.5, -0.5], "from 0 to 1"),
        ((NEAR, FAR), [float("nan"), 0.5], "from 0 to 1"),
        ((NEAR, FAR), [0.5, 0.4], "expected 1 in each bin"),
        ((NEAR, FAR), [1.0], r"expected \(1, 2\)"),
        ((NEAR, Table(2, 0, 8)), [0.5, 0.5], r"\[9, 8\] words"),
        ((), None, "no models"),
    ],
)
def test_bad_mixtures_are_refused(members, weights, message):
    with pytest.raises(InputError, match=message):
        fixed_mixture(members, weights)


def test_weights_must_fit_the_bins():
    with pytest.raises(InputError, match=r"weights have shape \(1, 2\)"):
        Mixture((NEAR, FAR), np.array([[0.5, 0.5]]), bins_of(TEXT))


def test_different_vocabularies_are_refused_before_anything_is_evaluated():
    with pytest.raises(InputError, match=r"\[9, 8\] words"):
        fit_mixture([NEAR, Table(2, 0, 8)], TEXT, 3, 10)
    with pytest.raises(InputError, match="no models"):
        fit_mixture([], TEXT, 3, 10)
    with pytest.raises(InputError, match="empty"):
        fit_mixture([NEAR, FAR], TEXT, 3, 3)


@pytest.mark.parametrize(
    ("probabilities", "bins", "size", "message"),
    [
        (np.zeros((0, 2)), None, 1, "not empty"),
        (np.zeros((3, 0)), None, 1, "not empty"),
        (np.full(3, 0.5), None, 1, r"expected \[words, models\]"),
        (np.array([[0.5, 1.5]]), None, 1, r"within \[0, 1\]"),
        (np.array([[0.5, -0.5]]), None, 1, r"within \[0, 1\]"),
        (np.array([[0.5, np.nan]]), None, 1, r"within \[0, 1\]"),
        (np.full((3, 2), 0.5), [0, 1, 2], 2, r"expected \[0, 2\)"),
        (np.full((3, 2), 0.5), [0, 1], 2, r"expected \(3,\) integers"),
        (np.full((3, 2), 0.5), [0.0, 1.0, 1.0], 2, r"expected \(3,\) integers"),
        (np.full((3, 2), 0.5), None, 2, "2 bins but no bin"),
    ],
)
def test_bad_arrays_are_refused(probabilities, bins, size, message):
    with pytest.raises(InputError, match=message):
        learn_weights(probabilities, bins, size)
    weight_CJ = np.full((size, 2), 0.5)
    if np.shape(probabilities)[-1] == 2:
        with pytest.raises(InputError, match=message):
            mix(probabilities, weight_CJ, bins)


def test_mixing_checks_the_weights():
    with pytest.raises(InputError, match="from 0 to 1"):
        mix(np.full((3, 2), 0.5), [[2.0, -1.0]])
    with pytest.raises(InputError, match="probabilities of 2 models and weights of 3"):
        mix(np.full((3, 2), 0.5), [[0.5, 0.25, 0.25]])
    with pytest.raises(InputError, match=r"expected \[bins, models\]"):
        mix(np.full((3, 2), 0.5), [0.5, 0.5])
