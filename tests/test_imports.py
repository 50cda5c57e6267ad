"""Who may import whom, read from the sources, and what importing the library costs.

axes, errors, files, typing, ...  <-  parallel, nn, geometry  <-  each family  <-  experiments
                                      training, evaluation, data, interop      <-  experiments
"""

import ast
import os
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "jaxgen").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

BASE = {"axes", "camera_models", "errors", "files", "ids", "pixels", "text_rules", "typing"}
FAMILIES = {
    *("lm", "diffusion", "spacetime", "unet", "compressors"),
    *("nerf", "encoders", "tokens", "shapes", "completion"),
}
"""Those there are and those to come; none imports another."""
PACKAGES: dict[str, set[str]] = {
    "axes": set(),
    "camera_models": set(),
    "errors": set(),
    "typing": set(),
    "files": {"errors"},
    "ids": {"errors"},
    "text_rules": {"errors"},
    "pixels": {"errors"},
    "parallel": BASE,
    "nn": BASE,
    "geometry": BASE,
    **{family: BASE | {"parallel", "nn", "geometry"} for family in FAMILIES},
    "training": BASE | {"parallel"},
    "evaluation": BASE | {"parallel", "nn", "geometry"},
    "data": BASE | {"geometry", "interop"},
    "interop": BASE | {"geometry"},
    "pretrained": BASE
    | {"parallel", "nn", "interop", "training", "data", "diffusion", "spacetime", "unet"}
    | {"encoders", "compressors"},
}
"""Package -> the other packages of the library that it may import."""

PARTS_OF_DIFFUSION = (
    *("process", "denoiser", "exact", "preconditioning", "objectives", "samplers", "edm"),
    *("conditioning", "distillation", "other_corruptions", "named_samplers", "model"),
    *("model_sampling", "text_to_image", "image_decoder"),
)
"""From the bottom to the top: each may import those before it."""
SAME_MEANING = {
    *("nplm", "local_steps", "communication", "train", "sample", "compare", "compressor"),
    "guidance",
}
"""Basenames of a model or method and its experiment, or of programs that do the same in several
families; any other basename is one file's."""

NEVER = {"torch", "tensorflow", "transformers", "tyro", "argparse", "absl", "experiments", "tests"}
NEVER_IN_FAMILIES = {
    *("optax", "orbax", "grain", "tensorflow_datasets", "array_record"),
    *("tqdm", "matplotlib", "tensorboardX", "etils", "fsspec"),
}
AT_ONCE = {"jax", "flax", "numpy", "jaxtyping", "optax", "chex"}
"""Packages that may be imported with the module; all others where they are used."""
BY_ONE_MODULE = {
    *("orbax", "grain", "tensorboardX", "tensorflow_datasets", "etils", "fsspec"),
    *("av", "skimage", "trimesh", "embreex", "xatlas", "fast_simplification"),
    *("tokenizers", "sentencepiece", "ftfy"),
}
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
    package = module.split(".")[1] if "." in module else ""
    found = []
    for name, eager, line in imports_of(source, module):
        top, *rest = name.split(".")
        if top in NEVER or (package in FAMILIES and top in NEVER_IN_FAMILIES):
            found.append(f"{line}: {package or top} must not import {name}")
        elif top == "jaxgen":
            if (
                rest
                and rest[0] != package
                and rest[0] in PACKAGES
                and rest[0] not in PACKAGES[package]
            ):
                found.append(f"{line}: {package} must not import {name}")
        elif eager and top not in AT_ONCE and top not in sys.stdlib_module_names:
            found.append(f"{line}: {name} must be imported where it is used")
        elif eager and not package and top not in sys.stdlib_module_names:
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


def test_the_library_keeps_its_rules() -> None:
    for path in LIBRARY:
        module = module_name(path)
        known = module == "jaxgen" or module.split(".")[1] in PACKAGES
        assert known, f"{module}: name it in PACKAGES"
        if path.name == "__init__.py" and module != "jaxgen":
            module += ".__init__"  # what relative imports count from
        assert faults(path.read_text(), module) == [], path


