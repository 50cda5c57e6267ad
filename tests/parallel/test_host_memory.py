"""Freed memory that stays: counted in page faults, in processes of their own."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, threading
import numpy as np
from jaxgen.parallel.host_memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(77)


def fill():
    np.ones(2**25, np.float32)  # 128 MiB


def count():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


count()
count()
"""


def page_faults(mode: str) -> list[int]:
    """Faults of filling 128 MiB in a thread, twice."""
    process = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=False
    )
    if process.returncode == 77:
        pytest.skip("the C library is not glibc")
    assert process.returncode == 0, process.stderr
    return [int(line) for line in process.stdout.split()]


def test_kept_memory_costs_page_faults_once():
    first, second = page_faults("keep")
    assert first > 10 * second


def test_without_it_every_call_pays():
    if not sys.platform.startswith("linux"):
        pytest.skip("about Linux")
    first, second = page_faults("default")
    assert second > first / 2
