"""A name is one thing: no function or class is defined in two modules, and each name somewhere."""

import ast
import builtins
import symtable
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [
    path for folder in ("jaxgen", "experiments") for path in sorted((ROOT / folder).rglob("*.py"))
]
OF_EVERY_PROGRAM = {"main", "Config"}


def test_no_public_function_or_class_is_defined_twice():
    places = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                places[node.name].append(str(path.relative_to(ROOT)))
    twice = {
        name: found
        for name, found in places.items()
        if len(found) > 1 and not name.startswith("_") and name not in OF_EVERY_PROGRAM
    }
    assert len(places) > 1000
    assert not twice, "rename the less public one by what it is"


def undefined_names(source: str) -> set[str]:
    """Names that a module uses and neither defines, imports nor has from Python.

    (Ruff's F821 takes the letters of jaxtyping's annotations for names.)
    """
    module = symtable.symtable(source, "module", "exec")
    defined = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported()}
    defined |= {child.get_name() for child in module.get_children()} | set(dir(builtins))
    defined |= {"__file__", "__name__", "__doc__", "__path__", "__class__"}
    used, tables = set(), [module]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        used |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return used - defined


def test_every_name_is_defined():
    assert undefined_names("import a\n\n\ndef f(x):\n    return a.b(x, c)\n") == {"c"}
    places = [*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py"))]
    found = {path.name: undefined_names(path.read_text()) for path in places}
    assert not {name: names for name, names in found.items() if names}


def test_what_is_made_only_to_see_whether_it_can_be_is_called_a_check():
    """No ``plan_...(...)`` or ``make_...(...)`` whose result is thrown away, but in a check."""
    for path in SOURCES:
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name.startswith("check_"):
                continue
            for node in function.body:
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                    name = ast.unparse(node.value.func).rpartition(".")[2]
                    assert not name.startswith(("plan_", "make_")), (path.name, node.lineno)
