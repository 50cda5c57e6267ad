"""What test_endings.py runs as one process and as two: programs that end in all kinds of ways.

    python -m ending_programs NAME ... --workdir FOLDER [flags of several processes]

Each program runs in a child of this process, which has imported everything; a line with its name,
its exit code and the seconds that it took is printed for each. One program alone runs in this
process.
"""

import ctypes
import gc
import hashlib
import os
import signal
import sys
import threading
import time

from experiments.shared import endings
from experiments.shared.launch import ExperimentConfig, open_workdir, run
from jaxgen.errors import InputError
from jaxgen.parallel import barrier, peers
from jaxgen.training.signals import held

LONG = 30
"""Seconds that no program takes."""

endings.GRACE_SECONDS = 1.5
endings.HELD_SECONDS = 3.0
peers.LOST_SECONDS = 3.0


def tell(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def sleep():
    for _ in range(LONG * 100):
        time.sleep(0.01)


def swallow():
    """The signal comes while the garbage collector calls back, which swallows exceptions."""
    callback = lambda phase, info: tell() if phase == "start" else None  # noqa: E731
    gc.callbacks.append(callback)
    gc.collect()
    gc.callbacks.remove(callback)


def compute():
    """One instruction of Python that takes long, and lets other threads run."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


def plain():
    tell()
    sleep()


def interrupt():
    tell(signal.SIGINT)
    sleep()


def swallowed():
    swallow()
    sleep()


def swallowed_at_the_end():
    swallow()


def swallowed_while_asleep():
    swallow()
    ctypes.CDLL(None).sleep(LONG)


def stuck():
    threading.Timer(0.2, tell).start()
    compute()


def held_and_stuck():
    with held():
        threading.Timer(0.2, tell).start()
        compute()


def held_and_done():
    with held():
        tell()
        time.sleep(0.3)


def another_exception():
    try:
        tell()
        sleep()
    except SystemExit:
        raise ValueError("as a library may make of it") from None


def waiting_thread():
    threading.Thread(target=sleep).start()
    raise InputError("not good")


def waiting_thread_after_a_fault():
    threading.Thread(target=sleep).start()
    raise KeyError("a fault")


def one_of_two():
    """Two processes, of which one receives the signal."""
    barrier("both are here")
    if os.environ["JAX_PROCESS_ID"] == "1":
        tell()
    sleep()


def one_is_lost():
    """Two processes, of which process 1 is killed while the other waits for nothing."""
    barrier("both are here")
    time.sleep(2)
    if os.environ["JAX_PROCESS_ID"] == "1":
        tell(signal.SIGKILL)
    sleep()


def coordinator_is_lost():
    """Two processes, of which process 0 is killed."""
    barrier("both are here")
    if os.environ["JAX_PROCESS_ID"] == "0":
        tell(signal.SIGKILL)
    sleep()


def one_is_lost_in_a_collective():
    """Two processes, of which process 1 is killed while the other waits for it."""
    barrier("both are here")
    if os.environ["JAX_PROCESS_ID"] == "1":
        tell(signal.SIGKILL)
    barrier("both are here again")


PROGRAMS = {
    function.__name__: function
    for function in (
        *(plain, interrupt, swallowed, swallowed_at_the_end, swallowed_while_asleep, stuck),
        *(held_and_stuck, held_and_done, another_exception, waiting_thread),
        *(waiting_thread_after_a_fault, one_of_two, one_is_lost, coordinator_is_lost),
        one_is_lost_in_a_collective,
    )
}


def main(config):
    open_workdir(config)
    PROGRAMS[NAME]()
    return {"went on": 1}


def take_names():
    """The names of programs, removed from the command line."""
    names = []
    while len(sys.argv) > 1 and not sys.argv[1].startswith("--"):
        names.append(sys.argv.pop(1))
    return names


def run_all(names):
    """Runs every program in a child."""
    global NAME
    children = {}
    for NAME in names:
        if not (child := os.fork()):
            sys.argv[-1] += f"/{NAME}"
            run(main, ExperimentConfig)
        children[child] = NAME
    started = time.monotonic()
    while children:
        child, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        print(children.pop(child), code, round(time.monotonic() - started, 1), flush=True)


if __name__ == "__main__":
    NAME, *more = take_names()
    if more:
        run_all([NAME, *more])
    else:
        run(main, ExperimentConfig)
