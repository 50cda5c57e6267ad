"""cuDNN's fused attention on a real GPU; skipped where there is none.

    JAX_PLATFORMS=cuda pytest -n 0 tests/nn/test_attention_on_gpu.py

Both implementations in bfloat16 are measured against the plain one in
float32 on the same numbers, which 8 bits hold exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import attention

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="no GPU, or JAX_PLATFORMS does not name it"
)

B, H, TOLERANCE = 2, 4, 1e-2


def inputs(length, size):
    """Queries, keys, values, and what the output is multiplied by."""
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, (B, length, H, size), jnp.bfloat16) for key in keys]


def value_and_gradients(implementation, arrays, segments, bias):
    """The output, and the gradients of q, k, v (and the bias), as float32."""
    *qkv, weight = arrays

    def run(q, k, v, bias):
        return attention(q, k, v, segments=segments, bias=bias, implementation=implementation)

    def total(*given):
        return jnp.sum((run(*given) * weight).astype(jnp.float32))

    wanted = (0, 1, 2) if bias is None else (0, 1, 2, 3)
    found = jax.jit(run)(*qkv, bias), *jax.jit(jax.grad(total, wanted))(*qkv, bias)
    return [np.asarray(x, np.float32) for x in found]


@pytest.mark.parametrize("biased", [False, True], ids=["unbiased", "biased"])
@pytest.mark.parametrize("packed", [False, True], ids=["one example", "packed"])
@pytest.mark.parametrize(("length", "size"), [(256, 72), (64, 128), (258, 64), (4, 8)])
def test_the_fused_kernel_is_as_exact_as_the_plain_one(length, size, packed, biased):
    arrays = inputs(length, size)
    bias = jax.random.normal(jax.random.key(1), (H, length, length)) if biased else None
    ids = jnp.sort(jax.random.randint(jax.random.key(2), (B, length), 0, 3), axis=1)
    segments = (ids, ids) if packed else None
    with jax.default_matmul_precision("highest"):
        exact = value_and_gradients(
            "plain", [x.astype(jnp.float32) for x in arrays], segments, bias
        )
    for implementation in ("cudnn", "plain"):
        found = value_and_gradients(implementation, arrays, segments, bias)
        errors = [
            np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, exact, strict=True)
        ]
        assert max(errors) < TOLERANCE, (implementation, errors)


@pytest.mark.parametrize("length", [63, 64])
def test_auto_runs_and_derives_at_every_length(length):
    *qkv, _ = inputs(length, 64)
    gradients = jax.jit(jax.grad(lambda *x: jnp.sum(attention(*x) ** 2), (0, 1, 2)))(*qkv)
    assert all(np.all(np.isfinite(np.asarray(x, np.float32))) for x in gradients)
    text = jax.jit(attention).lower(*qkv).as_text()
    assert ("cudnn" in text) == (length % 2 == 0)
