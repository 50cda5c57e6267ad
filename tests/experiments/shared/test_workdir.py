"""Working folders: whose they are, what is left of refused runs, what a run was made from."""

import dataclasses
import functools
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from processes import run_processes

from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, parse_flags, run
from experiments.shared.locks import LOCK, Holder, process_start, read_holder, take_lock
from experiments.shared.workdir import check_checkpoints
from jaxgen.errors import InputError
from jaxgen.training import Checkpoints, OptimizerConfig, create_state, make_optimizer
from jaxgen.training.saved_names import register_config

HERE = Holder.this_process()


@register_config("test.rates")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """Some rates.

    Attributes:
      rate: one of them.
      limit: another one, or None.
    """

    rate: float = 1.0
    limit: float | None = None


@register_config("test.workdir-config")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """A configuration.

    Attributes:
      rates: in a part of their own.
      guidance_weights: several at once.
    """

    rates: Rates = Rates()
    guidance_weights: tuple[float, ...] = ()


def at(folder, **options):
    return Config(launch=LaunchConfig(workdir=str(folder)), **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run_main(main, arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run(main, Config)
    return stopped.value.code


def write_lock(folder, **changes):
    folder.mkdir(exist_ok=True)
    holder = dataclasses.replace(HERE, token="another", **changes)
    (folder / LOCK).write_text(json.dumps(dataclasses.asdict(holder)))
    return holder


@pytest.fixture
def other_process():
    """A process that runs, and does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


def test_a_folder_in_use_is_refused_by_name(tmp_path, other_process, monkeypatch, capfd):
    holder = write_lock(tmp_path, process=other_process, started=process_start(other_process))
    assert run_main(open_workdir, ["--workdir", tmp_path], monkeypatch) == 2
    assert capfd.readouterr().err == (
        f"error: {tmp_path} is in use by process {other_process} on {socket.gethostname()} since "
        f"{holder.since}, expected a folder that no other run uses\n"
    )
    assert names(tmp_path) == [LOCK]
    assert read_holder(tmp_path / LOCK) == holder
    write_lock(tmp_path, host="elsewhere", process=1)
    assert run_main(open_workdir, ["--workdir", tmp_path], monkeypatch) == 2
    line = capfd.readouterr().err
    assert "by process 1 on elsewhere since" in line
    assert f"(remove {LOCK} in it if that process has ended)" in line


def test_the_folder_of_a_process_that_has_ended_is_taken_over(tmp_path, other_process, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    def main(config):
        holder = read_holder(open_workdir(config) / LOCK)
        assert holder.process == os.getpid()
        assert holder.started == process_start(os.getpid())
        assert open_workdir(config) == tmp_path  # a second time, as one run may
        assert read_holder(tmp_path / LOCK) == holder
        return {}

    for process, started in ((ended.pid, "then"), (other_process, "the number was another's")):
        write_lock(tmp_path, process=process, started=started)
        assert run_main(main, ["--workdir", tmp_path], monkeypatch) == 0
    (tmp_path / LOCK).touch()  # its process was killed before it wrote
    assert run_main(main, ["--workdir", tmp_path], monkeypatch) == 0
    assert names(tmp_path) == ["config.json", "metrics.json"]


def test_who_takes_a_folder_over_at_the_same_time(tmp_path, monkeypatch):
    """Both see that the file is of a process that has ended; the one that writes last has it."""
    write_lock(tmp_path, process=2**22 + 1, started="then")
    other = dataclasses.replace(HERE, process=1, started=process_start(1), token="last")
    monkeypatch.setattr(
        "experiments.shared.locks.time.sleep",
        lambda _: (tmp_path / LOCK).write_text(json.dumps(dataclasses.asdict(other))),
    )
    with pytest.raises(InputError, match="is in use by process 1 on"):
        take_lock(tmp_path)
    assert read_holder(tmp_path / LOCK) == other


@pytest.mark.parametrize("content", ["{", "[]", '{"host": 3}', "null", "\x00", '"running"'])
def test_a_lock_that_is_none_is_named(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(InputError, match=r"running\.json, expected the process that uses"):
        take_lock(tmp_path)


def test_a_failed_run_lets_go(tmp_path, monkeypatch):
    def main(config):
        assert LOCK in names(open_workdir(config))
        raise error

    for failure, code in ((InputError("late"), 2), (KeyboardInterrupt(), 130)):
        error = failure
        assert run_main(main, ["--workdir", tmp_path / "run"], monkeypatch) == code
        assert not (tmp_path / "run" / LOCK).exists()
    error = KeyError("a fault")
    monkeypatch.setattr(sys, "argv", ["program", "--workdir", str(tmp_path / "run")])
    with pytest.raises(KeyError):
        run(main, Config)
    assert names(tmp_path / "run") == ["config.json"]


def test_a_refused_run_leaves_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "run"

    def refuse(folder):
        raise InputError("no good")

    with pytest.raises(InputError, match="no good"):
        open_workdir(at(folder), check=refuse)
    assert names(tmp_path) == []

    def late(config):
        (open_workdir(config) / "checkpoints").mkdir()  # as opening them does
        raise InputError("no good")

    assert run_main(late, ["--workdir", folder], monkeypatch) == 2
    assert names(tmp_path) == []
    folder.mkdir(parents=True)
    assert run_main(late, ["--workdir", folder], monkeypatch) == 2
    assert names(folder) == []
    (folder / "config.json").write_text("{}")
    assert run_main(late, ["--workdir", folder], monkeypatch) == 2
    assert (folder / "config.json").read_text() == "{}"

    def after_some_work(config):
        (open_workdir(config) / "table.md").touch()
        raise InputError("no good")

    assert run_main(after_some_work, ["--workdir", tmp_path / "b"], monkeypatch) == 2
    assert names(tmp_path / "b") == ["config.json", "table.md"]


def test_checkpoints_of_another_model_are_refused_before_anything_is_written(tmp_path):
    optimizer = OptimizerConfig("sgd", 0.5)
    state, _ = create_state(lambda: {"w": np.zeros(2)}, tx=make_optimizer(optimizer))
    with Checkpoints(tmp_path / "checkpoints", config=optimizer) as checkpoints:
        check_checkpoints(tmp_path, OptimizerConfig("adamw"))  # there is none yet
        checkpoints.save(state)
    check_checkpoints(tmp_path, optimizer)
    check_checkpoints(tmp_path, OptimizerConfig("sgd", 0.25), ("learning_rate",))
    check = functools.partial(check_checkpoints, config=OptimizerConfig("sgd", 0.25))
    with pytest.raises(InputError, match=r"learning_rate: 0\.5, expected 0\.25") as caught:
        open_workdir(at(tmp_path), check=check)
    assert str(tmp_path / "checkpoints") in str(caught.value)
    assert names(tmp_path) == ["checkpoints"]


def test_a_run_on_other_data_is_refused_by_name(tmp_path):
    open_workdir(at(tmp_path), data={"a.txt": "1234", "old": "1"})
    before = (tmp_path / "config.json").read_bytes()
    open_workdir(at(tmp_path), data={"a.txt": "1234", "old": "1"})
    assert (tmp_path / "config.json").read_bytes() == before
    with pytest.raises(InputError, match=r"^a\.txt has changed since .* \(digest 1234, expected 5"):
        open_workdir(at(tmp_path), data={"a.txt": "5678"})
    assert (tmp_path / "config.json").read_bytes() == before
    # Of a folder made before data were noted, nothing is known.
    saved = json.loads(before)
    del saved["data"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    open_workdir(at(tmp_path), data={"a.txt": "5678"})


ODD = (None, True, -1, 1e400, "x", [], {}, [1], {"class": "x"}, {"tuple": 3}, {"float": "inf"})


def refusal(config):
    """Why a folder is refused, or None."""
    try:
        open_workdir(config, data={"a.txt": "1"})
    except InputError as error:
        return str(error)
    return None


def test_odd_values_in_a_configuration_file_are_one_line(tmp_path):
    open_workdir(at(tmp_path), data={"a.txt": "1"})
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())

    def places(value, path=()):
        for key, item in value.items() if isinstance(value, dict) else ():
            yield (*path, key)
            yield from places(item, (*path, key))

    refused = 0
    for place in places(saved):
        for odd in ODD:
            changed = json.loads(json.dumps(saved))
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            path.write_text(json.dumps(changed))
            line = refusal(at(tmp_path))
            assert line is None or (str(tmp_path) in line and "\n" not in line), (place, odd, line)
            refused += line is not None
    assert refused > 100  # where to run does not matter


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "flags",
    [["--rate"], ["--limit"], ["--guidance_weights", "1.5"]],
    ids=["rate", "limit", "guidance_weights"],
)
def test_numbers_that_are_not_finite_are_refused(flags, value, tmp_path):
    with pytest.raises(InputError, match=rf"^{flags[0][2:]} is .*{value}.*, expected finite"):
        parse_flags(Config, [*flags, value])
    config = at(tmp_path / "run", rates=Rates(rate=float(value)))
    with pytest.raises(InputError, match=rf"^rate is {value}, expected finite numbers"):
        open_workdir(config)
    assert names(tmp_path) == []


SHARING = """
import sys
from experiments.shared.launch import ExperimentConfig, open_workdir, report, run
from jaxgen.parallel import barrier
def main(config):
    folder = open_workdir(config)
    assert (folder / "running.json").exists()
    report("opened")
    barrier("opened")
    return {}
run(main, ExperimentConfig)
"""


def test_processes_share_their_folder_or_all_say_so(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(SHARING)
    several = ["--num-processes", "2", "--process-id", "{process}"]
    arguments = [*several, "--workdir", str(tmp_path / "one")]
    main, other = run_processes(program, arguments, devices_per_process=1)
    assert main.count("opened") == 1
    assert "opened" not in other
    assert names(tmp_path / "one") == ["config.json", "metrics.json"]
    with pytest.raises(AssertionError, match="ended with exit code 2") as caught:
        run_processes(
            program,
            [*several, "--workdir", str(tmp_path / "many{process}")],
            devices_per_process=1,
        )
    where = (
        f"{tmp_path / 'many1'} on {socket.gethostname()} is not the folder that process 0 writes"
    )
    assert f"error: process 1: {where}" in str(caught.value)
    assert f"error: {where}" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert names(tmp_path) == ["one", "program.py"]
