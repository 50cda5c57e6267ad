"""Smoothing, pruning and merging of back-off models, against recursions and closed forms."""

import itertools

import numpy as np
import pytest
from ngram_references import known_words, ngrams, random_text, some_contexts

from jaxgen.errors import InputError
from jaxgen.lm.contexts import SentenceMarks
from jaxgen.lm.evaluation import perplexity
from jaxgen.lm.merging import merge_backoff_models
from jaxgen.lm.ngram import (
    count_ngrams,
    fit_absolute_discounting,
    fit_add_k,
    fit_kneser_ney,
    fit_witten_bell,
    prune,
)

SIZE, ORDER = 7, 3
MARKS = SentenceMarks(start=5, end=6)
METHODS = {
    "kneser-ney": lambda counts: fit_kneser_ney(counts, discounts=[(0.4, 0.8, 1.2)] * ORDER),
    "witten-bell": fit_witten_bell,
    "absolute": fit_absolute_discounting,
    "add-k": fit_add_k,
    "witten-bell, back-off": lambda counts: fit_witten_bell(counts, interpolated=False),
    "absolute, back-off": lambda counts: fit_absolute_discounting(counts, False, [1, 1, 2]),
}


def sentence_text(seed=0, count=60):
    """Sentences of the words 0 ... 4 (one of them unseen), each followed by </s>."""
    rng = np.random.default_rng(seed)
    text = []
    for _ in range(count):
        text += [*rng.choice(4, rng.integers(1, 6), p=[0.5, 0.25, 0.15, 0.1]), MARKS.end]
    return np.array(text)


def counts_of(tokens, order, marks):
    """Occurrences of n-grams by order in a text with one <s> before each sentence, by hand."""
    if marks is None:
        return [ngrams(tokens, k) for k in range(1, order + 1)]
    result = [ngrams([], k) for k in range(1, order + 1)]
    sentence = [marks.start]
    for word in tokens.tolist():
        sentence.append(word)
        for k in range(1, min(order, len(sentence)) + 1):
            result[k - 1][tuple(sentence[-k:])] += 1
        if word == marks.end:
            sentence = [marks.start]
    return result


def reference(method, tokens, marks, context):
    """[P(w | context) for every word] by recursion over the context."""
    by_order = counts_of(tokens, ORDER, marks)
    uniform = np.ones(SIZE)
    if marks is not None:
        uniform[marks.start] = 0.0
    uniform /= uniform.sum()

    def distribution(context):
        table = by_order[len(context)]
        n = np.array([table[*context, w] for w in range(SIZE)], float)
        lower = distribution(context[1:]) if context else uniform
        if n.sum() == 0:
            return lower
        if method == "witten-bell":
            seen = (n > 0).sum()
            return (n + seen * lower) / (n.sum() + seen)
        counts = list(table.values())
        once, twice = counts.count(1), counts.count(2)
        discount = once / (once + 2 * twice) if once and twice else 0.5
        return (np.maximum(n - discount, 0) + discount * (n > 0).sum() * lower) / n.sum()

    return distribution(context)


