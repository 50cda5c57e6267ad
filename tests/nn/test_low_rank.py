"""Low-rank adapters: what they add, what is trained, what they may be of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import InputError
from jaxgen.nn.low_rank import input_axes, make_adapters, with_adapters
from jaxgen.training import OptimizerConfig, make_optimizer, train_only

KEY = jax.random.key(0)


class Small(nn.Module):
    """A layer of heads, one back, and a convolution."""

    @nn.compact
    def __call__(self, x_BYC):
        h = nn.DenseGeneral((2, 3, 4), name="qkv")(x_BYC)[:, :, :, 0]
        h = nn.DenseGeneral(8, axis=(-2, -1), name="output")(h)
        return nn.Conv(5, (3,), name="conv")(jax.nn.silu(h))


def model():
    x = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    return Small(), Small().init(KEY, x)["params"], x


def filled(adapters):
    """With what is zero at first random."""
    leaves, structure = jax.tree.flatten(adapters)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def test_sums_of_products():
    """W + s A B of flat matrices, in heads and in convolutions; nothing at first, or elsewhere."""
    small, params, x = model()
    adapters = make_adapters(params, "qkv|conv", 2, KEY)
    shapes = jax.tree.map(jnp.shape, adapters)
    assert shapes["qkv"]["kernel"] == {"down": (8, 2), "up": (2, 2, 3, 4)}
    assert set(shapes) == {"qkv", "conv"}
    at_first = with_adapters(params, adapters)
    jax.tree.map(np.testing.assert_array_equal, at_first, params)
    adapters = filled(adapters)
    merged = with_adapters(params, adapters, 0.5)
    for name, inputs in (("qkv", 8), ("conv", 24)):
        down, up = (np.asarray(adapters[name]["kernel"][k], np.float64) for k in ("down", "up"))
        product = down.reshape(inputs, 2) @ up.reshape(2, -1)
        expected = (
            np.asarray(params[name]["kernel"], np.float64).reshape(inputs, -1) + 0.5 * product
        )
        found = np.asarray(merged[name]["kernel"]).reshape(inputs, -1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(merged[name]["bias"], params[name]["bias"])
    np.testing.assert_array_equal(merged["output"]["kernel"], params["output"]["kernel"])

    @jax.jit
    def apart(adapters, scale):
        return small.apply({"params": with_adapters(params, adapters, scale)}, x)

    both = small.apply({"params": merged}, x)
    np.testing.assert_allclose(apart(adapters, 0.5), both, atol=1e-5)


def test_adapters_alone_are_trained():
    """Gradients, moments and changes are theirs, and the loss falls."""
    small, params, x = model()
    wanted = np.random.default_rng(1).normal(size=(2, 6, 5)).astype(np.float32)
    state = {"base": params, "adapters": make_adapters(params, "kernel", 2, KEY)}
    tx = train_only(make_optimizer(OptimizerConfig("adam", 0.03)), "^adapters/")
    moments = tx.init(state)
    count = sum(leaf.size for leaf in jax.tree.leaves(moments) if jnp.ndim(leaf))
    assert count == 2 * sum(leaf.size for leaf in jax.tree.leaves(state["adapters"]))

    @jax.jit
    def step(state, moments):
        def loss(state):
            params = with_adapters(state["base"], state["adapters"])
            return ((small.apply({"params": params}, x) - wanted) ** 2).mean()

        value, gradient = jax.value_and_grad(loss)(state)
        updates, moments = tx.update(gradient, moments, state)
        return optax.apply_updates(state, updates), moments, value

    losses = []
    for _ in range(30):
        state, moments, value = step(state, moments)
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, state["base"], params)


def test_matrices_of_kernels():
    kernels = {
        "blocks_0/attention/qkv/kernel": (4, 1),
        "text/key_value/kernel": (4, 1),
        "text/query/kernel": (3, 1),
        "attention/output/kernel": (3, 2),
        "mlp/output/kernel": (2, 1),
        "block_0/condition/kernel": (3, 1),
        "block_0/skip/kernel": (4, 3),
        "frames/conv/kernel": (5, 4),
        "kernel": (2, 1),
    }
    for path, (axes, inputs) in kernels.items():
        assert input_axes(path, axes) == inputs


def test_what_adapters_cannot_be_of():
    _, params, _ = model()
    kernels = "qkv/kernel, output/kernel, conv/kernel"
    faults = {
        ("query", 2): f"the pattern 'query' names no kernel, expected a part of {kernels}, ...",
        ("conv/bias", 2): "the pattern 'conv/bias' names no kernel",
        ("(", 2): "the pattern is '\\(', expected a regular expression",
        ("conv", 6): r"rank is 6, expected 1 to 5 for conv/kernel of shape \(3, 8, 5\)",
        ("conv", 0): "rank is 0, expected 1 to 5",
    }
    for (pattern, rank), fault in faults.items():
        with pytest.raises(InputError, match=fault):
            make_adapters(params, pattern, rank, KEY)
    adapters = make_adapters(params, "conv", 2, KEY)
    with pytest.raises(InputError, match="adapters have other, which the parameters have not"):
        with_adapters(params, {"other": adapters["conv"]})
    with pytest.raises(InputError, match="adapters of qkv/kernel have shapes"):
        with_adapters(params, {"qkv": adapters["conv"]})
