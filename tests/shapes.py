"""A pytest plugin: shapes and dtypes of arrays are those that jaxgen's annotations state.

jaxtyping checks the functions of every module of jaxgen that is imported after this one.
Only annotations of arrays are checked, and when a function returns: wrong input meets the package's
own errors first. NumPy's arrays may stand for JAX's, as they may in every function of JAX.
"""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand for a float


class _ArrayType(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, jax.Array | np.ndarray | np.generic)


class AnyArray(metaclass=_ArrayType):
    """An array of JAX or NumPy, scalars of NumPy among them."""


def checked(function: Callable) -> Callable:
    """Given by jaxtyping for each function: one of its parameters, then one of all annotations.

    The second is called on return. The first, whose result may be anything, is left alone, and so
    are constructors: JAX fills its trees with shapes, shardings and more.
    """
    annotations = function.__annotations__
    if annotations.get("return", Any) is Any or function.__name__ == "__init__":
        return function
    function.__annotations__ = {
        name: hint for name, hint in annotations.items() if _of_arrays(hint)
    }
    return _check(function) if function.__annotations__ else function


def _of_arrays(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_of_arrays(part) for part in get_args(hint))


jaxtyping.Array = AnyArray
jaxtyping.install_import_hook("jaxgen", "tests.shapes.checked")
