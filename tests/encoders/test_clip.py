"""CLIP's towers: published sizes, the text's end, masks, preparation, compute dtypes, errors."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import linen as nn
from tiny import CLIP_CONFIG, IMAGE, T5_CONFIG, TEXT, B, L, V, ids, images, params_of

from jaxgen.encoders import (
    CLIPConfig,
    CLIPImageConfig,
    CLIPTextConfig,
    limit_logit_scale,
    make_encoder,
    resize_and_crop,
    to_unit_length,
)
from jaxgen.encoders.clip_model import INITIAL_LOGIT_SCALE, LARGEST_LOGIT_SCALE, limited_scale
from jaxgen.encoders.clip_text import end_places
from jaxgen.errors import InputError
from jaxgen.nn import parameter_count
from jaxgen.pixels import to_unit
from jaxgen.training import config_from_json, config_to_json


def count(config, *inputs):
    return parameter_count(jax.eval_shape(config.make_model().init, jax.random.key(0), *inputs))


@pytest.mark.slow
def test_the_published_base_size():
    inputs = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 77), jnp.int32)
    assert count(CLIPConfig.named("ViT-B/32"), *inputs) == 151_277_313


def test_the_published_large_size():
    """Radford et al. 2021; the second is the text encoder of Stable Diffusion 1."""
    ids_BL = jnp.zeros((1, 77), jnp.int32)
    config = CLIPConfig.named("ViT-L/14")
    assert count(config, jnp.zeros((1, 224, 224, 3)), ids_BL) == 427_616_513
    text = dataclasses.replace(config.text, projection=None)
    assert count(text, ids_BL) == 123_060_480


def test_initial_deviations():
    """Those of OpenAI's code: of a wide tower, to a few per cent."""
    config = CLIPTextConfig(width=64, depth=2, heads=4, mlp_units=256, vocabulary=99, length=50)
    init = jax.jit(config.make_model().init)
    params = nn.meta.unbox(init(jax.random.key(0, impl="rbg"), ids(1))["params"])
    block = params["blocks_1"]
    output = 64**-0.5 * 4**-0.5
    wanted = [
        (params["token_embedding"]["table"], 0.02),
        (params["positions"], 0.01),
        (block["attention"]["qkv"]["kernel"], 64**-0.5),
        (block["attention"]["output"]["kernel"], output),
        (block["mlp"]["hidden"]["kernel"], 128**-0.5),
        (block["mlp"]["output"]["kernel"], output),
        (params["projection"]["kernel"], 64**-0.5),
    ]
    for value, deviation in wanted:
        np.testing.assert_allclose(value.std(), deviation, rtol=0.06)
    assert not np.any(block["attention"]["qkv"]["bias"])
    assert pytest.approx(2.6593, abs=1e-4) == INITIAL_LOGIT_SCALE


def test_the_end_token_is_the_largest_id_or_the_first_of_its_id():
    ids_BL = np.array([[7, 3, 9, 0, 9], [7, 2, 2, 9, 8]])
    np.testing.assert_array_equal(end_places(ids_BL, None), [2, 3])
    np.testing.assert_array_equal(end_places(ids_BL, 9), [2, 3])
    added_BL = np.array([[7, 3, 9, 12, 9]])  # an id that was added later, beyond the end's
    np.testing.assert_array_equal(end_places(added_BL, None), [3])
    np.testing.assert_array_equal(end_places(added_BL, 9), [2])
    config = dataclasses.replace(TEXT, end_id=3)
    with pytest.raises(InputError, match="text 1 has no end token, expected an id 3"):
        make_encoder(config, params_of(TEXT))(ids_BL)


