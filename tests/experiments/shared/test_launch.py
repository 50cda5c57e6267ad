"""Flags, folders and ends of experiments."""

import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from experiments.shared.launch import (
    ExperimentConfig,
    LaunchConfig,
    open_workdir,
    parse_flags,
    run,
)
from jaxgen.errors import InputError
from jaxgen.training import NonFiniteError
from jaxgen.training.saved_names import register_config

ROOT = pathlib.Path(__file__).parents[3]
EXPERIMENTS = ("lm.nplm", "lm.bengio2003", "lm.local_steps")


@register_config("test.part")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Some numbers.

    Attributes:
      count: how many.
      share: which share, or None.
    """

    count: int = 3
    share: float | None = None

    def __post_init__(self):
        if self.count < 1:
            raise InputError(f"count is {self.count}, expected 1 or more, as everybody will know")


@register_config("test.launch-config")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """A configuration."""

    part: Part = Part()
    names: tuple[str, ...] = ()
    fast: bool = False


@pytest.fixture
def sigterm():
    """`run` sets a handler."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before


def run_main(main, arguments, monkeypatch, config_class=Config):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run(main, config_class)
    return stopped.value.code


def flags_of(config_class):
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(field.default):
            yield from flags_of(type(field.default))
        else:
            yield "--" + field.name.replace("_", "-")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_names_and_explains_every_flag(name, capsys):
    config_class = importlib.import_module(f"experiments.{name}").Config
    with pytest.raises(SystemExit) as stopped:
        parse_flags(config_class, ["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    flags = list(flags_of(config_class))
    assert {"--workdir", "--mesh", "--devices", "--seed", "--corpus"} <= set(flags)
    for flag in flags:
        assert f" {flag}" in shown
        explanation = shown.split(f" {flag}", 1)[1][:300].split("(default")[0].split("(required")[0]
        assert len(explanation.split()) > 4, f"{flag} is not explained"


def test_flags_make_the_configuration():
    arguments = ["--count", "7", "--share", "0.5", "--names", "a", "b", "--fast", "--devices", "2"]
    config = parse_flags(Config, arguments)
    assert config == Config(
        launch=LaunchConfig(devices=2), part=Part(count=7, share=0.5), names=("a", "b"), fast=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cuont", "1"], "--cuont, 1 (perhaps --count)"),
        (["--count", "x"], "--count: invalid literal for int() with base 10: 'x'"),
        (["--share", "x"], "--share: no type matching"),
        (["--count"], "Missing value for argument '--count'"),
        (["stray"], "stray"),
        (["--count", "0"], "count is 0, expected 1 or more, as everybody will know"),
        (["--seed", "-1"], "seed is -1, expected 0 to 2,147,483,647"),
        (["--seed", "2147483648"], "seed is 2147483648, expected 0 to 2,147,483,647"),
        (["--devices", "-1"], "devices is -1, expected 0 or more"),
        (["--mesh", "data=3"], "mesh 'data=3' has 3 places but there are 8 devices"),
        (["--mesh", "rows=8"], "unknown axis 'rows'"),
        (["--num-processes", "2"], "missing"),
        (["--coordinator", "here", "--num-processes", "2", "--process-id", "0"], "host:port"),
    ],
)
def test_bad_flags_end_in_one_line_and_code_2(arguments, message, monkeypatch, capfd, sigterm):
    assert run_main(lambda config: pytest.fail("ran"), arguments, monkeypatch) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert message in err
    assert not set("│╭─") & set(err)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("two\n lines"), 2, "two lines"),
        (FileNotFoundError("here: no such file"), 2, "here: no such file"),
        (FileNotFoundError(2, "No such file or directory", "there"), 2, "there: No such file"),
        (PermissionError(13, "Permission denied", "there"), 2, "there: Permission denied"),
        (NonFiniteError("diverged"), 1, "diverged"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_ends(error, code, message, monkeypatch, capfd, tmp_path, sigterm):
    def main(config):
        raise error

    assert run_main(main, ["--workdir", tmp_path / "run"], monkeypatch) == code
    assert capfd.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()


def test_faults_of_the_program_keep_their_traceback(monkeypatch, sigterm):
    def main(config):
        raise KeyError("a fault")

    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(KeyError):
        run(main, Config)


def test_configuration_first_and_figures_last(monkeypatch, tmp_path, sigterm):
    folder = tmp_path / "deep" / "run"

    def main(config):
        assert open_workdir(config) == folder
        assert sorted(os.listdir(folder)) == ["config.json", "running.json"]
        return {"perplexity": 2.5, "nested": {"x": float("inf")}}

    assert run_main(main, ["--workdir", folder, "--count", 5], monkeypatch) == 0
    assert sorted(os.listdir(folder)) == ["config.json", "metrics.json"]
    assert json.loads((folder / "config.json").read_text())["fields"]["part"]["fields"] == {
        "count": 5,
        "share": None,
    }
    assert json.loads((folder / "metrics.json").read_text()) == {
        "perplexity": 2.5,
        "nested": {"x": "inf"},
    }


def test_tensorboard_without_its_package_is_refused_before_anything_is_done(
    monkeypatch, capfd, sigterm
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run_main(lambda config: pytest.fail("ran"), ["--tensorboard"], monkeypatch) == 2
    assert capfd.readouterr().err == (
        "error: tensorboard is on, expected the package tensorboardX for it\n"
    )


def at(folder, **options):
    return Config(launch=LaunchConfig(workdir=str(folder)), **options)


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    open_workdir(at(tmp_path, part=Part(count=5)))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"part\.count: 5, expected 6") as caught:
        open_workdir(at(tmp_path, part=Part(count=6)))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match="seed: 0, expected 1"):
        open_workdir(at(tmp_path, part=Part(count=5), seed=1))
    assert (tmp_path / "config.json").read_bytes() == before