@pytest.mark.parametrize("marks", [None, MARKS], ids=["stream", "sentences"])
@pytest.mark.parametrize("method", ["witten-bell", "absolute"])
def test_distributions_follow_the_formulas(method, marks):
    tokens = sentence_text() if marks else random_text(0, 150, SIZE)
    model = METHODS[method](count_ngrams(tokens, ORDER, SIZE, marks))
    contexts = some_contexts(1, tokens, ORDER, SIZE)
    for context, got in zip(contexts, model.distributions(contexts), strict=True):
        expected = reference(method, tokens, marks, known_words(context))
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("marks", [None, MARKS], ids=["stream", "sentences"])
@pytest.mark.parametrize("k", [1.0, 0.1])
def test_add_k_is_lidstone(k, marks):
    tokens = sentence_text() if marks else random_text(0, 150, SIZE)
    model = fit_add_k(count_ngrams(tokens, ORDER, SIZE, marks), k)
    by_order = counts_of(tokens, ORDER, marks)
    words = [w for w in range(SIZE) if marks is None or w != marks.start]
    whole = [*itertools.product(range(SIZE), repeat=ORDER - 1)]
    if marks is not None:  # the context (w, <s>) is that of the sentence's beginning
        whole = [context for context in whole if marks.start not in context[1:]]
    begins = [] if marks is None else [(marks.start,)]
    for context in [*whole, *begins]:
        table = by_order[len(context)]
        n = np.array([table[*context, w] for w in range(SIZE)], float)
        expected = np.zeros(SIZE)
        expected[words] = (n[words] + k) / (n.sum() + k * len(words))
        padded = np.array([[-1] * (ORDER - 1 - len(context)) + list(context)])
        np.testing.assert_allclose(model.distributions(padded)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("marks", [None, MARKS], ids=["stream", "sentences"])
def test_every_method_sums_to_one_and_knows_every_word(method, marks):
    tokens = sentence_text() if marks else random_text(0, 150, SIZE)
    model = METHODS[method](count_ngrams(tokens, ORDER, SIZE, marks))
    contexts = some_contexts(2, tokens, ORDER, SIZE)
    p_NV = model.distributions(contexts)
    np.testing.assert_allclose(p_NV.sum(axis=1), 1.0, atol=1e-12)
    is_positive = np.arange(SIZE) != (marks.start if marks else -1)
    assert ((p_NV > 0) == is_positive).all()


def test_kneser_ney_by_sentence_counts_the_first_words_by_occurrence():
    # Sentences "a", "a", "b a": a is after <s> twice, so P(a | <s>) = (2 - D) / 3 + ... although
    # nothing ever precedes <s>; as a unigram it follows two different words, <s> and b.
    tokens = np.array([0, 6, 0, 6, 1, 0, 6])
    d = 0.5
    model = fit_kneser_ney(count_ngrams(tokens, 2, SIZE, MARKS), discounts=[(d, d, d)] * 2)
    # Different predecessors: a 2 (<s>, b), b 1 (<s>), </s> 1 (a); 6 words share what is left.
    unigram_a = (2 - d) / 4 + 3 * d / 4 / (SIZE - 1)
    expected = (2 - d) / 3 + 2 * d / 3 * unigram_a
    contexts = np.array([[MARKS.start]])
    assert model.probabilities(contexts, np.array([0]))[0] == pytest.approx(expected, rel=1e-12)
    third = fit_kneser_ney(count_ngrams(tokens, 3, SIZE, MARKS), discounts=[(d, d, d)] * 3)
    begin = third.probabilities(np.array([[-1, MARKS.start]]), np.array([0]))[0]
    assert begin == pytest.approx(expected, rel=1e-12)


def all_contexts(order):
    return np.array([*itertools.product(range(-1, SIZE), repeat=order - 1)])


def divergence(before, after, context, word):
    """The relative entropy of two models over all words that follow one context, by summation."""
    p = 1.0
    for i, w in enumerate(context):
        padded = np.array([[-1] * (before.order - 1 - i) + list(context[:i])])
        p *= before.probabilities(padded, np.array([w]))[0]
    padded = np.array([[-1] * (before.order - 1 - len(context)) + list(context)])
    p_V, q_V = before.distributions(padded)[0], after.distributions(padded)[0]
    return p * float(np.sum(p_V * (np.log(p_V) - np.log(q_V))))


def test_pruning_takes_what_the_relative_entropy_allows():
    # Bigrams: each of them that goes changes the distribution after its own context alone, so the
    # divergence of the pruned model is what the formula says.
    tokens = random_text(3, 300, SIZE)
    model = fit_witten_bell(count_ngrams(tokens, 2, SIZE))
    index = model.indexes[1]
    rises = {}
    words_of = model.contexts.words(1)[:, 0]
    for threshold in np.geomspace(1e-6, 0.3, 130):
        smaller = prune(model, float(threshold))
        gone = set(index.keys.tolist()) - set(smaller.indexes[1].keys.tolist())
        for key in gone - rises.keys():
            rises[key] = float(threshold)
        by_context = {key // SIZE for key in gone}
        for c in by_context:
            alone = [key for key in gone if key // SIZE == c]
            if len(alone) == 1:
                w = words_of[c]
                rise = np.expm1(divergence(model, smaller, (w,), alone[0] % SIZE))
                assert rise <= threshold
                first = rises[alone[0]]
                assert rise >= first / 1.11 or first < 2e-6  # the threshold before kept it
    assert len(rises) > 10


@pytest.mark.parametrize("marks", [None, MARKS], ids=["stream", "sentences"])
@pytest.mark.parametrize("method", ["kneser-ney", "witten-bell, back-off"])
def test_a_pruned_model_sums_to_one_and_keeps_its_perplexity(method, marks):
    tokens = sentence_text(1, 300) if marks else random_text(1, 1500, SIZE)
    model = METHODS[method](count_ngrams(tokens, ORDER, SIZE, marks))
    sizes, before = [], perplexity(model, tokens, 0, len(tokens))
    for threshold in (0.0, 1e-4, 1e-3, 1e-2, 1.0):
        smaller = prune(model, threshold, marks)
        p_NV = smaller.distributions(all_contexts(ORDER))
        np.testing.assert_allclose(p_NV.sum(axis=1), 1.0, atol=1e-12)
        for listed, kept in zip(smaller.indexes, model.indexes, strict=True):
            assert set(listed.keys.tolist()) <= set(kept.keys.tolist())
        sizes.append(sum(map(len, smaller.indexes)))
        after = perplexity(smaller, tokens, 0, len(tokens))
        assert after < before * 1.03 or threshold > 1e-4
        tables = smaller.tables()  # contexts of all n-grams are listed, as ARPA files want
        again = type(smaller).from_tables(*tables, SIZE)
        np.testing.assert_allclose(again.distributions(all_contexts(ORDER)), p_NV, atol=1e-9)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == SIZE
    with pytest.raises(InputError, match="threshold is -1"):
        prune(model, -1)


def test_a_merged_model_is_the_mixture_for_all_listed_ngrams():
    first, second = random_text(5, 200, SIZE), random_text(6, 100, SIZE)
    models = [
        fit_witten_bell(count_ngrams(first, ORDER, SIZE)),
        fit_kneser_ney(count_ngrams(second, 2, SIZE), discounts=[(0.5, 0.9, 1.3)] * 2),
    ]
    weights = [0.3, 0.7]
    merged = merge_backoff_models(models, weights)
    assert merged.order == ORDER
    p_NV = merged.distributions(all_contexts(ORDER))
    np.testing.assert_allclose(p_NV.sum(axis=1), 1.0, atol=1e-12)
    expected_NV = sum(
        w * m.distributions(all_contexts(ORDER)) for w, m in zip(weights, models, strict=True)
    )
    texts = ((first, ORDER), (second, 2))
    listed = {g for text, order in texts for k in range(1, order + 1) for g in ngrams(text, k)}
    checked = 0
    for context, got, expected in zip(all_contexts(ORDER), p_NV, expected_NV, strict=True):
        words = known_words(context)
        if len(words) < (context >= 0).sum():
            continue
        for w in range(SIZE):
            if (*words, w) in listed:
                assert got[w] == pytest.approx(expected[w], rel=1e-12)
                checked += 1
    assert checked > 100
    alone = merge_backoff_models([models[0], models[0]], [0.5, 0.5])
    np.testing.assert_allclose(
        alone.distributions(all_contexts(ORDER)),
        models[0].distributions(all_contexts(ORDER)),
        rtol=1e-9,
    )
    with pytest.raises(InputError, match="expected a BackoffModel"):
        merge_backoff_models([object()], [1.0])


def test_what_cannot_be_smoothed():
    counts = count_ngrams(random_text(0, 50, SIZE), 2, SIZE)
    for make, message in [
        (lambda: fit_add_k(counts, 0.0), "k is 0.0, expected a finite number > 0"),
        (lambda: fit_absolute_discounting(counts, discounts=[1.0, 0.5]), "expected 2 numbers in"),
        (lambda: fit_absolute_discounting(counts, discounts=[0.5]), "expected 2 numbers in"),
        (lambda: fit_witten_bell(counts, minimum_counts=[1]), "1 minimum counts, expected 2"),
        (lambda: count_ngrams(np.array([0, 1]), 2, SIZE, MARKS), "does not end with </s>"),
        (lambda: count_ngrams(np.array([5, 6]), 2, SIZE, MARKS), "text has <s>, expected"),
        (lambda: count_ngrams(np.array([6]), 2, SIZE, SentenceMarks(9, 6)), "contain the id 9"),
        (lambda: count_ngrams(np.array([6]), 2, SIZE, SentenceMarks(6, 6)), "are both 6"),
    ]:
        with pytest.raises(InputError, match=message):
            make()
