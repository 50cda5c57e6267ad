"""Ids, masks, windows and back, on vocabularies trained in memory."""

import dataclasses

import numpy as np
import pytest

from jaxgen.data.tokenizers import check_not_empty, check_vocabulary, train_tokenizer
from jaxgen.errors import InputError

CAPTIONS = ["a red cube on a blue ball", "the green ball is left of a small cube"]


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(CAPTIONS, 100, "words", length=8)


@pytest.fixture(scope="module")
def pieces():
    return train_tokenizer(CAPTIONS, 560, "bpe", length=12)


def test_start_end_and_padding(words):
    found = words.encode(["a red cube", ""])
    assert found.ids.dtype == np.int32
    assert found.ids.shape == found.mask.shape == (2, 8)
    assert (
        found.ids[0].tolist()
        == [2, *words.vocabulary.split(["a red cube"], False)[0].ids, 3] + [0] * 3
    )
    assert found.ids[1].tolist() == [2, 3] + [0] * 6
    assert found.mask.sum(1).tolist() == [5, 2]
    assert (found.ids[~found.mask] == words.pad).all()
    assert words.marks == 2


def test_padding_is_what_is_asked_for(words):
    other = dataclasses.replace(words, pad=3)
    assert other.encode(["a cube"]).ids[0, 3:].tolist() == [3] * 5
    assert other.decode(other.encode(CAPTIONS, length=20).ids) == CAPTIONS


def test_without_start_and_end(words):
    bare = dataclasses.replace(words, start=None, end=None)
    found = bare.encode(["a red cube", "cube"])
    assert bare.marks == 0
    assert found.mask.sum(1).tolist() == [3, 1]
    assert bare.decode(found.ids) == ["a red cube", "cube"]


def test_without_a_length_the_longest_text_decides(words):
    free = dataclasses.replace(words, length=None)
    assert free.encode(CAPTIONS).ids.shape == (2, 11)
    assert free.encode(["", ""]).ids.shape == (2, 2)
    assert free.encode([]).ids.shape == (0, 2)
    assert free.encode(CAPTIONS, length=15).ids.shape == (2, 15)


def test_texts_come_back(words, pieces):
    texts = ["a red cube", "the small ball", ""]
    for tokenizer in (words, pieces):
        assert tokenizer.decode(tokenizer.encode(texts, length=30).ids) == texts
    assert pieces.decode(pieces.encode(["ein ñandú 日本"], length=40).ids) == ["ein ñandú 日本"]


def test_a_long_text_is_an_error_that_shows_what_is_lost(words):
    with pytest.raises(InputError) as error:
        words.encode(["a cube", CAPTIONS[1]])
    assert str(error.value) == (
        "text 1 has 9 tokens, expected at most 6; 'a small cube' would be lost (truncate=True cuts "
        "it off, windows=2 lays it side by side)"
    )
    long = "cube " * 1000
    with pytest.raises(InputError, match="has 1000 tokens") as error:
        words.encode([long])
    assert len(str(error.value)) < 250
    with pytest.raises(InputError, match="at most 12; 'cube cube"):
        words.encode([long], windows=2)


def test_truncation_keeps_the_end(words):
    cut = words.encode([CAPTIONS[1]], truncate=True)
    whole = words.encode([CAPTIONS[1]], length=20)
    assert cut.ids[0].tolist() == [*whole.ids[0, :7].tolist(), words.end]
    assert cut.mask.all()
    assert words.decode(cut.ids) == ["the green ball is left of"]


def test_windows_are_texts_side_by_side(words):
    whole = words.vocabulary.split([CAPTIONS[1]], False)[0].ids
    found = words.encode([CAPTIONS[1], "a cube"], windows=3)
    assert found.ids.shape == (2, 24)
    first, second, third = found.ids[0].reshape(3, 8).tolist()
    assert first == [2, *whole[:6], 3]
    assert second == [2, *whole[6:], 3, 0, 0, 0]
    assert third == words.encode([""]).ids[0].tolist()
    assert found.ids[1, :8].tolist() == words.encode(["a cube"]).ids[0].tolist()
    assert words.decode(found.ids) == [CAPTIONS[1], "a cube"]
    assert found.word_indices[0].tolist() == [
        *(-1, 0, 1, 2, 3, 4, 5, -1),
        *(-1, 6, 7, 8, -1, -1, -1, -1),
        *[-1] * 8,
    ]
    assert words.count_windows(["a cube"]) == words.count_windows([]) == 1
    assert words.count_windows(CAPTIONS) == 2
    assert words.count_windows(["cube " * 13]) == 3


