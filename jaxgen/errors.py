"""The one exception type for bad input.

Everything that a person can get wrong (a flag, a file, a shape, a configuration field) raises
:class:`InputError` with one line that names the thing and says what was expected. Experiments turn
it into that line on the terminal and exit code 2; programs catch it as a ``ValueError``.
"""

import math
from typing import Any

import jax


class InputError(ValueError):
    """What the caller gave cannot be used; the message names it and says what was expected."""


def check_kind(name: str, value: object, kind: type, example: str) -> None:
    """Rejects a name, say, where an object is expected.

    Args:
      name: of the argument.
      value: what was given for it.
      kind: the class that it has to be of.
      example: how one is written.

    Raises:
      InputError: if it is of another class.
    """
    if not isinstance(value, kind):
        raise InputError(f"{name} is {value!r}, expected a {kind.__name__}, such as {example}")


def check_sizes(config: Any, *names: str, least: int = 1) -> None:
    """Raises InputError unless the named fields of a configuration are ``least`` or more."""
    for name in names:
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}, expected {least} or more")


def check_share(name: str, value: float) -> None:
    """Raises InputError unless 0 <= value <= 1."""
    if isinstance(value, str) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value}, expected 0 <= {name} <= 1")


def check_positive(name: str, value: float) -> None:
    """Raises InputError unless the value is finite and above zero."""
    if not 0 < value < math.inf:
        raise InputError(f"{name} is {value}, expected a finite number > 0")


def check_not_negative(name: str, value: float) -> None:
    """Raises InputError unless the value is finite and not below zero."""
    if not 0 <= value < math.inf:
        raise InputError(f"{name} is {value}, expected a finite number >= 0")


def can_be_checked(*values: Any) -> bool:
    """Whether all values can be looked at: no tracers, nothing that other processes hold."""
    return not any(
        isinstance(value, jax.core.Tracer)
        or (isinstance(value, jax.Array) and not value.is_fully_addressable)
        for value in values
    )
