"""The commands and calls of the page "On your own text", executed as they stand there."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from processes import xla_flags
from random_text import sentences

from experiments.lm.ngrams import COMMANDS
from experiments.shared.launch import run_tool

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_text.md").read_text(encoding="utf8")
COMMAND_LINES = re.findall(r"```sh\n(.*?)\n```", PAGE)
(CALLS,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)

pytestmark = pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with a text in three files."""
    lines = [" ".join(words) for words in sentences(600)]
    for name, part in {
        "train": slice(450),
        "valid": slice(450, 520),
        "test": slice(520, 600),
    }.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines[part]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_of_network(line):
    return "nplm" in line or "runs/own" in line


def run_command(line):
    """Runs a command of `ngrams` within this process."""
    arguments = shlex.split(line)
    assert arguments[:3] == ["python", "-m", "experiments.lm.ngrams"]
    with pytest.raises(SystemExit) as ended:
        run_tool(COMMANDS, arguments[3:])
    assert ended.value.code == 0


def test_there_are_ten_of_each():
    assert len(COMMAND_LINES) == 10
    assert re.findall(r"^# (\d+), (\d+):", CALLS, re.MULTILINE)[-1] == ("9", "10")


def test_the_calls_run(folder, capsys):
    names: dict = {}
    exec(compile(CALLS, "own_text.md", "exec"), names)
    assert 5 < names["total"].ppl < 300
    assert names["score"](names["same"], "w1 w2") == names["score"](names["model"], "w1 w2")
    assert names["other"].words == names["model"].words
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_the_commands_of_ngrams_run(folder, capsys):
    for line in COMMAND_LINES:
        if not is_of_network(line):
            run_command(line)
    printed = capsys.readouterr().out
    for file in ("model.arpa", "wb.arpa.gz", "mixed.arpa", "small.arpa"):
        assert (folder / file).is_file()
        assert f": {file}\n" in printed


@pytest.mark.slow
def test_the_commands_of_the_network_run(folder, capsys):
    train, *others = [line for line in COMMAND_LINES if is_of_network(line)]
    environment = {**os.environ, "XLA_FLAGS": xla_flags(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *shlex.split(train)[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for line in others:
        run_command(line)
    printed = capsys.readouterr().out
    assert 5 < float(re.search(r" ppl ([\d.]+)", printed)[1]) < 300
    assert len(printed.splitlines()) == 2 + 3  # a summary without hits, three sentences
