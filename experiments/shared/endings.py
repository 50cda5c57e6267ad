"""How a program ends: in one line where a person can mend it, in seconds where a signal asks it to.

Exit codes: 0; 2 for what a person can mend (bad input, a folder that is in use or not readable);
1 for a training that diverged and for a full disk; 128 + the signal's number after SIGINT or
SIGTERM. Any other exception is a fault of the program and keeps its traceback.

A signal raises an exception in the main thread. Where that is swallowed it is raised again; where
the main thread is compiling or waits for another process, the whole process is ended
`GRACE_SECONDS` after the signal, or `HELD_SECONDS` after it while training saves its last state.

Of several processes all end after a signal to one (`jaxgen.parallel.preemption` while they train,
else `jaxgen.parallel.peers`), and where one is lost the others end with code 1 and one line.
"""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from tqdm.auto import tqdm

from jaxgen.errors import InputError
from jaxgen.parallel import peers, stop
from jaxgen.parallel.distributed import coordinator_client
from jaxgen.training.loop import NonFiniteError
from jaxgen.training.signals import ENDING, Interrupted, Signals, handled

GRACE_SECONDS = 5.0
HELD_SECONDS = 20.0
_POLL_SECONDS = 0.1

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_DISK_TEXTS = re.compile("|".join([*map(os.strerror, _DISK_ERRORS), "Error writing local file"]))
"""How libraries in other languages report the same."""

_LOST_TEXTS = re.compile(
    "Gloo .* failed|Connection (closed|reset) by peer|coordination service|heartbeat|NCCL"
)
"""What JAX says in a process whose peer is gone."""


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Writes a `UserWarning` as one line, without the line of the program that it comes from.

    Bars make room for it.
    """
    before, show = warnings.formatwarning, warnings.showwarning

    def one_line(message: Warning | str, category: type[Warning], *where: Any) -> str:
        if issubclass(category, UserWarning):
            return f"warning: {message}\n"
        return before(message, category, *where)

    def beside_bars(*given: Any) -> None:
        with tqdm.external_write_mode(sys.stderr):
            show(*given)

    warnings.formatwarning, warnings.showwarning = one_line, beside_bars
    try:
        yield
    finally:
        warnings.formatwarning, warnings.showwarning = before, show


@contextlib.contextmanager
def ending_well(
    program: bool,
    place: Callable[[], object] = lambda: None,
    last: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Turns whatever ends the block into an exit code, and into a line where one is enough.

    Args:
      program: whether the process ends with the block: after a failure it then does so within
        `GRACE_SECONDS`, whatever threads and other processes it would wait for.
      place: where the block writes, for errors of the disk that do not name a file.
      last: what is done before the process is ended by force.

    Raises:
      SystemExit: for every end but a regular one and a fault of the program, which is raised as
        it is.
    """
    with handled() as signals, _watched(signals, last), _silent(program), plain_warnings():
        try:
            yield
            signals.check()
        except BaseException as error:
            code, line = _verdict(error, signals, place())
            if program and code:
                _end_within(GRACE_SECONDS, code)
            if program and signals.received:
                _end_at_once(code)
            if line is None:
                raise
            if line:
                print("error:", " ".join(line.split()), file=sys.stderr, flush=True)
            raise SystemExit(code) from None


@contextlib.contextmanager
def _silent(program: bool) -> Iterator[None]:
    """Leaves unsaid what is raised anyway: signals that were swallowed, and errors in Orbax."""
    hook, orbax = sys.unraisablehook, logging.getLogger("absl")
    level = orbax.level

    def other_than_signals(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, Interrupted):
            hook(unraisable)

    sys.unraisablehook = other_than_signals
    orbax.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if not program:  # which has threads that end after this
            sys.unraisablehook = hook
            orbax.setLevel(level)


def _verdict(error: BaseException, signals: Signals, place: str | None) -> tuple[int, str | None]:
    """The exit code and the line on stderr: "" for none, None to raise the error as it is."""
    if signals.received:  # whatever a library made of the exception
        return 128 + signals.received[0], ""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, "interrupted"
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else int(bool(error.code))), None
    if disk := _disk_error(error, place or "writing"):
        return 1, disk
    if isinstance(error, NonFiniteError):
        return 1, str(error)
    if isinstance(error, RuntimeError | ValueError) and _lost_a_peer(error):
        return 1, peers.lost_text(None)
    if isinstance(error, OSError) and error.filename:
        return 2, f"{error.filename}: {error.strerror}"
    if isinstance(error, InputError | FileNotFoundError):
        return 2, str(error)
    return 1, None


def _lost_a_peer(error: BaseException) -> bool:
    """Whether an error of JAX says that another process is gone."""
    if isinstance(error, InputError) or coordinator_client() is None:
        return False
    return _LOST_TEXTS.search(str(error)) is not None


@contextlib.contextmanager
def watching_peers() -> Iterator[None]:
    """Ends this process where another one is lost, or was told to end; alone, does nothing."""

    def end(process: int | None) -> None:
        line = f"error: {peers.lost_text(process)}\n"
        os.write(sys.stderr.fileno(), line.encode())
        os._exit(1)

    with handled() as signals:

        def pass_on(number: int) -> None:
            if not signals.received:
                os.kill(os.getpid(), number)

        with peers.watched_peers(end, pass_on):
            yield


def _disk_error(error: BaseException | None, place: object) -> str | None:
    """What a full or failing disk says, wherever in the chain of exceptions; None for no such."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return f"{error.filename or place}: {error.strerror}"
        if not isinstance(error, OSError) and (found := _DISK_TEXTS.search(str(error))):
            return f"{place}: {found[0]}"
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def _watched(signals: Signals, last: Callable[[], object]) -> Iterator[None]:
    """A thread that sees to it that the block ends after a signal.

    Python calls handlers in the main thread only, between two of its own instructions. The file
    descriptor is written to when the signal comes, whatever the main thread does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(reading, over, signals, last), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.close(writing)


def _watch(
    reading: int, over: threading.Event, signals: Signals, last: Callable[[], object]
) -> None:
    with open(reading, "rb", buffering=0) as pipe:
        while (byte := pipe.read(1)) and byte[0] not in ENDING:
            pass  # another signal that has a handler
        if not byte:
            return
        threading.Thread(target=peers.announce, args=(byte[0],), daemon=True).start()
        started = time.monotonic()
        deadline = started + GRACE_SECONDS
        while not over.wait(_POLL_SECONDS):
            now = time.monotonic()
            if signals.holding:
                deadline = max(deadline, min(now + GRACE_SECONDS, started + HELD_SECONDS))
            if now > deadline:
                _end_within(1, 128 + byte[0])  # `last` may have to wait for a disk
                with contextlib.suppress(Exception):
                    last()
                os._exit(128 + byte[0])
            signals.remind()


def _end_at_once(code: int) -> NoReturn:
    """Ends the process without the interpreter's clean-up.

    That has ended in a segmentation fault where the exception went through a compilation.
    """
    with contextlib.suppress(Exception):
        stop()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _end_within(seconds: float, code: int) -> None:
    """Ends the process by force unless it has ended by then."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
