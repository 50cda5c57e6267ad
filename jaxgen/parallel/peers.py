"""The other processes of a run: whether they live, and whether one was asked to end.

Each process counts upwards in the store that JAX's coordinator (process 0) keeps; one whose count
stands still for `LOST_SECONDS` is lost. That is sooner than JAX's own hundred seconds, after which
it aborts the process. Where the coordinator itself is lost JAX aborts all others at once, which is
answered too. A signal that one process received is there for all to see: so those end as well that
are still compiling, or have left `jaxgen.training.fit`.
"""

import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxgen.parallel.distributed import coordinator_client

LOST_SECONDS = 30.0
POLL_SECONDS = 1.0
_ALIVE, _SIGNAL, _ENDED = "jaxgen/alive/", "jaxgen/signal/", "ended"


def lost_text(process: int | None) -> str:
    """What a person is told where a process is lost, and what to do about it.

    Args:
      process: which one, or None where that is not known.
    """
    who = "another process" if process is None else f"process {process}"
    return (
        f"process {jax.process_index()} lost {who} of {jax.process_count()}: look at the output "
        "of that one, then start all processes again with the same flags; the run resumes from "
        "its latest checkpoint"
    )


def announce(number: int) -> None:
    """Lets all processes know that this one received a signal; alone, does nothing."""
    client = coordinator_client()
    if client is not None:
        with contextlib.suppress(Exception):  # another one may have done so
            client.key_value_set(f"{_SIGNAL}{jax.process_index()}", str(number))


@contextlib.contextmanager
def watched_peers(
    on_lost: Callable[[int | None], object], on_signal: Callable[[int], object]
) -> Iterator[None]:
    """Watches the other processes in a thread while the block runs; alone, does nothing.

    Args:
      on_lost: called with the process that is lost, in that thread or, where the coordinator is
        lost, in JAX's own; it should end the process.
      on_signal: called once with the number of a signal that some process received.
    """
    client = coordinator_client()
    if client is None or jax.process_count() == 1:
        yield
        return
    over = threading.Event()
    arguments = client, over, on_lost, on_signal
    thread = threading.Thread(target=_watch, args=arguments, daemon=True)
    thread.start()
    try:
        with _abort_means(lambda: on_lost(None)):
            yield
    finally:
        over.set()
        thread.join(2 * POLL_SECONDS)
    with contextlib.suppress(Exception):  # all others may have ended
        client.key_value_set(f"{_ALIVE}{jax.process_index()}", _ENDED, allow_overwrite=True)


def _watch(
    client: Any,
    over: threading.Event,
    on_lost: Callable[[int | None], object],
    on_signal: Callable[[int], object],
) -> None:
    count, me, told = 0, jax.process_index(), False
    heard: dict[int, tuple[str, float]] = {}
    while not over.wait(POLL_SECONDS):
        count += 1
        try:
            client.key_value_set(f"{_ALIVE}{me}", str(count), allow_overwrite=True)
            counts = {int(k.rpartition("/")[2]): v for k, v in client.key_value_dir_get(_ALIVE)}
            signalled = client.key_value_dir_get(_SIGNAL)
        except Exception:
            if not over.is_set():
                on_lost(0)
            return
        now = time.monotonic()
        heard |= {
            who: (said, now) for who, said in counts.items() if heard.get(who, ("",))[0] != said
        }
        silent = [
            who
            for who, (said, when) in heard.items()
            if said != _ENDED and now - when > LOST_SECONDS
        ]
        if silent:
            on_lost(silent[0])
            return
        if signalled and not told:
            told = True
            on_signal(int(signalled[0][1]))


@contextlib.contextmanager
def _abort_means(action: Callable[[], object]) -> Iterator[None]:
    """Answers SIGABRT, which JAX raises in a thread of its own, where Python's handlers never run.

    So the handler is one of C, which calls back into Python.
    """
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    answer = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: (action(), None)[1])
    before = set_handler(signal.SIGABRT, ctypes.cast(answer, ctypes.c_void_p))
    try:
        yield
    finally:
        set_handler(signal.SIGABRT, before)
