"""DiffiT: its published size, its attention in numpy, what the time changes."""

import jax
import jax.numpy as jnp
import numpy as np
from networks import TINY, apply, initial, inputs, params_of, shapes

from jaxgen.nn import multiply_adds, parameter_count, relative_index
from jaxgen.spacetime import DiffiTConfig
from jaxgen.spacetime.diffit import DiffiTBlock

LATENT = (
    jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
)


def test_parameters_and_multiply_adds_are_the_published_ones():
    """561 million and 114e9 (Hatamizadeh et al. 2024, table 2), attention's products left out."""
    config = DiffiTConfig.named("DiffiT-XL/2")
    tree = shapes(config, *LATENT)
    assert round(parameter_count(tree) / 1e6) == 561
    count = multiply_adds(config.make_model().apply, {"params": tree}, *LATENT)
    of_attention = 28 * 2 * 256 * 256 * 1152
    assert round((count - of_attention) / 1e9) == 114


def dense(x, p):
    return np.tensordot(x, np.float64(p["kernel"]), p["kernel"].ndim - p["bias"].ndim) + p["bias"]


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_time_dependent_attention_in_numpy():
    """Equations 3 to 8: q, k, v are sums of a part from the token and a part from the time."""
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(2, 8, 16)), rng.normal(size=(2, 16))
    config = TINY["diffit"]
    p = params_of(config)["blocks_0"]
    y = layer_norm(x)
    of_tokens, of_time = dense(y, p["attention"]["qkv"]), dense(c, p["time_qkv"])
    q, k, v = np.moveaxis(of_tokens + of_time[:, None], 3, 0)
    bias = p["relative"]["table"][relative_index((2, 4))].transpose(2, 0, 1)
    logits = np.einsum("blhk,bnhk->bhln", q, k) / np.sqrt(8) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = x + dense(np.einsum("bhln,bnhk->blhk", weights, v), p["attention"]["output"])
    hidden = dense(layer_norm(expected), p["mlp"]["hidden"])
    hidden *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    expected = expected + dense(hidden, p["mlp"]["output"])
    given = x.astype(np.float32), c.astype(np.float32)
    found = jax.jit(DiffiTBlock(config).apply)({"params": p}, *given)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_time_reaches_the_output_through_attention_alone():
    config, (z, time, label) = TINY["diffit"], inputs()
    params = params_of(config)
    silent = {
        name: {**p, "time_qkv": jax.tree.map(np.zeros_like, p["time_qkv"])}
        if name.startswith("blocks")
        else p
        for name, p in params.items()
    }
    now, later = (apply(config, silent, z, t, label) for t in (time, time + 100))
    np.testing.assert_array_equal(now, later)
    now, later = (apply(config, params, z, t, label) for t in (time, time + 100))
    assert np.abs(now - later).max(axis=(1, 2, 3)).min() > 1e-3


def test_it_starts_with_zeros_and_a_small_bias():
    config = TINY["diffit"]
    params = initial(config, *inputs())
    assert not np.any(apply(config, params, *inputs()))
    table = params["blocks_0"]["relative"]["table"]
    assert table.shape == (3 * 7, 2)
    assert 0.01 < np.std(table) < 0.03