def test_another_mesh_and_fields_that_may_differ_are_not(tmp_path):
    open_workdir(at(tmp_path))
    elsewhere = LaunchConfig(workdir=str(tmp_path), mesh="data=2,model=4", devices=8)
    open_workdir(dataclasses.replace(at(tmp_path, names=("a",)), launch=elsewhere), ("names",))
    assert "data=2,model=4" in (tmp_path / "config.json").read_text()


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file, expected a folder to work in"):
        open_workdir(at(tmp_path / "file"))
    (tmp_path / "config.json").write_text('{"class"')
    with pytest.raises(InputError, match=r"config\.json.*, expected the configuration of a run"):
        open_workdir(at(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json.*, expected the configuration of a run"):
        open_workdir(at(tmp_path))


def test_a_program_fails_with_one_line_and_writes_nothing(tmp_path):
    for arguments, message in (
        (["--corpus", "nowhere.txt"], "error: nowhere.txt: no such file or folder"),
        (["--recipe", "best"], "error: invalid choice 'best' for argument '--recipe'"),
        (["--hidden", "0"], "error: hidden is 0 and direct is off"),
    ):
        finished = subprocess.run(
            [sys.executable, "-m", "experiments.lm.nplm", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert finished.returncode == 2
        assert finished.stderr.startswith(message)
        assert finished.stderr.count("\n") == 1
        assert finished.stdout == ""
    assert not any(tmp_path.iterdir())


def test_sigterm_ends_with_143_and_no_traceback(tmp_path):
    program = tmp_path / "waiting.py"
    program.write_text(
        "import time\n"
        "from experiments.shared.launch import ExperimentConfig, report, run\n"
        "def main(config):\n"
        "    report('ready')\n"
        "    while True:  # a signal just before one long sleep would not end it\n"
        "        time.sleep(0.05)\n"
        "run(main, ExperimentConfig)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")


def test_the_last_line_says_where_the_results_are(monkeypatch, tmp_path, capsys, sigterm):
    def main(config):
        open_workdir(config)
        return {}

    assert run_main(main, ["--workdir", tmp_path / "run"], monkeypatch) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"Results are in {tmp_path / 'run'}"


def test_every_program_is_run_by_the_launcher():
    folders = {path.parent for path in (ROOT / "experiments").glob("*/support")}
    assert len(folders) >= 4
    for path in sorted(path for folder in folders for path in folder.glob("[!_]*.py")):
        started = path.read_text(encoding="utf8").split('if __name__ == "__main__":')[-1]
        # A tool of several commands has no folder of results.
        assert "run(main, Config)" in started or "run_tool(" in started, path
