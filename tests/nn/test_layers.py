"""Embeddings, norms, MLPs and linear layers against numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.nn import (
    MLP,
    Condition,
    Dense,
    LabelEmbedding,
    LayerNorm,
    TimeEmbedding,
    layer_norm,
    modulate,
    time_frequencies,
)
from jaxgen.nn.dense import check_dtype
from jaxgen.nn.embeddings import check_condition
from jaxgen.nn.mlp import gelu_exact, gelu_tanh, quick_gelu

TIME = np.array([0.0, 0.5, 1.0, 999.0], np.float32)


def initial(module, *inputs, seed=0):
    return nn.meta.unbox(jax.jit(module.init)(jax.random.key(seed), *inputs))["params"]


def silu(x):
    return x / (1 + np.exp(-x))


def waves(time, features=256):
    """Cosines first, then sines; periods 2 pi 10000^(i / half)."""
    half = features // 2
    angle = np.float64(time)[:, None] / 10_000 ** (np.arange(half) / half)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def test_time_frequencies_in_numpy():
    found = time_frequencies(TIME)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, waves(TIME), atol=1e-4)  # 999 times float32's 6e-8
    np.testing.assert_allclose(found[0], [1.0] * 128 + [0.0] * 128)
    np.testing.assert_allclose(time_frequencies(TIME, 7)[:, :6], waves(TIME, 6), atol=1e-4)
    assert not np.any(time_frequencies(TIME, 7)[:, 6])


def test_time_embedding_in_numpy():
    params = initial(TimeEmbedding(8), TIME)
    hidden = silu(waves(TIME) @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    expected = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    found = jax.jit(TimeEmbedding(8).apply)({"params": params}, TIME)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_the_null_class_is_the_last_row():
    label = np.array([0, 2, 3])
    params = initial(LabelEmbedding(3, 5), label)
    assert params["table"].shape == (4, 5)
    found = LabelEmbedding(3, 5).apply({"params": params}, label)
    np.testing.assert_array_equal(found, params["table"][label])
    assert initial(LabelEmbedding(3, 5, null_class=False), label)["table"].shape == (3, 5)


def test_labels_are_dropped_in_training_alone():
    label = np.tile(np.arange(3), 1000)
    module = LabelEmbedding(3, 5, dropout=0.25)
    params = initial(module, label)
    rngs = {"dropout": jax.random.key(1)}
    apply = jax.jit(module.apply, static_argnames="train")
    calm = apply({"params": params}, label)
    np.testing.assert_array_equal(calm, params["table"][label])
    found = apply({"params": params}, label, train=True, rngs=rngs)
    found, table = np.asarray(found), np.asarray(params["table"])
    dropped = np.all(found == table[3], axis=1)
    np.testing.assert_allclose(dropped.mean(), 0.25, atol=0.03)  # 4 standard deviations
    np.testing.assert_array_equal(found[~dropped], np.asarray(calm)[~dropped])
    again = apply({"params": params}, label, train=True, rngs=rngs)
    np.testing.assert_array_equal(found, again)
    # What happens to an example does not depend on how many there are.
    few = apply({"params": params}, label[:30], train=True, rngs=rngs)
    np.testing.assert_array_equal(few, found[:30])


def test_a_condition_without_classes_is_the_time_alone():
    params = initial(Condition(8), TIME)
    assert set(params) == {"time"}
    apply = jax.jit(Condition(8).apply, static_argnames="method")
    time_BD, class_BD = apply({"params": params}, TIME)
    assert class_BD is None
    np.testing.assert_array_equal(apply({"params": params}, TIME, method="sum"), time_BD)


def test_layer_norm_in_numpy():
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 6)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layer_norm(x), expected, rtol=1e-4, atol=1e-5)
    scale, bias = np.arange(6.0), np.arange(6.0)[::-1]
    found = LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(found, expected * scale + bias, rtol=1e-4, atol=1e-5)
    wider = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.5)
    found = LayerNorm(epsilon=0.5).apply({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(found, wider * scale + bias, rtol=1e-4, atol=1e-5)
    shift, size = x[:, 0], x[:, 1]
    np.testing.assert_allclose(
        modulate(x, shift, size), x * (1 + size[:, None]) + shift[:, None], rtol=1e-6
    )


def test_layer_norm_of_a_constant_and_its_gradient_are_finite():
    found_of = jax.jit(jax.value_and_grad(lambda x: jnp.sum(layer_norm(x) ** 3)))
    value, gradient = found_of(np.ones((2, 4), np.float32))
    assert value == 0
    assert np.all(np.isfinite(gradient))


def test_layer_norm_of_bfloat16_is_float32():
    """A large mean would swallow the variance in 8 bits."""
    x = jnp.asarray(100 + np.arange(8.0), jnp.bfloat16)
    assert layer_norm(x).dtype == jnp.float32
    np.testing.assert_allclose(np.std(layer_norm(x)), 1, rtol=1e-5)


def plain_layer_norm(x):
    """Its formula, to be derived step by step."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize(
    ("found", "expected"),
    [(layer_norm, plain_layer_norm), (gelu_tanh, lambda x: jax.nn.gelu(x, approximate=True))],
    ids=["layer norm", "gelu"],
)
def test_derivatives_written_by_hand(found, expected):
    """Backward, forward, and twice, against those that JAX derives."""
    rng = np.random.default_rng(0)
    x, g, t = (rng.normal(0.5, 2, (3, 5, 8)).astype(np.float32) for _ in range(3))

    def backward(fn):
        return jax.grad(lambda x: jnp.sum(jnp.sin(fn(x)) * g))

    def forward(fn):
        return lambda x: jax.jvp(fn, (x,), (t,))[1]

    for derivative in (backward, forward, lambda fn: forward(backward(fn))):
        np.testing.assert_allclose(
            *(jax.jit(derivative(fn))(x) for fn in (found, expected)), rtol=1e-4, atol=2e-5
        )


