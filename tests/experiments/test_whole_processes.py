"""A whole program as two processes and as one: the same figures, bit for bit."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from processes import ROOT, run_processes, without_gloo, xla_flags

from jaxgen.training import read_records

SMALL_TEXTS = ["--text-width", "32", "--text-depth", "1", "--size", "16"]
PROGRAMS = {"experiments.images.train": [], "experiments.text_to_image.train": SMALL_TEXTS}
FLAGS = [
    *("--training-steps", "16", "--batch-size", "16", "--width", "64", "--depth", "1"),
    *("--steps", "2", "--evaluate", "0", "--mesh", "data=2"),
]


def figures(folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All that a run wrote in numbers, without times."""
    last = json.loads((folder / "metrics.json").read_text())
    assert last.pop("training seconds") > 0
    records = [
        {k: v for k, v in record.items() if k != "seconds" and not k.startswith("speed/")}
        for record in read_records(folder / "metrics.jsonl")
    ]
    return last, records


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_two_processes_give_the_figures_of_one(program, tmp_path, monkeypatch):
    """Each reads its own half of every batch. NPROC gives both the same number of threads, on which
    the order of sums inside of a product depends on CPU."""
    monkeypatch.setenv("NPROC", "2")
    one, two = tmp_path / "one", tmp_path / "two"
    environment = {**os.environ, "XLA_FLAGS": xla_flags(), "JAX_PLATFORMS": "cpu"}
    flags = [*FLAGS, *PROGRAMS[program]]
    command = [sys.executable, "-m", program, *flags, "--devices", "2", "--workdir", str(one)]
    command += ["--compilation-cache", str(tmp_path / "programs")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert any("jit_step" in path.name for path in (tmp_path / "programs").iterdir())
    several = ["--workdir", str(two), "--num-processes", "2", "--process-id", "{process}"]
    _, other = run_processes(program, [*flags, *several], devices_per_process=1, timeout=500)
    assert without_gloo(other) == ""
    assert figures(two) == figures(one)
    assert len(figures(one)[1]) == 4
