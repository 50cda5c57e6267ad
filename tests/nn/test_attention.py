"""Attention: against numpy, its masks, its implementations, and the layers around it."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.nn import CrossAttention, SelfAttention, attention, attention_kernels
from jaxgen.nn.attention import split_parts
from jaxgen.nn.plain_attention import plain_attention
from jaxgen.nn.visibility import View
from jaxgen.parallel import make_mesh

B, L, N, H, K = 2, 6, 5, 3, 4

jitted = jax.jit(attention, static_argnames="implementation")


def arrays(*shapes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def qkv(length=L, keys=N, seed=0):
    return arrays((B, length, H, K), (B, keys, H, K), (B, keys, H, K), seed=seed)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(q, k, v, segments=None, bias=None):
    """One example, head and query after the other, in float64."""
    seen = np.zeros((*q.shape[:3], v.shape[-1]))
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    for b, i, h in np.ndindex(*q.shape[:3]):
        logits = k[b, :, h] @ q[b, i, h] / np.sqrt(q.shape[-1])
        if bias is not None:
            logits = logits + (bias[h, i] if bias.ndim == 3 else bias[b, h, i])
        if segments is not None:
            visible = segments[0][b, i] == segments[1][b]
            logits = np.where(visible, logits, -1e30 if visible.any() else 0)
        seen[b, i, h] = softmax(logits) @ v[b, :, h]
    return seen


SEGMENTS = (
    np.array([[0, 0, 1, 1, 2, 9], [5, 5, 5, 5, 5, 5]], np.int32),
    np.array([[0, 1, 1, 2, 0], [5, 5, 5, 5, -1]], np.int32),
)


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["all", "segments"])
@pytest.mark.parametrize("bias", [None, (H, L, N), (B, H, L, N)], ids=str)
def test_attention_is_the_equation(segments, bias):
    q, k, v = qkv()
    bias = None if bias is None else arrays(bias, seed=1)[0]
    found = jitted(q, k, v, segments=segments, bias=bias)
    if segments is not None:
        # Query 5 of example 0 has no key.
        np.testing.assert_array_equal(found[0, 5], 0)
    expected = reference(q, k, v, segments, bias)
    rows = np.ones((B, L), bool)
    rows[0, 5] = segments is None
    np.testing.assert_allclose(found[rows], expected[rows], rtol=2e-5, atol=1e-6)


def test_it_agrees_with_jax():
    q, k, v = qkv()
    np.testing.assert_allclose(
        *(jitted(q, k, v, implementation="plain"), jax.nn.dot_product_attention(q, k, v)),
        rtol=2e-5,
        atol=1e-6,
    )


def test_heads_in_turn_are_all_heads_at_once():
    """Values and derivatives of both kinds; several lengths, half precision, one device alone."""
    q, k, v = qkv()
    for given in ((q, k, v), tuple(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))):
        found, expected = (jitted(*given, implementation=how) for how in ("heads", "plain"))
        assert found.dtype == expected.dtype
        single = (np.asarray(x, np.float32) for x in (found, expected))
        np.testing.assert_allclose(*single, rtol=1e-2 if found.dtype == jnp.bfloat16 else 1e-5)

    def total(implementation, *given):
        return jnp.sum(attention(*given, implementation=implementation) ** 2)

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(implementation):
        of = functools.partial(total, implementation)
        return jax.grad(of, (0, 1, 2))(q, k, v), jax.jvp(of, (q, k, v), (0.5 * q, v, k))

    for a, b in zip(*(jax.tree.leaves(derivatives(x)) for x in ("heads", "plain")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    long = jax.ShapeDtypeStruct((2, 512, 4, 8), jnp.float32)
    for axes, devices, expected in (("data=8", 8, "plain"), ("data=1", 1, "heads")):
        with jax.set_mesh(make_mesh(axes, jax.devices()[:devices])):
            assert attention_kernels.choose("auto", long, long) == expected


def test_packed_examples_do_not_see_each_other():
    """Two sequences in one row give what each gives alone; values and gradients alike."""
    q, k, v = qkv(length=7, keys=7)
    ids = np.array([[0, 0, 0, 1, 1, 1, 1]] * B, np.int32)
    packed = jitted(q, k, v, segments=(ids, ids))
    first = jitted(q[:, :3], k[:, :3], v[:, :3])
    second = jitted(q[:, 3:], k[:, 3:], v[:, 3:])
    np.testing.assert_allclose(packed, np.concatenate([first, second], 1), rtol=1e-5, atol=1e-6)

    def first_sum(k, v):
        return jnp.sum(attention(q, k, v, segments=(ids, ids))[:, :3] ** 2)

    for gradient in jax.jit(jax.grad(first_sum, (0, 1)))(k, v):
        assert np.any(gradient[:, :3])
        assert not np.any(gradient[:, 3:])


def test_huge_logits_stay_finite_with_finite_gradients():
    q, k, v = (100 * x for x in qkv())

    def total(q, k, v):
        return jnp.sum(attention(q, k, v, segments=SEGMENTS) ** 2)

    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, k, v)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(x)) for x in gradients)


def test_bfloat16_keeps_the_softmax_in_float32():
    q, k, v = qkv(length=64, keys=64)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    found = jitted(*half)
    assert found.dtype == jnp.bfloat16
    expected = reference(*(np.asarray(x, np.float64) for x in half))
    assert np.abs(found - expected).max() < 0.02


KERNEL_INPUT = arrays((4, 6, 2, 8), (4, 5, 2, 8), (4, 5, 2, 8), (1, 2, 6, 5))


@pytest.fixture
def tpu_interpreter():
    """Kernels for TPU run on CPU, slowly."""
    from jax.experimental.pallas import tpu as pltpu

    with pltpu.force_tpu_interpret_mode():
        yield


def kernel(q, k, v, bias, segments=None):
    return jax.jit(attention_kernels.pallas)(q, k, v, segments, bias)


@pytest.mark.usefixtures("tpu_interpreter")
@pytest.mark.parametrize("mesh", ["data=1", "data=2,fsdp=2,model=2"])
def test_the_tpu_kernel_pads_masks_biases_and_shards(mesh):
    """Lengths that the kernel's blocks do not divide, segment ids, a bias, one device or eight."""
    segments = tuple(np.tile(x, (2, 1)) for x in SEGMENTS)
    q, k, v, bias = KERNEL_INPUT
    expected = np.array(jax.jit(plain_attention)(q, k, v, segments, bias))
    with jax.set_mesh(make_mesh(mesh, jax.devices()[:1] if mesh == "data=1" else None)):
        found = np.array(kernel(q, k, v, bias, segments))
    found[::2, 5] = expected[::2, 5]  # queries without keys: the mean of the padding there
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("tpu_interpreter")
def test_gradients_of_the_tpu_kernel():
    def total(fn, *given):
        return jnp.sum(fn(*given) ** 2)

    def plain(q, k, v, bias):
        return plain_attention(q, k, v, None, bias)

    def gradients(*given):
        wanted = range(len(given))
        return [jax.grad(functools.partial(total, fn), wanted)(*given) for fn in (plain, kernel)]

    expected, found = jax.jit(gradients)(*KERNEL_INPUT)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_auto_takes_the_fused_kernel_where_it_applies(monkeypatch):
    def chosen(
        backend, length=1024, size=64, dtype=jnp.bfloat16, asked="auto", gpu="9.0", **options
    ):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability=gpu)])
        q = jax.ShapeDtypeStruct((2, length, 4, size), dtype)
        return attention_kernels.choose(asked, q, q, **options)

    assert chosen("cpu") == "heads"
    assert chosen("cpu", length=500) == "plain"
    assert chosen("cpu", has_bias=True) == "plain"
    assert chosen("cpu", hides=True) == "plain"
    assert chosen("gpu", dtype=jnp.float32) == "plain"
    with pytest.raises(InputError, match="'heads' with a bias, segment ids or a reach, expected"):
        chosen("cpu", has_segments=True, hides=True, asked="heads")
    assert chosen("cpu", has_segments=True) == "blocks"
    assert chosen("cpu", has_segments=True, length=500) == "plain"
    assert chosen("cpu", has_segments=True, has_bias=True) == "plain"
    assert chosen("gpu", has_segments=True, dtype=jnp.float32) == "plain"
    with pytest.raises(InputError, match="implementation is 'blocks' with a bias, expected ano"):
        chosen("cpu", has_bias=True, asked="blocks")
    assert chosen("gpu") == "cudnn"
    assert chosen("gpu", gpu="8.0") == "cudnn"
    assert chosen("gpu", gpu="7.5") == "plain"
    assert chosen("gpu", gpu="gfx90a") == "plain"
    assert chosen("gpu", dtype=jnp.float32) == "plain"
    assert chosen("gpu", size=72) == "cudnn"
    assert chosen("gpu", size=12) == "plain"
    assert chosen("gpu", length=1023) == "plain"
    assert chosen("tpu") == "pallas"
    assert chosen("tpu", length=64) == "plain"
    assert chosen("tpu", length=64, asked="pallas") == "pallas"
    for asked in ("plain", "heads", "cudnn"):
        assert chosen("gpu", asked=asked) == asked
    with pytest.raises(InputError, match="'cudnn' needs a head size that is a multiple of 8 up to"):
        chosen("gpu", size=12, asked="cudnn")
    with pytest.raises(InputError, match=r"'cudnn' needs bfloat16 or float16, .* are float32"):
        chosen("gpu", dtype=jnp.float32, asked="cudnn")
    with pytest.raises(
        InputError, match=r"'cudnn' needs even lengths, and they are \(1023, 1023\)"
    ):
        chosen("gpu", length=1023, asked="cudnn")


@pytest.mark.parametrize(
    ("implementation", "fault"),
    [
        ("cudnn", "implementation 'cudnn' needs a GPU, and this process runs on cpu"),
        ("pallas", "implementation 'pallas' needs a TPU, and this process runs on cpu"),
        ("flash", "implementation is 'flash', expected 'auto', 'plain', 'heads', 'blocks'"),
    ],
)
def test_an_implementation_that_is_not_here_is_refused(implementation, fault):
    with pytest.raises(InputError, match=fault):
        attention(*qkv(), implementation=implementation)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda q, k, v: attention(q, k, v[:, 1:]), r"values \(2, 4, 3, 4\), expected \[2, N, 3"),
        (lambda q, k, v: attention(q, k[..., 1:], v[..., 1:]), r"keys have shape \(2, 5, 3, 3\)"),
        (lambda q, k, v: attention(q, k, v, bias=np.zeros((H, N, L))), r"expected \[3, 6, 5\] or"),
        (
            lambda q, k, v: attention(q, k, v, segments=SEGMENTS[::-1]),
            r"segment ids have shapes .* expected \[2, 6\] of the queries and \[2, 5\] of the keys",
        ),
    ],
    ids=["values", "head size", "bias", "segments"],
)
def test_arrays_that_do_not_belong_together_are_refused(change, fault):
    with pytest.raises(InputError, match=fault):
        change(*qkv())


def layer(module, *inputs, seed=0, **options):
    """A layer's output and parameters, with every number of the parameters random."""
    params = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs))["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), params)
    apply = jax.jit(lambda params: module.apply({"params": params}, *inputs, **options))
    return np.asarray(apply(params)), params


@pytest.mark.parametrize("qk_norm", [False, True])
def test_self_attention_in_numpy(qk_norm):
    x, added = arrays((B, L, 12), (B, H, 3, K))
    found, p = layer(SelfAttention(H, qk_norm=qk_norm), x, added_BH3K=added)
    y = np.einsum("bld,dhck->blhck", x, p["qkv"]["kernel"]) + p["qkv"]["bias"] + added[:, None]
    q, k, v = (y[..., i, :] for i in range(3))
    if qk_norm:
        norm = lambda x, w: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w["scale"]  # noqa: E731
        q, k = norm(q, p["query_norm"]), norm(k, p["key_norm"])
    expected = np.einsum("blhk,hkd->bld", reference(q, k, v), p["output"]["kernel"])
    np.testing.assert_allclose(found, expected + p["output"]["bias"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_causal_attention_sees_what_is_before(bias):
    """In every implementation, in the layer, and with segments on top."""
    q, k, v = qkv(L, L)
    added = arrays((H, L, L), seed=1)[0] if bias else None
    hidden = np.where(np.tri(L, dtype=bool), 0, -1e30).astype(np.float32)
    expected = reference(
        q, k, v, bias=(0 if added is None else added) + hidden * np.ones((H, 1, 1))
    )
    for how in ("auto", "plain") if bias else ("auto", "plain", "blocks"):
        found = attention(q, k, v, bias=added, causal=True, implementation=how)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    ids = np.array([[0, 0, 0, 1, 1, 1], [4] * 6], np.int32)
    found = attention(q, k, v, segments=(ids, ids), causal=True)
    np.testing.assert_allclose(found[0, 3], v[0, 3], rtol=1e-5)  # the first of its segment
    (x,) = arrays((B, L, 12))
    first, _ = layer(SelfAttention(H, causal=True), x, bias=added)
    x[:, 3:] = 0
    other, _ = layer(SelfAttention(H, causal=True), x, bias=added)
    np.testing.assert_allclose(first[:, :3], other[:, :3], rtol=1e-5)
    assert np.abs(first - other)[:, 3:].min() > 1e-4


def test_causal_attention_has_no_other_reach():
    q, k, v = qkv()
    with pytest.raises(InputError, match="causal attention has 6 queries, 5 keys and reach None"):
        attention(q, k, v, causal=True)
    (x,) = arrays((B, L, 12))
    with pytest.raises(InputError, match="views are given to causal attention, expected their"):
        SelfAttention(H, causal=True).init(jax.random.key(0), x, views=[View()])


def test_parts_of_a_joint_projection_and_the_way_back():
    (x,) = arrays((B, L, H, 3, K))
    q, k, v = split_parts(x)
    for i, part in enumerate((q, k, v)):
        np.testing.assert_array_equal(part, x[..., i, :])

    def total(x):
        return sum(jnp.sum(part**power) for power, part in enumerate(split_parts(x), start=1))

    gradient = jax.jit(jax.grad(total))(x)
    expected = np.stack([np.ones((B, L, H, K)), 2 * x[..., 1, :], 3 * x[..., 2, :] ** 2], axis=-2)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert "concatenate" in str(jax.make_jaxpr(jax.grad(total))(x))
    assert "pad[" not in str(jax.make_jaxpr(jax.grad(total))(x))


def test_cross_attention_in_numpy():
    x, context = arrays((B, L, 12), (B, N, 8))
    found, p = layer(CrossAttention(H), x, context, segments=SEGMENTS)
    q = np.einsum("bld,dhk->blhk", x, p["query"]["kernel"]) + p["query"]["bias"]
    y = np.einsum("bnd,dhck->bnhck", context, p["key_value"]["kernel"]) + p["key_value"]["bias"]
    seen = reference(q, y[..., 0, :], y[..., 1, :], SEGMENTS)
    expected = np.einsum("blhk,hkd->bld", seen, p["output"]["kernel"]) + p["output"]["bias"]
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0, :5], expected[0, :5], rtol=1e-4, atol=1e-4)


def test_normalised_queries_bound_the_logits():
    """With unit scales, |q . k| <= K whatever the size of the tokens."""
    (x,) = arrays((B, L, 12))
    module = SelfAttention(H, qk_norm=True)
    params = nn.meta.unbox(jax.jit(module.init)(jax.random.key(0), x))
    apply = functools.partial(jax.jit(module.apply), params)
    # Attention no longer changes when tokens grow; without the norm it would become one-hot.
    np.testing.assert_allclose(apply(1000 * x), 1000 * apply(x), rtol=1e-3, atol=1e-2)


def test_projections_without_biases():
    (x,) = arrays((B, L, 12))
    _, params = layer(SelfAttention(H, qkv_bias=False), x)
    assert set(params["qkv"]) == {"kernel"}
