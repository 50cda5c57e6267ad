"""Vocabularies from texts in memory, and files of them that are opened again."""

import dataclasses
import json

import numpy as np
import pytest
from hard_texts import HARD_TEXTS

from jaxgen.data.tokenizers import open_tokenizer, save_tokenizer, train_tokenizer
from jaxgen.data.tokenizers.clip_vocabulary import byte_symbols
from jaxgen.errors import InputError

CAPTIONS = ["a red cube on a blue ball", "the green ball is left of a small Cube"] * 3


def test_words_by_frequency():
    tokenizer = train_tokenizer(CAPTIONS, 7)
    assert list(tokenizer.vocabulary.ids) == [
        "<pad>",
        "<unk>",
        "<start>",
        "<end>",
        "a",
        "ball",
        "cube",
    ]
    assert tokenizer.encode(["A cube, red"]).ids.tolist() == [[2, 4, 6, 1, 1, 3]]


def test_words_and_signs_are_put_together_as_people_write_them(tmp_path):
    texts = ["a red cube (at the top), left of a ball; what? [yes!] no: 3."]
    tokenizer = train_tokenizer(texts, 60)
    save_tokenizer(tokenizer, tmp_path)
    for each in (tokenizer, open_tokenizer(tmp_path)):
        assert each.decode(each.encode([*texts, "A CUBE;left"]).ids) == [*texts, "a cube; left"]


def test_bpe_has_every_byte_and_the_merges_of_its_texts():
    tokenizer = train_tokenizer(["aaab aaab aaab"], 517, "bpe")
    ids = tokenizer.vocabulary.ids
    assert list(ids)[:256] == byte_symbols()
    assert len(set(byte_symbols())) == 256
    assert list(ids)[256:258] == ["!</w>", '"</w>']
    # By hand: "a a" occurs twice in each word, then "aa a", "aaa b</w>" or "a b</w>", "aa ab</w>".
    assert tokenizer.size == 517
    assert "aa" in ids
    assert "aaab</w>" in ids
    texts = [text.strip() for text in HARD_TEXTS]
    for found in tokenizer.vocabulary.split(texts, special=False):
        assert set(found.ids) <= set(range(515))  # neither start nor end, which is the unknown one


@pytest.mark.parametrize(("kind", "size"), [("words", 60), ("bpe", 530), ("unigram", 40)])
def test_saved_and_opened_again(tmp_path, kind, size):
    tokenizer = train_tokenizer(CAPTIONS, size, kind, length=30)
    files = save_tokenizer(tokenizer, tmp_path)
    assert sorted(path.name for path in files) == ["tokenizer.json", "tokenizer_config.json"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        opened = open_tokenizer(path)
        kept = ("pad", "start", "end", "length", "size")
        assert [getattr(opened, k) for k in kept] == [getattr(tokenizer, k) for k in kept]
        for special in (False, True):
            ours, theirs = (
                t.encode(HARD_TEXTS, truncate=True, special=special) for t in (tokenizer, opened)
            )
            np.testing.assert_array_equal(ours.ids, theirs.ids)
            np.testing.assert_array_equal(ours.spans, theirs.spans)


def test_no_length_is_kept_too(tmp_path):
    save_tokenizer(train_tokenizer(CAPTIONS, 530, "bpe"), tmp_path)
    assert open_tokenizer(tmp_path).length is None
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "CLIPTokenizer"
    assert config["pad_token"] == "!"


@pytest.mark.parametrize(
    ("texts", "size", "kind", "fault"),
    [
        (["a"], 10, "letters", "kind is 'letters', expected one of"),
        (["", " "], 10, "words", "texts are all empty"),
        ([], 10, "words", "texts are all empty"),
        ("a cube", 10, "words", "texts are the string 'a cube'"),
        (["a"], 4, "words", "size is 4, expected more than the 4 ids of every words one"),
        (["a"], 500, "bpe", "size is 500, expected more than the 514 ids of every bpe one"),
    ],
)
def test_bad_settings(texts, size, kind, fault):
    with pytest.raises(InputError, match=fault):
        train_tokenizer(texts, size, kind)


def test_a_vocabulary_of_ones_own_is_not_saved(tmp_path):
    class Letters:
        size = 300

    tokenizer = dataclasses.replace(train_tokenizer(["a"], 9), vocabulary=Letters())
    with pytest.raises(InputError, match="vocabulary is a Letters, expected one of a file"):
        save_tokenizer(tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []
