"""Parameters as the named tensors of other programs, in both directions, bit by bit.

For each parameter of ours a `Rule` says which tensors hold it and how their axes are turned:
PyTorch stores a linear layer (out, in) and a convolution (out, in, height, width), we store
(in, out) and (height, width, in, out), with heads and the like as axes of their own. One table of
rules serves reading and writing, so that the two cannot disagree.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import InputError
from jaxgen.typing import Tree

DTYPES_OF_WEIGHTS = ("float32", "float16", "bfloat16")
"""What parameters and their tensors may be turned into; as they are, they may have any."""

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


def convolution(name: str) -> Rule:
    """The kernel of a convolution of any rank: (out, in, sides) there, (sides, in, out) here."""
    return Rule(
        (name,),
        lambda x: [np.moveaxis(x, (-1, -2), (0, 1))],
        lambda tensors, shape: np.moveaxis(tensors[0], (0, 1), (-1, -2)),
    )


def patches(name: str, patch: int | Sequence[int]) -> Rule:
    """A linear layer on patches here, (P P C, out), that is a convolution there, (out, C, P, P).

    Args:
      name: The tensor.
      patch: P, or a side for each axis of the convolution.
    """
    sides = (patch, patch) if isinstance(patch, int) else tuple(patch)

    def split(x: np.ndarray) -> Arrays:
        return [np.moveaxis(x.reshape(*sides, -1, x.shape[-1]), (-1, -2), (0, 1))]

    def join(tensors: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        return np.moveaxis(tensors[0], (0, 1), (-1, -2)).reshape(shape)

    return Rule((name,), split, join)


def with_ones(name: str, before: int = 0, behind: int = 0) -> Rule:
    """A tensor with the parameter's axes, and so many of size 1 before and behind them."""
    return Rule(
        (name,),
        lambda x: [x.reshape(*(1,) * before, *x.shape, *(1,) * behind)],
        lambda tensors, shape: tensors[0].reshape(shape),
    )


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
      dtype: The type of the parameters, one of `DTYPES_OF_WEIGHTS`; None: that of the tensors.
      name: See `name_of`.

    Returns:
      A tree of numpy arrays with the structure and the shapes of ``like``.

    Raises:
      InputError: For the first tensor, in the order of the model's names, that is missing, has
        another shape, is not of floating-point numbers, or has numbers that the type does not
        hold; then for the first that the model has not. For another type.
    """
    check_weight_dtype(dtype)
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
      dtype: The type of the tensors, one of `DTYPES_OF_WEIGHTS`; None: that of the parameters.

    Raises:
      InputError: For a parameter that the other program's model has not, or one with numbers that
        the type does not hold; for another type.
    """
    check_weight_dtype(dtype)
    paths, _ = _paths(params)
    values = dict(zip(paths, jax.tree.leaves(params), strict=True))
    tensors: dict[str, np.ndarray] = {}
    for path, (rule, _) in _rules(params, rule_of).items():
        value = np.asarray(values[path])
        if dtype is not None:
            value = _as_type(value, dtype, f"tensor {rule.names[0]!r}")
        tensors |= zip(rule.names, rule.split(value), strict=True)
    return tensors


