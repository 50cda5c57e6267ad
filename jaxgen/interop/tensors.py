"""Parameters as the named tensors of other programs, in both directions, bit by bit.

For each parameter of ours a `Rule` says which tensors hold it and how their axes are turned:
PyTorch stores a linear layer (out, in) and a convolution (out, in, height, width), we store
(in, out) and (height, width, in, out), with heads and the like as axes of their own. One table of
rules serves reading and writing, so that the two cannot disagree.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import InputError
from jaxgen.typing import Tree

Arrays = Sequence[np.ndarray]


class Rule(NamedTuple):
    """How one parameter is held by tensors.

    Attributes:
      names: The tensors.
      split: From the parameter to the tensors.
      join: From the tensors and the parameter's shape to the parameter.
    """

    names: tuple[str, ...]
    split: Callable[[np.ndarray], Arrays]
    join: Callable[[Arrays, tuple[int, ...]], np.ndarray]


RuleOf = Callable[[str], Rule | None]
"""From a parameter's path ("blocks_0/mlp/hidden/kernel") to its rule; None: there is no tensor."""


def same(name: str) -> Rule:
    """A tensor with the parameter's axes: a table, or the scale of a norm."""
    return Rule((name,), lambda x: [x], lambda tensors, shape: tensors[0])


def bias(name: str) -> Rule:
    """A bias: one axis there, whatever axes its layer's outputs have here."""
    return Rule(
        (name,), lambda x: [x.reshape(-1)], lambda tensors, shape: tensors[0].reshape(shape)
    )


def linear(name: str, inputs: int = 1) -> Rule:
    """The kernel of a linear layer, (out, in) there.

    Args:
      name: The tensor.
      inputs: How many of the first axes here are inputs; both sides are flat there.
    """

    def split(x: np.ndarray) -> Arrays:
        rows = int(np.prod(x.shape[:inputs]))
        return [x.reshape(rows, -1).T]

    return Rule((name,), split, lambda tensors, shape: tensors[0].T.reshape(shape))


def conv(name: str) -> Rule:
    """The kernel of a convolution over images: (out, in, Y, X) there, (Y, X, in, out) here."""
    return Rule(
        (name,),
        lambda x: [x.transpose(3, 2, 0, 1)],
        lambda tensors, shape: tensors[0].transpose(2, 3, 1, 0),
    )


