"""Maps between the tokens of two prompts: swaps, refinements, factors."""

import numpy as np
import pytest

from jaxgen.data.tokenizers import train_tokenizer
from jaxgen.data.tokenizers.prompt_maps import (
    align_tokens,
    refinement_map,
    reweighted,
    swap_map,
)
from jaxgen.data.tokenizers.tokenized import Tokenized
from jaxgen.errors import InputError

WORDS = train_tokenizer(["a small red green circle at the top left on bright grey ground"], 64)


def tokens(*prompts):
    return WORDS.encode(prompts)


def test_a_swap_gives_each_word_the_place_of_its_counterpart():
    found = swap_map(tokens("a red circle", "a green circle"))
    length = found.map_NM.shape[0]
    np.testing.assert_array_equal(found.map_NM, np.eye(length))
    np.testing.assert_array_equal(found.kept_M, 1)


def test_the_tokens_of_a_word_are_shared_in_equal_parts():
    """ "ab cde f" for "x y z" in pieces: two tokens for one, one for three."""
    ids = np.array([[9, 1, 2, 3, 8, 0], [9, 4, 5, 6, 7, 8]])
    spans = np.array(
        [
            [(-1, -1), (0, 1), (1, 2), (3, 4), (-1, -1), (-1, -1)],
            [(-1, -1), (0, 1), (2, 3), (3, 4), (4, 5), (-1, -1)],
        ]
    )
    prompts = Tokenized(ids.astype(np.int32), ids > 0, spans.astype(np.int32), ("ab c", "a bcd"))
    found = swap_map(prompts).map_NM
    np.testing.assert_allclose(found[1], [0, 1, 0, 0, 0, 0])  # a word of two tokens for one of one
    np.testing.assert_allclose(found[2], [0, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(found[3], [0, 0, 1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(found[0], np.eye(6)[0])
    np.testing.assert_allclose(found[4], np.eye(6)[5])  # the end stays the end


def test_a_refinement_keeps_what_is_left():
    prompts = tokens("a red circle at the left", "a small red circle on the left")
    found = refinement_map(prompts)
    words = [WORDS.decode([[int(i)]])[0] for i in prompts.ids[1]]
    kept = [word for word, kept in zip(words, found.kept_M, strict=True) if kept]
    assert [word for word in kept if word] == ["a", "red", "circle", "the", "left"]
    original = [WORDS.decode([[int(i)]])[0] for i in prompts.ids[0]]
    for m in np.flatnonzero(found.kept_M):
        assert original[int(found.map_NM[:, m].argmax())] == words[m]
        assert found.map_NM[:, m].sum() == 1


def longest_common(a, b):
    """The length of the longest common subsequence, by trying all."""
    best = 0
    for chosen in range(1 << len(a)):
        rest, i = [x for k, x in enumerate(a) if chosen >> k & 1], 0
        for x in b:
            i += i < len(rest) and rest[i] == x
        best = max(best, len(rest) if i == len(rest) else 0)
    return best


def test_alignments_are_the_longest_in_order():
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = rng.integers(4, size=rng.integers(1, 8)), rng.integers(4, size=rng.integers(1, 8))
        index = align_tokens(a, b)
        partners = index[index >= 0]
        assert (np.diff(partners) > 0).all()
        assert (a[partners] == b[index >= 0]).all()
        assert len(partners) == longest_common(a.tolist(), b.tolist())


def test_factors_are_those_of_the_words_that_are_named():
    prompts = tokens("a red circle", "a green circle")
    found = reweighted(swap_map(prompts), prompts, {"green": 2.0, "circle": -1.0})
    at = {word: int(prompts.positions(1, word)[0]) for word in ("a", "green", "circle")}
    assert found.factor_M[at["green"]] == 2
    assert found.factor_M[at["circle"]] == -1
    assert found.factor_M[at["a"]] == 1
    with pytest.raises(InputError, match="does not hold the word 'blue'"):
        reweighted(found, prompts, {"blue": 2.0})


def test_a_swap_of_other_lengths_is_refused():
    message = "'a red circle', 3 words, for 'a small red circle', 4, expected as many"
    with pytest.raises(InputError, match=message):
        swap_map(tokens("a red circle", "a small red circle"))
