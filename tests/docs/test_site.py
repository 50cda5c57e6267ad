"""The site's pages: every public name has one, pictures have commands, tables name what exists.

(`.ci/run` builds the site itself, where any warning is an error.)
"""

import importlib
import importlib.util
import pathlib
import re
import shlex
import sys

import jax
import pytest

import jaxgen
from experiments.shared.launch import parse_flags
from jaxgen.errors import InputError
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.energy import EnergyNPLMConfig
from jaxgen.nn import parameter_count
from jaxgen.spacetime.dit import DiTConfig
from jaxgen.spacetime.mdt import MDTConfig
from jaxgen.spacetime.uvit import UViTConfig

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "extensions"))
names = importlib.import_module("library_names")


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf8")


def test_every_public_name_has_a_page():
    pages = names.pages_of_modules(names.patterns_by_page())
    assert len(names.library_modules()) > 300
    assert set(pages) == set(names.library_modules())
    exported = 0
    for package in names.library_modules():
        for name, home in names.exported(package).items():
            assert name in names.definitions(names.library_modules()[home]), f"{package}.{name}"
            exported += 1
    assert exported > 300


def test_exported_names_are_those_of_all():
    for package in ("jaxgen.diffusion", "jaxgen.nerf", "jaxgen.lm", "jaxgen.parallel"):
        found = names.exported(package)
        module = importlib.import_module(package)
        assert list(found) == module.__all__
        for name, home in found.items():
            assert getattr(importlib.import_module(home), name) is getattr(module, name)


def test_the_longest_pattern_decides_and_a_missing_one_shows():
    patterns = {"a": ["jaxgen.nerf", "jaxgen.nerf.*"], "b": ["jaxgen.nerf.splat_*"]}
    pages = names.pages_of_modules(patterns)
    assert pages["jaxgen.nerf.splat_tiles"] == "b"
    assert pages["jaxgen.nerf.cameras"] == "a"
    assert "jaxgen.lm" not in pages


def test_pages_of_the_api_are_listed():
    index = page("api/index.md")
    listed = re.findall(r"\]\((\w+)\.md\)", index)
    assert sorted(listed) == sorted(set(names.patterns_by_page()) - {"index"})
    assert index.count("\n" + "\n".join(listed)) == 1  # the table of contents, in this order


def test_under_each_picture_of_the_gallery_is_its_command():
    entries = re.findall(r"^!\[[^]]*\]\((\S+)\)\n\n[^\n]+:\n\n    (.+)$", page("gallery.md"), re.M)
    assert len(entries) == page("gallery.md").count("![") > 15
    for picture, command in entries:
        assert (DOCS / picture).exists()
        python, flag, program, *flags = shlex.split(command)
        assert (python, flag) == ("python", "-m")
        assert importlib.util.find_spec(program) is not None
        if program.startswith("experiments."):
            parse_flags(importlib.import_module(program).Config, flags)
    with pytest.raises(InputError, match="--no-such-flag"):
        parse_flags(importlib.import_module("experiments.lm.nplm").Config, ["--no-such-flag"])


IN_MODELS = re.compile(r"`([A-Z]\w+Config|[a-z]+_\w+)`")
ROW = re.compile(r"\| `(\w+)` \| `([^`]+)` \| ([\d,]+)")


def test_models_and_weights_of_the_table_exist():
    text = page("models.md")
    known = {name for tree in names.library_modules().values() for name in names.definitions(tree)}
    named = set(IN_MODELS.findall(text))
    assert len(named) > 25
    assert named <= known


def test_parameters_of_the_table_are_those_of_the_classes():
    found = ROW.findall(page("models.md"))
    rows = {(name, preset): int(count.replace(",", "")) for name, preset, count in found}
    of_language = {"NPLMConfig": NPLMConfig, "EnergyNPLMConfig": EnergyNPLMConfig}
    for (name, preset), count in rows.items():
        if name in of_language:
            assert eval(f"cls({preset})", {"cls": of_language[name]}).parameter_count == count
    latent = (
        jax.ShapeDtypeStruct((1, 32, 32, 4), "float32"),
        jax.ShapeDtypeStruct((1,), "float32"),
        jax.ShapeDtypeStruct((1,), "int32"),
    )
    for cls, preset in ((DiTConfig, "DiT-S/2"), (UViTConfig, "U-ViT-S/2"), (MDTConfig, "MDT-S/2")):
        config = cls.named(preset, num_classes=1000)
        tree = jax.eval_shape(config.make_model().init, jax.random.key(0), *latent)
        assert parameter_count(tree["params"]) == rows[cls.__name__, preset]
    assert len(rows) > 15


def test_versions_agree_and_no_address_is_invented():
    citation = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {jaxgen.__version__}\n" in citation
    assert f"\n## {jaxgen.__version__}\n" in changelog
    packaging = "".join((ROOT / name).read_text() for name in ("setup.cfg", "pyproject.toml"))
    for text in (citation, packaging, (ROOT / "README.md").read_text()):
        assert not re.search(r"github\.com|readthedocs|example\.(com|org)", text)
