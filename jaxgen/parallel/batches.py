"""Batches of examples, laid over the devices of any number of processes.

The rows of a batch are spread over the mesh axes ``data`` and ``fsdp`` and repeated along
``sequence`` and ``model`` (networks spread their tokens over ``sequence`` themselves). A pipeline
either makes the whole batch in every process (`put_batch`: simple, and right for text that fits in
memory) or just the rows that the process's own devices hold (`process_rows` says which,
`put_local_batch` takes them). Both give the same global arrays.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from jaxgen.axes import BATCH_MESH_AXES
from jaxgen.errors import InputError
from jaxgen.typing import Tree


def num_batch_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided: the size of ``data`` times ``fsdp``."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_MESH_AXES]))


def check_batch_size(batch_size: int, mesh: Mesh, name: str = "batch_size") -> None:
    """Refuses a batch that the mesh's data shards cannot share equally.

    Args:
      batch_size: rows of a batch.
      mesh: the mesh.
      name: what their number is called in the error.

    Raises:
      InputError: unless it is a positive multiple of their number.
    """
    shards = num_batch_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        raise InputError(
            f"{name} is {batch_size}, expected a multiple of {shards}, the data shards of the mesh"
        )


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """The sharding of batches: rows over ``data`` and ``fsdp``.

    Args:
      mesh: The mesh.
      leading: How many dimensions come before the rows, each whole on every device: 1 for arrays
        [K, B, ...] of which a step consumes K batches.
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, BATCH_MESH_AXES))


def process_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, "rows"]:
    """Which rows of a global batch this process has to supply, in rising order.

    Processes whose devices differ along ``sequence`` and ``model`` alone supply the same rows.

    Args:
      mesh: The mesh.
      batch_size: B, the number of rows of all processes together.

    Raises:
      InputError: If the batch does not divide by the number of shards.
    """
    _check_divisible(mesh, batch_size, f"batch of {batch_size} rows")
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in indices if index is not None]
    return np.unique(np.concatenate(rows))


def put_batch(batch: Tree, mesh: Mesh, leading: int = 0) -> Tree:
    """Puts a batch that every process holds whole onto the devices; no process sends rows.

    Args:
      batch: A tree of arrays [B, ...] (or [K, B, ...], see `leading`), equal in all processes.
      mesh: The mesh.
      leading: How many dimensions come before the rows.

    Returns:
      The tree with global, sharded arrays of the same shapes.

    Raises:
      InputError: If an array has no rows or their number does not divide by the number of shards.
    """

    def put(path: Any, leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        _check_divisible(mesh, _rows(path, array, leading), _describe(path, array))
        return _make_array(array.shape, mesh, leading, array, start_of=lambda row: row)

    return jax.tree_util.tree_map_with_path(put, batch)


def put_local_batch(batch: Tree, mesh: Mesh, batch_size: int, leading: int = 0) -> Tree:
    """Puts a batch of which each process holds its own rows, those of `process_rows`.

    Args:
      batch: A tree of arrays [rows, ...] (or [K, rows, ...]), in the order of `process_rows`.
      mesh: The mesh.
      batch_size: B, the number of rows of all processes together.
      leading: How many dimensions come before the rows.

    Returns:
      The tree with global, sharded arrays [B, ...] (or [K, B, ...]).

    Raises:
      InputError: If an array has another number of rows than this process has to supply, or the
        batch does not divide by the number of shards.
    """
    rows = process_rows(mesh, batch_size)

    def put(path: Any, leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        if _rows(path, array, leading) != len(rows):
            raise InputError(
                f"{_describe(path, array)}, expected {len(rows)} rows in dimension {leading}, "
                f"this process's part of a batch of {batch_size}"
            )
        shape = (*array.shape[:leading], batch_size, *array.shape[leading + 1 :])
        return _make_array(
            shape, mesh, leading, array, start_of=lambda row: int(np.searchsorted(rows, row))
        )

    return jax.tree_util.tree_map_with_path(put, batch)


def _make_array(
    shape: tuple[int, ...],
    mesh: Mesh,
    leading: int,
    local: np.ndarray,
    start_of: Callable[[int], int],
) -> jax.Array:
    """A global array from local rows; `start_of` says where a device's first row lies in them."""

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # asked for this process's devices alone
        first, last, _ = index[leading].indices(shape[leading])
        start = start_of(first)
        rows = (slice(None),) * leading + (slice(start, start + last - first),)
        return local[rows].copy()  # JAX may keep the memory, and a pipeline may write to it again

    return jax.make_array_from_callback(shape, batch_sharding(mesh, leading), part)


def _rows(path: Any, array: np.ndarray, leading: int) -> int:
    if array.ndim <= leading:
        raise InputError(
            f"{_describe(path, array)}: no dimension {leading} to hold the rows of the batch"
        )
    return array.shape[leading]


def _check_divisible(mesh: Mesh, rows: int, what: str) -> None:
    shards = num_batch_shards(mesh)
    if rows % shards:
        sizes = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in BATCH_MESH_AXES)
        raise InputError(f"{what}: {rows} rows are not divisible by {shards} ({sizes})")


def _describe(path: Any, array: np.ndarray) -> str:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return f"batch array {name or '(the only one)'} of shape {array.shape}"
