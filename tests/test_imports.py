"""Who may import whom, read from the sources, and what importing the library costs.

axes, errors, files  <-  parallel, nn  <-  lm (and the families to come)  <-  experiments
                         training, evaluation, data, interop              <-  experiments
"""

import ast
import os
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "jaxgen").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

BASE = {"axes", "errors", "files"}
FAMILIES = {"lm", "diffusion", "spacetime", "nerf"}
ROOMS: dict[str, set[str]] = {
    "axes": set(),
    "errors": set(),
    "files": {"errors"},
    "parallel": {"axes", "errors"},
    "nn": BASE,
    **{family: BASE | {"parallel", "nn"} for family in FAMILIES},
    "training": BASE | {"parallel"},
    "evaluation": BASE | {"parallel", "nn"},
    "data": BASE,
    "interop": BASE,
}
"""Room -> the other rooms of the library that it may import."""

NEVER = {"torch", "tensorflow", "transformers", "tyro", "argparse", "absl", "experiments", "tests"}
NEVER_IN_FAMILIES = {
    *("optax", "orbax", "grain", "tensorflow_datasets", "array_record"),
    *("tqdm", "matplotlib", "tensorboardX"),
}
AT_ONCE = {"jax", "flax", "numpy", "jaxtyping", "optax", "chex"}
"""Packages that may be imported with the module; all others where they are used."""
BY_ONE_MODULE = {"orbax", "grain", "tensorboardX", "tensorflow_datasets"}
LAUNCHES = {"jax.distributed", "jax.config"}


class Import(NamedTuple):
    """An imported module, ``a.b`` for both ``import a.b`` and ``from a import b``."""

    name: str
    eager: bool
    line: int


def imports_of(source: str, module: str) -> Iterator[Import]:
    """All imports of a module's source; those outside functions are eager."""
    package = module.split(".")

    def visit(node: ast.AST, eager: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, eager, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            source_module = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                yield Import(f"{source_module}.{alias.name}", eager, node.lineno)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, eager and not lazy)

    yield from visit(ast.parse(source), eager=True)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def faults(source: str, module: str) -> list[str]:
    """The rules for the library that a module breaks, with line numbers."""
    room = module.split(".")[1] if "." in module else ""
    found = []
    for name, eager, line in imports_of(source, module):
        top, *rest = name.split(".")
        if top in NEVER or (room in FAMILIES and top in NEVER_IN_FAMILIES):
            found.append(f"{line}: {room or top} must not import {name}")
        elif top == "jaxgen":
            if rest and rest[0] != room and rest[0] in ROOMS and rest[0] not in ROOMS[room]:
                found.append(f"{line}: {room} must not import {name}")
        elif eager and top not in AT_ONCE and top not in sys.stdlib_module_names:
            found.append(f"{line}: {name} must be imported where it is used")
        elif eager and not room and top not in sys.stdlib_module_names:
            found.append(f"{line}: importing jaxgen must import nothing else")
    if module != "jaxgen.parallel.distributed":
        found += [f"{line}: only a launcher touches {name}" for name, line in launches(source)]
    return found


