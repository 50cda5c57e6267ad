"""Training some parameters and keeping the others: by a pattern of paths.

Frozen parameters have no optimizer state: neither moments nor averages are made for them, so
finetuning the last layers of a large network needs little more memory than the network::

    tx = train_only(make_optimizer(OptimizerConfig("adamw", 1e-4)), "final|condition/label")
"""

import re
from typing import Any

import jax
import optax

from jaxgen.errors import InputError
from jaxgen.typing import Tree


def trainable(params: Tree, pattern: str) -> Tree:
    """Which parameters a pattern names: a tree of booleans.

    Args:
      params: arrays or their abstract values.
      pattern: a regular expression, found anywhere in a path such as
        ``blocks_0/attention/qkv/kernel``.

    Raises:
      InputError: for what is no regular expression, or is found in no path.
    """
    found = _matches(params, pattern)
    if not any(jax.tree.leaves(found)):
        raise InputError(
            f"the pattern {pattern!r} is found in no parameter's path, expected a part of one, "
            f"such as {_some_path(params)}"
        )
    return found


def train_only(tx: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """An optimizer that updates the parameters a pattern names, and keeps state for no others.

    Clipping by a global norm is of the gradients of the trained parameters alone.

    Args:
      tx: the optimizer.
      pattern: as in `trainable`.

    Raises:
      InputError: as `trainable`, when the transformation first sees parameters.
    """

    def labels(params: Tree) -> Tree:
        # Optax's placeholder, by which it finds what is kept per parameter.
        if not jax.tree.leaves(params):
            return params
        return jax.tree.map(lambda own: "train" if own else "keep", trainable(params, pattern))

    return optax.multi_transform({"train": tx, "keep": optax.set_to_zero()}, labels)


def _matches(params: Tree, pattern: str) -> Tree:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"the pattern is {pattern!r}, expected a regular expression: {error}"
        ) from None

    def found(path: Any, leaf: Any) -> bool:
        return bool(expression.search(jax.tree_util.keystr(path, simple=True, separator="/")))

    return jax.tree_util.tree_map_with_path(found, params)


def _some_path(params: Tree) -> str:
    path, _ = jax.tree_util.tree_flatten_with_path(params)[0][0]
    return jax.tree_util.keystr(path, simple=True, separator="/")