def imported_modules(paths: Sequence[Path]) -> dict[str, set[str]]:
    """Module -> the modules among `paths` that it imports, at once or later."""
    sources = {module_name(path): path.read_text() for path in paths}
    graph = {}
    for module, source in sources.items():
        names = {imported.name for imported in imports_of(source, module)}
        found = {name if name in sources else name.rpartition(".")[0] for name in names}
        above = {package for name in found for package in packages_of(name)}  # run before it
        found |= above - set(packages_of(module))
        graph[module] = (found & set(sources)) - {module}
    return graph


def packages_of(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def test_no_import_leads_in_a_circle() -> None:
    graph = imported_modules(LIBRARY + EXPERIMENTS)
    order = TopologicalSorter(graph)
    order.prepare()  # raises CycleError, which names the modules


def test_arrows_between_the_parts_of_diffusion_run_one_way() -> None:
    def part(module: str) -> str:
        return ".".join(module.split(".")[1:3]).removeprefix("diffusion.")

    for module, imported in imported_modules(LIBRARY).items():
        if module.startswith("jaxgen.diffusion."):
            own = PARTS_OF_DIFFUSION.index(part(module))
            parts = {part(name) for name in imported if name.startswith("jaxgen.diffusion")}
            above = parts - set(PARTS_OF_DIFFUSION[: own + 1])
            assert not above, f"{module} imports {above}"


def test_support_is_imported_by_its_own_folder_alone() -> None:
    for module, imported in imported_modules(EXPERIMENTS).items():
        for name in imported:
            owner, found, _ = name.partition(".support")
            assert not found or module.startswith(f"{owner}."), f"{module} imports {name}"


def test_a_basename_means_one_thing() -> None:
    names = Counter(path.stem for path in LIBRARY + EXPERIMENTS if path.name != "__init__.py")
    assert {name for name, count in names.items() if count > 1} <= SAME_MEANING


def test_some_packages_have_one_door() -> None:
    importers = defaultdict(set)
    for path in LIBRARY:
        for name, _, _ in imports_of(path.read_text(), module_name(path)):
            importers[name.split(".")[0]].add(module_name(path))
    for package in BY_ONE_MODULE:
        assert len(importers[package]) <= 1, f"{package}: {importers[package]}"
    assert importers["orbax"] <= {"jaxgen.training.checkpoint_files"}


def test_only_the_launcher_reads_flags_and_sets_up_the_process() -> None:
    reserved = {"jaxgen.parallel.start", "jaxgen.parallel.make_mesh", "argparse", "tyro"}
    for path in EXPERIMENTS:
        if path.name != "launch.py":
            source = path.read_text()
            names = [imported.name for imported in imports_of(source, module_name(path))]
            found = {n for n in names if n in reserved or n.split(".")[0] in reserved}
            assert not found, f"{path}: {found}"
            assert list(launches(source)) == [], path


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
        ("jaxgen.spacetime.dit", "from jaxgen.unet import UNet", True),
        ("jaxgen.spacetime.dit", "from jaxgen.typing import Tree", False),
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


def test_importing_any_module_touches_no_device_and_nothing_heavy() -> None:
    modules = [module_name(path) for path in LIBRARY]
    code = f"""
        import importlib, sys
        for module in {modules}:
            importlib.import_module(module)
        heavy = {{"torch", "tensorflow", "transformers", "orbax", "grain", "tensorflow_datasets",
                  "array_record", "tyro", "tqdm", "matplotlib", "tensorboardX", "scipy", "nltk",
                  "sklearn", "PIL", "fsspec", "av", "skimage", "trimesh", "embreex", "xatlas",
                  "fast_simplification", "tokenizers", "sentencepiece", "ftfy"}}
        print(sorted(heavy & {{name.split(".")[0] for name in sys.modules}}))
        import jax
        try:
            jax.devices()
        except RuntimeError as error:
            print("no devices")  # so had a module asked for one, it would have failed
    """
    assert run(code, JAX_PLATFORMS="none-such") == "[]\nno devices\n"
