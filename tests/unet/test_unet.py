"""The U-Net: published sizes, its blocks in numpy, invariances, layout over devices, bad input."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from networks import randomised

from jaxgen.errors import InputError
from jaxgen.parallel import gather_fsdp, make_mesh, plan_layout, put_batch
from jaxgen.unet.residual_blocks import PixelAttention, ResidualBlock
from jaxgen.unet.unet import UNet, UNetConfig
from tests.unet.small_unets import assert_same, shapes

SMALL = UNetConfig(
    channels=(8, 16),
    blocks=1,
    attention_levels=(1,),
    head_size=8,
    groups=4,
    num_classes=3,
    class_dropout=0.5,
)
FLAT = dataclasses.replace(SMALL, channels=(8,), attention_levels=(), head_size=4, dropout=0.1)
"""One level, attention in the middle: half as much to compile."""

B = 8


def example(config=SMALL, seed=0, size=(4, 6)):
    rng = np.random.default_rng(seed)
    z_BYXC = rng.normal(size=(B, *size, config.in_channels)).astype(np.float32)
    time_B = rng.uniform(0, 1000, B).astype(np.float32)
    if config.labels == "numbers":
        return z_BYXC, time_B, rng.uniform(0, 1000, B).astype(np.float32)
    label_B = rng.integers(0, 4, B).astype(np.int32)
    return z_BYXC, time_B, label_B if config.num_classes else None


@functools.cache
def small_params(config=SMALL):
    return randomised(shapes(config.make_model().init, *example(config)))


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, *inputs):
    return config.make_model().apply({"params": params}, *inputs)


@pytest.mark.parametrize(
    ("image_size", "millions", "exact"),
    [(64, 296, 295_904_454), (128, 422, 421_529_606), (256, 554, 553_838_086)],
)
def test_parameter_counts_are_the_published_ones(image_size, millions, exact):
    """Dhariwal & Nichol 2021, table 4, in millions; exactly what their architecture comes to."""
    config = UNetConfig.adm(image_size)
    z = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    tree = shapes(config.make_model().init, z, time, label)
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
    assert round(count / 1e6) == millions
    assert count == exact


def group_norm(x, p, groups):
    """Example by example, group by group, in float64."""
    result = np.empty_like(x)
    size = x.shape[-1] // groups
    for b in range(len(x)):
        for g in range(groups):
            part = x[b, ..., g * size : (g + 1) * size]
            normal = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
            result[b, ..., g * size : (g + 1) * size] = normal
    return result * p["scale"] + p["bias"]


def convolved(x, p):
    """The sum over the kernel's places of shifted images times matrices."""
    kernel = np.asarray(p["kernel"], np.float64)
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = x.shape[1:3]
    return p["bias"] + sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def silu(x):
    return x / (1 + np.exp(-x))


def resampled(x, how):
    if how == "up":
        return x.repeat(2, axis=1).repeat(2, axis=2)
    if how == "down":
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return x


