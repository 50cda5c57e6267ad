"""Digests of arrays: the same on every mesh, another for every change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.parallel import make_mesh
from jaxgen.training import array_digests as module
from jaxgen.training.array_digests import digests


def reference(x):
    """The module's formula with Python's integers, for float32."""

    def mix(word):
        word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
        word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
        return word ^ word >> 16

    total = 0
    for index in np.ndindex(x.shape):
        odd = [(0x9E3779B9 * (2 * d + 1)) % 2**32 | 1 for d in range(x.ndim)]
        position = sum(mix((i + 1) * c % 2**32) for i, c in zip(index, odd, strict=True))
        total += mix(int(x[index].view(np.uint32)) ^ position % 2**32)
    return total % 2**32


@pytest.mark.parametrize("small", [2**16, 0], ids=["host", "device"])
def test_digests_are_the_formula_wherever_they_are_computed(small, monkeypatch):
    monkeypatch.setattr(module, "_SMALL", small)
    x = np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32)
    mesh = make_mesh("data=2,fsdp=2,model=2")
    layouts = [P(), P("data"), P(("data", "fsdp"), "model"), P(None, "model", "data")]
    arrays = [jax.device_put(x, NamedSharding(mesh, spec)) for spec in layouts]
    assert set(digests([*arrays, jnp.asarray(x)])) == {reference(x)}
    others = [x.T, x[::-1], x.reshape(8, 8), np.pad(x, [(0, 1), (0, 0), (0, 0)]), -x]
    assert len({reference(x), *digests(map(jnp.asarray, others))}) == 6


def test_every_bit_counts_in_every_dtype():
    rng = np.random.default_rng(1)
    dtypes = ["float32", "bfloat16", "float16", "float8_e4m3fn", "uint32", "int8", "bool"]
    for dtype in map(jnp.dtype, dtypes):
        normal = jnp.float32(rng.normal(size=(3, 5)))
        good = np.asarray(normal > 0 if dtype.kind == "b" else (3 * normal).astype(dtype))
        copies = []
        for bit in range(1 if dtype.kind == "b" else 8 * dtype.itemsize):
            damaged = bytearray(good.tobytes())
            at = int(rng.integers(good.size)) * dtype.itemsize + bit // 8
            damaged[at] ^= 1 << bit % 8
            copies.append(np.frombuffer(bytes(damaged), dtype).reshape(good.shape))
        (first, *others) = digests(map(jnp.asarray, [good, *copies]))
        assert first not in others, dtype
    zero, infinite, nan = digests(jnp.float32([0.0, jnp.inf, jnp.nan]))
    assert len({zero, infinite, nan, *digests([-jnp.zeros(())])}) == 4
    assert digests([jnp.zeros((0, 3))]) == [0]
