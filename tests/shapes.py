"""jaxtyping's checks at run time: shapes and dtypes of arrays are those that annotations state.

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


def install() -> None:
    """Checks the functions of every module of jaxgen that is imported from now on."""
    jaxtyping.Array = AnyArray
    jaxtyping.install_import_hook("jaxgen", "tests.shapes.checked")


def checked(function: Callable) -> Callable:
    """Given by jaxtyping for each function: one of its parameters, then one of all annotations.

    The first, whose result may be anything, is left alone; the second is called on return.
    """
    if function.__annotations__.get("return", Any) is Any:
        return function
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if _of_arrays(hint)
    }
    return _check(function) if function.__annotations__ else function


def _of_arrays(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_of_arrays(part) for part in get_args(hint))
