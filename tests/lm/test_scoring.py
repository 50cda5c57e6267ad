"""Scores of sentences: probabilities, perplexities as SRILM's and KenLM's, and hits, by hand."""

import dataclasses
import math

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.interop.ngram_tables import NgramTables
from jaxgen.lm import (
    SentenceMarks,
    SentenceModel,
    TextModel,
    perplexity,
    score,
    score_sentences,
    score_text,
    within_sentences,
)
from jaxgen.lm.generate import generate
from jaxgen.lm.ngram import count_ngrams, fit_interpolated, fit_kneser_ney, fit_witten_bell

WORDS = ("<unk>", "<s>", "</s>", "a", "b")
TABLES = NgramTables(
    WORDS,
    (
        np.array([[0], [1], [2], [3], [4]]),
        np.array([[1, 3], [3, 4], [4, 2], [0, 3]]),
        np.array([[1, 3, 4]]),
    ),
    (np.array([-1.5, -99, -0.9, -0.5, -0.7]), np.array([-0.2, -0.3, -0.4, -0.6]), np.array([-0.1])),
    (np.array([-0.05, -0.3, 0, -0.2, -0.15]), np.array([-0.25, -0.35, 0, 0]), np.zeros(1)),
)


@pytest.fixture(scope="module")
def model():
    return TextModel.from_tables(TABLES)


def test_each_word_by_hand(model):
    scored = score(model, "a b c a")
    expected = [
        ("a", -0.2, 2, False),
        ("b", -0.1, 3, False),
        ("c", -0.35 - 0.15 - 1.5, 1, True),  # a b and b back off to <unk>
        ("a", -0.6, 2, False),
        ("</s>", -0.2 - 0.9, 1, False),  # <unk> a is no listed context
    ]
    for word, (text, log10, length, is_unknown) in zip(scored.words, expected, strict=True):
        assert (word.word, word.ngram_length, word.is_unknown) == (text, length, is_unknown)
        assert word.log10 == pytest.approx(log10, abs=1e-12)
    total = -0.2 - 0.1 - 2.0 - 0.6 - 1.1
    assert scored.log10 == pytest.approx(total, abs=1e-12)
    assert scored.perplexity == pytest.approx(10 ** (-total / 5), rel=1e-12)
    assert scored.ppl == pytest.approx(10 ** (2.0 / 4), rel=1e-12)
    assert scored.ppl1 == pytest.approx(10 ** (2.0 / 3), rel=1e-12)
    assert (scored.unknown, scored.ends, scored.zero) == (1, 1, 0)
    assert scored.hits == {1: 2, 2: 2, 3: 1}
    without = score(model, ["a", "b"], start=False, end=False)
    np.testing.assert_allclose([w.log10 for w in without.words], [-0.5, -0.3], atol=1e-12)


def test_a_text_is_its_sentences_together(model):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["a", "b", "c"], n)) for n in rng.integers(1, 9, 900)]
    together = score_sentences(model, texts)  # in several batches
    assert [t.words for t in together[:50]] == [score(model, t).words for t in texts[:50]]
    of_text = score_text(model, texts)
    assert of_text.log10 == pytest.approx(sum(t.log10 for t in together), rel=1e-12)
    assert sum(of_text.hits.values()) == len(of_text.words) > 4096
    assert of_text.ends == 900
    assert score_text(model, []).words == ()
    assert math.isnan(score_text(model, []).perplexity)
    assert [w.word for w in score(model, "").words] == ["</s>"]


def test_words_outside_without_a_word_for_them():
    closed = TextModel.from_tables(TABLES.onto(["<s>", "</s>", "a", "b"]))
    scored = score(closed, "a c b")
    assert scored.words[1].log10 == -math.inf
    assert scored.perplexity == math.inf
    assert (scored.unknown, scored.zero) == (1, 0)
    total = -0.2 - 0.7 - 0.4
    # The lost word is no context either.
    assert scored.ppl == pytest.approx(10 ** (-total / 3), rel=1e-6)


