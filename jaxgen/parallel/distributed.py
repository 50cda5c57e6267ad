"""Several processes that work as one: starting them, and what only one of them does.

A run on more than one machine (or as several processes on one) starts the same program everywhere
and calls `start` before anything touches a device; from then on `jax.devices()` holds the devices
of all processes. Programs should call it in one place and only when asked to.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from jaxgen.errors import InputError
from jaxgen.parallel.preemption import may_listen, start_listening

Result = TypeVar("Result")

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_s: int = 300,
    local_device_ids: Sequence[int] | None = None,
) -> None:
    """Joins this process to the others; on CPU they talk through gloo. A second call does nothing.

    SIGTERM stays with the process's own handler, which passes it on to JAX's preemption service
    (`jaxgen.parallel.preemption`).

    What is not given is taken from the environment variables ``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``. With none of the three from either place, JAX asks
    the cluster (Cloud TPU, Slurm, Open MPI, Kubernetes).

    Args:
      coordinator: ``host:port`` of process 0, the same for all; the port is a free one there.
      num_processes: How many processes take part.
      process_id: Which of them this is, from 0.
      timeout_s: How many seconds to wait for the others.
      local_device_ids: Which GPUs of its machine this process takes, from 0. None: those of the
        variable ``JAX_LOCAL_DEVICE_IDS``; else all of them, except on Slurm and Open MPI, where
        JAX takes one process for each GPU: one that is to have several has to say which.

    Raises:
      InputError: If only some of the three are known, one of them is malformed, or there is no
        cluster to ask.
      RuntimeError: If a device was used before.
    """
    if jax.distributed.is_initialized():
        return
    given = (coordinator, num_processes, process_id)
    settings = [
        os.environ.get(variable, "") if value is None else str(value)
        for value, variable in zip(given, _VARIABLES, strict=True)
    ]
    ids = _checked_ids(local_device_ids)
    jax.config.update("jax_enable_preemption_service", may_listen())
    if not any(settings):
        start_listening(lambda: _start_on_cluster(timeout_s, ids))
        return
    address, count, index = _checked(*settings)
    host = address.rpartition(":")[0]
    start_listening(
        lambda: jax.distributed.initialize(
            coordinator_address=address,
            num_processes=count,
            process_id=index,
            local_device_ids=ids,
            cluster_detection_method="deactivate",
            initialization_timeout=timeout_s,
            # By default the coordinator listens on every network of the machine.
            coordinator_bind_address=address if host in _LOOPBACK else None,
        )
    )


def stop() -> None:
    """Leaves the other processes, waiting until they do so too; alone, does nothing.

    A process that ends does it by itself; this is for one that skips what Python does at its end.
    """
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _checked_ids(ids: Sequence[int] | None) -> list[int] | None:
    """Numbers of devices, all of them from 0 and none twice."""
    if ids is None:
        return None
    if not ids or len({*ids}) < len(ids) or min(ids) < 0:
        raise InputError(
            f"distributed start: local_device_ids is {list(ids)}, expected different numbers from 0"
        )
    return list(ids)


def _start_on_cluster(timeout_s: int, local_device_ids: list[int] | None) -> None:
    """Leaves everything to JAX's detection of the cluster."""
    try:
        jax.distributed.initialize(
            initialization_timeout=timeout_s, local_device_ids=local_device_ids
        )
    except ValueError as error:
        raise InputError(
            "no cluster was found to take the processes from, expected a coordinator, a number of "
            f"processes and a process id (or {', '.join(_VARIABLES)})"
        ) from error


def _checked(coordinator: str, num_processes: str, process_id: str) -> tuple[str, int, int]:
    """The three settings, present and well-formed."""
    known = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in known.items() if not value]
    if missing:
        raise InputError(
            f"distributed start: {' and '.join(missing)} missing, expected all of "
            f"{', '.join(known)} or none of them (variables: {', '.join(_VARIABLES)})"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"distributed start: coordinator {coordinator!r} is not host:port")
    try:
        count, index = int(num_processes), int(process_id)
    except ValueError:
        raise InputError(
            f"distributed start: num_processes {num_processes!r} and process_id {process_id!r} "
            "must be integers"
        ) from None
    if not 0 <= index < count:
        raise InputError(
            f"distributed start: process_id {index} is not in 0 .. {count - 1} "
            f"(num_processes is {count})"
        )
    return coordinator, count, index


def coordinator_client() -> Any:
    """JAX's connection to the coordinator, which has no public name; None for one process alone."""
    if not jax.distributed.is_initialized():
        return None
    from jax._src import distributed

    return distributed.global_state.client


def is_main_process() -> bool:
    """Whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


def on_main_process(
    function: Callable[..., Result], *args: object, **kwargs: object
) -> Result | None:
    """Calls the function on process 0 and returns its result; on the others does nothing.

    The others do not wait; `barrier` does.
    """
    return function(*args, **kwargs) if is_main_process() else None


def barrier(name: str) -> None:
    """Waits until every process has reached the barrier of this name; alone, returns at once."""
    # Imported here: it is needed by several processes only, and brings much with it.
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def gather_texts(text: str) -> list[str]:
    """What every process gives, a text each, in order of the processes; all of them call it."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(data))).ravel()
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]


def all_succeed(action: Callable[[], Result]) -> Result:
    """Calls the action on every process; where it refuses something on one, all of them refuse.

    Args:
      action: What each process does. It must not wait for other processes itself.

    Raises:
      InputError: If the action raised one or an `OSError` here, that one; if it did elsewhere,
        one that names the first process and says what that said.
    """
    refused: InputError | OSError | None = None
    try:
        result = action()
    except (InputError, OSError) as error:
        refused = error
    # An empty text is success.
    said = gather_texts(str(refused) or type(refused).__name__ if refused else "")
    if refused is not None:
        raise refused
    for process, text in enumerate(said):
        if text:
            raise InputError(f"process {process}: {text}")
    return result
