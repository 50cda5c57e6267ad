"""A public name is one thing: no function or class is defined in two modules."""

import ast
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