@pytest.mark.parametrize("resample", ["", "up", "down"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_the_residual_block_in_numpy(resample, adaptive):
    config = dataclasses.replace(SMALL, adaptive_norm=adaptive)
    block = ResidualBlock(config.block_options_at(0), 12, resample, divisor=1.5)
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(2, 4, 6, 8)), rng.normal(size=(2, 5))
    p = randomised(shapes(lambda key, x, c: block.init(key, x, c, False), x, c))
    found = jax.jit(lambda x, c: block.apply({"params": p}, x, c, False))(x, c)

    h = convolved(resampled(silu(group_norm(x, p["norm1"], 4)), resample), p["conv1"])
    condition = np.einsum("bd,dcn->nbc", silu(c), p["condition"]["kernel"])
    condition = (condition + p["condition"]["bias"].T[:, None])[:, :, None, None]
    if adaptive:
        h = group_norm(h, p["norm2"], 4) * (1 + condition[0]) + condition[1]
    else:
        h = group_norm(h + condition[0], p["norm2"], 4)
    h = convolved(silu(h), p["conv2"])
    expected = (convolved(resampled(x, resample), p["skip"]) + h) / 1.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_attention_over_pixels_in_numpy():
    layer = PixelAttention(SMALL.block_options_at(0), groups=2, divisor=1.5)
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 16))
    p = randomised(shapes(layer.init, x))
    found = jax.jit(layer.apply)({"params": p}, x)

    tokens = group_norm(x, p["norm"], 2).reshape(2, 6, 16)
    q, k, v = np.einsum("bld,dhnk->nbhlk", tokens, p["qkv"]["kernel"]) + np.expand_dims(
        p["qkv"]["bias"].swapaxes(0, 1), (1, 3)
    )
    logits = np.einsum("bhlk,bhnk->bhln", q, k) / np.sqrt(8)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    seen = np.einsum("bhln,bhnk->blhk", weights, v)
    h = np.einsum("blhk,hkd->bld", seen, p["output"]["kernel"]) + p["output"]["bias"]
    expected = (x + h.reshape(x.shape)) / 1.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_blocks_start_by_handing_on_and_the_network_by_saying_zero():
    """The last convolution of each branch starts at zero (the others do not)."""

    def last_layers(params, found=()):
        for name, value in params.items():
            if name in ("conv2", "output", "conv_out"):
                found = *found, value
            elif name not in ("time", "label"):
                found = last_layers(value, found) if isinstance(value, dict) else found
        return found

    @jax.jit  # Compiles nothing but what is returned.
    def initial():
        params = nn.meta.unbox(SMALL.make_model().init(jax.random.key(0), *example())["params"])
        return last_layers(params), params["down_0_block_0"]["conv1"]["kernel"]

    last, first = initial()
    assert len(last) == 10 + 4 + 1
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(last))
    assert 0.8 < jnp.std(first) * np.sqrt(3 * 9 * 8) < 1.2


def test_an_example_does_not_depend_on_the_others_but_on_time_and_label():
    params, (z, time, label) = small_params(), example()
    whole = apply(SMALL, params, z, time, label)
    assert whole.shape == z.shape
    given = [x[::-1].copy() for x in (z, time, label)]
    for own, x in zip(given, (z, time, label), strict=True):
        own[2] = x[2]
    np.testing.assert_allclose(apply(SMALL, params, *given)[2], whole[2], atol=2e-5)
    assert np.abs(apply(SMALL, params, z, time + 1, label) - whole).max() > 0.01
    for changed in (np.full_like(label, 3), (label + 1) % 4):
        other = apply(SMALL, params, z, time, changed)
        moved = np.abs(other - whole).max(axis=(1, 2, 3))
        assert ((moved > 0.01) == (changed != label)).all()


def test_numbers_as_labels():
    config = dataclasses.replace(FLAT, labels="numbers", num_classes=0, class_dropout=0.0)
    params, (z, time, number) = small_params(config), example(config)
    whole = apply(config, params, z, time, number)
    assert np.abs(apply(config, params, z, time, number + 1) - whole).max() > 0.01


def loss_fn(config, params, z, time, label, key):
    model = config.make_model()
    out = model.apply({"params": params}, z, time, label, train=True, rngs={"dropout": key})
    return jnp.mean(jnp.square(out - 1))


loss_and_gradients = jax.jit(jax.value_and_grad(loss_fn, argnums=1), static_argnums=0)


@functools.cache
def unsharded():
    """Loss and gradients on one device."""
    return loss_and_gradients(FLAT, small_params(FLAT), *example(), jax.random.key(1))


