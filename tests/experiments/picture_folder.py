"""A small folder of pictures, and experiments run as programs in the process of the tests."""

import importlib
import pathlib
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.shared import launch
from jaxgen.parallel import make_mesh

CLASSES = ("circle", "dot", "stripe", "wall")


def write_pictures(folder: pathlib.Path, count: int = 20) -> pathlib.Path:
    """Images of 8 x 8 pixels, so many of each of four classes."""
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir()
        for i in range(count):
            Image.fromarray(_draw(name, generator)).save(folder / name / f"{i}.png")
    return folder


def _draw(name: str, generator: np.random.Generator) -> np.ndarray:
    image = generator.integers(60, size=(8, 8))
    y, x = np.indices((8, 8))
    shape = {
        "circle": abs((y - 3.5) ** 2 + (x - 3.5) ** 2 - 9) < 4,
        "dot": (abs(y - 4) < 2) & (abs(x - 4) < 2),
        "stripe": abs(y - 4) < 1,
        "wall": x > 4,
    }[name]
    return np.where(shape, 230, image).astype(np.uint8)


def run_here(
    name: str,
    arguments,
    monkeypatch,
    mesh: str = "data=1",
    devices: int = 1,
    family: str = "images",
) -> int:
    """Runs an experiment on some of this process's devices; its exit code."""
    module = importlib.import_module(f"experiments.{family}.{name}")
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.setattr(launch, "_start", lambda _: make_mesh(mesh, jax.devices()[:devices]))
    with pytest.raises(SystemExit) as stopped:
        launch.run(module.main, module.Config)
    return stopped.value.code