class Renamed(Mapping[str, np.ndarray]):
    """Tensors under other names; read as lazily as the mapping that it wraps.

    Attributes:
      path: That of the mapping, see `name_of`.
      config: That of the mapping, if it is a `TensorFile`.
    """

    def __init__(
        self, tensors: Mapping[str, np.ndarray], rename: Callable[[str], str | None]
    ) -> None:
        """Looks at the names.

        Args:
          tensors: Arrays by name.
          rename: From a name to the new one, or to None for a tensor that is left out.
        """
        self.path = getattr(tensors, "path", "checkpoint")
        self.config = getattr(tensors, "config", None)
        self._tensors = tensors
        self._names = {new: name for name in tensors if (new := rename(name)) is not None}

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one tensor."""
        return self._tensors[self._names[name]]

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name; reads nothing."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._names)


def without_prefix(
    tensors: Mapping[str, np.ndarray],
    markers: Collection[str],
    prefix: str | None = None,
    name: str | None = None,
) -> Mapping[str, np.ndarray]:
    """Tensors by what their names say after a prefix, such as ``module.``, ``model.`` or ``ema.``.

    Args:
      tensors: Arrays by name.
      markers: Names without prefix, of which every such checkpoint has one.
      prefix: The prefix; tensors with others are left out. None: the one that all names have in
        common, if the markers tell one.
      name: See `name_of`.

    Returns:
      The tensors themselves where there is no prefix.

    Raises:
      InputError: Where no name has the prefix; where the markers tell several (of parameters and
        of their moving average, say), or one that other tensors have not.
    """
    where = name_of(tensors, name)
    if prefix is not None:
        if not any(each.startswith(prefix) for each in tensors):
            raise InputError(f"{where}: no tensor's name begins with prefix={prefix!r}")
    else:
        ends = tuple(f".{marker}" for marker in markers)
        marked = [each for each in tensors if each.endswith(ends)]
        if not marked or any(marker in tensors for marker in markers):
            return tensors
        found = sorted({_prefix(each, ends) for each in marked})
        if len(found) > 1:
            raise InputError(
                f"{where}: has tensors of several networks, under {', '.join(found)}, expected "
                f"one, or prefix={found[0]!r}, say"
            )
        prefix = found[0]
        for each in tensors:
            if not each.startswith(prefix):
                raise InputError(
                    f"{where}: tensor {each!r} has not the prefix {prefix!r} of the network's, "
                    f"expected it in all names, or prefix={prefix!r}, which leaves others out"
                )
    length = len(prefix)
    return Renamed(tensors, lambda each: each[length:] if each.startswith(prefix) else None)


def _prefix(name: str, ends: tuple[str, ...]) -> str:
    """What stands before the longest of some ends, with its dot."""
    end = max((end for end in ends if name.endswith(end)), key=len)
    return name[: -len(end) + 1]


def check_weight_dtype(dtype: str | None) -> None:
    """Raises InputError for a type that is none of `DTYPES_OF_WEIGHTS`; None is no type."""
    if dtype is not None and dtype not in DTYPES_OF_WEIGHTS:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES_OF_WEIGHTS)}")


def _as_type(value: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """Numbers in another type, which has to hold the largest of them."""
    with np.errstate(over="ignore"):  # refused below
        kept = value.astype(jnp.dtype(dtype))
    if np.any(np.isinf(kept) & np.isfinite(value)):
        largest = np.abs(value[np.isfinite(value)]).max()
        raise InputError(
            f"{what} has numbers up to {float(largest):.4g}, expected what {dtype} holds; bfloat16 "
            "has the range of float32"
        )
    return kept


def check_array(where: str, name: str, value: Any) -> None:
    """Refuses values other than arrays of numpy or JAX, tensors of PyTorch among them.

    Raises:
      InputError: Saying what it is.
    """
    if isinstance(value, np.ndarray | jax.Array):
        return
    kind = type(value)
    if kind.__module__.split(".")[0] == "torch":
        raise InputError(
            f"{where}: tensor {name!r} is a torch.{kind.__name__}, expected a numpy array; "
            "x.detach().float().cpu().numpy() makes one of each, or write them with "
            "safetensors.torch.save_file"
        )
    raise InputError(f"{where}: tensor {name!r} is a {kind.__name__}, expected a numpy array")


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
        check_array(where, name, part)
        if part.shape != wanted:
            raise InputError(
                f"{where}: tensor {name!r} has shape {part.shape}, expected {wanted} for {path}"
            )
        if not jnp.issubdtype(part.dtype, jnp.floating):
            raw = "; raw bytes of bfloat16: .view('bfloat16')" if part.dtype.str == "|V2" else ""
            raise InputError(
                f"{where}: tensor {name!r} has type {part.dtype}, expected floating-point numbers"
                + raw
            )
        parts.append(part)
    try:
        value = rule.join(parts, shape)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if dtype is not None:
        value = _as_type(value, dtype, f"{where}: tensor {rule.names[0]!r}")
    return np.ascontiguousarray(value).reshape(shape)  # of a scalar the first makes one axis