def test_the_size_of_the_open_vocabulary_makes_models_compare():
    # Both give 1/10 to each of ten words: one knows all of them, the other eight and "the rest".
    all_words = ("</s>", *(f"w{i}" for i in range(9)))
    few = ("</s>", *(f"w{i}" for i in range(7)), "<unk>")
    large = TextModel.from_tables(flat_tables(all_words, np.full(10, 0.1)))
    small = TextModel.from_tables(flat_tables(few, np.append(np.full(8, 0.1), 0.2)))
    text = "w0 w7 w3 w8 w8"
    options = {"start": False, "open_vocabulary": 10}
    assert score(small, text, **options).perplexity == pytest.approx(10, rel=1e-12)
    assert score(large, text, start=False).perplexity == pytest.approx(10, rel=1e-12)
    assert score(small, text, start=False).perplexity < 8
    assert score(small, "<unk>", **options).words[0].log10 == pytest.approx(-1, abs=1e-12)
    with pytest.raises(InputError, match="open_vocabulary is 8, expected more than the 8 words"):
        score(small, text, start=False, open_vocabulary=8)


def flat_tables(words, p_V):
    ids = np.arange(len(words))[:, None]
    return NgramTables(words, (ids,), (np.log10(p_V),), (np.zeros(len(words)),))


def test_a_stream_of_sentences_and_its_sentences_have_one_perplexity():
    words, text = ("<s>", "</s>", "a", "b", "c"), ["a b", "b c a", "a", "c c b a b", "b"] * 5
    ids = {word: i for i, word in enumerate(words)}
    stream = np.array([ids[w] for line in text for w in [*line.split(), "</s>"]])
    marks = SentenceMarks(0, 1)
    model = fit_witten_bell(count_ngrams(stream, 3, len(words), marks))
    by_sentence = score_text(TextModel(model, words), text).perplexity
    on_stream = perplexity(SentenceModel(model, marks), stream, 0, len(stream))
    assert on_stream == pytest.approx(by_sentence, rel=1e-12)
    # The first word of a sentence is seen after <s>, not after the sentence before.
    assert perplexity(model, stream, 0, len(stream)) > 1.05 * by_sentence
    contexts = np.array([[2, 3, 4], [2, 1, 4], [-1, 2, 3], [2, 1, 1], [4, 0, 3]])
    expected = [[2, 3, 4], [0, 0, 4], [0, 2, 3], [0, 0, 0], [0, 0, 3]]
    np.testing.assert_array_equal(within_sentences(contexts, marks), expected)


def test_weights_of_an_interpolated_model_are_fitted_by_sentence():
    rng = np.random.default_rng(0)
    text = [[*rng.integers(2, 7, n), 1] for n in rng.integers(1, 6, 90)]
    stream, marks = np.concatenate(text), SentenceMarks(0, 1)
    stop = sum(map(len, text[:60]))
    counts = count_ngrams(stream[:stop], 3, 7, marks)
    within = fit_interpolated(counts, stream, stop, len(stream))
    alone = fit_interpolated(counts, stream[stop:], 0, len(stream) - stop)
    np.testing.assert_allclose(within.weight_CJ, alone.weight_CJ, rtol=1e-12)
    crossing = dataclasses.replace(counts, marks=None)
    other = fit_interpolated(crossing, stream, stop, len(stream))
    assert np.abs(within.weight_CJ - other.weight_CJ).max() > 1e-3


def test_sentences_are_written_until_they_end():
    stream = np.array([2, 3, 1, 2, 3, 4, 1, 2, 4, 1] * 3)
    marks = SentenceMarks(0, 1)
    with pytest.warns(UserWarning, match="Kneser-Ney discounts"):
        model = fit_kneser_ney(count_ngrams(stream, 3, 5, marks))
    for seed in range(20):
        ids = generate(model, [0, 0], 50, seed, forbid=[0], stop=1)
        assert (ids[:-1] > 1).all()
        assert ids[-1] == 1 or len(ids) == 50


def test_what_cannot_be_scored(model):
    for make, message in [
        (lambda: score(model, "a <s> b"), "sentence has the word <s>"),
        (lambda: score(model, [b"a", "</s>"]), "sentence has the word </s>"),
        (lambda: TextModel(model.model, ("a", "b")), "words are 2, expected the 5 words"),
        (lambda: TextModel(model.model, ("a", "a", "b", "c", "d")), "contain one twice"),
        (lambda: TextModel(model.model, "abcde"), "words are the string"),
        (lambda: SentenceModel(model.model, SentenceMarks(1, 1)), "are both 1"),
    ]:
        with pytest.raises(InputError, match=message):
            make()
    stream = TextModel.from_tables(TABLES.onto(["a", "b", "<unk>"]))
    with pytest.raises(InputError, match="model has no word </s>"):
        score(stream, "a b")
    with pytest.raises(InputError, match="model has no word <s>"):
        score(stream, "a b", end=False)
    assert len(score(stream, "a b", start=False, end=False).words) == 2