def test_a_token_sees_those_before_it_and_padding_changes_nothing():
    encode = make_encoder(TEXT, params_of(TEXT))
    ids_BL = ids()
    end_B = end_places(ids_BL, None)
    padding = np.arange(L) > np.asarray(end_B)[:, None]
    first = encode(ids_BL)
    other = encode(np.where(padding, 1, ids_BL).astype(np.int32))
    np.testing.assert_array_equal(first.pooled_BD, other.pooled_BD)
    seen = np.asarray(first.states_BLD)[~padding]
    np.testing.assert_array_equal(seen, np.asarray(other.states_BLD)[~padding])
    assert np.abs(first.states_BLD - other.states_BLD)[padding].max() > 1e-3
    masked = encode(ids_BL, ~padding)
    np.testing.assert_allclose(masked.pooled_BD, first.pooled_BD, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(masked.mask_BL, ~padding)
    changed = ids_BL.copy()
    changed[:, 0] = 1 + changed[:, 0] % (V - 2)
    assert np.abs(encode(changed).pooled_BD - first.pooled_BD).max() > 1e-3


def test_what_encoders_return():
    """States, mask and pooled vectors; projected where there is a projection."""
    for config, given, tokens in ((TEXT, ids(), L), (IMAGE, images(), 5)):
        found = make_encoder(config, params_of(config))(given)
        shapes = [x.shape for x in found]
        assert shapes == [(B, tokens, 16), (B, tokens), (B, 8)]
        assert found.mask_BL.dtype == bool
        assert found.states_BLD.dtype == found.pooled_BD.dtype == jnp.float32
        bare = dataclasses.replace(config, projection=None)
        params = {k: v for k, v in params_of(config).items() if k != "projection"}
        assert make_encoder(bare, params)(given).pooled_BD.shape == (B, 16)


def test_ids_may_be_lists():
    encode = make_encoder(TEXT, params_of(TEXT))
    for found, expected in zip(encode(ids().tolist()), encode(ids()), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_bytes_and_bfloat16():
    bytes_BYXC = np.random.default_rng(0).integers(0, 256, (B, 8, 8, 3)).astype(np.uint8)
    params = params_of(IMAGE)
    expected = make_encoder(IMAGE, params)(to_unit(bytes_BYXC)).pooled_BD
    found = make_encoder(IMAGE, params)(bytes_BYXC).pooled_BD
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    half = make_encoder(dataclasses.replace(IMAGE, dtype="bfloat16"), params)
    found = half(to_unit(bytes_BYXC))
    assert found.states_BLD.dtype == found.pooled_BD.dtype == jnp.float32
    difference = to_unit_length(found.pooled_BD) - to_unit_length(expected)
    assert 0 < np.abs(difference).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(to_unit_length(expected), axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_recomputed_activations_give_the_same_gradient():
    def gradient(config):
        def loss(params):
            return config.make_model().apply({"params": params}, ids()).pooled_BD.std()

        return jax.jit(jax.grad(loss))(params_of(TEXT))

    found, expected = gradient(dataclasses.replace(TEXT, remat=True)), gradient(TEXT)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected)


def test_the_scale_is_at_most_100_and_can_come_back():
    value, slope = jax.value_and_grad(lambda x: jnp.exp(limited_scale(x)))(9.0)
    np.testing.assert_allclose([value, slope], 100, rtol=1e-5)
    np.testing.assert_allclose(limited_scale(jnp.float32(1.5)), 1.5)
    kept = limit_logit_scale({"logit_scale": jnp.float32(9), "text": 1})
    np.testing.assert_allclose(kept["logit_scale"], math.log(100))
    assert kept["text"] == 1
    assert pytest.approx(4.6052, abs=1e-4) == LARGEST_LOGIT_SCALE


def test_unit_vectors_of_zero():
    found, slope = jax.value_and_grad(lambda v: to_unit_length(v).sum())(jnp.zeros(3))
    assert found == 0
    assert np.isfinite(slope).all()


def test_preparation_is_pillows():
    """Bicubic to the shorter side, then the middle; to one step of a byte, and differentiable."""
    rng = np.random.default_rng(0)
    for sides, scaled, corner in (((30, 47), (12, 18), (0, 3)), ((25, 9), (33, 12), (10, 0))):
        image = rng.integers(90, 166, (*sides, 3)).astype(np.uint8)
        pil = PIL.Image.fromarray(image).resize(scaled[::-1], PIL.Image.Resampling.BICUBIC)
        top, left = corner
        expected = np.asarray(pil)[top : top + 12, left : left + 12]
        found = resize_and_crop(image[None], 12)[0]
        assert np.abs(found - to_unit(expected)).max() < 1.6 / 127.5
    slope = jax.grad(lambda x: resize_and_crop(x, 12).sum())(to_unit(image)[None])
    assert np.abs(slope)[0, 10:15].min() > 0
    with pytest.raises(InputError, match=r"size is 0 of images of shape"):
        resize_and_crop(image[None], 0)


def test_configurations_survive_json():
    for config in (CLIP_CONFIG, TEXT, IMAGE):
        assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CLIPConfig.named("ViT-B/8"), "model 'ViT-B/8' is unknown, expected one of ViT"),
        (lambda: CLIPTextConfig(heads=7), "width is 512, expected a multiple of heads=7"),
        (lambda: CLIPTextConfig(activation="relu"), "activation is 'relu', expected quick_gelu"),
        (lambda: CLIPTextConfig(vocabulary=0), "vocabulary is 0, expected 1 or more"),
        (lambda: CLIPTextConfig(end_id=49_408), "end_id is 49408, expected 0 to 49407"),
        (lambda: CLIPImageConfig(patch=15), "size is 224, expected a multiple of patch=15"),
        (lambda: CLIPImageConfig(mean=(0.5,)), "expected one number for each channel"),
        (
            lambda: CLIPConfig(CLIPTextConfig(projection=None)),
            "projection is None in the text tower and 512 in the image tower",
        ),
        (lambda: CLIPConfig("B"), "text is 'B', expected a CLIPTextConfig"),
    ],
)
def test_invalid_options(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (TEXT, (np.zeros((2, 9), np.int32),), r"ids have shape \(2, 9\), expected at most 8"),
        (TEXT, (np.zeros((2, 4)),), r"ids have type float\d\d and shape \(2, 4\), expected integ"),
        (TEXT, (np.full((2, 4), V),), "ids are 20 to 20, expected 0 to 19"),
        (TEXT, ([[1, 2], [3, V]],), "ids are 1 to 20, expected 0 to 19"),
        (TEXT, ([[1, 2], [3]],), "inputs are rows of different lengths, expected an array"),
        (T5_CONFIG, (np.zeros((2, 0), np.int32),), r"ids have shape \(2, 0\), expected 1 token or"),
        (TEXT, (ids(2), np.ones((2, 3))), r"mask has shape \(2, 3\), expected \(2, 6\)"),
        (IMAGE, (np.zeros((2, 9, 8, 3), np.uint8),), r"expected \[B, 8, 8, 3\]"),
        (IMAGE, (np.full((2, 8, 8, 3), 200.0),), "images have values from"),
    ],
)
def test_invalid_input(config, given, message):
    with pytest.raises(InputError, match=message):
        make_encoder(config, {})(*given)
