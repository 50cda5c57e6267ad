"""Recipes, their docstrings and the page of results say the same."""

import re
from pathlib import Path

import pytest

from experiments.images import train
from experiments.images.support.image_recipes import RECIPES
from experiments.shared.launch import parse_flags
from jaxgen.errors import InputError

PAGE = (Path(__file__).parents[3] / "docs" / "diffusion_results.md").read_text()

LONG = {
    "digits": "",
    "mnist": "--data mnist --batch-size 64 --training-steps 8000 --workdir runs/mnist",
    "cifar10": "--data cifar10 --width 192 --depth 6 --batch-size 64 --flip --training-steps 5000 "
    "--evaluate 0 --workdir runs/cifar",
}
"""The flags that each recipe stands for."""


def section_of(command: str) -> str:
    """The part of the page, between headings, that a command stands in."""
    parts = re.split(r"\n(?=#+ )", PAGE)
    found = [part for part in parts if re.search(rf"^    {re.escape(command)}$", part, re.M)]
    assert len(found) == 1, command
    return found[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_its_docstring_and_the_page_agree(name):
    command = f"python -m experiments.images.train --recipe {name}"
    text = RECIPES[name].__doc__
    assert command in text
    section = section_of(command)
    figures = re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", text)
    assert figures or "Figures: none" in text
    for figure in figures:
        assert f" {figure} |" in section, f"{figure} is in no table of {section.splitlines()[0]}"
    for fact in ("Time:", "core"):
        assert fact in text
    time = re.search(r"Time: ([\d]+ (?:h \d+ )?min)", text)
    assert time is None or time[1] in section


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_flags(name):
    found = parse_flags(train.Config, ["--recipe", name])
    long = parse_flags(train.Config, [*LONG[name].split(), "--recipe", name])
    assert found == long
    without = parse_flags(train.Config, LONG[name].split())
    assert vars(found) | {"recipe": None} == vars(without)
    changed = parse_flags(train.Config, ["--recipe", name, "--training-steps", "77"])
    assert (changed.training.training_steps, changed.data) == (77, found.data)


def test_an_unknown_recipe():
    with pytest.raises(InputError, match="recipe is 'imagenet', expected one of digits, mnist"):
        parse_flags(train.Config, ["--recipe", "imagenet"])
