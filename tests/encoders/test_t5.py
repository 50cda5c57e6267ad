"""T5's encoder: published sizes, buckets, padding, and numbers that float16 would not hold."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from tiny import T5_CONFIG, ids, params_of

from jaxgen.encoders import T5Config, make_encoder
from jaxgen.encoders.t5 import SIZES
from jaxgen.errors import InputError
from jaxgen.nn import parameter_count
from jaxgen.nn.relative import bucket_index
from jaxgen.training import config_from_json, config_to_json

PARAMETERS = {
    "t5-v1_1-small": 35_332_800,
    "t5-v1_1-base": 109_628_544,
    "t5-v1_1-large": 341_231_104,
    "t5-v1_1-xl": 1_223_527_424,
    "t5-v1_1-xxl": 4_762_310_656,
}


FEW = ("t5-v1_1-small", "t5-v1_1-xxl")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in SIZES]
)
def test_published_sizes(name):
    init = T5Config.named(name).make_model().init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    assert parameter_count(shapes["params"]) == PARAMETERS[name]


def test_buckets_of_the_published_models():
    """Key less query, and the bucket (transformers 5, t5-v1_1-xxl's 32 up to 128)."""
    ahead = [-200, -128, -64, -20, -9, -8, -7, -1, 0, 1, 7, 8, 9, 20, 64, 128, 200]
    bucket = [15, 15, 14, 10, 8, 8, 7, 1, 0, 17, 23, 24, 24, 26, 30, 31, 31]
    config = T5Config()
    found = bucket_index(-np.array(ahead), config.buckets, config.largest_distance)
    np.testing.assert_array_equal(found, bucket)


def numpy_encoder(params, ids_L):
    """One text, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    size, length = T5_CONFIG.head_size, len(ids_L)

    def norm(name, x, where):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * where[name]["scale"]

    place = np.arange(length)
    buckets = bucket_index(place[:, None] - place, T5_CONFIG.buckets, T5_CONFIG.largest_distance)
    bias_LLH = p["bias"]["table"][buckets]
    x = p["token_embedding"]["table"][ids_L]
    for i in range(T5_CONFIG.depth):
        block = p[f"blocks_{i}"]
        y = norm("attention_norm", x, block)
        seen = []
        for h in range(T5_CONFIG.heads):
            q, k, v = (y @ block["qkv"]["kernel"][:, h, n] for n in range(3))
            logits = q @ k.T + bias_LLH[..., h]  # not divided by the square root of the head size
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            seen.append(weights / weights.sum(-1, keepdims=True) @ v)
        kernel = block["output"]["kernel"].reshape(-1, x.shape[-1])
        x = x + np.concatenate(seen, -1) @ kernel
        assert kernel.shape[0] == T5_CONFIG.heads * size
        y = norm("mlp_norm", x, block)
        gate = y @ block["gate"]["kernel"]
        gelu = gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) / 2
        x = x + (gelu * (y @ block["hidden"]["kernel"])) @ block["down"]["kernel"]
    return norm("final_norm", x, p)


def test_states_are_the_equations():
    params, ids_BL = params_of(T5_CONFIG), ids()
    found = make_encoder(T5_CONFIG, params)(ids_BL)
    for b in range(3):
        expected = numpy_encoder(params, ids_BL[b])
        np.testing.assert_allclose(found.states_BLD[b], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.pooled_BD, found.states_BLD.mean(1), rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing():
    encode = make_encoder(T5_CONFIG, params_of(T5_CONFIG))
    ids_BL = ids()
    mask_BL = np.broadcast_to(np.arange(ids_BL.shape[1]) < 4, ids_BL.shape)
    masked = encode(ids_BL, mask_BL)
    other = encode(np.where(mask_BL, ids_BL, 7), mask_BL)
    short = encode(ids_BL[:, :4])
    np.testing.assert_array_equal(masked.pooled_BD, other.pooled_BD)
    np.testing.assert_allclose(masked.pooled_BD, short.pooled_BD, rtol=1e-4, atol=1e-5)
    kept = np.asarray(masked.states_BLD)[:, :4]
    np.testing.assert_allclose(kept, short.states_BLD, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(masked.mask_BL, mask_BL)


def test_bfloat16_is_finite_where_float16_is_not():
    """Published weights have hidden units and states beyond 65,504; here by large kernels."""
    params = params_of(T5_CONFIG)
    params = {**params, **{f"blocks_{i}": dict(params[f"blocks_{i}"]) for i in range(2)}}
    for i in range(2):
        for name in ("gate", "hidden"):
            kernel = 3e3 * params[f"blocks_{i}"][name]["kernel"]
            params[f"blocks_{i}"] = {**params[f"blocks_{i}"], name: {"kernel": kernel}}
    exact = make_encoder(T5_CONFIG, params)(ids())
    half = dataclasses.replace(T5_CONFIG, dtype="bfloat16")
    network = half.make_model()
    found, kept = jax.jit(
        lambda p: network.apply({"params": p}, ids(), capture_intermediates=True)
    )(params)
    stream = kept["intermediates"]["blocks_1"]["__call__"][0]
    assert stream.dtype == jnp.float32
    assert np.abs(stream).max() > np.finfo(np.float16).max
    assert np.isfinite(found.states_BLD).all()
    error = np.abs(found.states_BLD - exact.states_BLD)
    assert error.mean() < 0.05 * np.abs(exact.states_BLD).mean()


@pytest.mark.slow
def test_initial_deviations():
    config = T5Config(vocabulary=99, width=64, mlp_units=128, depth=1, heads=8, head_size=16)
    params = nn.meta.unbox(
        jax.jit(config.make_model().init)(jax.random.key(0, impl="rbg"), ids(1))["params"]
    )
    block = params["blocks_0"]
    qkv = block["qkv"]["kernel"]
    wanted = [
        (params["token_embedding"]["table"], 1.0),
        (params["bias"]["table"], 64**-0.5),
        (qkv[:, :, 0], 64**-0.5 / 4),
        (qkv[:, :, 1:], 64**-0.5),
        (block["output"]["kernel"], 128**-0.5),
        (block["gate"]["kernel"], 64**-0.5),
        (block["down"]["kernel"], 128**-0.5),
    ]
    for value, deviation in wanted:
        np.testing.assert_allclose(value.std(), deviation, rtol=0.15)


@pytest.mark.slow
def test_recomputed_activations_give_the_same_gradient():
    def gradient(config):
        network = config.make_model()

        def loss(params):
            return network.apply({"params": params}, ids()).states_BLD.std()

        return jax.jit(jax.grad(loss))(params_of(T5_CONFIG))

    found = gradient(dataclasses.replace(T5_CONFIG, remat=True))
    expected = gradient(T5_CONFIG)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


def test_configurations():
    assert config_from_json(json.loads(json.dumps(config_to_json(T5_CONFIG)))) == T5_CONFIG
    for make, message in (
        (lambda: T5Config.named("t5-small"), "model 't5-small' is unknown, expected one of t5-v1"),
        (lambda: T5Config(heads=0), "heads is 0, expected 1 or more"),
        (lambda: T5Config(buckets=6), "buckets is 6, expected a positive multiple of 4"),
        (lambda: T5Config(dtype="float16"), "dtype is 'float16', expected 'float32' or 'bfloat16'"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    with pytest.raises(InputError, match=r"ids are -1 to 19, expected 0 to 19"):
        make_encoder(T5_CONFIG, {})(np.where(ids() == 0, -1, ids()))
