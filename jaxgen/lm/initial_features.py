"""Word features that start from vectors of another program (word2vec, GloVe, an earlier run)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32

from jaxgen.errors import InputError
from jaxgen.ids import check_not_string
from jaxgen.typing import Tree


def align_vectors(
    words: Sequence[str], vector_words: Sequence[str], vectors_ND: Float[np.ndarray, "N D"]
) -> tuple[Float32[np.ndarray, "V D"], Bool[np.ndarray, "V"]]:
    """The vectors of a vocabulary's words.

    Args:
      words: the vocabulary, id -> word.
      vector_words: the words that have a vector, all different.
      vectors_ND: their vectors.

    Returns:
      A table [V, D], zero where there is no vector, and which words have one [V].

    Raises:
      InputError: if words and vectors differ in number, or no word has a vector.
    """
    check_not_string(words, "words")
    check_not_string(vector_words, "vector words")
    vectors_ND = np.asarray(vectors_ND, np.float32)
    if vectors_ND.ndim != 2 or len(vector_words) != len(vectors_ND):
        raise InputError(
            f"vectors have shape {vectors_ND.shape}, expected [{len(vector_words)}, m]: "
            "a row for each word"
        )
    row_of = {word: row for row, word in enumerate(vector_words)}
    row_V = np.array([row_of.get(word, -1) for word in words])
    found_V = row_V >= 0
    if not found_V.any():
        raise InputError(
            f"none of the {len(words)} words of the vocabulary is among the {len(vector_words)} "
            "words with vectors"
        )
    return np.where(found_V[:, None], vectors_ND[row_V], np.float32(0)), found_V


def init_from_vectors(
    params: Tree,
    words: Sequence[str],
    vector_words: Sequence[str],
    vectors_ND: Float[np.ndarray, "N D"],
) -> Tree:
    """Parameters whose table C has given vectors where its words have one.

    Rows of other words, and all other parameters, are as they were.

    Args:
      params: a network's parameters with one table named "C", [V or more, m]; boxed or not.
      words: the vocabulary, id -> word.
      vector_words: the words that have a vector.
      vectors_ND: their vectors, D = m.

    Raises:
      InputError: as `align_vectors`, or where the width is not m, or there is no table C or more
        than one.
    """
    table_VD, found_V = align_vectors(words, vector_words, vectors_ND)
    filled = []

    def fill(path: tuple[object, ...], leaf: jax.Array) -> jax.Array:
        if not any(getattr(key, "key", None) == "C" for key in path):
            return leaf
        filled.append(leaf)
        if leaf.shape[1] != table_VD.shape[1] or leaf.shape[0] < len(words):
            raise InputError(
                f"vectors have {table_VD.shape[1]} numbers for {len(words)} words, expected those "
                f"of a table C of shape {leaf.shape}"
            )
        more = leaf.shape[0] - len(words)
        found_V1 = jnp.pad(jnp.asarray(found_V), (0, more))[:, None]
        vectors_VD = jnp.pad(jnp.asarray(table_VD, leaf.dtype), ((0, more), (0, 0)))
        return jnp.where(found_V1, vectors_VD, leaf)

    result = jax.tree_util.tree_map_with_path(fill, params)
    if len(filled) != 1:
        raise InputError(f"parameters have {len(filled)} tables named C, expected one")
    return result
