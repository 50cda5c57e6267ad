"""The library's public names and the pages of the API that describe them, read from the sources.

A page (docs/api/*.md) has blocks of patterns::

    ```modules
    jaxgen.nerf
    jaxgen.nerf.splat_*
    ```

Every module of the library belongs to the page with the longest pattern that matches it, so a
module that is new in a package is on the package's page without a line anywhere.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```modules\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def library_modules() -> dict[str, ast.Module]:
    """The syntax tree of every public module, by its dotted name, packages first."""
    found = {}
    for path in sorted((ROOT / "jaxgen").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            found[name] = ast.parse(path.read_text(encoding="utf8"))
    return dict(sorted(found.items()))


def definitions(tree: ast.Module) -> dict[str, str]:
    """A module's public functions, classes and documented values: name -> first paragraph.

    A value is documented by a string after it. ("text::" gives "text:".)
    """
    found = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = _first_paragraph(ast.get_docstring(node) or "")
        elif isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and isinstance(after.value.value, str):
                    found[target.id] = _first_paragraph(after.value.value)
    return {name: text for name, text in found.items() if not name.startswith("_")}


def _first_paragraph(docstring: str) -> str:
    return " ".join(docstring.strip().split("\n\n")[0].split()).removesuffix(":")


def exported(package: str) -> dict[str, str]:
    """The names of a package's ``__all__``, each with the module that defines it."""
    tree = library_modules()[package]
    sources = {}
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            sources |= {alias.asname or alias.name: node.module for alias in node.names}
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
    return {name: _defining_module(sources.get(name, package), name) for name in names}


def _defining_module(module: str, name: str) -> str:
    """Follows imports: a package may take a name from another package's ``__init__``."""
    tree = library_modules()[module]
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or node.module not in library_modules():
            continue
        if any((alias.asname or alias.name) == name for alias in node.names):
            return _defining_module(node.module, name)
    return module


def patterns_by_page() -> dict[str, list[str]]:
    """The patterns of every page in docs/api, by the page's name without its ending."""
    return {
        path.stem: [line for block in BLOCK.findall(path.read_text()) for line in block.split()]
        for path in sorted((ROOT / "docs" / "api").glob("*.md"))
    }


def pages_of_modules(patterns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Module -> the page that describes it; a module that no pattern matches is left out."""
    ranked = sorted(
        ((pattern, page) for page, found in patterns.items() for pattern in found),
        key=lambda pair: -len(pair[0]),
    )
    return {
        module: page
        for module in library_modules()
        for page in [next((page for pattern, page in ranked if fnmatchcase(module, pattern)), "")]
        if page
    }


def matching(patterns: Sequence[str], page: str) -> Iterator[str]:
    """The modules of a page that one of its blocks describes, in the order of its patterns."""
    pages = pages_of_modules(patterns_by_page())
    seen = set()
    for pattern in patterns:
        for module in library_modules():
            if module not in seen and pages.get(module) == page and fnmatchcase(module, pattern):
                seen.add(module)
                yield module
