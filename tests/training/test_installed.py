"""A checkpoint opens with `import jaxgen` alone: the built wheel and what it requires, no more.

The environment is made of links: into it come the wheel, and of the packages that are installed
here those that ``pip install jaxgen`` would bring, however indirectly. So experiments, tests and
their extras are not there.
"""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import venv
import zipfile

import jax
import optax
import pytest

from jaxgen.parallel import make_mesh, plan_layout
from jaxgen.training import Checkpoints, load_model, state_from_params

ROOT = pathlib.Path(__file__).parents[2]
SAVED = pathlib.Path(__file__).parent / "first_format"

OPEN_ALL = """
import importlib.util, json, pathlib, sys
import jax, jax.numpy as jnp
import jaxgen
from jaxgen.training import load_model

found = {}
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    model = load_model(folder)
    model.config.make_model()
    if hasattr(model.config, "make_denoiser"):
        z, labels = jnp.zeros((2, *model.config.image_shape)), jnp.array([0, 1])
        level = model.config.schedule.at(jnp.full(2, 0.5))
        denoise = lambda params: model.config.make_denoiser(params, labels, 0.5)(z, level).x
        assert jax.eval_shape(denoise, model.params).shape == z.shape
    found[folder.name] = sum(x.size for x in jax.tree.leaves(model.params))
others = ("experiments", "tests", "tyro", "sklearn")
others = [name for name in others if importlib.util.find_spec(name)]
print(json.dumps({"from": jaxgen.__file__, "found": found, "others": others}))
"""


def required_packages(name: str, seen: set[str]) -> set[str]:
    """The distributions that an installation of one brings, without extras."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in seen:
        return seen
    try:
        requirements = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return seen  # for another platform
    seen.add(name)
    for requirement in requirements:
        if "extra ==" not in requirement:
            required_packages(re.match(r"[\w.-]+", requirement)[0], seen)
    return seen


def install_requires() -> list[str]:
    text = (ROOT / "setup.cfg").read_text()
    block = re.search(r"^install_requires =\n((?: {4}.*\n)+)", text, re.MULTILINE)[1]
    lines = [line.strip() for line in block.splitlines()]
    return [re.match(r"[\w.-]+(?:\[[\w,]+\])?", line)[0] for line in lines if line[0] != "#"]


def link_distribution(name: str, target: pathlib.Path) -> None:
    """Links the top-level files and folders of an installed distribution."""
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
        source, link = pathlib.Path(distribution.locate_file(top)), target / top
        if top != "__pycache__" and source.exists() and not link.exists():
            link.symlink_to(source)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with jaxgen's wheel and what it requires."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True
    )
    venv.create(folder / "venv", symlinks=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("jaxgen-*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    needed: set[str] = set()
    for requirement in install_requires():
        name, _, extras = requirement.rstrip("]").partition("[")
        required_packages(name, needed)
        for line in importlib.metadata.requires(name) or []:
            if any(f"extra == '{e}'" in line.replace('"', "'") for e in extras.split(",") if e):
                required_packages(re.match(r"[\w.-]+", line)[0], needed)
    for name in needed:
        link_distribution(name, packages)
    return folder / "venv" / "bin" / "python"


def save_again(folder: pathlib.Path, target: pathlib.Path) -> None:
    """A model of the first format as today's code saves it."""
    model = load_model(folder)
    layout = plan_layout(lambda: model.params, mesh=make_mesh("data=1", jax.devices()[:1]))
    state = state_from_params(model.params, layout, tx=optax.sgd(1.0))
    with Checkpoints(target, config=model.config, files=model.files) as checkpoints:
        checkpoints.save(state)


@pytest.mark.slow
def test_every_kind_of_checkpoint_opens_where_only_jaxgen_is_installed(python, tmp_path):
    kinds = [path.stem for path in SAVED.glob("*.zip")]
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        for kind in kinds:
            folder = tmp_path / "models" / kind
            zipfile.ZipFile(SAVED / f"{kind}.zip").extractall(folder)
            save_again(folder, tmp_path / "models" / f"{kind}_again")
    done = subprocess.run(
        [python, "-c", OPEN_ALL, tmp_path / "models"],
        cwd=tmp_path,
        env={"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert pathlib.Path(printed["from"]).is_relative_to(python.parents[1])
    assert printed["others"] == []
    found = printed["found"]
    assert len(found) == 2 * len(kinds) == 16
    assert all(found[kind] == found[f"{kind}_again"] > 0 for kind in kinds)