def test_dropout_follows_its_key_and_remat_changes_nothing():
    inputs, params = example(), small_params(FLAT)
    value, gradients = unsharded()
    assert value != loss_and_gradients(FLAT, params, *inputs, jax.random.key(2))[0]
    remat = dataclasses.replace(FLAT, remat=True)
    again = loss_and_gradients(remat, params, *inputs, jax.random.key(1))
    np.testing.assert_allclose(again[0], value, rtol=1e-6)
    assert_same(again[1], gradients, 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite_values_and_gradients_at_the_extremes(dtype):
    """Constant features (variance zero), tiny and huge ones; a huge condition."""
    config = dataclasses.replace(SMALL, dtype=dtype)
    options = config.block_options_at(0)
    block, layer = ResidualBlock(options, 12, "down"), PixelAttention(options, groups=4)
    rng = np.random.default_rng(0)
    scales = np.array([0, 1e-20, 1e-3, 1, 1, 1e3, 1e9, 1e15], np.float32)
    x = rng.normal(size=(B, 4, 6, 8)).astype(np.float32) * scales[:, None, None, None]
    x[3] = 5.0
    c = rng.normal(size=(B, 5)).astype(np.float32) * scales[::-1, None]
    params = {
        "block": randomised(shapes(lambda key: block.init(key, x, c, False))),
        "layer": randomised(shapes(layer.init, x)),
    }

    @jax.jit
    def run(params, x, c):
        def outputs(params, x, c):
            return (
                block.apply({"params": params["block"]}, x, c, False),
                layer.apply({"params": params["layer"]}, x),
            )

        values, pull = jax.vjp(outputs, params, x, c)
        return values, pull(jax.tree.map(jnp.ones_like, values))

    for leaf in jax.tree.leaves(run(params, x, c)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


def test_bfloat16_is_close_to_float32():
    exact = apply(SMALL, small_params(), *example())
    found = apply(dataclasses.replace(SMALL, dtype="bfloat16"), small_params(), *example())
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.05


@functools.cache
def sharded_layout(config):
    """On 8 devices with all three axes in use."""
    init, mesh = config.make_model().init, make_mesh("data=2,fsdp=2,model=2")
    return plan_layout(lambda key: init(key, *example())["params"], jax.random.key(0), mesh=mesh)


def on_devices(function, config):
    """``function(params, z, time, label)`` with parameters and batch spread over the devices."""
    layout = sharded_layout(config)
    with jax.set_mesh(layout.mesh):
        params = jax.device_put(small_params(config), layout.shardings)
        batch = put_batch(dict(zip("ztl", example(), strict=True)), layout.mesh)
        return jax.jit(lambda params, b: function(params, b["z"], b["t"], b["l"]))(params, batch)


def test_training_on_eight_devices_is_that_on_one():
    """Loss and every gradient, dropout included."""

    def value_and_gradients(params, *inputs):
        def loss(params):
            whole = gather_fsdp(params, sharded_layout(FLAT))
            return loss_fn(FLAT, whole, *inputs, jax.random.key(1))

        return jax.value_and_grad(loss)(params)

    value, gradients = on_devices(value_and_gradients, FLAT)
    np.testing.assert_allclose(value, unsharded()[0], rtol=1e-5)
    assert_same(gradients, unsharded()[1], 1e-4)


def test_the_output_on_eight_devices_is_that_on_one():
    def output(params, *inputs):
        whole = gather_fsdp(params, sharded_layout(SMALL))
        return SMALL.make_model().apply({"params": whole}, *inputs)

    expected = apply(SMALL, small_params(), *example())
    np.testing.assert_allclose(on_devices(output, SMALL), expected, atol=1e-5)


def test_every_parameter_is_named_and_the_large_ones_are_cut():
    """On two fsdp and two model devices, each has 26 % of the numbers of ADM 256."""
    config = UNetConfig.adm(256)
    mesh = make_mesh("data=2,fsdp=2,model=2")
    z = jnp.zeros((1, 256, 256, 3))
    layout = plan_layout(
        lambda key: config.make_model().init(key, z, jnp.zeros(1), jnp.zeros(1, int))["params"],
        jax.random.key(0),
        mesh=mesh,
    )
    assert all(jax.tree.leaves(layout.axes, is_leaf=lambda x: isinstance(x, tuple)))
    leaves = jax.tree.leaves(layout.abstract)
    total = sum(math.prod(x.shape) for x in leaves)
    local = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)
    assert local / total < 0.27


def test_levels_and_skips_meet_whatever_the_options():
    config = dataclasses.replace(
        SMALL,
        channels=(4, 12, 8),
        blocks=2,
        attention_levels=(0,),
        up_attention_levels=(1, 2),
        middle_attention=False,
        heads=2,
        head_size=None,
        downsampling=("conv_end", "residual"),
        upsampling="conv",
        groups=2,
        out_channels=6,
    )
    inputs = example(size=(4, 8))
    params = shapes(config.make_model().init, *inputs)
    assert {name for name in params if "attention" in name} == {
        *(f"down_0_attention_{i}" for i in range(2)),
        *(f"up_{step}_attention_{i}" for step in (0, 1) for i in range(3)),
    }
    out = jax.eval_shape(config.make_model().apply, {"params": params}, *inputs)
    assert out.shape == (B, 4, 8, 6)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"channels": ()}, "channels is empty"),
        ({"channels": (8, 0)}, r"channels\[1\] is 0, expected 1 or more"),
        ({"in_channels": 0}, "in_channels is 0, expected 1 or more"),
        ({"channels": (8, 18)}, r"channels\[1\] is 18, expected a multiple of head_size=8"),
        ({"channels": (6, 16)}, r"channels\[0\] is 6, expected a multiple of groups=4"),
        ({"middle_groups": 3}, r"channels\[1\] is 16, expected a multiple of middle_groups=3"),
        ({"attention_levels": (2,)}, "attention at level 2, expected levels from 0 to 1"),
        ({"heads": 2}, "heads is 2 and head_size is 8, expected one of them"),
        ({"head_size": None}, "heads is None and head_size is None, expected one of them"),
        ({"heads": 0, "head_size": None}, "heads is 0, expected 1 or more"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 <= p < 1"),
        ({"skip_divisor": 0.0}, "skip_divisor is 0.0, expected a positive number"),
        ({"downsampling": "pool"}, "downsampling is 'pool', expected one of residual, conv"),
        ({"upsampling": ("conv", "conv")}, "upsampling has 2 entries, expected one or 1"),
        ({"activation": "tanh"}, "activation is 'tanh', expected one of silu"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"num_classes": -1}, "num_classes is -1, expected 0 or more"),
        ({"labels": "numbers"}, "num_classes is 3 where labels are numbers, expected 0"),
        ({"null_class": False}, "class_dropout is 0.5 without a null class"),
        ({"frequency_shift": 4.0}, "frequency_shift is 4.0, expected less than 4"),
    ],
    ids=str,
)
def test_configurations_that_are_no_network(changes, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ((B, 5, 6, 3), r"\(8, 5, 6, 3\), expected height and width divisible by 2: .* 2 levels"),
        ((B, 4, 7, 3), "expected height and width divisible by 2"),
        ((B, 0, 4, 3), "expected height and width divisible by 2"),
        ((B, 4, 6, 4), r"images have shape \(8, 4, 6, 4\), expected \[B, Y, X, 3\]"),
        ((4, 6, 3), r"images have shape \(4, 6, 3\), expected \[B, Y, X, 3\]"),
    ],
)
def test_images_that_do_not_fit(shape, fault):
    _, time, label = example()
    with pytest.raises(InputError, match=fault):
        UNet(SMALL).apply({"params": {}}, jnp.zeros(shape), time, label)


def test_times_and_labels_that_do_not_fit():
    z, time, label = example()
    numbers = dataclasses.replace(SMALL, labels="numbers", num_classes=0, class_dropout=0.0)
    for config, inputs, fault in (
        (SMALL, (z, time, None), "labels are None"),
        (SMALL, (z, time[:3], label), r"time has shape \(3,\), expected \[8\]"),
        (SMALL, (z, time, label[:3]), r"labels have shape \(3,\), expected \[8\]"),
        (numbers, (z, time, None), r"labels are None, expected \[8\]: one number"),
        (numbers, (z, time, label[:3]), r"labels are of shape \(3,\), expected \[8\]"),
    ):
        with pytest.raises(InputError, match=fault):
            UNet(config).apply({"params": {}}, *inputs)
    with pytest.raises(InputError, match="image_size is 100, expected one of 64, 128, 256"):
        UNetConfig.adm(100)
