"""The Efficient U-Net: what its settings do, in numpy; sizes; bad input."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from networks import randomised

from jaxgen.errors import InputError
from jaxgen.interop.unet_config import unet_fields
from jaxgen.nn.counting import parameter_count
from jaxgen.unet.efficient import efficient_unet, imagen_resolver
from jaxgen.unet.residual_blocks import PixelAttention, Resampling
from jaxgen.unet.text_states import TextStates
from jaxgen.unet.unet import UNetConfig
from tests.unet.small_unets import shapes

B, N, C = 2, 4, 6
SMALL = functools.partial(efficient_unet, (4, 8), (1, 2), groups=2, head_size=4)


def params_of(config, side=8):
    z, time = np.zeros((B, side, side, config.in_channels)), np.zeros(B)
    given = {"text_BNC": np.zeros((B, N, C))} if config.text_width else {}
    return shapes(lambda key: config.make_model().init(key, z, time, **given))


@pytest.mark.parametrize("lengths", [None, (2, 3)], ids=["all", "padded"])
def test_pixels_that_read_the_text_alone_in_numpy(lengths):
    options = SMALL(text_width=C, pixels=False).block_options_at(2)
    layer = PixelAttention(options, 2, 1.5, True)
    rng = np.random.default_rng(0)
    x, states = rng.normal(size=(B, 2, 3, 8)), rng.normal(size=(B, N, C)).astype(np.float32)
    p = randomised(shapes(layer.init, x, TextStates(states)))
    mask = None if lengths is None else np.arange(N) < np.array(lengths)[:, None]
    found = jax.jit(layer.apply)({"params": p}, x, TextStates(states, mask))

    parts = x.reshape(B, 6, 2, 4)
    mean, variance = (f(parts, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    tokens = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(B, 6, 8)
    tokens = tokens * p["norm"]["scale"] + p["norm"]["bias"]
    project = functools.partial(np.einsum, "blc,chpk->blhpk")
    q = project(tokens, p["q"]["kernel"]) + p["q"]["bias"]
    kv = project(states, p["text"]["kernel"]) + p["text"]["bias"]
    expected = x.reshape(B, 6, 8).copy()
    for b in range(B):
        kept = slice(0, N if lengths is None else lengths[b])
        for head in range(2):
            logits = q[b, :, head, 0] @ kv[b, kept, head, 0].T / 2
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            expected[b] += weights @ kv[b, kept, head, 1] @ p["output"]["kernel"][head]
    expected = (expected + p["output"]["bias"]) / 1.5
    np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=0, atol=1e-5)


def test_a_convolution_before_the_enlargement_in_numpy():
    layer = Resampling("conv_first", "up", "float32")
    x = np.random.default_rng(0).normal(size=(B, 3, 4, 2)).astype(np.float32)
    p = randomised(shapes(layer.init, x))
    kernel, padded = p["conv"]["kernel"], np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    small = sum(padded[:, i : i + 3, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3))
    expected = np.repeat(np.repeat(small + p["conv"]["bias"], 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(layer.apply({"params": p}, x), expected, atol=1e-5)


def test_blocks_of_each_level():
    names = set(params_of(SMALL(text_width=C)))
    for level, count in enumerate((0, 1, 2)):
        down = {name for name in names if name.startswith(f"down_{level}_block_")}
        up = {name for name in names if name.startswith(f"up_{2 - level}_block_")}
        assert (len(down), len(up)) == (count, count + 1)
    attended = {name for name in names if "_attention_" in name}
    own = {f"down_2_attention_{i}" for i in range(2)} | {f"up_0_attention_{i}" for i in range(3)}
    assert attended == own | {"middle_attention_0"}
    one = UNetConfig(channels=(4, 8), blocks=1, attention_levels=(), groups=2, head_size=4)
    same = params_of(dataclasses.replace(one, blocks=(1, 1)))
    assert jax.tree.map(np.shape, same) == jax.tree.map(np.shape, params_of(one))


def test_without_texts_and_pixels_there_is_no_attention_and_any_size_fits():
    config = SMALL(pixels=False)
    p = params_of(config)
    assert not [name for name in p if "attention" in name]
    for side in (4, 12):
        inputs = {"params": p}, np.zeros((1, side, side, 3)), np.zeros(1)
        found = jax.eval_shape(config.make_model().apply, *inputs)
        assert found.shape == (1, side, side, 3)


def test_sizes_of_imagen():
    """Most parameters are at the lowest resolution."""
    config = imagen_resolver("64 to 256", text_width=C)
    p = params_of(config, side=64)
    total = parameter_count(p)
    lowest = parameter_count(
        {k: v for k, v in p.items() if k.startswith(("down_4", "middle", "up_0"))}
    )
    assert lowest > 0.7 * total
    assert imagen_resolver("256 to 1024", text_width=C).text_attention == "alone"
    assert config.text_attention == "beside"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: efficient_unet((4, 8), (1,)), r"blocks are \(1,\), expected one for each of"),
        (lambda: efficient_unet((), ()), "expected one for each of channels"),
        (lambda: imagen_resolver("16 to 32"), "name is '16 to 32', expected one of 64 to 256"),
        (
            lambda: dataclasses.replace(SMALL(), blocks=(0, 0, 0)),
            r"blocks is \(0, 0, 0\), expected 0 or more, and 1",
        ),
        (
            lambda: dataclasses.replace(SMALL(), blocks=(0, 1)),
            "blocks has 2 entries, expected one or 3",
        ),
        (lambda: SMALL(text_attention="alone"), "text_width is 0 with text_attention 'alone'"),
        (lambda: unet_fields(SMALL(skip_divisor=1.0)), "is .*, expected .*, which a UNet2DModel"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()
