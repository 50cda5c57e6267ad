"""The examples in docstrings (``>>>``) print what they say."""

import doctest
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "jaxgen").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf8")
]
IMPORTED = {"jax": jax, "jnp": jnp, "np": np}
"""What every example may take for granted, as docs/api/index.md says."""


@pytest.mark.parametrize("module", MODULES)
def test_examples_print_what_they_say(module):
    found = doctest.testmod(importlib.import_module(module), extraglobs=IMPORTED)
    assert found.attempted > 0
    assert found.failed == 0


def test_examples_of_every_package_are_among_them():
    packages = {module.split(".")[1] for module in MODULES}
    assert packages >= {
        *("parallel", "lm", "diffusion", "spacetime", "nerf", "geometry"),
        *("training", "evaluation", "data", "nn"),
    }
