"""The image tower of noisy images: what the time changes, and what it leaves as it is."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLIP_CONFIG, IMAGE, B, ids, images, params_of

from jaxgen.encoders import CLIPConfig, CoCaImageConfig, clip_loss, make_encoder
from jaxgen.encoders.encoded import encoder_init
from jaxgen.errors import InputError
from jaxgen.nn.embeddings import time_frequencies
from jaxgen.training import config_from_json, config_to_json

NOISY = dataclasses.replace(IMAGE, noisy=True)
TIME = np.linspace(0, 1000, B, dtype=np.float32)


@pytest.fixture(scope="module")
def params():
    """Those of the clean tower, and an MLP of the time without zeros."""
    rng = np.random.default_rng(3)
    shapes = {"hidden": (256, IMAGE.width), "output": (IMAGE.width, IMAGE.width)}
    time = {
        name: {
            "kernel": rng.normal(0, 0.2, shape).astype(np.float32),
            "bias": rng.normal(0, 0.2, shape[1]).astype(np.float32),
        }
        for name, shape in shapes.items()
    }
    return {**params_of(IMAGE), "time": time}


def test_the_class_token_depends_on_the_time(params):
    """At one time the tower is the clean one with class token + MLP(waves(t))."""
    time = jnp.full(B, 321.0)
    found = make_encoder(NOISY, params)(images(), time).pooled_BD
    hidden, output = params["time"]["hidden"], params["time"]["output"]
    waves = time_frequencies(time[:1], 256)
    moved = jax.nn.silu(waves @ hidden["kernel"] + hidden["bias"]) @ output["kernel"]
    clean = {name: value for name, value in params.items() if name != "time"}
    clean["class_token"] = clean["class_token"] + (moved + output["bias"])[0]
    wanted = make_encoder(IMAGE, clean)(images()).pooled_BD
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_each_image_has_its_own_time_and_may_be_any_numbers(params):
    z = 20 * images()
    encode = make_encoder(NOISY, params)
    found = encode(z, TIME).pooled_BD
    again = encode(z, TIME[::-1]).pooled_BD
    assert np.abs(found - again).max(axis=1).min() > 1e-4
    one = encode(z[3:4], TIME[3:4]).pooled_BD
    np.testing.assert_allclose(one[0], found[3], rtol=1e-4, atol=1e-5)


def test_both_towers_start_and_have_a_loss():
    config = CLIPConfig(CLIP_CONFIG.text, NOISY)
    params = jax.eval_shape(encoder_init(config), jax.random.key(0))
    assert set(params["image"]) - set(params_of(IMAGE)) == {"time"}
    batch = {"image": images(), "ids": ids(), "time": TIME}
    loss, _ = jax.eval_shape(clip_loss(config), params, batch, jax.random.key(0))
    assert loss.shape == ()


def test_older_configurations_open_as_clean_ones():
    saved = json.loads(json.dumps(config_to_json(NOISY)))
    assert config_from_json(saved) == NOISY
    del saved["fields"]["noisy"]
    assert config_from_json(saved) == IMAGE


def test_times_that_are_missing_or_too_many(params):
    with pytest.raises(InputError, match=r"times have shape None, expected \(16,\)"):
        make_encoder(NOISY, params)(images())
    with pytest.raises(InputError, match=r"times have shape \(2,\), expected \(16,\)"):
        make_encoder(NOISY, params)(images(), TIME[:2])
    with pytest.raises(InputError, match=r"times have shape \(16,\), expected None"):
        make_encoder(IMAGE, params_of(IMAGE))(images(), TIME)
    with pytest.raises(InputError, match="noisy is True, expected False"):
        CoCaImageConfig(noisy=True)
