"""A request to end (SIGTERM, as machines that are preempted get it) that all processes answer at
the same step.

JAX's preemption service carries the notice from the process that was told to all others, and fixes
the next step that none of them has reached yet. Its handler of SIGTERM, which keeps the process
alive, and Python's exclude each other: whichever is set last gets the signal. `start_listening`
keeps JAX's aside, and `notify`, called by Python's, passes the signal on to it. JAX looks for the
notice once a second.
"""

import ctypes
import signal
import threading
from collections.abc import Callable

_notify: Callable[[int], object] | None = None
"""JAX's own handler, once `start_listening` has found it."""

_calls = 0
"""Calls of `reached_sync_point` so far: the same number in all processes."""


def may_listen() -> bool:
    """Whether JAX's preemption service can be used here: handlers belong to the main thread."""
    return threading.current_thread() is threading.main_thread()


def start_listening(initialize: Callable[[], object]) -> None:
    """Starts the processes' connection, and gives SIGTERM back to the handler that had it.

    Args:
      initialize: joins the processes; JAX's service, which `may_listen`, takes SIGTERM then.
    """
    global _notify
    if not may_listen():
        initialize()
        return
    handler, before = signal.getsignal(signal.SIGTERM), _handler_in_c()
    initialize()
    after = _handler_in_c()
    if after is None or after == before:  # JAX left SIGTERM alone
        return
    _notify = ctypes.CFUNCTYPE(None, ctypes.c_int)(after)
    if callable(handler):
        signal.signal(signal.SIGTERM, handler)


def _handler_in_c() -> int | None:
    """The address of what the process does on SIGTERM; None for the default."""
    get = ctypes.pythonapi.PyOS_getsig
    get.argtypes, get.restype = [ctypes.c_int], ctypes.c_void_p
    return get(signal.SIGTERM)


def notify() -> None:
    """Tells JAX that this process was asked to end; to be called by handlers of signals."""
    if _notify is not None:
        _notify(signal.SIGTERM)


def reached_sync_point() -> bool:
    """Whether all processes end now, because one was asked to.

    To be called once a step, equally often in all processes; nothing is sent. It is True in the
    same call of all of them, the first that none had begun when all had heard of it. One that is
    computing that point waits, so no process runs ahead of it.
    """
    global _calls
    if _notify is None:
        return False
    from jax.experimental import multihost_utils

    _calls += 1
    return multihost_utils.reached_preemption_sync_point(_calls)