def launches(source: str) -> Iterator[tuple[str, int]]:
    """Uses of ``jax.distributed`` and ``jax.config``, which belong to the process, not to code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in LAUNCHES:
            yield ast.unparse(node), node.lineno
    for name, _, line in imports_of(source, "any"):
        if any(f"{name}.".startswith(f"{launch}.") for launch in LAUNCHES):
            yield name, line


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_the_library_keeps_its_rules(path: Path) -> None:
    module = module_name(path)
    assert module == "jaxgen" or module.split(".")[1] in ROOMS, f"{module}: name it in ROOMS"
    if path.name == "__init__.py" and module != "jaxgen":
        module += ".__init__"  # what relative imports count from
    assert faults(path.read_text(), module) == []


def test_some_packages_have_one_door() -> None:
    importers = defaultdict(set)
    for path in LIBRARY:
        for name, _, _ in imports_of(path.read_text(), module_name(path)):
            importers[name.split(".")[0]].add(module_name(path))
    for package in BY_ONE_MODULE:
        assert len(importers[package]) <= 1, f"{package}: {importers[package]}"
    assert importers["orbax"] <= {"jaxgen.training.checkpoint"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=module_name)
def test_only_the_launcher_reads_flags_and_sets_up_the_process(path: Path) -> None:
    if path.name == "launch.py":
        return
    source = path.read_text()
    names = [imported.name for imported in imports_of(source, module_name(path))]
    reserved = {"jaxgen.parallel.start", "jaxgen.parallel.make_mesh"}
    assert not {name for name in names if name in reserved or name.split(".")[0] == "argparse"}
    assert list(launches(source)) == []


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("jaxgen.lm.model", "import optax", True),
        ("jaxgen.lm.model", "def f():\n    from tqdm.auto import tqdm", True),
        ("jaxgen.lm.model", "from jaxgen import training", True),
        ("jaxgen.lm.model", "from ..data.corpus import Corpus", True),
        ("jaxgen.lm.model", "from jaxgen.nerf import rays", True),
        ("jaxgen.lm.model", "from jaxgen.parallel import make_mesh\nfrom . import ngram", False),
        ("jaxgen.lm.model", "def f():\n    import scipy", False),
        ("jaxgen.lm.model", "import scipy", True),
        ("jaxgen.lm.model", "try:\n    import torch\nexcept ImportError:\n    torch = None", True),
        ("jaxgen.data.text.load_corpus", "from jaxgen.parallel import put_batch", True),
        ("jaxgen.data.text.load_corpus", "def f():\n    import tensorflow as tf", True),
        ("jaxgen.interop.arpa", "from jaxgen.lm.ngram import tables", True),
        ("jaxgen.training.loop", "from jaxgen.lm import evaluation", True),
        ("jaxgen.training.loop", "import optax\nfrom jaxgen.parallel import replicated", False),
        ("jaxgen.training.loop", "if True:\n    from orbax import checkpoint", True),
        ("jaxgen.training.loop", "import jax\njax.config.update('jax_enable_x64', True)", True),
        ("jaxgen.training.loop", "from jax import config", True),
        ("jaxgen.training.loop", "import jax\njax.distributed.initialize()", True),
        ("jaxgen.parallel.mesh", "from jaxgen.nn import attention", True),
        ("jaxgen.parallel.mesh", "from jaxgen.axes import MODEL", False),
        ("jaxgen.axes", "from jaxgen.errors import InputError", True),
        ("jaxgen.files", "from experiments import launch", True),
        ("jaxgen", "import jax", True),
        ("jaxgen", "import os", False),
    ],
)
def test_the_rules_themselves(module: str, source: str, broken: bool) -> None:
    assert bool(faults(source, module)) == broken


def run(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_jaxgen_imports_nothing_else() -> None:
    code = """
        import sys
        before = set(sys.modules)
        import jaxgen
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        print(sorted(new - sys.stdlib_module_names))
    """
    assert run(code) == "['jaxgen']\n"


def test_every_module_can_be_imported_first_and_touches_no_device() -> None:
    modules = [module_name(path) for path in LIBRARY]
    code = f"""
        import importlib, sys
        for module in {modules}:
            for loaded in [name for name in sys.modules if name.split(".")[0] == "jaxgen"]:
                del sys.modules[loaded]
            importlib.import_module(module)
        heavy = {{"torch", "tensorflow", "transformers", "orbax", "grain", "tensorflow_datasets",
                  "array_record", "tyro", "tqdm", "matplotlib", "tensorboardX", "scipy", "nltk",
                  "sklearn", "PIL"}}
        print(sorted(heavy & {{name.split(".")[0] for name in sys.modules}}))
        import jax
        try:
            jax.devices()
        except RuntimeError as error:
            print("no devices")  # so had a module asked for one, it would have failed
    """
    assert run(code, JAX_PLATFORMS="none-such") == "[]\nno devices\n"
