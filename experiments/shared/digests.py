"""Digests: short texts that tell data and settings apart, wherever they came from."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxgen.typing import Tree

from jaxgen.data import Corpus, ImageSet
from jaxgen.parallel import current_mesh, replicated

_LETTERS = 16


def digest_of(*parts: Any) -> str:
    """A digest of values, the same in every process and on every machine.

    Args:
      parts: arrays, dataclasses, mappings, tuples, lists, strings, numbers, booleans and None,
        nested as they like. Equal values of other types (1, 1.0, True) are other values.

    Raises:
      TypeError: for anything else.
    """
    state = hashlib.sha256()
    for piece in _pieces(parts):
        # Lengths keep pieces apart: ("ab", "c") is not ("a", "bc").
        state.update(len(piece).to_bytes(8, "little"))
        state.update(piece)
    return state.hexdigest()[:_LETTERS]


def _pieces(value: Any) -> Iterator[bytes | memoryview]:
    if value is None or isinstance(value, str | bool | int | float):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, np.ndarray | np.generic):
        yield f"array {value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for name, item in value.items():
            yield from _pieces(name)
            yield from _pieces(item)
    elif isinstance(value, tuple | list):
        yield f"sequence {len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__.encode()
        for field in dataclasses.fields(value):
            yield from _pieces(field.name)
            yield from _pieces(getattr(value, field.name))
    else:
        raise TypeError(f"no digest of a {type(value).__name__}: {value!r}")


def corpus_digest(corpus: Corpus) -> str:
    """A digest of a text: its words, their order and its parts, not its name."""
    return digest_of(corpus.tokens, corpus.vocabulary.text, corpus.spans)


def images_digest(images: ImageSet) -> str:
    """A digest of a set of images: pixels, labels, classes and parts, not its name."""
    return digest_of(images.images, images.labels, images.classes, images.parts)


def params_digest(params: Tree) -> str:
    """A digest of parameters, however they are sharded over the current mesh."""
    gather = jax.jit(lambda tree: tree, out_shardings=replicated(current_mesh()))
    return tree_digest(gather(params))


def tree_digest(tree: Tree) -> str:
    """A digest of a tree of arrays that this process has whole."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return digest_of({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
