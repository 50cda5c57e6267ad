"""Batches made by a thread of their own, and put on the devices, before the step asks for them."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import jax
from jax.sharding import Mesh

from jaxgen.typing import Batch

Call = tuple[int, int]
"""A step, and the number of steps of one call from there."""

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def prefetched(
    make: Callable[[int, int], Batch], calls: Iterable[Call], ahead: int, mesh: Mesh
) -> Iterator[Callable[[int, int], Batch]]:
    """The same function, whose results for the next calls are made in advance.

    Args:
      make: (step, steps) -> the batches of one call, on the devices.
      calls: in the order in which they will be asked for.
      ahead: how many calls are ready at most, each with its batches in the memory of the devices;
        0: none, and no thread.
      mesh: the current one, which is one of the thread as well.

    Yields:
      The function; an exception of `make` is raised by the call that asks for its result.
    """
    if ahead == 0:
        yield make
        return
    ready: queue.Queue[tuple[Call, Batch | BaseException]] = queue.Queue(ahead)
    over = threading.Event()

    def fill() -> None:
        with jax.set_mesh(mesh):
            for call in calls:
                try:
                    made: Batch | BaseException = make(*call)
                except BaseException as error:  # of whatever kind, it is for the thread that asks
                    made = error
                while not over.is_set():
                    with contextlib.suppress(queue.Full):
                        ready.put((call, made), timeout=_POLL_SECONDS)
                        break
                if over.is_set() or isinstance(made, BaseException):
                    return

    def take(step: int, count: int) -> Batch:
        call, made = ready.get()
        assert call == (step, count)
        if isinstance(made, BaseException):
            raise made
        return made

    thread = threading.Thread(target=fill, name="input", daemon=True)
    thread.start()
    try:
        yield take
    finally:
        over.set()
        thread.join(1.0)  # a reader that is stuck does not keep the run from its end
