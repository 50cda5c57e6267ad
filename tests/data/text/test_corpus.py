"""Streams, spans, and corpora made of them."""

import numpy as np
import pytest

from jaxgen.data import (
    UNKNOWN,
    Corpus,
    TokenStream,
    Vocabulary,
    make_corpus,
    spans_by_fraction,
    spans_by_size,
)
from jaxgen.errors import InputError

WORDS = TokenStream("text", ["a", "b", "a", "c", "a", "b", "d", "a", "b", "c"])


def test_spans_by_size_cover_the_text_in_order():
    assert spans_by_size(10, 5, 3) == {"train": (0, 5), "validation": (5, 8), "test": (8, 10)}


@pytest.mark.parametrize("total", [3, 10, 11, 999, 1_176_859])
def test_spans_by_fraction_cover_the_text_in_order(total):
    spans = spans_by_fraction(total, 1 / 3, 1 / 3)
    (a, b), (c, d), (e, f) = spans["train"], spans["validation"], spans["test"]
    assert (a, b, d, f) == (0, c, e, total)
    assert abs(b - total / 3) <= 0.5
    assert abs((d - c) - total / 3) <= 0.5


@pytest.mark.parametrize("sizes", [(5, 5), (9, 1), (0, 5), (5, 0)])
def test_a_text_too_short_for_its_parts(sizes):
    with pytest.raises(InputError, match=f"tiny: 10 words are too few for {sizes[0]} to train"):
        spans_by_size(10, *sizes, name="tiny")


@pytest.mark.parametrize("fractions", [(0.9, 0.1), (0.0, 0.5), (-1.0, 0.5), (float("nan"), 0.5)])
def test_fractions_that_leave_nothing(fractions):
    with pytest.raises(InputError, match="expected positive ones with a sum below 1"):
        spans_by_fraction(1000, *fractions)


def test_make_corpus_numbers_the_whole_stream():
    corpus = make_corpus(WORDS, spans_by_size(10, 6, 2), rare_frequency=1)
    assert corpus.vocabulary.words == ("a", "b", "c", UNKNOWN)
    assert corpus.tokens.dtype == np.int32
    assert corpus.tokens.tolist() == [0, 1, 0, 2, 0, 1, 3, 0, 1, 2]
    assert corpus.split("train").tolist() == [0, 1, 0, 2, 0, 1]
    assert corpus.split("validation").tolist() == [3, 0]
    assert corpus.split("test").tolist() == [1, 2]


def test_a_corpus_describes_itself():
    spans = spans_by_size(10, 6, 2)
    assert make_corpus(WORDS, spans, rare_frequency=1).describe() == (
        "text: 10 tokens (train 6, validation 2, test 2), |V| = 4, 10.0% unknown"
    )
    assert make_corpus(WORDS, spans, rare_frequency=0).describe().endswith("|V| = 4")


def test_vocabulary_from_the_training_part_alone():
    spans = spans_by_size(10, 6, 2)  # the training part is a b a c a b
    corpus = make_corpus(WORDS, spans, rare_frequency=1, vocabulary_from="train")
    assert corpus.vocabulary.words == ("a", "b", UNKNOWN)
    assert corpus.tokens.tolist() == [0, 1, 0, 2, 0, 1, 2, 0, 1, 2]
    # With no cut-off no training word is merged, and words of the other parts are still unknown.
    corpus = make_corpus(WORDS, spans, rare_frequency=0, vocabulary_from="train")
    assert corpus.vocabulary.words == ("a", "b", "c", UNKNOWN)
    assert (corpus.split("train") != corpus.vocabulary.unknown).all()
    assert corpus.split("validation").tolist() == [3, 0]


def test_default_spans_are_the_published_ones_else_fractions():
    published = {"train": (0, 2), "validation": (2, 4), "test": (4, 10)}
    assert make_corpus(TokenStream("t", WORDS.tokens, spans=published)).spans == published
    assert make_corpus(WORDS).spans == spans_by_fraction(10, 0.8, 0.1)


def test_an_unknown_span_is_named_with_those_that_exist():
    with pytest.raises(InputError, match="text: no span 'valid'; it has train, validation, test"):
        make_corpus(WORDS).split("valid")


@pytest.mark.parametrize(
    ("spans", "fault"),
    [
        ({"train": (0, 11)}, "span 'train' is 0 to 11, in a text of 10 words"),
        ({"train": (4, 4)}, "span 'train' is 4 to 4"),
        ({"train": (-1, 4)}, "span 'train' is -1 to 4"),
        ({"train": (0, 6), "test": (5, 10)}, "spans 'train' and 'test' overlap"),
    ],
)
def test_spans_that_do_not_fit(spans, fault):
    with pytest.raises(InputError, match=f"text: {fault}"):
        make_corpus(WORDS, spans)


def test_a_vocabulary_of_one_word():
    with pytest.raises(InputError, match="mono: a vocabulary of 1 word: there is nothing"):
        make_corpus(TokenStream("mono", ["a"] * 20), rare_frequency=0)
    with pytest.raises(InputError, match="text: a vocabulary of 1 word: there is nothing"):
        make_corpus(WORDS, rare_frequency=100)
    with pytest.raises(InputError, match="c: a vocabulary of 1 word"):
        Corpus("c", Vocabulary(("a",)), np.zeros(3, np.int32), {"train": (0, 3)})


@pytest.mark.parametrize(
    ("stream", "arguments", "fault"),
    [
        (TokenStream("void", []), {}, "void: no words"),
        (WORDS, {"vocabulary_from": "half"}, "text: vocabulary_from is 'half'"),
        (
            WORDS,
            {"vocabulary_from": "train", "spans": {"a": (0, 5), "b": (5, 10)}},
            r"expected 'all', or 'train' for a text with that span \(it has a, b\)",
        ),
    ],
)
def test_bad_streams_and_choices(stream, arguments, fault):
    with pytest.raises(InputError, match=fault):
        make_corpus(stream, **arguments)


def test_as_many_tags_as_words():
    with pytest.raises(InputError, match="t: 1 tags for 2 words"):
        TokenStream("t", ["a", "b"], tags=["x"])