def test_gelu_far_out():
    """Exact to rounding where 1 + tanh(u) would be nothing but rounding, and finite beyond."""
    x = np.array([-3e9, -30, -5, -4, 4, 30, 3e9], np.float32)
    y = x.astype(np.float64)
    expected = y / (1 + np.exp(np.minimum(-2 * np.sqrt(2 / np.pi) * (y + 0.044715 * y**3), 700)))
    np.testing.assert_allclose(gelu_tanh(x), expected, rtol=1e-5, atol=1e-37)
    slope = np.asarray(jax.jit(jax.vmap(jax.grad(gelu_tanh)))(x))
    np.testing.assert_allclose(slope[[0, 1, 5, 6]], [0, 0, 1, 1], atol=1e-6)


def test_gelu_of_bfloat16_is_computed_in_float32():
    x = jnp.linspace(-4, 4, 101, dtype=jnp.bfloat16)
    y = np.asarray(x, np.float64)
    u = np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)
    exact, slope = y * (1 + np.tanh(u)) / 2, jax.jit(jax.grad(lambda x: jnp.sum(gelu_tanh(x))))(x)
    np.testing.assert_allclose(np.asarray(gelu_tanh(x), np.float64), exact, rtol=2**-8)
    assert slope.dtype == gelu_tanh(x).dtype == jnp.bfloat16
    step = 1e-6
    ahead, behind = (
        z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2
        for z in (y + step, y - step)
    )
    np.testing.assert_allclose(
        np.asarray(slope, np.float64), (ahead - behind) / (2 * step), rtol=2**-8, atol=1e-4
    )


def test_mlp_in_numpy():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    params = initial(MLP(8), x)
    y = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    expected = y @ params["output"]["kernel"] + params["output"]["bias"]
    found = jax.jit(MLP(8).apply)({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_activations_of_clip_in_numpy():
    x = np.linspace(-12, 12, 97).astype(np.float32)
    np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * x)), rtol=1e-5, atol=1e-7)
    expected = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x]
    np.testing.assert_allclose(gelu_exact(x), expected, rtol=1e-5, atol=1e-6)


def test_dense_over_several_axes_draws_as_the_flat_matrix_does():
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    module = Dense((4, 6), (None, "kv", "heads", None))
    params = initial(module, x)
    assert params["kernel"].shape == (2, 3, 4, 6)
    assert params["bias"].shape == (4, 6)
    limit = np.sqrt(6 / (6 + 24))  # Glorot & Bengio 2010: fan-in 6, fan-out 24
    assert 0.9 * limit < np.abs(params["kernel"]).max() < limit
    expected = np.einsum("nab,abcd->ncd", x, params["kernel"])
    found = module.apply({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    boxed = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    assert boxed["kernel"].names == (None, "kv", "heads", None)
    assert boxed["bias"].names == ("heads", None)


@pytest.mark.parametrize("axes", [(None, "kv", "heads"), ("kv", "heads", None)])
def test_dense_refuses_a_cut_behind_the_first_of_joined_axes(axes):
    """Features, then inputs (kv, heads): a cut over `model` that joining would gather."""
    features = (4, 6) if axes[0] is None else (5,)
    shape = (2, 3) if axes[0] is None else (2, 4, 6)
    with pytest.raises(InputError, match=r"joined, expected 'heads', .* 'model', to be"):
        Dense(features, axes).init(jax.random.key(0), np.zeros(shape, np.float32))


def test_dense_keeps_float32_parameters_in_bfloat16():
    x = np.ones((2, 3), np.float32)
    module = Dense((4,), (None, None), "bfloat16")
    params = initial(module, x)
    assert params["kernel"].dtype == jnp.float32
    assert module.apply({"params": params}, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((3, np.zeros(2), None, 0), r"time has shape \(2,\), expected \[3\]"),
        ((3, np.zeros((3, 1)), None, 0), r"time has shape \(3, 1\), expected \[3\]"),
        (
            (3, np.zeros(3), np.zeros(3, int), 0),
            "labels were given to a network with num_classes=0",
        ),
        ((3, np.zeros(3), None, 10), r"labels are None, expected \[3\] ids below 10"),
        ((3, np.zeros(3), np.zeros(4, int), 10), r"labels have shape \(4,\), expected \[3\]"),
        ((3, np.zeros(3), np.zeros((3, 10), int), 10), r"labels have shape \(3, 10\), expected"),
        ((3, np.zeros(3), np.zeros(3), 10), "labels have type float64, expected integers"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(arguments, fault):
    with pytest.raises(InputError, match=fault):
        check_condition(*arguments)


def test_a_type_that_nothing_is_computed_in_is_refused():
    with pytest.raises(InputError, match="dtype is 'float16', expected 'float32' or 'bfloat16'"):
        check_dtype("float16")