def patches(name: str, patch: int) -> Rule:
    """A linear layer on patches here, (P P C, out), that is a convolution there, (out, C, P, P)."""

    def split(x: np.ndarray) -> Arrays:
        return [x.reshape(patch, patch, -1, x.shape[-1]).transpose(3, 2, 0, 1)]

    def join(tensors: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        return tensors[0].transpose(2, 3, 1, 0).reshape(shape)

    return Rule((name,), split, join)


def stacked(rules: Sequence[Rule], axis: int) -> Rule:
    """A parameter whose slices along an axis are tensors of their own (queries, keys, values)."""

    def split(x: np.ndarray) -> Arrays:
        parts = np.moveaxis(x, axis, 0)
        return [rule.split(part)[0] for rule, part in zip(rules, parts, strict=True)]

    def join(tensors: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        slice_shape = shape[:axis] + shape[axis + 1 :]
        parts = [r.join([t], slice_shape) for r, t in zip(rules, tensors, strict=True)]
        return np.stack(parts, axis)

    return Rule(tuple(rule.names[0] for rule in rules), split, join)


def swapped(rule: Rule, axis: int, other: int) -> Rule:
    """A parameter of which a tensor holds two axes the other way round."""

    def split(x: np.ndarray) -> Arrays:
        return rule.split(np.swapaxes(x, axis, other))

    def join(tensors: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        swapped_shape = np.swapaxes(np.empty(shape, bool), axis, other).shape
        return np.swapaxes(rule.join(tensors, swapped_shape), axis, other)

    return Rule(rule.names, split, join)


def copied(rules: Sequence[Rule]) -> Rule:
    """A parameter that is there several times; the copies must be equal bit by bit."""
    names = tuple(rule.names[0] for rule in rules)

    def join(tensors: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        for name, tensor in zip(names, tensors, strict=True):
            if tensor.tobytes() != tensors[0].tobytes():
                raise InputError(
                    f"tensor {name!r} differs from {names[0]!r}, of which the model here has one, "
                    "expected copies"
                )
        return rules[0].join(tensors[:1], shape)

    return Rule(names, lambda x: [rule.split(x)[0] for rule in rules], join)


def params_from_tensors(
    tensors: Mapping[str, np.ndarray],
    like: Tree,
    rule_of: RuleOf,
    ignored: Collection[str] = (),
    dtype: str | None = "float32",
    name: str | None = None,
) -> Tree:
    """The parameters that tensors hold.

    Args:
      tensors: Arrays by name, for instance a `TensorFile`, of which one tensor at a time is read.
      like: The model's parameters, or their abstract values (`jaxgen.parallel.plan_layout`).
      rule_of: The rules.
      ignored: Names that may be there and are not used.
      dtype: The type of the parameters; None: that of the tensors.
      name: See `name_of`.

    Returns:
      A tree of numpy arrays with the structure and the shapes of ``like``.

    Raises:
      InputError: For the first tensor, in the order of the model's names, that is missing, has
        another shape, or is not of floating-point numbers; then for the first that the model
        has not.
    """
    where = name_of(tensors, name)
    rules = _rules(like, rule_of)
    found = {
        path: _read(where, tensors, path, rule, shape, dtype)
        for path, (rule, shape) in rules.items()
    }
    used = {name for rule, _ in rules.values() for name in rule.names} | set(ignored)
    for name in sorted(set(tensors) - used, key=_natural):
        raise InputError(f"{where}: tensor {name!r} is no part of the model")
    paths, structure = _paths(like)
    return jax.tree.unflatten(structure, [found[path] for path in paths])


def tensors_from_params(
    params: Tree, rule_of: RuleOf, dtype: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors that hold parameters; the inverse of `params_from_tensors`.

    Args:
      params: The parameters.
      rule_of: The rules.
      dtype: The type of the tensors, for instance "bfloat16"; None: that of the parameters.

    Raises:
      InputError: For a parameter that the other program's model has not.
    """
    paths, _ = _paths(params)
    values = dict(zip(paths, jax.tree.leaves(params), strict=True))
    tensors: dict[str, np.ndarray] = {}
    for path, (rule, _) in _rules(params, rule_of).items():
        value = np.asarray(values[path])
        if dtype is not None:
            value = value.astype(jnp.dtype(dtype))
        tensors |= zip(rule.names, rule.split(value), strict=True)
    return tensors


def name_of(tensors: Mapping[str, Any], name: str | None) -> str:
    """What errors call a checkpoint: a name that is given, the path of a `TensorFile`, or that."""
    return name or str(getattr(tensors, "path", "checkpoint"))


def numbers(names: Collection[str], pattern: str) -> int:
    """One more than the largest number that a pattern's group matches among names; 0 for none."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _natural(name: str) -> list[str | int]:
    """What to sort names by so that block 2 comes before block 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _paths(tree: Tree) -> tuple[list[str], Any]:
    """The leaves' paths in the tree's order, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves], structure


def _rules(like: Tree, rule_of: RuleOf) -> dict[str, tuple[Rule, tuple[int, ...]]]:
    """Each parameter's rule and shape, in natural order."""
    paths, _ = _paths(like)
    shapes = dict(zip(paths, (leaf.shape for leaf in jax.tree.leaves(like)), strict=True))
    rules = {}
    for path in sorted(paths, key=_natural):
        rule = rule_of(path)
        if rule is None:
            raise InputError(f"parameter {path} has no counterpart under these names")
        rules[path] = rule, shapes[path]
    return rules


def _read(
    where: str,
    tensors: Mapping[str, np.ndarray],
    path: str,
    rule: Rule,
    shape: tuple[int, ...],
    dtype: str | None,
) -> np.ndarray:
    """One parameter, from tensors whose shapes are checked first."""
    expected = [part.shape for part in rule.split(np.broadcast_to(np.uint8(0), shape))]
    parts = []
    for name, wanted in zip(rule.names, expected, strict=True):
        if name not in tensors:
            raise InputError(f"{where}: no tensor {name!r}, expected shape {wanted} for {path}")
        part = tensors[name]
        if part.shape != wanted:
            raise InputError(
                f"{where}: tensor {name!r} has shape {part.shape}, expected {wanted} for {path}"
            )
        if not jnp.issubdtype(part.dtype, jnp.floating):
            raise InputError(
                f"{where}: tensor {name!r} has type {part.dtype}, expected floating-point numbers"
            )
        parts.append(part)
    try:
        value = rule.join(parts, shape)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return np.ascontiguousarray(value if dtype is None else value.astype(jnp.dtype(dtype)))
