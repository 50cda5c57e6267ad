"""How programs end: signals at any moment, full disks, threads and processes that do not end."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

import pytest
from processes import end_processes

from experiments.shared.endings import ending_well, plain_warnings
from experiments.shared.output import progress_bar
from jaxgen.errors import InputError

ROOT = pathlib.Path(__file__).parents[3]
PROGRAMS = "ending_programs"
HELPERS = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}"}

TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
CODES = {
    "plain": TERMINATED,
    "interrupt": INTERRUPTED,
    "swallowed": TERMINATED,
    "swallowed_at_the_end": TERMINATED,
    "swallowed_while_asleep": TERMINATED,
    "stuck": TERMINATED,
    "held_and_stuck": TERMINATED,
    "held_and_done": TERMINATED,
    "another_exception": TERMINATED,
    "waiting_thread": 2,
    "waiting_thread_after_a_fault": 1,
}


def test_a_program_ends_in_seconds_with_its_code(tmp_path):
    """Many programs at once, in children of one process; left alone, most take 30 s or more."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", PROGRAMS, *CODES, "--workdir", str(tmp_path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = [line for line in finished.stdout.splitlines() if not line.startswith("Results are in ")]
    ends = {name: (int(code), float(seconds)) for name, code, seconds in map(str.split, said)}
    assert {name: code for name, (code, _) in ends.items()} == CODES, finished.stderr
    assert max(seconds for _, seconds in ends.values()) < 15
    # One line for what was refused, a traceback for the fault, and nothing for any signal.
    lines = finished.stderr.splitlines()
    assert lines.count("error: not good") == 1
    assert lines.count("Traceback (most recent call last):") == 1
    assert lines.count("KeyError: 'a fault'") == 1
    for name in CODES:
        left = {path.name for path in (tmp_path / name).glob("*")} - {"metrics.json"}
        assert left == (set() if name == "waiting_thread" else {"config.json"})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_imports_says_nothing(number):
    """Python calls itself "-m" as long as it looks for the program's module."""
    source = (
        f"import sys, os; sys.argv[0] = '-m'; import experiments; os.kill(os.getpid(), {number})"
    )
    finished = subprocess.run(
        [sys.executable, "-c", f"{source}; import time; time.sleep(9)"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (finished.returncode, finished.stdout + finished.stderr) == (128 + number, "")


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_signal_during_the_imports_of_a_program(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.lm.nplm", "--workdir", str(tmp_path / "run")],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    while "jaxlib" not in maps.read_text():
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out + err) == (INTERRUPTED, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "left", "codes", "line"),
    [
        ("one_of_two", 0, (TERMINATED, TERMINATED), ""),
        ("one_is_lost_in_a_collective", 0, (1, -signal.SIGKILL), "process 0 lost another process"),
        pytest.param(
            *("one_is_lost", 0, (1, -signal.SIGKILL), "process 0 lost process 1 of 2"),
            marks=pytest.mark.slow,
        ),
        ("coordinator_is_lost", 1, (-signal.SIGKILL, 1), "process 1 lost another process of 2"),
    ],
)
def test_two_processes_end_together(tmp_path, monkeypatch, name, left, codes, line):
    """A signal to one is one to both; where one is lost the other says what to do.

    Without that they wait for minutes, and JAX would take SIGTERM for itself.
    """
    arguments = [name, "--workdir", str(tmp_path / "run"), "--num-processes", "2"]
    arguments += ["--process-id", "{process}"]
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
    found, errors = end_processes(PROGRAMS, arguments, devices_per_process=1, timeout=60)
    assert found == codes
    own = [text for text in errors[left].splitlines() if text.startswith("error:")]
    assert [line in text for text in own] == [True] * bool(line)
    assert all("start all processes again with the same flags" in text for text in own)
    assert "Traceback" not in errors[left]


def caused(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FULL, "runs/a: No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "there"), "there: Disk quota exceeded"),
        (caused(RuntimeError("not saved"), FULL), "runs/a: No space left on device"),
        (caused(InputError("no checkpoints"), FULL), "runs/a: No space left on device"),
        (
            ValueError("RESOURCE_EXHAUSTED: [OS error 28: No space left on device]\nin C++"),
            "runs/a: No space left on device",
        ),
        (OSError(errno.EFBIG, "File too large"), "runs/a: File too large"),
    ],
)
def test_a_full_disk_is_one_line_and_code_1(error, line, capsys):
    with pytest.raises(SystemExit) as stopped, ending_well(False, lambda: "runs/a"):
        raise error
    assert stopped.value.code == 1
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_warning_does_not_stand_on_the_line_of_a_bar(capsys, monkeypatch):
    def printed(message, category, *where):
        sys.stderr.write(warnings.formatwarning(message, category, *where[:2]))

    monkeypatch.setattr(warnings, "showwarning", printed)  # pytest's keeps them
    with plain_warnings(), progress_bar("sampling", "image", 2) as advance:
        advance(1)
        warnings.simplefilter("always")  # until pytest puts back what it filters
        warnings.warn("odd", stacklevel=1)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "warning: odd" in lines


def test_warnings_to_users_are_one_line():
    source = ("kneser_ney.py", 107, "warnings.warn(")
    with plain_warnings():
        assert warnings.formatwarning("odd", UserWarning, *source) == "warning: odd\n"
        assert "kneser_ney.py:107" in warnings.formatwarning("old", DeprecationWarning, *source)
    assert "kneser_ney.py:107" in warnings.formatwarning("odd", UserWarning, *source)
