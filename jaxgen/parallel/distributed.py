"""Several processes that work as one: starting them, and what only one of them does.

A run on more than one machine (or as several processes on one) starts the same program everywhere
and calls `start` before anything touches a device; from then on `jax.devices()` holds the devices
of all processes. Programs should call it in one place and only when asked to.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import jax

from jaxgen.errors import InputError

Result = TypeVar("Result")

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_s: int = 300,
) -> None:
    """Joins this process to the others; on CPU they talk through gloo. A second call does nothing.

    What is not given is taken from the environment variables ``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``. With none of the three from either place, JAX asks
    the cluster (Cloud TPU, Slurm, Open MPI, Kubernetes).

    Args:
      coordinator: ``host:port`` of process 0, the same for all; the port is a free one there.
      num_processes: How many processes take part.
      process_id: Which of them this is, from 0.
      timeout_s: How many seconds to wait for the others.

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
    if not any(settings):
        _start_on_cluster(timeout_s)
        return
    address, count, index = _checked(*settings)
    host = address.rpartition(":")[0]
    jax.distributed.initialize(
        coordinator_address=address,
        num_processes=count,
        process_id=index,
        cluster_detection_method="deactivate",
        initialization_timeout=timeout_s,
        # By default the coordinator listens on every network of the machine.
        coordinator_bind_address=address if host in _LOOPBACK else None,
    )


def _start_on_cluster(timeout_s: int) -> None:
    """Leaves everything to JAX's detection of the cluster."""
    try:
        jax.distributed.initialize(initialization_timeout=timeout_s)
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
