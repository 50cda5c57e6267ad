"""Vocabularies: the paper's recipe, order of the words, encoding, files."""

from collections import Counter

import numpy as np
import pytest

from jaxgen.data import UNKNOWN, Vocabulary, count_vocabulary
from jaxgen.errors import InputError

TEXT = ["b", "a", "c", "a", "b", "d", "a", "e", "c"]  # a 3, b 2, c 2, d 1, e 1


def zipf_text(words: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"w{i}" for i in rng.zipf(1.5, words) % 400]


def test_words_by_falling_frequency_and_ties_by_first_appearance():
    vocabulary = count_vocabulary(TEXT)
    assert vocabulary == Vocabulary(("a", "b", "c", "d", "e"), None)


def test_rare_words_become_one_word_at_the_place_of_its_frequency():
    # d and e together have frequency 2, like b and c, which appear earlier.
    assert count_vocabulary(TEXT, 1) == Vocabulary(("a", "b", "c", UNKNOWN), 3)
    # b, c, d, e together have frequency 6.
    assert count_vocabulary(TEXT, 2) == Vocabulary((UNKNOWN, "a"), 0)


@pytest.mark.parametrize("rare", [0, 1, 3, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_recipe_against_a_reference(rare, seed):
    text = zipf_text(3000, seed)
    counts = Counter(text)
    merged = [UNKNOWN if counts[word] <= rare else word for word in text]
    # Counter.most_common is stable: ties stay in order of first appearance.
    expected = [word for word, _ in Counter(merged).most_common()]
    vocabulary = count_vocabulary(text, rare)
    assert list(vocabulary.words) == expected
    assert vocabulary.decode(vocabulary.encode(text)) == merged
    assert (np.diff(np.bincount(vocabulary.encode(text))) <= 0).all()


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_maximum_size_counts_the_unknown_word(size):
    vocabulary = count_vocabulary(TEXT, 0, size)
    assert len(vocabulary) == min(size, 5)
    kept = [word for word in vocabulary.words if word != UNKNOWN]
    assert kept == ["a", "b", "c", "d", "e"][: size - 1 if size < 5 else 5]
    assert (vocabulary.unknown is None) == (size >= 5)


def test_maximum_size_applies_after_the_cut_off():
    assert count_vocabulary(TEXT, 1, 4).words == ("a", "b", "c", UNKNOWN)
    assert count_vocabulary(TEXT, 1, 3).words == (UNKNOWN, "a", "b")


def test_unknown_of_the_text_itself_is_the_unknown_word():
    vocabulary = count_vocabulary(["x", UNKNOWN, "x", "y"])
    assert vocabulary == Vocabulary(("x", UNKNOWN, "y"), 1)
    assert vocabulary.encode(["z"]).tolist() == [1]


def test_always_unknown_puts_a_word_that_never_occurs_last():
    assert count_vocabulary(TEXT, always_unknown=True).words[-1] == UNKNOWN
    assert count_vocabulary(["x", "x"], always_unknown=True) == Vocabulary(("x", UNKNOWN), 1)


def test_encode_is_int32_and_maps_strangers_to_unknown():
    vocabulary = count_vocabulary(TEXT, 1)
    ids = vocabulary.encode(["a", "d", "never", "c"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 3, 3, 2]
    assert vocabulary.encode(iter(["a"])).tolist() == [0]
    assert vocabulary.encode([]).shape == (0,)


def test_a_stranger_without_unknown_is_an_error():
    with pytest.raises(InputError, match="'zz' is not in the vocabulary"):
        count_vocabulary(TEXT).encode(["a", "zz"])


@pytest.mark.parametrize("bad", [-1, 5])
def test_decode_refuses_ids_outside(bad):
    with pytest.raises(InputError, match=f"id {bad} is outside the vocabulary of 5 words"):
        count_vocabulary(TEXT).decode([0, bad])


@pytest.mark.parametrize(
    ("words", "unknown", "fault"),
    [
        (("a", "b", "a"), None, "'a' occurs twice"),
        (("a", ""), None, "word 1 is empty"),
        (("a", UNKNOWN), None, "`unknown` is None, but '<unk>' has the id 1"),
        (("a", "b"), 1, "`unknown` is 1, but '<unk>' has the id None"),
    ],
)
def test_inconsistent_vocabularies_are_refused(words, unknown, fault):
    with pytest.raises(InputError, match=fault):
        Vocabulary(words, unknown)


@pytest.mark.parametrize("arguments", [{"rare_frequency": -1}, {"maximum_size": 1}])
def test_senseless_recipes_are_refused(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        count_vocabulary(TEXT, **arguments)


def test_a_string_is_no_list_of_words():
    vocabulary = Vocabulary((UNKNOWN, "the", "cat"), 0)
    with pytest.raises(InputError, match=r"tokens are the string 'the cat', expected a list"):
        vocabulary.encode("the cat")
    with pytest.raises(InputError, match="tokens are the string b'the', expected a list"):
        vocabulary.encode(b"the")
    with pytest.raises(InputError, match="tokens contain 7, a int, expected words"):
        vocabulary.encode(["the", 7])
    with pytest.raises(InputError, match="tokens are the string 'the cat', expected a list"):
        count_vocabulary("the cat")
    with pytest.raises(InputError, match="tokens contain 1, a int, expected words"):
        count_vocabulary(["a", 1])
    with pytest.raises(InputError, match="words are the string 'ab', expected a list"):
        Vocabulary("ab")
    for ids in ("12", ["1", "2"], [1.0], [True], [[1, 2]]):
        with pytest.raises(InputError, match=r"expected (integer ids|one dimension)"):
            vocabulary.decode(ids)
    for text in (["the", "cat"], ("the", "cat"), iter(["the", "cat"]), np.array(["the", "cat"])):
        assert vocabulary.decode(vocabulary.encode(text)) == ["the", "cat"]
    assert vocabulary.decode(iter(np.array([1, 2], np.uint8))) == ["the", "cat"]
    assert vocabulary.decode([]) == []


def test_saved_equals_loaded(tmp_path):
    words = ("the", "naïve", "\u2028", "a b", UNKNOWN, "'", "\x85")
    vocabulary = Vocabulary(words, 4)
    vocabulary.save(tmp_path / "words.txt")
    assert Vocabulary.load(tmp_path / "words.txt") == vocabulary
    assert [file.name for file in tmp_path.iterdir()] == ["words.txt"]


@pytest.mark.parametrize("word", ["x\ny", "\r"])
def test_a_word_with_a_line_break_cannot_be_saved(tmp_path, word):
    target = tmp_path / "words.txt"
    with pytest.raises(InputError, match=r"words\.txt: word 1, .* holds a line break"):
        Vocabulary(("a", word)).save(target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"a\n\nb\n", "line 2: an empty word"),
        (b"a\nb\na\n", "'a' occurs twice"),
        (b"a\n\xff\n", "byte 0xff at offset 2"),
    ],
)
def test_bad_vocabulary_files(tmp_path, content, fault):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"words.txt.*{fault}"):
        Vocabulary.load(file)


def test_a_missing_vocabulary_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Vocabulary.load(tmp_path / "nowhere")
