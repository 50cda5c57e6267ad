"""Contenders of a benchmark: processes that stay alive and time their own runs on command.

Each is a process of its own, so frameworks do not share threads or memory, and they take turns: one
run of each, round after round, so that whatever else the machine does falls on all of them. What is
compared are medians over the rounds, as ratios.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent

PAUSE = 0.5
HUGE_PAGES = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    ":glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592"
}
"""Keeps freed memory and backs it by huge pages: on CPU much time otherwise goes to page faults."""


SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Else the first contender that runs JAX would take three quarters of a GPU's memory for itself."""


class Contender:
    """The benchmark's end of a contender: commands it to run, reads its messages."""

    def __init__(self, process: subprocess.Popen):
        self.process = process

    @classmethod
    def start(
        cls, python: str, module: str, task: dict, variables: Mapping[str, str]
    ) -> "Contender | None":
        """Starts ``python -m module --serve TASK``; None, and a line that says so, if it fails."""
        process = subprocess.Popen(
            [python, "-m", module, "--serve", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **SHARED_GPU, **variables},
        )
        contender = cls(process)
        try:
            contender.receive()
        except EOFError:
            print(f"{task['side']} {task['form']}: did not start, left out", file=sys.stderr)
            return None
        return contender

    def receive(self) -> dict:
        """The contender's next message."""
        line = self.process.stdout.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def say(self, word: str) -> None:
        """Sends a line."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def run(self) -> float:
        """Seconds of one run, after a pause in which the threads of the last contender go to sleep.

        OpenMP's (PyTorch's) wait for more work in a loop that takes a core, for some 0.2 s.
        """
        time.sleep(PAUSE)
        self.say("run")
        return self.receive()["seconds"]

    def stop(self) -> float:
        """Ends the process; its peak memory in megabytes."""
        self.say("stop")
        peak = self.receive()["peak_megabytes"]
        self.process.wait()
        return peak


def send(message: dict) -> None:
    """A contender's messages."""
    print(json.dumps(message), flush=True)


def receive() -> str:
    """Its commands."""
    return sys.stdin.readline().strip()


CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
"""Time on the wall, or that which the process had a core: the same on idle cores."""


def serve_function(function: Callable[[], object], clock: str = "wall") -> None:
    """A contender's life: one run to get ready, then one timed run per message."""
    function()
    send({"ready": True})
    now = CLOCKS[clock]
    while receive() == "run":
        start = now()
        function()
        send({"seconds": now() - start})


def say_goodbye() -> None:
    """A contender's last message: its peak memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    send({"peak_megabytes": peak})


def measure_in_turns(
    contenders: Mapping[tuple[str, str], Contender],
    rounds: int,
    folder: pathlib.Path,
    tolerance: float,
    *,
    unchecked: Sequence[str] = (),
    label: str = "",
) -> list[dict]:
    """Lets contenders take turns, then stops them: a record of each.

    Args:
      contenders: by form and side.
      rounds: runs of each.
      folder: where they have saved their first results, ``FORM_SIDE.npy``.
      tolerance: how far a side may be from jaxgen's.
      unchecked: forms whose results are not compared.
      label: before what is said of the progress.

    Raises:
      ValueError: where a side is too far from jaxgen's to compare their speed.
    """
    found = {
        (form, side): None if form in unchecked else check_equal(folder, form, side, tolerance)
        for form, side in contenders
    }
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender.run())
        progress(f"{label}round {round_ + 1} of {rounds}")
    return [
        {
            "form": form,
            "side": side,
            "seconds": statistics.median(seconds[form, side]),
            "all seconds": seconds[form, side],
            "peak megabytes": contender.stop(),
            "difference": found[form, side],
        }
        for (form, side), contender in contenders.items()
    ]


def check_equal(folder: pathlib.Path, form: str, side: str, tolerance: float) -> float | None:
    """How far the first run of a side is from jaxgen's, relative to the largest number.

    Raises:
      ValueError: where it is too far to compare their speed.
    """
    if side == "jaxgen" or not (folder / f"{form}_jaxgen.npy").exists():
        return None
    ours, theirs = (np.load(folder / f"{form}_{each}.npy") for each in ("jaxgen", side))
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not difference <= tolerance:
        raise ValueError(
            f"{form}: {side} differs by {difference:.1e}, expected {tolerance} at most"
        )
    return difference


def write_report(report: dict, table: str, out: pathlib.Path | None) -> None:
    """Prints the table; writes it and the report beside each other, where a path is given."""
    print(table)
    if out:
        out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        out.with_suffix(".md").write_text(table + "\n")


def progress(line: str) -> None:
    """One line that is written over, in a terminal."""
    if sys.stderr.isatty():
        print(f"\r{line}", end="\n" if line.endswith("done") else "", file=sys.stderr, flush=True)
