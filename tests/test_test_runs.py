"""Runs of pytest: a folder that compiles too much fails, a worker that dies names its test."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

COMPILES = """
import jax, pytest

@pytest.fixture(scope="module")
def one():
    return jax.jit(lambda x: x + 1)(1.0)

@pytest.mark.parametrize("count", [0, 1, 2])
def test_compiles(one, count):
    for i in range(count):
        jax.jit(lambda x: x + i)(1)
"""

DIES = """
import os, signal

def test_lives():
    pass

def test_dies():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_pytest(folder, files, *arguments):
    """What pytest prints for files in a folder of tests, and how it ends."""
    for name, text in files.items():
        path = folder / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.compiled_programs", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


def test_programs_are_counted_and_held_to_a_budget(tmp_path):
    budgets = "from tests.compiled_programs import BUDGETS\nBUDGETS.update(a=3, b=4)\n"
    files = {"a/test_one.py": COMPILES, "b/test_two.py": COMPILES, "conftest.py": budgets}
    code, output = run_pytest(tmp_path, files, "-n2", "--dist=loadfile")
    assert code == 1
    table = [line.split() for line in output.splitlines() if line.startswith(("a  ", "b  "))]
    assert [(row[0], row[1], *row[3:]) for row in table] == [
        ("a", "3", "4", "3"),
        ("b", "3", "4", "4"),
    ]
    assert "tests/a compiled 4 programs, expected at most 3" in output
    assert "tests/b compiled" not in output


def test_a_worker_that_dies_names_its_test(tmp_path):
    code, output = run_pytest(tmp_path, {"a/test_dies.py": DIES}, "-n1", "--dist=loadfile")
    assert code == 1
    assert "crashed while running 'tests/a/test_dies.py::test_dies'" in output
