"""Runs that are killed at any moment and started again resume to the same bits."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_run
from processes import run_processes

from jaxgen.parallel import make_mesh
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.metrics import read_records

PROGRAM = pathlib.Path(small_run.__file__)


def start(folder, *arguments):
    source = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{PROGRAM.parent}"}
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err


def history(folder):
    records = read_records(folder / "metrics.jsonl")
    return [
        {k: v for k, v in record.items() if k != "seconds" and not k.startswith("speed/")}
        for record in records
    ]


def load(folder, like):
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    with Checkpoints(folder / "checkpoints", config=small_run.MODEL) as saved:
        return saved.restore(abstract)


def close(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), a, b)


def assert_close_histories(a, b):
    """Equal but for rounding: another program, or sums in another order."""
    assert [list(record) for record in a] == [list(record) for record in b]
    close(a, b)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder and the last state of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = small_run.train(folder)
    assert int(result.state.skipped) == 1
    return folder, result.state


def assert_same_run(folder, reference):
    expected_folder, expected = reference
    state, progress = load(folder, expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert history(folder) == history(expected_folder)
    expected_progress = load(expected_folder, expected)[1]
    assert {**progress, "seconds": 0} == {**expected_progress, "seconds": 0}


def test_runs_killed_while_saving_resume_bit_for_bit(tmp_path, reference):
    """Saves start at 6, 10, 12, 18, ... and take many steps' time: these kills fall into them."""
    leftovers = []
    for kill_at in (7, 19, 31):
        end(start(tmp_path, "--kill-at", kill_at))
        leftovers += [p.name for p in (tmp_path / "checkpoints").iterdir() if "tmp" in p.name]
    assert leftovers, "no kill fell into a save"
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write(json.dumps({"step": 32})[:-3])  # a record that was cut off, too
    assert small_run.train(tmp_path).reason == "steps"
    assert_same_run(tmp_path, reference)


@pytest.mark.slow
def test_runs_killed_at_random_moments_resume_bit_for_bit(tmp_path, reference):
    seed = np.random.SeedSequence().entropy
    print(f"seed of the moments: {seed}")
    rng = np.random.default_rng(seed)
    records = tmp_path / "metrics.jsonl"
    for _ in range(2):
        size = records.stat().st_size if records.exists() else 0
        process = start(tmp_path)
        while not records.exists() or records.stat().st_size in (0, size):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        process.communicate(timeout=120)
    assert small_run.train(tmp_path).reason == "steps"
    assert_same_run(tmp_path, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits(tmp_path, reference, number):
    """The signal falls on a step that is no multiple of any interval."""
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]

    def data(step):
        if step == 22:
            os.kill(os.getpid(), number)
        return small_run.data(step)

    with pytest.raises(SystemExit) as stopped:
        small_run.train(tmp_path, data=data)
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == 23
    assert small_run.train(tmp_path).reason == "steps"
    assert_same_run(tmp_path, reference)


def test_a_finished_run_started_again_changes_nothing(tmp_path, reference):
    folder, state = reference
    before = (folder / "metrics.jsonl").read_bytes()
    again = small_run.train(folder, data=None)
    jax.tree.map(np.testing.assert_array_equal, again.state, state)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_several_steps_per_call_give_the_same_run(tmp_path, reference):
    config = dataclasses.replace(small_run.LOOP, steps_per_call=2)
    result = small_run.train(tmp_path, config)
    close(result.state, reference[1])
    assert_close_histories(history(tmp_path), history(reference[0]))


def test_a_run_goes_on_with_more_output_blocks_on_another_mesh(tmp_path, reference):
    """20 steps on one device with two blocks (6 rows), then 16 on eight with four (8 rows)."""
    half = dataclasses.replace(small_run.LOOP, steps=20)
    small_run.train(tmp_path, half)
    with jax.set_mesh(make_mesh("data=2,model=4")):
        result = small_run.train(tmp_path, model=dataclasses.replace(small_run.MODEL, blocks=4))
    cut = lambda x: x[..., :6] if x.ndim and x.shape[-1] == 8 else x  # noqa: E731
    close(jax.tree.map(cut, jax.device_get(result.state)), reference[1])
    assert_close_histories(history(tmp_path), history(reference[0]))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folders of an undisturbed run of two processes, and of one that a signal stopped in between.

    The signal reaches one process, at step 21; both stop together at the next record. In a run
    without records they stop at a step that JAX's preemption service agrees on, a second and a
    step later.
    """
    folder = tmp_path_factory.mktemp("two_processes")
    outputs = run_processes(PROGRAM, [str(folder), "--processes", "--terminate-at", "21"])
    for output in outputs:
        assert f"\nstopped {128 + signal.SIGTERM} saved 24" in output
        assert f"between records {128 + signal.SIGTERM} saved" in output
        assert output.count("finished steps 36") == 2
    at = [int(re.search(r"between records \d+ saved (\d+)", output)[1]) for output in outputs]
    assert at[0] == at[1]
    assert 5 < at[0] < 100  # steps of 0.05 s at least
    return folder / "undisturbed", folder / "stopped"


def test_two_processes_resume_bit_for_bit(two_processes, reference):
    """Their checkpoints are read by this process, on one device."""
    undisturbed, stopped = (load(folder, reference[1])[0] for folder in two_processes)
    jax.tree.map(np.testing.assert_array_equal, stopped, undisturbed)
    assert history(two_processes[1]) == history(two_processes[0])


def test_two_processes_compute_what_one_computes(two_processes, reference):
    close(load(two_processes[0], reference[1])[0], reference[1])
    assert_close_histories(history(two_processes[0]), history(reference[0]))
