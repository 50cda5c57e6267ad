"""DiT: published sizes, the block in numpy, its four conditionings, identity at the start."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import CLASSES, TINY, apply, initial, inputs, params_of, paths, randomised, shapes

from jaxgen.errors import InputError
from jaxgen.nn import multiply_adds, parameter_count, sincos_grid
from jaxgen.spacetime import DiTConfig, patchify, unpatchify
from jaxgen.spacetime.transformer_blocks import DiTBlock

LATENT = (
    jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
)

PUBLISHED = {
    "DiT-S/8": (33_142_016, 0.36),
    "DiT-S/4": (32_920_448, 1.41),
    "DiT-S/2": (32_865_056, 6.06),
    "DiT-B/8": (130_869_248, 1.42),
    "DiT-B/4": (130_426_496, 5.56),
    "DiT-B/2": (130_315_808, 23.01),
    "DiT-L/8": (458_578_432, 5.01),
    "DiT-L/4": (457_988_224, 19.70),
    "DiT-L/2": (457_840_672, 80.71),
    "DiT-XL/8": (675_664_640, 7.39),
    "DiT-XL/4": (675_000_704, 29.05),
    "DiT-XL/2": (674_834_720, 118.64),
}
"""Trainable parameters of the public weights; 1e9 multiply-adds (Peebles & Xie 2023, table 4)."""


@functools.cache
def parameters_and_giga_multiply_adds(config):
    params = shapes(config, *LATENT)
    counted = multiply_adds(config.make_model().apply, {"params": params}, *LATENT)
    return parameter_count(params), counted / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(name):
    parameters, published = PUBLISHED[name]
    found, counted = parameters_and_giga_multiply_adds(DiTConfig.named(name))
    assert found == parameters
    # Within 0.5 %, or half of the last digit printed (S/8: 0.358 is printed as 0.36).
    assert abs(counted - published) < max(0.005 * published, 0.005)


@pytest.mark.parametrize(
    ("conditioning", "published"),
    [("in_context", 119.4), ("cross", 137.6), ("adaln", 118.6), ("adaln_zero", 118.6)],
)
def test_multiply_adds_of_the_four_blocks_are_the_published_ones(conditioning, published):
    """Peebles & Xie 2023, section 5, for XL/2."""
    config = DiTConfig.named("DiT-XL/2", conditioning=conditioning)
    assert abs(parameters_and_giga_multiply_adds(config)[1] - published) < 0.1


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def dense(x, p):
    kernel, bias = np.float64(p["kernel"]), np.float64(p["bias"])
    contracted = kernel.ndim - bias.ndim
    return np.tensordot(x, kernel, contracted) + bias


def numpy_attention(x, p):
    q, k, v = np.moveaxis(dense(x, p["qkv"]), 3, 0)
    logits = np.einsum("blhk,bnhk->bhln", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return dense(np.einsum("bhln,bnhk->blhk", weights, v), p["output"])


def numpy_mlp(x, p):
    y = dense(x, p["hidden"])
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    return dense(y, p["output"])


def numpy_block(x, c, p):
    """adaLN-Zero: shift, scale, gate of attention, then those of the MLP."""
    parts = dense(c / (1 + np.exp(-c)), p["modulation"])[:, :, None].swapaxes(0, 1)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
    x = x + gate * numpy_attention(layer_norm(x) * (1 + scale) + shift, p["attention"])
    return x + mlp_gate * numpy_mlp(layer_norm(x) * (1 + mlp_scale) + mlp_shift, p["mlp"])


def test_a_block_in_numpy():
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(2, 5, 16)), rng.normal(size=(2, 16))
    params = randomised(params_of(TINY["dit"])["blocks_0"], seed=1)
    found = jax.jit(DiTBlock(TINY["dit"]).apply)(
        {"params": params}, x.astype(np.float32), c.astype(np.float32)
    )
    np.testing.assert_allclose(found, numpy_block(x, c, params), rtol=1e-4, atol=1e-4)


def test_the_whole_network_in_numpy():
    config, (z, time, label) = TINY["dit"], inputs()
    p = params_of(config)
    x = dense(np.float64(patchify(z, 2)), p["patch_embedding"]) + sincos_grid((2, 4), 16)
    angle = np.float64(time)[:, None] / 10_000 ** (np.arange(128) / 128)
    hidden = dense(
        np.concatenate([np.cos(angle), np.sin(angle)], 1), p["condition"]["time"]["hidden"]
    )
    c = dense(hidden / (1 + np.exp(-hidden)), p["condition"]["time"]["output"])
    c = c + p["condition"]["label"]["table"][label]
    x = numpy_block(x, c, p["blocks_0"])
    shift, scale = dense(c / (1 + np.exp(-c)), p["final"]["modulation"])[:, :, None].swapaxes(0, 1)
    outputs = dense(layer_norm(x) * (1 + scale) + shift, p["final"]["output"])
    expected = unpatchify(outputs, (2, 4), 2)
    np.testing.assert_allclose(apply(config, p, z, time, label), expected, rtol=1e-3, atol=1e-3)


def test_an_adaptive_block_starts_as_the_identity():
    x = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
    c = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    params = initial(TINY["dit"], *inputs())["blocks_0"]
    assert np.any(params["attention"]["qkv"]["kernel"])
    found = jax.jit(DiTBlock(TINY["dit"]).apply)({"params": params}, x, c)
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("conditioning", ["adaln_zero", "adaln", "cross", "in_context"])
def test_every_network_starts_with_zeros(conditioning):
    config = dataclasses.replace(TINY["dit"], conditioning=conditioning)
    assert not np.any(apply(config, initial(config, *inputs()), *inputs()))


def test_initial_values_are_those_of_the_paper():
    params = initial(DiTConfig(depth=1, width=64, heads=4, num_classes=50), *inputs_of_width_64())
    spread = {path: np.std(leaf) for path, leaf in paths(params).items() if "kernel" in path}
    np.testing.assert_allclose(spread["condition/time/hidden/kernel"], 0.02, rtol=0.1)
    np.testing.assert_allclose(np.std(params["condition"]["label"]["table"]), 0.02, rtol=0.1)
    glorot = np.sqrt(2 / (64 + 3 * 64))  # of the flat matrix [64, 192]
    np.testing.assert_allclose(spread["blocks_0/attention/qkv/kernel"], glorot, rtol=0.1)
    zeros = {path for path, leaf in paths(params).items() if not np.any(leaf)}
    biases = {path for path in paths(params) if path.endswith("bias")}
    starts = {"blocks_0/modulation/kernel", "final/modulation/kernel", "final/output/kernel"}
    assert zeros == biases | starts


def inputs_of_width_64():
    return np.zeros((1, 4, 4, 4), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int32)


def test_the_four_conditionings_are_four_networks():
    """All depend on time and class; their blocks have the parameters that the paper gives them."""
    parts = {
        "adaln_zero": {"attention", "mlp", "modulation"},
        "adaln": {"attention", "mlp", "modulation"},
        "cross": {
            "attention",
            "attention_norm",
            "cross_attention",
            "cross_norm",
            "mlp",
            "mlp_norm",
        },
        "in_context": {"attention", "attention_norm", "mlp", "mlp_norm"},
    }
    z, time, _ = inputs()
    label = np.zeros(len(z), np.int32)
    outputs = {}
    for conditioning, expected in parts.items():
        config = dataclasses.replace(TINY["dit"], conditioning=conditioning)
        params = params_of(config)
        assert set(params["blocks_0"]) == expected
        assert ("modulation" in params["final"]) == conditioning.startswith("adaln")
        found = [
            apply(config, params, z, when, which)
            for when, which in [(time, label), (time + 50, label), (time, label + CLASSES)]
        ]
        assert np.abs(found[1] - found[0]).max(axis=(1, 2, 3)).min() > 1e-3
        assert np.abs(found[2] - found[0]).max(axis=(1, 2, 3)).min() > 1e-3
        outputs[conditioning] = found[0]
    assert params_of(TINY["dit"])["blocks_0"]["modulation"]["bias"].shape == (6, 16)
    values = list(outputs.values())
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(values) for b in values[:i])


def test_one_network_takes_images_of_any_size():
    config, params = TINY["dit"], params_of(TINY["dit"])
    for size in [(4, 4), (2, 12)]:
        assert apply(config, params, *inputs(size=size)).shape == (8, *size, 6)


def test_moving_an_image_by_whole_patches_is_not_moving_the_output():
    """Positions matter: without them a transformer would only permute its tokens."""
    config, (z, time, label) = TINY["dit"], inputs()
    moved = apply(config, params_of(config), np.roll(z, 2, axis=2), time, label)
    still = apply(config, params_of(config), z, time, label)
    assert np.abs(np.roll(moved, -2, axis=2) - still).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"conditioning": "film"}, "conditioning is 'film', expected one of adaln_zero, adaln"),
        ({"width": 6, "heads": 2}, "width is 6, expected a multiple of 4"),
    ],
    ids=["conditioning", "width"],
)
def test_configurations_that_are_no_dit(change, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(TINY["dit"], **change)


def test_named_networks_take_changes():
    config = DiTConfig.named("DiT-S/4", num_classes=10, out_channels=4, dtype="bfloat16")
    assert (config.patch, config.width, config.num_classes) == (4, 384, 10)
    assert (config.out_channels, config.dtype) == (4, "bfloat16")
