"""Pipelines with two text encoders: what the network is given, in numpy."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from tiny_pipelines import LENGTH, WIDTH, parts, small, tokenizer

from jaxgen.encoders import CLIPTextConfig, make_encoder
from jaxgen.errors import InputError
from jaxgen.interop.clip_weights import clip_tensors
from jaxgen.interop.safetensors import write_safetensors
from jaxgen.pretrained import LoadedNetwork, TwoEncoderPipeline, load_adapters
from jaxgen.pretrained.encoder_folders import abstract_encoder_params
from jaxgen.pretrained.networks import abstract_params

TEXTS = ["a red cube", ""]
SECOND_WIDTH, VECTOR = 6, 5


@functools.cache
def made():
    given = dict(parts())
    sizes = {"width": SECOND_WIDTH, "depth": 1, "heads": 2, "mlp_units": 8, "length": LENGTH}
    second = CLIPTextConfig(
        **sizes, projection=VECTOR, vocabulary=tokenizer().size, states="penultimate"
    )
    first, params = given["encoder"]
    network = dataclasses.replace(
        given["network"].config, text_width=WIDTH + SECOND_WIDTH, pooled_width=VECTOR + 6 * 256
    )
    given["encoder"] = LoadedNetwork(dataclasses.replace(first, states="penultimate"), params)
    given["network"] = LoadedNetwork(network, small(abstract_params(network, (2, 2))))
    return TwoEncoderPipeline(
        **given,
        second_tokenizer=tokenizer(),
        second_encoder=LoadedNetwork(second, small(abstract_encoder_params(second), 1)),
    )


def test_conditions():
    """Of encoders of one block, states before it are rows of the table with positions."""
    found = made().conditions(TEXTS, size=(8, 12))
    ids_BL = tokenizer().encode(TEXTS).ids
    expected = []
    for encoder in (made().encoder, made().second_encoder):
        params = jax.tree.map(np.asarray, encoder.params)
        (table,) = jax.tree.leaves(params["token_embedding"])
        expected.append(table[ids_BL] + params["positions"])
    np.testing.assert_allclose(found["text_BNC"], np.concatenate(expected, -1), atol=1e-6)
    config, params = made().second_encoder
    final = make_encoder(dataclasses.replace(config, states="final"), params)(ids_BL)
    np.testing.assert_allclose(found["pooled_BC"][:, :VECTOR], final.pooled_BD, atol=1e-6)
    waves = np.asarray(found["pooled_BC"])[:, VECTOR:].reshape(2, 6, 256)
    angles = np.array([8, 12, 0, 0, 8, 12])[:, None] * 10_000.0 ** (-np.arange(128) / 128)
    np.testing.assert_allclose(
        waves[0], np.concatenate([np.cos(angles), np.sin(angles)], -1), atol=1e-5
    )
    nothing = made().conditions(TEXTS, size=(8, 12), negative=True)
    assert not np.asarray(nothing["text_BNC"][1]).any()
    assert not np.asarray(nothing["pooled_BC"][1, :VECTOR]).any()
    np.testing.assert_array_equal(nothing["text_BNC"][0], found["text_BNC"][0])
    np.testing.assert_array_equal(nothing["pooled_BC"][:, VECTOR:], found["pooled_BC"][:, VECTOR:])
    kept = dataclasses.replace(made(), zero_null=False)
    said = kept.conditions(TEXTS, size=(8, 12), negative=True)
    np.testing.assert_array_equal(said["text_BNC"], found["text_BNC"])


@pytest.mark.parametrize("kohya", [False, True])
def test_adapters_of_both_encoders(kohya, tmp_path):
    place, stems = (
        "text_model.encoder.layers.0.self_attn.q_proj",
        ["text_encoder.", "text_encoder_2."],
    )
    if kohya:
        place, stems = place.replace(".", "_"), ["lora_te1_", "lora_te2_"]
    ends = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    widths, tensors, expected = (WIDTH, SECOND_WIDTH), {}, []
    generator = np.random.default_rng(0)
    for stem, width in zip(stems, widths, strict=True):
        down, up = generator.normal(size=(2, 1, width)).astype(np.float32)
        tensors |= {f"{stem}{place}.{ends[0]}.weight": down}
        tensors |= {f"{stem}{place}.{ends[1]}.weight": up.T}
        expected.append(up.T @ down)
    write_safetensors(tmp_path / "adapters.safetensors", tensors)
    changed = load_adapters(made(), tmp_path / "adapters.safetensors")
    name = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    for field, product in zip(("encoder", "second_encoder"), expected, strict=True):
        before, after = (
            clip_tensors(getattr(each, field).params, "transformers")[name]
            for each in (made(), changed)
        )
        np.testing.assert_allclose(after - before, product, atol=1e-5)


def test_parts_that_do_not_belong_together():
    config, params = made().second_encoder
    for changes, fault in (
        ({"length": 5}, "the tokenizer's length is 12, expected at most 5 tokens"),
        ({"width": 8}, "the network's text_width is 14, expected 16, that of the other parts"),
        ({"projection": 4}, "the network's pooled_width is 1541, expected 1540"),
    ):
        other = LoadedNetwork(dataclasses.replace(config, **changes), params)
        with pytest.raises(InputError, match=fault):
            dataclasses.replace(made(), second_encoder=other)
    with pytest.raises(InputError, match="states is 'last', expected final or penultimate"):
        dataclasses.replace(config, states="last")
