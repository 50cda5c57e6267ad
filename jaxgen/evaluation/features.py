"""Sets of features: the check that all measures share, and networks applied batch by batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float64, Shaped

from jaxgen.errors import InputError
from jaxgen.parallel import current_mesh, num_batch_shards, put_batch, replicated
from jaxgen.pixels import as_unit
from jaxgen.typing import Tree

Forward = Callable[[Tree, Any], Tree]
"""``(params, images [B, ...]) -> outputs``, each with a leading axis B."""


def check_features(features: Any, what: str, fewest: int = 1) -> Float64[np.ndarray, "N D"]:
    """Features in float64.

    Args:
      features: Real numbers [N, D], of numpy or JAX.
      what: What they are called in an error.
      fewest: The least N that will do.

    Raises:
      InputError: They are not [N, D], too few, or not finite.
    """
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or values.shape[1] < 1:
        raise InputError(f"{what} have shape {list(values.shape)}, expected [N, D]")
    if len(values) < fewest:
        raise InputError(f"{what}: {len(values)} samples, expected {fewest} or more")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{what}: {np.sum(~finite)} of {len(values)} samples are not finite, the first of them"
            f" number {int(np.argmin(finite))}"
        )
    return values


def check_same_width(first: int, second: int) -> None:
    """Refuses two sets of features of different widths D.

    Raises:
      InputError: Names both widths.
    """
    if first != second:
        raise InputError(f"features of widths {first} and {second}, expected one width for both")


def apply_in_batches(
    forward: Forward, params: Tree, images: Float[np.ndarray, "N ..."], batch_size: int
) -> Tree:
    """Runs a network over a set, batch by batch, spread over the current mesh.

    Args:
      forward: The network; compiled once for each function object, shape and mesh.
      params: Its parameters.
      images: All inputs, in the memory of this process; bytes (uint8) become numbers in [-1, 1].
      batch_size: Inputs at a time, rounded up to a multiple of the devices that share a batch. The
        last batch is filled up and its filling cut off.

    Returns:
      The outputs for all inputs, numpy arrays [N, ...].

    Raises:
      InputError: `batch_size` is below 1, there are no inputs, or they are no images in about
        [-1, 1] (`jaxgen.pixels.as_unit`).
    """
    if batch_size < 1 or not len(images):
        raise InputError(
            f"batch_size is {batch_size} for {len(images)} images, expected 1 or more of both"
        )
    return apply_to_rows(forward, params, as_unit(images), batch_size)


def apply_to_rows(forward: Forward, params: Tree, inputs: Tree, batch_size: int) -> Tree:
    """The same for inputs of any kind, which are not looked at.

    Args:
      forward: As for `apply_in_batches`, of a tree of arrays [B, ...].
      params: Its parameters.
      inputs: One or more, a tree of arrays [N, ...] in the memory of this process.
      batch_size: As for `apply_in_batches`.
    """
    count, mesh = len(jax.tree.leaves(inputs)[0]), current_mesh()
    shards = num_batch_shards(mesh)
    size = -(-min(batch_size, count) // shards) * shards
    run = _compiled(forward, mesh)

    def batch_from(start: int, x: Shaped[np.ndarray, "N ..."]) -> Shaped[np.ndarray, "B ..."]:
        batch = np.asarray(x[start : start + size])
        return np.pad(batch, [(0, size - len(batch)), *[(0, 0)] * (batch.ndim - 1)])

    pieces = []
    for start in range(0, count, size):
        batch = jax.tree.map(functools.partial(batch_from, start), inputs)
        outputs = run(params, put_batch(batch, mesh))
        pieces.append(jax.tree.map(np.asarray, outputs))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *pieces)


@functools.lru_cache(maxsize=32)
def _compiled(forward: Forward, mesh: Mesh) -> Forward:
    """Outputs are whole on every device, so that each process can read them."""
    return jax.jit(forward, out_shardings=replicated(mesh))
