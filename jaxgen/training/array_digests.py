"""Digests of arrays: what was loaded is what was saved, on whatever mesh.

The digest of an array x of bits b_i at positions p_i is a sum of mixed words, modulo 2^32::

    D(x) = sum_i m(b_i ^ p_i),        p_i = sum_d m(c_d (i_d + 1))

with m a bijection of 32-bit words (the finaliser of MurmurHash3) and odd constants c_d, one for
each dimension. A sum does not depend on its order, so shards, devices and processes may add theirs
in any way. Another value of one element always changes it, any other damage does with probability
1 - 2^-32. On two CPU cores it takes about 100 ms for 100 MB, where saving them takes 2 s.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt32

_SMALL = 2**16
"""Up to so many elements an array is added up on the host, where nothing is compiled."""


def digests(arrays: Iterable[Array]) -> list[int]:
    """The digest of each array, an unsigned 32-bit number; the same on every process.

    Arrays of more than 65,536 elements are added up where they lie, by one compiled program for
    each shape, dtype and sharding.
    """
    arrays = list(arrays)
    large = [None if _on_host(x) else _on_devices(x) for x in arrays]
    small = jax.device_get([x if _on_host(x) else None for x in arrays])
    pairs = zip(small, jax.device_get(large), strict=True)
    with np.errstate(over="ignore"):  # words wrap around
        return [int(_digest(x, np) if found is None else found) for x, found in pairs]


def _on_host(x: Array) -> bool:
    return x.size <= _SMALL and (x.is_fully_addressable or x.is_fully_replicated)


def _on_devices(x: Array) -> UInt32[Array, ""]:
    mesh = mesh_of(x.sharding)
    with jax.set_mesh(mesh):
        digest = _compiled(mesh)(x)
    if jax.process_count() > 1:
        # Sums of several arrays under way at once may wait for each other across processes.
        jax.block_until_ready(digest)
    return digest


@functools.cache
def _compiled(mesh: Mesh) -> Any:
    return jax.jit(functools.partial(_digest, xp=jnp), out_shardings=NamedSharding(mesh, P()))


def mesh_of(sharding: Sharding) -> Mesh:
    """The mesh of an array's devices, which need not be those of the current mesh."""
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return sharding.mesh
    devices: Any = sorted(sharding.device_set, key=str)
    return Mesh(np.array(devices), ("devices",))


def _digest(x: Any, xp: Any) -> UInt32[Array, ""]:
    """D(x), by numpy or by jax.numpy."""
    words = _words(x, xp)
    position = xp.zeros((), np.uint32)
    for dimension, length in enumerate(words.shape):
        index = _mix(xp.arange(1, length + 1, dtype=np.uint32) * _odd(dimension))
        position = position + index.reshape(-1, *[1] * (words.ndim - 1 - dimension))
    return xp.sum(_mix(words ^ position), dtype=np.uint32)


def _words(x: Any, xp: Any) -> Any:
    """The array's bits as 32-bit words, two in a last dimension for elements of eight bytes."""
    if xp.issubdtype(x.dtype, np.complexfloating):
        x = xp.stack([x.real, x.imag], -1)
    if x.dtype.itemsize == 8:
        parts = x.view(np.uint64), np.uint64(32)
        return xp.stack([parts[0], parts[0] >> parts[1]], -1).astype(np.uint32)
    if x.dtype == bool or xp.issubdtype(x.dtype, np.integer):
        return x.astype(np.int32).astype(np.uint32)
    return x.view(f"uint{8 * x.dtype.itemsize}").astype(np.uint32)


def _mix(word: Any) -> Any:
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16))


def _odd(dimension: int) -> np.uint32:
    """c_d: the golden ratio's multiples modulo 2^32, made odd."""
    return np.uint32((0x9E3779B9 * (2 * dimension + 1)) % 2**32 | 1)
