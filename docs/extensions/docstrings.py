"""What the docstrings write plainly and reStructuredText would take for markup: bars and stars.

And functions with derivatives of their own, which autodoc would not know for functions.
"""

import importlib
import re
from typing import Any

import jax
from library_names import library_modules
from sphinx.application import Sphinx

_LITERAL = re.compile(r"(``.*?``|`[^`]*`)")
_EMPHASIS = re.compile(r"(?<![\w*\\])(\*{1,2})(?=[^\s*])([^*]*[^\s*])\1(?![\w*])")
_BULLET = re.compile(r"\s*\* ")
_TUPLE_FIELD = "Alias for field number"


def escape_markup(line: str) -> str:
    """A line with ``|x|`` and ``[*N]`` as they are written; literals, bullets, *emphasis* stay."""
    bullet = _BULLET.match(line)
    start = bullet.end() if bullet else 0
    parts = _LITERAL.split(line[start:])
    parts[::2] = map(_escape_text, parts[::2])
    return line[:start] + "".join(parts)


def _escape_text(text: str) -> str:
    text = text.replace("|", r"\|")
    kept = _EMPHASIS.sub(lambda found: found[0].replace("*", "\0"), text)
    return kept.replace("*", r"\*").replace("\0", "*")


def process_docstring(
    app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]
) -> None:
    """Escapes the lines of a docstring that are not of a literal block.

    What is indented after a paragraph that ends with a colon, and after a blank line, is a table of
    formulas: a literal block.
    """
    for i, line in enumerate(lines[:-2]):
        announces = re.match(r"\S.*[^:]:\s*$", line) and not lines[i + 1].strip()
        if announces and lines[i + 2].startswith(" ") and not _BULLET.match(line):
            lines[i] = line.rstrip() + ":"
    block: int | None = None  # the indentation of the paragraph that announced the block
    for i, line in enumerate(lines):
        indentation = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indentation <= block:
            block = None
        if block is None:
            lines[i] = escape_markup(line)
            if line.rstrip().endswith("::"):
                block = indentation


def skip_tuple_fields(
    app: Sphinx, what: str, name: str, found: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out fields of named tuples, which their class's docstring describes."""
    return True if (getattr(found, "__doc__", None) or "").startswith(_TUPLE_FIELD) else None


def unwrap_functions(app: Sphinx) -> None:
    """Puts plain functions where ``jax.custom_jvp`` and ``jax.custom_vjp`` hold them."""
    for module in map(importlib.import_module, library_modules()):
        for name, found in list(vars(module).items()):
            if isinstance(found, jax.custom_jvp | jax.custom_vjp):
                setattr(module, name, found.__wrapped__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers all three, the first before Google's sections are read."""
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("builder-inited", unwrap_functions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
