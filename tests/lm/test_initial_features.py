import jax
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.lm.initial_features import align_vectors, init_from_vectors
from jaxgen.lm.nplm import NPLMConfig

WORDS = ("<unk>", "a", "b", "c", "d")


def test_the_table_is_filled_by_word_and_nothing_else_changes():
    module = NPLMConfig(5, order=2, features=3, hidden=2).make_model()
    boxed = module.init(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    vectors = np.arange(9, dtype=np.float64).reshape(3, 3)
    filled = init_from_vectors(boxed, WORDS, ["c", "z", "a"], vectors)
    assert jax.tree.structure(filled) == jax.tree.structure(boxed)  # boxes and names too
    before, after = (jax.tree.map(np.asarray, tree) for tree in (boxed, filled))
    table, random = after["context"]["C"].value, before["context"]["C"].value
    np.testing.assert_array_equal(table[3], vectors[0])
    np.testing.assert_array_equal(table[1], vectors[2])
    np.testing.assert_array_equal(table[[0, 2, 4]], random[[0, 2, 4]])
    after["context"]["C"] = before["context"]["C"]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, after, before)))


def test_vectors_by_vocabulary():
    table, found = align_vectors(WORDS, ["c", "z"], np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(table[:, 0], [0, 0, 0, 1, 0])
    np.testing.assert_array_equal(found, [False, False, False, True, False])


def test_what_does_not_fit():
    params = {"C": np.zeros((5, 3))}
    for words, vector_words, shape, message in [
        (WORDS, ["a"], (1, 2), "vectors have 2 numbers for 5 words, expected those"),
        (WORDS, ["a", "b"], (1, 3), r"vectors have shape \(1, 3\), expected \[2, m\]"),
        (WORDS, ["x"], (1, 3), "none of the 5 words"),
        ("abc", ["a"], (1, 3), "words are the string"),
        ((*WORDS, "e"), ["a"], (1, 3), "vectors have 3 numbers for 6 words"),
    ]:
        with pytest.raises(InputError, match=message):
            init_from_vectors(params, words, vector_words, np.zeros(shape))
    with pytest.raises(InputError, match="parameters have 0 tables named C"):
        init_from_vectors({"D": np.zeros((5, 3))}, WORDS, ["a"], np.zeros((1, 3)))