def test_special_tokens_are_text_unless_asked(words, pieces):
    text = "<|endoftext|> cube"
    assert pieces.end not in pieces.encode([text], length=30).ids[0, 1:4]
    assert pieces.decode(pieces.encode([text], length=30).ids) == ["<| endoftext |> cube"]
    asked = pieces.encode([text], length=30, special=True).ids[0]
    assert asked[:2].tolist() == [pieces.start, pieces.end]
    for kind, spelling in (("words", "<end>"), ("unigram", "</s>")):
        tokenizer = train_tokenizer(CAPTIONS, 100, kind)
        plain, meant = (
            tokenizer.encode([f"cube {spelling}"], special=special).ids[0].tolist()
            for special in (False, True)
        )
        assert plain.count(tokenizer.end) == 1
        assert meant.count(tokenizer.end) == 2


def test_end_ends_a_decoded_text(words):
    cube = words.vocabulary.ids["cube"]
    assert words.decode([[2, cube, 3, cube, 2, cube, 3, 0]]) == ["cube cube"]
    assert words.decode([[cube, cube, 0, 0]]) == ["cube cube"]
    no_start = dataclasses.replace(words, start=None)
    assert no_start.decode([[cube, 3, 0, 0, cube, 3]]) == ["cube cube"]


@pytest.mark.parametrize(
    ("texts", "options", "fault"),
    [
        (
            "a cube",
            {},
            "texts are the string 'a cube', expected a list of texts, such as \\['a cube'\\]",
        ),
        (["a", 3], {}, "text 1 is 3, expected a string"),
        (["a\ud800"], {}, "text 0: .* half of a surrogate pair"),
        (["a"], {"length": 2}, "length is 2, expected an integer above the 2 tokens around a text"),
        (["a"], {"windows": 0}, "windows is 0, expected a whole number from 1"),
        (["a"], {"windows": 1.5}, "windows is 1.5, expected a whole number from 1"),
    ],
)
def test_bad_texts(words, texts, options, fault):
    with pytest.raises(InputError, match=fault) as error:
        words.encode(texts, **options)
    assert "\n" not in str(error.value)


def test_bad_fields_and_ids(words):
    with pytest.raises(InputError, match=r"pad is 999, expected an id in \[0, 16\)"):
        dataclasses.replace(words, pad=999)
    with pytest.raises(InputError, match="clean is 'OpenAI', expected one of"):
        dataclasses.replace(words, clean="OpenAI")
    with pytest.raises(InputError, match="length is 1, expected an integer above the 2"):
        dataclasses.replace(words, length=1)
    with pytest.raises(InputError, match="ids contain the id 99"):
        words.decode([[2, 99]])
    with pytest.raises(InputError, match=r"ids have shape \(2,\), expected \[B, L\]"):
        words.decode([2, 3])
    free = dataclasses.replace(words, length=None)
    with pytest.raises(InputError, match="windows is 2, expected a length"):
        free.encode(["a"], windows=2)
    with pytest.raises(InputError, match="has no length"):
        free.count_windows(["a"])


def test_vocabulary_and_table_belong_together(words):
    for rows in (16, 64, 128):
        check_vocabulary(words, rows)
    with pytest.raises(InputError, match="has 16 ids and text_model has 15 rows, expected 16"):
        check_vocabulary(words, 15, "text_model")
    with pytest.raises(InputError, match="16 ids and the table of embeddings has 49408 rows"):
        check_vocabulary(words, 49408)


def test_empty_captions_are_counted(words):
    check_not_empty(words.encode(["a", "b"]))
    with pytest.raises(InputError) as error:
        check_not_empty(words.encode(["a", " \n", "b", ""]))
    assert str(error.value) == "2 of 4 captions are empty, the first is number 1, ' \\n'"


def test_called_it_gives_ids_and_mask(words):
    ids, mask = words(["a red cube", ""])
    found = words.encode(["a red cube", ""])
    np.testing.assert_array_equal(ids, found.ids)
    np.testing.assert_array_equal(mask, found.mask)
