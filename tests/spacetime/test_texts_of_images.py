"""Transformers of images that read text: as VideoDiT does at one frame; padding is not seen."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn
from networks import TINY, C, apply, inputs, randomised

from jaxgen.errors import InputError
from jaxgen.spacetime import DiTConfig, VideoDiTConfig

TEXT, POOLED, N, B = 5, 3, 4, 3
_TEXTS = {"text_width": TEXT, "pooled_width": POOLED, "num_classes": 0}
DIT = dataclasses.replace(TINY["dit"], **_TEXTS, out_channels=C)
UVIT = dataclasses.replace(TINY["uvit"], num_classes=0, text_width=TEXT, text_length=N)


def given(config):
    """Noisy images and times; texts of 4, 2 and 3 tokens."""
    z, time, _ = inputs(batch=B)
    rng = np.random.default_rng(1)
    rest = {
        "text_BNC": rng.normal(size=(B, N, TEXT)).astype(np.float32),
        "text_mask_BN": np.arange(N) < np.array([[4], [2], [3]]),
    }
    if getattr(config, "pooled_width", 0):
        rest["pooled_BC"] = rng.normal(size=(B, POOLED)).astype(np.float32)
    return (z, time), rest


def params_of(config):
    """Random parameters, no number of them zero."""
    arrays, rest = given(config)
    init = config.make_model().init
    found = jax.eval_shape(lambda key: init(key, *arrays, **rest), jax.random.key(0))
    return randomised(nn.meta.unbox(found["params"]))


@pytest.mark.parametrize("text", ["cross", "in_context"])
@pytest.mark.parametrize("conditioning", ["adaln_zero", "cross", "in_context"])
def test_dit_reads_texts_as_the_network_of_videos_does(text, conditioning):
    """The same parameters, and the same prediction to 1e-6."""
    dit = dataclasses.replace(DIT, text=text, conditioning=conditioning)
    names = {field.name for field in dataclasses.fields(VideoDiTConfig)}
    names &= {field.name for field in dataclasses.fields(DiTConfig)} - {"patch"}
    fields = {name: getattr(dit, name) for name in names}
    video = VideoDiTConfig(**fields, patch=(1, 2, 2), null_text=False)
    (z, time), rest = given(dit)
    params = params_of(dit)
    image = np.asarray(apply(dit, params, z, time, **rest))
    assert abs(image).max() > 0.1
    frame = apply(video, params, z[:, None], time, **rest)
    np.testing.assert_allclose(frame[:, 0], image, atol=1e-6)


@pytest.mark.parametrize("config", [DIT, UVIT], ids=["dit", "uvit"])
def test_padding_is_not_seen_and_tokens_are(config):
    (z, time), rest = given(config)
    params = params_of(config)
    found = np.asarray(apply(config, params, z, time, **rest))
    padded = rest["text_BNC"].copy()
    padded[~rest["text_mask_BN"]] = np.nan
    with_other = apply(config, params, z, time, **dict(rest, text_BNC=padded))
    np.testing.assert_allclose(with_other, found, atol=1e-6)
    spoiled, model = {**rest, "text_BNC": padded}, config.make_model()
    gradient = jax.grad(lambda p: (model.apply({"params": p}, z, time, **spoiled) ** 2).sum())
    chex.assert_tree_all_finite(jax.jit(gradient)(params))
    changed = rest["text_BNC"].copy()
    changed[:, 1] += 1
    other = apply(config, params, z, time, **dict(rest, text_BNC=changed))
    assert abs(np.asarray(other) - found).max(axis=(1, 2, 3)).min() > 1e-3
    everything = {**rest, "text_mask_BN": np.ones((B, N), bool)}
    unmasked = {**rest, "text_mask_BN": None}
    np.testing.assert_allclose(
        *(apply(config, params, z, time, **one) for one in (everything, unmasked)), atol=1e-6
    )


def test_uvit_without_any_token_is_uvit_without_texts():
    """Its positions of texts taken out, every token hidden: the plain network's prediction."""
    (z, time), rest = given(UVIT)
    params = dict(params_of(UVIT))
    hidden = apply(UVIT, params, z, time, **{**rest, "text_mask_BN": np.zeros((B, N), bool)})
    plain = dataclasses.replace(UVIT, text_width=0, text_length=0)
    del params["text"]
    params["positions"] = np.delete(params["positions"], np.s_[1 : 1 + N], axis=0)
    np.testing.assert_allclose(apply(plain, params, z, time), hidden, atol=1e-5)


def test_the_vector_of_a_text_changes_the_prediction():
    (z, time), rest = given(DIT)
    params = params_of(DIT)
    found = np.asarray(apply(DIT, params, z, time, **rest))
    other = apply(DIT, params, z, time, **dict(rest, pooled_BC=rest["pooled_BC"] + 1))
    assert abs(np.asarray(other) - found).max(axis=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (
            DIT,
            {"text_BNC": None, "text_mask_BN": None},
            r"text is None, expected tokens \[3, N, 5\]",
        ),
        (
            DIT,
            {"text_BNC": np.zeros((3, 4, 6))},
            r"text has shape \(3, 4, 6\), expected \[3, N, 5\]",
        ),
        (
            DIT,
            {"text_mask_BN": np.ones((3, 5))},
            r"text_mask has shape \(3, 5\), expected \[3, 4\]",
        ),
        (DIT, {"pooled_BC": None}, r"pooled vectors have shape None, expected \[3, 3\]"),
        (
            UVIT,
            {"text_BNC": np.zeros((3, 2, 5)), "text_mask_BN": None},
            r"expected \[3, 4, 5\]: pos",
        ),
    ],
)
def test_texts_that_do_not_fit_are_refused(config, change, message):
    (z, time), rest = given(config)
    with pytest.raises(InputError, match=message):
        apply(config, params_of(config), z, time, **{**rest, **change})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (DIT, {"text_width": -1}, "text_width is -1, expected 0 or more"),
        (DIT, {"pooled_width": -1}, "pooled_width is -1, expected 0 or more"),
        (DIT, {"text": "above"}, "text is 'above', expected one of cross, in_context"),
        (UVIT, {"text_length": 0}, "text_width is 5 and text_length 0, expected 1 or more of both"),
    ],
)
def test_options_that_are_none_are_refused(kind, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(kind, **changes)
