"""Normalisation of token streams."""

import pytest
from texts import BROWN, write_zip

from jaxgen.data import TokenStream, read_brown
from jaxgen.data.text.normalise import (
    ap_news_style,
    compose,
    guess_proper_nouns,
    join_tags,
    lower_case,
    merge_numbers,
    merge_proper_nouns,
    merge_rare_words,
)
from jaxgen.errors import InputError


def stream(text: str, tags: str | None = None) -> TokenStream:
    return TokenStream("t", text.split(), tags.split() if tags else None, {"train": (0, 1)})


def test_lower_case_keeps_everything_else():
    before = stream("The CAT Sat", "at np vb")
    after = lower_case(before)
    assert after.tokens == ["the", "cat", "sat"]
    assert (after.name, after.tags, after.spans) == (before.name, before.tags, before.spans)


@pytest.mark.parametrize(
    "number",
    [
        "7",
        "1,000",
        "3.14",
        "$3.50",
        "12:30",
        "1960-61",
        "'61",
        "50%",
        "19th",
        "1960s",
        "1960's",
        "2nd",
        "(202)",
        "+1",
        "1/2",
        "٣",
    ],
)
def test_numeric_forms(number):
    assert merge_numbers(stream(number)).tokens == ["<num>"]


@pytest.mark.parametrize(
    "word", ["a", ".", "--", "x86", "B-52", "10-year", "3rds", "one", "$", "4x", "s", "..."]
)
def test_other_forms_are_no_numbers(word):
    assert merge_numbers(stream(word)).tokens == [word]


def test_proper_nouns_by_brown_and_penn_tags():
    tags = "at np np-tl nps np$ np$-tl fw-np np+bez np-hl nn nr NNP NNPS NN"
    words = " ".join(f"w{i}" for i in range(14))
    merged = merge_proper_nouns(stream(words, tags), symbol="N").tokens
    assert merged == ["w0", *"NNNNNNNN", "w9", "w10", "N", "N", "w13"]


def test_proper_nouns_of_untagged_text():
    text = "The Jury met . Jury said John saw Smith . We saw the jury and I saw Smith's May . Dogs"
    # John, Smith, Smith's and May: capitalised inside a sentence and never in lower case. Not Jury
    # (also "jury"), The, We, Dogs (only at starts) or I.
    assert guess_proper_nouns(text.split()) == {"John", "Smith", "Smith's", "May"}
    merged = merge_proper_nouns(stream("Smith met John ." + " He saw Smith"), "N").tokens
    assert merged == ["N", "met", "N", ".", "He", "saw", "N"]


def test_sentence_starts_after_opening_signs_and_marks():
    assert guess_proper_nouns(
        ["he", "went", ".", '"', "Then", "(", "Now", "<p>", "Here", ";", "Next"]
    ) == {"Now"}


def test_rare_words_of_the_whole_stream():
    assert merge_rare_words(stream("a b a c b a"), 2).tokens == [
        "a",
        "<unk>",
        "a",
        *["<unk>"] * 2,
        "a",
    ]
    with pytest.raises(InputError, match="frequency is -1"):
        merge_rare_words(stream("a"), -1)


def test_join_tags(tmp_path):
    tagged = read_brown(write_zip(tmp_path / "b.zip", BROWN), tags=True)
    joined = join_tags(tagged).tokens
    assert joined[:4] == ["The/at", "Jury/nn-tl", "said/vbd", "either/or/cc"]
    assert joined[8] == "<p>"
    with pytest.raises(InputError, match="t: no part-of-speech tags"):
        join_tags(stream("a"))


def test_compose_applies_the_first_step_first():
    add = lambda mark: lambda s: TokenStream(s.name, [t + mark for t in s.tokens])  # noqa: E731
    assert compose(add("1"), add("2"))(stream("x")).tokens == ["x12"]
    assert compose()(stream("x")).tokens == ["x"]


def test_ap_news_style():
    text = "The Cat saw 12 cats in Rome . the cat saw 3 Cats in Rome ; Ask the cat"
    assert " ".join(ap_news_style(stream(text), rare_frequency=1).tokens) == (
        "the cat saw <num> cats in <name> <unk> the cat saw <num> cats in <name> <unk> <unk>"
        " the cat"
    )


def test_the_guess_against_the_tags_of_the_brown_corpus(data_folder):
    tagged = read_brown(data_folder / "brown" / "brown.zip", tags=True)
    by_tag = merge_proper_nouns(tagged).tokens
    guessed = merge_proper_nouns(TokenStream("brown", tagged.tokens)).tokens
    is_name = [token == "<name>" for token in by_tag]
    hits = sum(a and b == "<name>" for a, b in zip(is_name, guessed, strict=True))
    assert sum(is_name) == 43_193
    assert hits / guessed.count("<name>") > 0.84  # precision
    assert hits / sum(is_name) > 0.86  # recall
