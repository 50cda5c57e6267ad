"""SIGINT and SIGTERM, so that none is lost: recorded first, and an exception besides.

An exception that a signal handler raises is not enough to end a program: where the signal comes
while the garbage collector or a library calls back into Python, the exception is swallowed. The
handler therefore records the signal before it raises; whoever runs a program looks at
`Signals.received` at its end, and `Signals.remind` raises again what was swallowed.

`handled` is used around a whole program and `held` inside it, around what has to be finished first
(`jaxgen.training.fit`). Both share one record, so the inner one hides nothing from the outer one.
"""

import contextlib
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from jaxgen.parallel import preemption

ENDING = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a process to end."""


class Interrupted(SystemExit):
    """A signal ends the process; ``code`` is 128 + its number."""

    def __init__(self, number: int):
        super().__init__(128 + number)


class Signals:
    """The signals that have come, and what is done about them.

    Attributes:
      received: their numbers, in order.
      holding: how many `held` blocks are under way; in one, the first signal raises nothing.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.holding = 0
        self._reminding = False
        self._raised: Callable[[], Interrupted | None] = lambda: None

    def check(self) -> None:
        """Raises `Interrupted` if a signal has come."""
        if self.received:
            self._raise()

    def remind(self) -> None:
        """Raises in the main thread what was swallowed there; for a thread that waits for the end.

        It also wakes the main thread up where a system call has it wait.
        """
        if self.received and not self.holding and self._raised() is None:
            self._reminding = True
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, self.received[0])

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler: `Interrupted`, but for the first signal in a `held` block.

        Of several processes all hear of it (`jaxgen.parallel.preemption`).
        """
        reminding, self._reminding = self._reminding, False
        if not reminding:
            self.received.append(number)
            preemption.notify()
        if not self.holding or (len(self.received) > 1 and not reminding):
            self._raise()

    def _raise(self) -> NoReturn:
        error = Interrupted(self.received[0])
        self._raised = weakref.ref(error)  # an exception that nobody refers to was swallowed
        try:
            raise error
        finally:
            del error


_current: Signals | None = None


@contextlib.contextmanager
def handled() -> Iterator[Signals]:
    """SIGINT and SIGTERM raise `Interrupted` in the block; in a block within, the same holds.

    Only the main thread can set handlers: elsewhere nothing is ever received.
    """
    global _current
    if _current is not None:
        yield _current
        return
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.handle) for number in ENDING}
    _current = signals
    try:
        yield signals
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set from Python


@contextlib.contextmanager
def held() -> Iterator[Signals]:
    """Holds the first signal back, for the block to look at `Signals.received` and to end itself.

    A second signal raises `Interrupted` at once. So does the end of the block after a signal that
    it did not look at.
    """
    with handled() as signals:
        signals.holding += 1
        try:
            yield signals
        finally:
            signals.holding -= 1
        signals.check()
