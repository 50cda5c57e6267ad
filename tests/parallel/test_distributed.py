"""Several processes: how they start, and that together they compute what one computes."""

import json
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import two_processes
from processes import run_processes

from jaxgen.errors import InputError
from jaxgen.parallel import (
    all_succeed,
    barrier,
    distributed,
    gather_texts,
    is_main_process,
    make_mesh,
    on_main_process,
    start,
    stop,
)

WORKER = Path(two_processes.__file__)
MESHES = ["data=2,model=4", "model=8", "data=2,fsdp=2,model=2"]


@pytest.fixture(scope="module")
def alone() -> dict:
    """What one process with eight devices finds: this one."""
    return {"runs": {mesh: two_processes.train(make_mesh(mesh)) for mesh in MESHES}}


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> list[dict]:
    """What each of two processes with four devices found."""
    folder = tmp_path_factory.mktemp("together")
    run_processes(WORKER, [str(folder / "{process}.json"), *MESHES])
    return [json.loads((folder / f"{process}.json").read_text()) for process in range(2)]


def test_two_processes_see_all_devices_and_one_is_the_main_one(together: list[dict]) -> None:
    assert [found["process"] for found in together] == [0, 1]
    assert [found["processes"] for found in together] == [2, 2]
    assert [found["devices"] for found in together] == [8, 8]
    assert [len(found["local"]) for found in together] == [4, 4]
    assert [found["main"] for found in together] == [True, False]
    assert [found["on_main"] for found in together] == ["aaa", None]


@pytest.mark.parametrize("mesh", MESHES)
def test_two_processes_compute_what_one_computes(mesh, alone: dict, together: list[dict]) -> None:
    one, two = alone["runs"][mesh], [found["runs"][mesh] for found in together]
    assert two[0]["losses"] == two[1]["losses"]
    assert two[0]["params"] == two[1]["params"]
    assert one["losses"][-1] != one["losses"][0]
    np.testing.assert_allclose(two[0]["losses"], one["losses"], rtol=1e-6)
    for a, b in zip(two[0]["params"], one["params"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    first = alone["runs"][MESHES[0]]["losses"]  # and on every mesh
    np.testing.assert_allclose(one["losses"], first, rtol=1e-6)


@pytest.mark.parametrize("mesh", MESHES)
def test_the_program_communicates_the_same_on_two_processes(mesh, alone, together) -> None:
    sizes = [found["runs"][mesh]["bytes"] for found in [alone, *together]]
    assert sizes[0] == sizes[1] == sizes[2]
    assert sum(sizes[0].values()) > 0


def test_each_process_supplies_its_rows(together: list[dict]) -> None:
    rows = {mesh: [found["runs"][mesh]["rows"] for found in together] for mesh in MESHES}
    halves = [list(range(8)), list(range(8, 16))]
    assert rows["data=2,model=4"] == rows["data=2,fsdp=2,model=2"] == halves
    assert rows["model=8"] == [list(range(16))] * 2  # `model` spans both


def test_a_process_that_fails_takes_the_others_down_and_is_heard(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys, time\n"
        "if os.environ['JAX_PROCESS_ID'] == '1':\n"
        "    sys.exit('the second is unwell')\n"
        "time.sleep(60)\n"
    )
    begin = time.monotonic()
    with pytest.raises(AssertionError, match="process 1 ended with exit code 1") as error:
        run_processes(worker, timeout=30)
    assert "the second is unwell" in str(error.value)
    assert time.monotonic() - begin < 20


def test_time_is_limited(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(AssertionError, match="not finished within"):
        run_processes(worker, timeout=0.5)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (dict(coordinator="127.0.0.1:1234"), "num_processes and process_id missing"),
        (dict(num_processes=2, process_id=0), "coordinator missing"),
        (dict(coordinator="h:1", process_id=0), "num_processes missing"),
        (dict(coordinator="nowhere", num_processes=2, process_id=0), "'nowhere' is not host:port"),
        (dict(coordinator="h:x", num_processes=2, process_id=0), "'h:x' is not host:port"),
        (dict(coordinator="h:70000", num_processes=2, process_id=0), "'h:70000' is not host:port"),
        (dict(coordinator="h:1", num_processes=2, process_id=2), "process_id 2 is not in 0 .. 1"),
        (dict(coordinator="h:1", num_processes=2, process_id=-1), "process_id -1 is not in 0 .. 1"),
        ({}, "no cluster was found"),
    ],
)
def test_what_start_refuses(arguments: dict, fault: str, monkeypatch) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)

    def initialize(**settings) -> None:
        assert not arguments, f"{settings} should have been refused"
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(InputError) as error:
        start(**arguments)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_come_from_arguments_and_then_from_the_environment(monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **settings: seen.update(settings))
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "two")
    with pytest.raises(InputError, match="process_id 'two' must be integers"):
        start()
    start(process_id=0)
    assert (seen["coordinator_address"], seen["num_processes"]) == ("10.0.0.1:1234", 4)
    assert (seen["process_id"], seen["coordinator_bind_address"]) == (0, None)
    assert seen["local_device_ids"] is None
    start(coordinator="127.0.0.1:99", process_id=3, local_device_ids=[2, 0])
    assert seen["coordinator_bind_address"] == "127.0.0.1:99"
    assert seen["local_device_ids"] == [2, 0]
    for ids in ([], [0, 0], [-1]):
        with pytest.raises(InputError, match="local_device_ids is"):
            start(process_id=0, local_device_ids=ids)
    assert seen["process_id"] == 3


def test_one_process_is_the_main_one_and_waits_for_nobody() -> None:
    assert is_main_process()
    assert on_main_process(max, 3, 4) == 4
    barrier("alone")
    assert gather_texts("é") == ["é"]
    assert all_succeed(lambda: 3) == 3
    with pytest.raises(InputError, match=r"^not good$"):
        all_succeed(lambda: refuse("not good"))
    stop()


def test_all_processes_say_what_one_of_them_refuses(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "gather_texts", lambda text: [text, "", "no such file", "no"])
    with pytest.raises(InputError, match=r"^process 2: no such file$"):
        all_succeed(lambda: 3)
    with pytest.raises(OSError, match=r"^full$"):
        all_succeed(lambda: refuse("full", OSError))


def refuse(line: str, kind: type[Exception] = InputError) -> None:
    raise kind(line)
