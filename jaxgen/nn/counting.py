"""How many multiply-adds and parameters a function or a network has, without computing anything.

A function is traced to its jaxpr, and the products in it are counted: matrix products
(``dot_general``) and convolutions, inside of loops, branches, checkpoints and compiled parts too.
Additions, activations, norms and softmax count nothing. This is the convention of the numbers in
Peebles & Xie 2023, table 4 (called "Gflops" there): products of attention, embeddings of time and
adaptive norms included, one multiply-add per multiplication, one example, no biases.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from jaxgen.errors import InputError
from jaxgen.typing import Tree


def parameter_count(tree: Tree) -> int:
    """Numbers in a tree of arrays or of abstract values, boxed by Linen or not.

    Example:
      >>> parameter_count({"kernel": jax.ShapeDtypeStruct((3, 4), "float32"), "bias": np.zeros(4)})
      16
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def multiply_adds(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Multiply-adds of one call of a function.

    Args:
      fn: a function that JAX can trace.
      *args: arrays or `jax.ShapeDtypeStruct` in trees; only shapes and types matter.
      **kwargs: more of them.

    Returns:
      The count. A branch counts as the longest one, a ``shard_map`` as all its devices together.

    Raises:
      InputError: if products stand in a ``while`` loop, whose length no shape says, or in a kernel.
    """
    return _count(jax.make_jaxpr(fn)(*args, **kwargs).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    """Multiply-adds of all equations."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: JaxprEqn) -> int:
    """Multiply-adds of one equation, with everything inside of it."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_dot(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_count(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if not any(inner):
        return 0
    if name in ("while", "pallas_call"):
        raise InputError(
            f"multiply-adds inside of {name!r} cannot be counted, expected loops of known length "
            "(scan, fori_loop with constant bounds) and attention='plain'"
        )
    if name == "cond":
        return max(inner)
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "shard_map":
        sizes = params["mesh"].shape
        return math.prod(sizes[axis] for axis in params["newly_manual_axes"]) * sum(inner)
    # Derivative rules (forward and backward functions) are no jaxprs, so what is left is one call.
    return sum(inner)


def _of_dot(equation: JaxprEqn) -> int:
    """Every number of the result is a sum over the contracted axes."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return _size(equation) * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: JaxprEqn) -> int:
    """Every number of the result is a sum over the kernel's window and input channels (a group's).

    Places where the window reaches into padding count in full.
    """
    kernel = _shape(equation.invars[1])
    _, inputs_axis, *window = equation.params["dimension_numbers"].rhs_spec
    return _size(equation) * math.prod(kernel[axis] for axis in (inputs_axis, *window))


def _size(equation: JaxprEqn) -> int:
    return math.prod(_shape(equation.outvars[0]))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _jaxprs(value: Any) -> list[Jaxpr]:
    """The jaxprs that a parameter of an equation holds."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [jaxpr for part in value for jaxpr in _jaxprs(part)]
    return []
