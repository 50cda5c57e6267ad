"""Runs a script as several JAX processes on this machine, a real cluster on loopback."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_processes(
    worker: str | Path,
    args: Sequence[str] = (),
    num_processes: int = 2,
    devices_per_process: int = 4,
    timeout: float = 240,
) -> list[str]:
    """Runs a worker in several processes that find each other, and waits for all of them.

    Each process gets `devices_per_process` simulated CPU devices, and ``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` in its environment, which
    `jaxgen.parallel.start` reads. When one of them fails or time is up, all are killed at once:
    the others would wait for the lost one for minutes.

    Args:
      worker: A path to a script, or the dotted name of a module (``experiments.lm.nplm``).
      args: Command-line arguments, the same for all. ``{process}`` in one becomes the number of
        the process.
      num_processes: How many processes.
      devices_per_process: How many devices each of them has.
      timeout: Seconds for all of it.

    Returns:
      What each process printed to standard output.

    Raises:
      AssertionError: With the standard error of every process, if one fails or time is up.
    """
    with tempfile.TemporaryDirectory() as folder:
        with _running(worker, args, num_processes, devices_per_process, Path(folder)) as running:
            fault = _wait(running, timeout)
        if fault:
            logs = [
                f"--- process {i}, standard error ---\n{text[-8000:]}"
                for i, text in enumerate(_texts(folder, "err", num_processes))
            ]
            raise AssertionError("\n".join([f"{worker}: {fault}", *logs]))
        return _texts(folder, "out", num_processes)


def end_processes(
    worker: str | Path,
    args: Sequence[str] = (),
    num_processes: int = 2,
    devices_per_process: int = 4,
    timeout: float = 240,
) -> tuple[tuple[int, ...], list[str]]:
    """Runs processes that end by themselves, however they do.

    Arguments are those of `run_processes`.

    Returns:
      The exit code of each, and what each printed to standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        with _running(worker, args, num_processes, devices_per_process, Path(folder)) as running:
            end = time.monotonic() + timeout
            codes = tuple(process.wait(max(end - time.monotonic(), 0)) for process in running)
        return codes, _texts(folder, "err", num_processes)


@contextlib.contextmanager
def _running(
    worker: str | Path, args: Sequence[str], count: int, devices: int, folder: Path
) -> Iterator[list[subprocess.Popen]]:
    """The processes, which write ``0.out``, ``0.err``, ... and are killed at the end."""
    script = [str(worker)] if str(worker).endswith(".py") else ["-m", str(worker)]
    address = f"127.0.0.1:{_free_port()}"
    running: list[subprocess.Popen] = []
    try:
        for process in range(count):
            command = [sys.executable, *script, *(_fill(arg, process) for arg in args)]
            environment = _environment(address, count, process, devices)
            out, err = folder / f"{process}.out", folder / f"{process}.err"
            with out.open("w") as stdout, err.open("w") as stderr:
                running.append(
                    subprocess.Popen(
                        command, env=environment, cwd=ROOT, stdout=stdout, stderr=stderr
                    )
                )
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def _texts(folder: str, kind: str, count: int) -> list[str]:
    return [Path(folder, f"{i}.{kind}").read_text() for i in range(count)]


def xla_flags(devices: int | None = None) -> str:
    """The flags of the tests, with another number of simulated devices, or with none stated."""
    count = "xla_force_host_platform_device_count"
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if count not in flag]
    return " ".join(flags if devices is None else [*flags, f"--{count}={devices}"])


def without_gloo(output: str) -> str:
    """What a process printed besides the lines of Gloo, whose threads write theirs in pieces."""
    pieces = (
        *(r"\[Gloo\] Rank", "is connected to", r"peer ranks\."),
        *("Expected number of connected peer ranks is :", r"\d", r"\s"),
    )
    return re.sub("|".join(pieces), "", output)


def _wait(running: list[subprocess.Popen], timeout: float) -> str | None:
    """Waits for all to succeed; says what went wrong as soon as something does."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        codes = [process.poll() for process in running]
        failed = [(i, code) for i, code in enumerate(codes) if code]
        if failed:
            return ", ".join(f"process {i} ended with exit code {code}" for i, code in failed)
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.1)
    return f"not finished within {timeout:g} s"


def _environment(address: str, count: int, process: int, devices: int) -> dict[str, str]:
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(process),
        "PYTHONPATH": os.pathsep.join(path),
    }


def _fill(arg: str, process: int) -> str:
    return arg.replace("{process}", str(process))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
