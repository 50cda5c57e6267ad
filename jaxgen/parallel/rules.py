"""Rules of one's own for where logical axes go, on top of the library's."""

import contextlib
from collections.abc import Iterator

from jaxgen.axes import DEFAULT_RULES, MESH_AXES, Rules
from jaxgen.errors import InputError

_current: Rules = DEFAULT_RULES


def current_rules() -> Rules:
    """The rules that hold where none are given: those of `using_rules`, else the library's."""
    return _current


@contextlib.contextmanager
def using_rules(rules: Rules) -> Iterator[None]:
    """Layouts that are made in the block follow these rules."""
    global _current
    before, _current = _current, rules
    try:
        yield
    finally:
        _current = before


def parse_rules(description: str) -> Rules:
    """The library's rules with changes from a short description.

    Args:
      description: comma-separated ``axis=mesh axis``, such as ``"vocab=model,embed=none"``; several
        mesh axes are joined by ``+`` (``"embed=fsdp+data"``), ``none`` replicates. Empty: no
        change.

    Returns:
      Logical axis -> mesh axis, several, or None, for all axes of `jaxgen.axes.DEFAULT_RULES`.

    Raises:
      InputError: for anything else, naming the part of the description that is wrong.
    """
    changes: dict[str, str | tuple[str, ...] | None] = {}
    for part in description.split(",") if description else ():
        axis, equals, target = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InputError(
                f"rules {description!r}: {part.strip()!r} has no '=', expected such as "
                "'vocab=model,embed=none'"
            )
        if axis not in DEFAULT_RULES:
            raise InputError(
                f"rules {description!r}: no logical axis {axis!r}, "
                f"expected one of {', '.join(DEFAULT_RULES)}"
            )
        if axis in changes:
            raise InputError(f"rules {description!r}: {axis!r} is given twice, expected once")
        names = () if target == "none" else tuple(name.strip() for name in target.split("+"))
        for name in names:
            if name not in MESH_AXES or names.count(name) > 1:
                raise InputError(
                    f"rules {description!r}: {axis}={target}, expected one of "
                    f"{', '.join(MESH_AXES)}, several different ones joined by +, or none"
                )
        changes[axis] = None if not names else names[0] if len(names) == 1 else names
    return {**DEFAULT_RULES, **changes}
