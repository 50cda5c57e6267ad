"""Which tokens belong to which words."""

import numpy as np
import pytest

from jaxgen.data.tokenizers import Tokenized, train_tokenizer
from jaxgen.errors import InputError

TEXT = "A red cube, the cubes' reddish ñandú-cube!"


@pytest.fixture(scope="module", params=["words", "bpe", "unigram"])
def tokenized(request):
    sizes = {"words": 40, "bpe": 530, "unigram": 40}
    tokenizer = train_tokenizer(["a red cube"] * 9, sizes[request.param], request.param)
    return tokenizer.encode([f"  {TEXT} ", "cube"])


def test_every_token_belongs_to_a_word_in_order(tokenized):
    assert tokenized.words(0) == TEXT.split()
    row = tokenized.word_indices[0]
    inner = row[row >= 0]
    assert (np.diff(inner) >= 0).all()
    assert set(inner.tolist()) == set(range(7))
    marks = (tokenized.spans[0, :, 0] < 0) == (row < 0)
    assert marks.all()


def test_the_spans_of_a_word_are_its_characters(tokenized):
    text = tokenized.texts[0]
    for i, word in enumerate(text.split()):
        spans = tokenized.spans[0][tokenized.word_indices[0] == i]
        first, stop = spans[:, 0].min(), spans[:, 1].max()
        assert text[first:stop].strip() == word


def test_positions_of_phrases(tokenized):
    text, first = tokenized.texts[0], tokenized.first_characters[0]
    for phrase, occurrences in (("cube", 2), ("RED", 1), ("red cube", 1), ("reddish", 1)):
        starts = text[first[tokenized.positions(0, phrase)[0]] :]
        assert starts.lower().startswith(phrase.lower())
        found = tokenized.positions(0, phrase)
        assert (np.diff(found) > 0).all()
        begins = {c for c in first[found] if text[c:].lower().startswith(phrase.lower())}
        assert len(begins) == occurrences
    both = np.union1d(tokenized.positions(0, "red"), tokenized.positions(0, "cube"))
    assert set(tokenized.positions(0, "red cube")) < set(both.tolist())


def test_white_space_before_pieces_counts_to_their_word():
    """T5's "▁" alone stands for a blank, or for nothing at the beginning."""
    spans = np.array([[[0, 0], [0, 1], [1, 2], [2, 4], [-1, -1]]], np.int32)
    found = Tokenized(np.zeros((1, 5), np.int32), np.ones((1, 5), bool), spans, ("a cat",))
    assert found.word_indices.tolist() == [[0, 0, 1, 1, -1]]
    assert found.positions(0, "cat").tolist() == [2, 3]


def test_words_that_are_not_there(tokenized):
    for phrase in ("cub", "sphere", ""):
        with pytest.raises(InputError, match=f"does not hold the word '{phrase}'"):
            tokenized.positions(0, phrase)
    with pytest.raises(InputError, match="example is 3, expected 0 to 1"):
        tokenized.positions(3, "cube")


def test_words_that_were_cut_off():
    tokenizer = train_tokenizer(["a red cube"], 20, length=4)
    cut = tokenizer.encode(["a red cube"], truncate=True)
    assert cut.positions(0, "red").tolist() == [2]
    with pytest.raises(InputError, match="tokens of 'cube' were cut off the text 'a red cube'"):
        cut.positions(0, "cube")
