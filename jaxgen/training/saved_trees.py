"""Trees as a checkpoint sees them: arrays by path, and whether those saved fit those asked for."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import traverse_util

from jaxgen.typing import Tree

Names = tuple[str, ...]
"""The path of an array: ``("params", "hidden", "kernel")``."""


@dataclass(frozen=True)
class Padding:
    """Which axes may have another length than in the checkpoint.

    Attributes:
      axes: logical axis names of every array to load, a tuple per leaf (`state_axes`, or the `axes`
        of a `Layout` for parameters).
      sizes: logical axis -> its true size. Along such an axis, entries from the true size on are
        padding: zeros are added, or entries dropped, until the array has the length asked for.
    """

    axes: Tree
    sizes: Mapping[str, int]


def by_path(tree: Tree) -> dict[Names, Any]:
    """Leaves by path, in the tree's order. A path does not tell which containers held its array."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path): leaf
        for path, leaf in leaves
    }


def nested(leaves: Mapping[Names, Any]) -> Tree:
    """Nested dicts from leaves by path."""
    return traverse_util.unflatten_dict(leaves)


def flat(tree: Tree) -> dict[Names, Any]:
    """The reverse of `nested`."""
    return traverse_util.flatten_dict(tree)


def padded_sizes(
    paths: Iterable[Names], abstract: Tree, padding: Padding | None
) -> dict[Names, dict[int, int]]:
    """Path -> dimension -> true size, for the dimensions that may be padded.

    Args:
      paths: what the leaves of `abstract` are called, in its order.
      abstract: the tree that `padding.axes` has a tuple for every leaf of.
      padding: which axes; None for none.
    """
    if padding is None:
        return {}
    axes: list[Names] = []
    jax.tree.map(lambda leaf, names: axes.append(names), abstract, padding.axes)
    return {
        path: {d: padding.sizes[name] for d, name in enumerate(names) if name in padding.sizes}
        for path, names in zip(paths, axes, strict=True)
    }


def differences(
    saved: Mapping[Names, Any],
    expected: Mapping[Names, Any],
    padded: Mapping[Names, Mapping[int, int]],
) -> list[str]:
    """What of a checkpoint does not fit, one line for each array: path, found and expected.

    Args:
      saved: path -> something with ``shape`` and ``dtype``.
      expected: the same, for the arrays asked for.
      padded: dimensions that may differ in length from their true size on; see `padded_sizes`.
    """
    problems = []
    for names in sorted({*saved, *expected}):
        path = "/".join(names)
        if names not in saved:
            problems.append(f"{path} is missing, expected {_describe(expected[names])}")
        elif names not in expected:
            problems.append(f"{path} is not expected; found {_describe(saved[names])}")
        elif not _fits(saved[names], expected[names], padded.get(names, {})):
            problems.append(
                f"{path} has {_describe(saved[names])}, expected {_describe(expected[names])}"
            )
    return problems


def _fits(saved: Any, expected: Any, padded: Mapping[int, int]) -> bool:
    """Whether dtypes are equal, and shapes but for padding."""
    if saved.dtype != expected.dtype or len(saved.shape) != len(expected.shape):
        return False
    return all(
        a == b or min(a, b) >= padded.get(dimension, math.inf)
        for dimension, (a, b) in enumerate(zip(saved.shape, expected.shape, strict=True))
    )


def _describe(array: Any) -> str:
    return f"shape {tuple(array.shape)}, dtype {array.dtype}"
