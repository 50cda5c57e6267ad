"""CLIP and T5 from folders and back: bits, namings, variants, shards, configurations, errors."""

import dataclasses
import functools
import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from random_weights import assert_same_bits, randomly

from jaxgen.encoders import CLIPConfig, CLIPImageConfig, CLIPTextConfig, T5Config
from jaxgen.errors import InputError
from jaxgen.interop.clip_config import transformers_options
from jaxgen.interop.clip_weights import clip_tensors
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.interop.t5_weights import t5_options, t5_tensors
from jaxgen.nn import parameter_count
from jaxgen.pretrained import load_clip, load_t5, save_clip, save_t5
from jaxgen.pretrained.encoder_folders import abstract_encoder_params

SHARED = {"width": 12, "depth": 2, "heads": 3, "mlp_units": 20, "projection": 10}
TEXT = CLIPTextConfig(**SHARED, vocabulary=30, length=7, end_id=29)
IMAGE = CLIPImageConfig(**SHARED, size=12, patch=4, mean=(0.1, 0.2, 0.3), deviation=(1.0, 2.0, 3.0))
BOTH = CLIPConfig(TEXT, IMAGE)
T5 = T5Config(vocabulary=30, width=12, mlp_units=20, depth=2, heads=3, head_size=5)


def bare(config):
    return dataclasses.replace(config, projection=None)


@functools.cache
def random_params(config, dtype="float32"):
    return jax.tree.map(lambda x: x.astype(dtype), randomly(abstract_encoder_params(config)))


CASES = {
    "both": (BOTH, "float32"),
    "text": (TEXT, "float16"),
    "image": (IMAGE, "bfloat16"),
    "text without projection": (bare(TEXT), "float32"),
    "image without projection": (bare(IMAGE), "float16"),
}


@pytest.mark.parametrize(("config", "dtype"), CASES.values(), ids=CASES)
def test_clip_in_transformers_names_bit_by_bit(config, dtype, tmp_path):
    params = random_params(config, dtype)
    save_clip(tmp_path, config, params)
    found = load_clip(tmp_path, dtype=None)
    assert found.config == config
    assert_same_bits(found.params, params)
    single = load_clip(tmp_path).params  # float32 whatever is stored
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {np.dtype("float32")}


@pytest.mark.parametrize("naming", ["openai", "open_clip"])
def test_clip_in_openais_names_bit_by_bit(naming, tmp_path):
    config = CLIPConfig(dataclasses.replace(TEXT, end_id=None), IMAGE)
    params = random_params(config, ml_dtypes.bfloat16)
    save_clip(tmp_path, config, params, naming=naming)
    found = load_clip(tmp_path, dtype=None)
    assert found.config == config
    assert_same_bits(found.params, params)
    names = set(TensorFile(tmp_path))
    assert ("text.token_embedding.weight" in names) == (naming == "open_clip")
    assert {"visual.conv1.weight", "visual.proj", "logit_scale"} <= names


def test_queries_keys_and_values_are_stacked_and_projections_transposed():
    """Of OpenAI's names, against the same parameters under transformers'."""
    params = random_params(BOTH)
    first, other = (clip_tensors(params, n, IMAGE.patch) for n in ("openai", "transformers"))
    block = "text_model.encoder.layers.1.self_attn."
    for kind in ("weight", "bias"):
        parts = [other[f"{block}{each}_proj.{kind}"] for each in "qkv"]
        stacked = first[f"transformer.resblocks.1.attn.in_proj_{kind}"]
        np.testing.assert_array_equal(stacked, np.concatenate(parts))
    np.testing.assert_array_equal(first["text_projection"], other["text_projection.weight"].T)
    np.testing.assert_array_equal(first["visual.proj"], other["visual_projection.weight"].T)
    assert first["text_projection"].shape == (12, 10)
    assert sum(map(np.size, first.values())) == sum(map(np.size, other.values()))


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
def test_shards_and_variants(variant, tmp_path):
    """Beside each other; and in a pipeline's sub-folder."""
    encoder = tmp_path / "pipeline" / "text_encoder"
    for config, save, load in ((bare(TEXT), save_clip, load_clip), (T5, save_t5, load_t5)):
        folder = encoder if config is not T5 else tmp_path / "t5"
        dtype = {None: np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}[variant]
        params = random_params(config)
        files = save(folder, config, params, variant=variant, max_bytes=1500)
        assert len(files) > 3
        index = f"model.safetensors.index.{variant}.json" if variant else None
        assert (folder / (index or "model.safetensors.index.json")).is_file()
        found = load(tmp_path / "pipeline" if folder == encoder else folder, dtype=None)
        assert found.config == config
        expected = jax.tree.map(lambda x: x.astype(dtype), params)  # noqa: B023
        assert_same_bits(found.params, expected)
        files[-1].unlink()
        with pytest.raises(InputError, match=f"names the shard {files[-1].name}, which is missi"):
            load(folder)


def test_t5_bit_by_bit_with_either_table_or_both(tmp_path):
    params = random_params(T5, "float16")
    save_t5(tmp_path, T5, params)
    found = load_t5(tmp_path, dtype=None)
    assert found.config == T5
    assert_same_bits(found.params, params)
    path = tmp_path / "model.safetensors"
    tensors = t5_tensors(params)
    table = tensors.pop("shared.weight")
    tensors["encoder.embed_tokens.weight"] = table
    for more in ({}, {"shared.weight": table, "decoder.x": table, "lm_head.weight": table}):
        write_safetensors(path, {**tensors, **more})
        assert_same_bits(load_t5(tmp_path, dtype=None).params, params)
    write_safetensors(path, {**tensors, "shared.weight": table + np.float16(1)})
    with pytest.raises(InputError, match=r"embed_tokens.weight' differs from 'shared.weight'"):
        load_t5(tmp_path)


def test_old_files_have_position_ids_and_no_preprocessor(tmp_path):
    params = random_params(BOTH)
    save_clip(tmp_path, BOTH, params)
    (tmp_path / "preprocessor_config.json").unlink()
    tensors = dict(TensorFile(tmp_path))
    for part, places in (("text", 7), ("vision", 10)):
        name = f"{part}_model.embeddings.position_ids"
        tensors[name] = np.arange(places)[None]
    write_safetensors(tmp_path / "model.safetensors", tensors)
    found = load_clip(tmp_path)
    assert found.config.image.mean == CLIPImageConfig().mean
    assert_same_bits(found.params, params)


@pytest.mark.slow
def test_configurations_of_published_pipelines(data_folder):
    """Text encoders of Stable Diffusion, FLUX and others: parameters, indexes, refusals."""
    root = data_folder / "text" / "hub_configs"
    counts = {}
    for path in sorted(root.glob("*/*/text_encoder*/config.json")):
        fields, name = json.loads(path.read_text()), "/".join(path.parts[-3:-1])
        kind = fields["model_type"]
        if kind == "bert":
            with pytest.raises(InputError, match="model_type is 'bert', expected clip or clip_te"):
                transformers_options(name, fields)
            with pytest.raises(InputError, match="model_type is 'bert', expected t5 or mt5"):
                t5_options(fields)
            continue
        if kind == "t5":
            config = T5Config(**t5_options(fields))
        else:
            config = CLIPTextConfig(**transformers_options(name, fields)["text"])
            assert config.end_id is None
        like = abstract_encoder_params(config)
        counts[name] = parameter_count(like)
        if kind != "t5":
            continue
        index = json.loads((path.parent / "model.safetensors.index.json").read_text())
        zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), like)
        assert set(t5_tensors(zeros)) == set(index["weight_map"])
        assert index["metadata"]["total_size"] % counts[name] == 0
    large = 123_060_480
    assert counts.pop("HunyuanDiT-Diffusers/text_encoder_2") == 1_669_958_656
    assert counts == {
        "FLUX.1-schnell/text_encoder": large,
        "FLUX.1-schnell/text_encoder_2": 4_762_310_656,
        "stable-diffusion-2-1/text_encoder": 340_387_840,
        "stable-diffusion-3-medium-diffusers/text_encoder": large + 768**2,
        "stable-diffusion-3-medium-diffusers/text_encoder_2": 694_659_840,
        "stable-diffusion-3-medium-diffusers/text_encoder_3": 4_762_310_656,
        "stable-diffusion-inpainting/text_encoder": large,
        "stable-diffusion-v1-5/text_encoder": large,
        "stable-diffusion-xl-base-1.0/text_encoder": large,
        "stable-diffusion-xl-base-1.0/text_encoder_2": 694_659_840,
    }


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def saved(folder, config=BOTH, **options):
    save_clip(folder, config, random_params(config), **options)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: saved(f) or edit(f, model_type="bert"),
            "model_type is 'bert', expected clip or",
        ),
        (lambda f: saved(f) or (f / "config.json").unlink(), "no config.json beside it, expected"),
        (
            lambda f: saved(f, TEXT) or edit(f, vocab_size=31),
            r"'text_model.embeddings.token_embedding.weight' has shape \(30, 12\), expected \(31",
        ),
        (
            lambda f: saved(f, TEXT) or edit(f, num_attention_heads="4"),
            r"config\.json of .*: num_attention_heads is '4', expected one integer",
        ),
        (
            lambda f: saved(f, BOTH) or edit(f, text_config=[1]),
            r"config\.json of .*: text_config is \[1\], expected an object of fields",
        ),
        (
            lambda f: saved(f, TEXT) or edit(f, hidden_act="relu"),
            r"config\.json of .*model\.safetensors: hidden_act is 'relu', expected quick_gelu or",
        ),
        (lambda f: saved(f, TEXT) or edit(f, eos_token_id=[1]), r"eos_token_id is \[1\], expected"),
        (
            lambda f: write_safetensors(f / "a.safetensors", {"x": np.zeros(1)}),
            "no weights of a CLIP, expected tensors 'text_model...'",
        ),
        (
            lambda f: write_safetensors(
                f / "a.safetensors", {"visual.layer1.0.conv1.weight": np.zeros(1)}
            ),
            "the image tower is a ResNet, expected a vision transformer",
        ),
        (
            lambda f: write_safetensors(
                f / "a.safetensors", clip_tensors(random_params(BOTH), "openai", 4)
            ),
            "the activation is in no tensor and no open_clip_config.json, expected activation='qu",
        ),
        (lambda f: (f / "pytorch_model.bin").touch(), "pytorch_model.bin, by the name a PyTorch"),
    ],
)
def test_what_does_not_open_is_named(spoil, message, tmp_path):
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_clip(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu', expected 'gated-gelu'"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05, expected 1e-06"),
        ({"model_type": "clip"}, "model_type is 'clip', expected t5 or mt5"),
        ({"num_layers": 3}, "no tensor 'encoder.block.2.layer.0.layer_norm.weight'"),
    ],
)
def test_another_t5_is_named(fields, message, tmp_path):
    save_t5(tmp_path, T5, random_params(T5))
    edit(tmp_path, **fields)
    with pytest.raises(InputError, match=re.escape(message)):
        load_t5(tmp_path)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    for config, naming, message in (
        (TEXT, "openai", "naming is 'openai' of one tower, expected 'transformers'"),
        (BOTH, "google", "naming is 'google', expected one of transformers, openai, open_clip"),
        (
            CLIPConfig(dataclasses.replace(TEXT, end_id=3), IMAGE),
            "open_clip",
            "end_id is 3, expected the largest, 29, or None",
        ),
        (
            CLIPConfig(TEXT, dataclasses.replace(IMAGE, epsilon=1e-6)),
            "openai",
            "epsilon is 1e-06 and activation 'quick_gelu', expected 1e-05",
        ),
    ):
        with pytest.raises(InputError, match=message):
            save_clip(tmp_path / "out", config, random_params(config), naming=naming)
    assert not list(tmp_path.iterdir())


def test_types_that_weights_cannot_have_are_refused(tmp_path):
    """Eight bits would make zeros of them, and float16 infinities of what exceeds 65,504."""
    params = random_params(T5)
    save_t5(tmp_path / "right", T5, params)
    for dtype in ("int8", "foo", "float64"):
        fault = rf"^dtype is '{dtype}', expected one of float32, float16, bfloat16$"
        with pytest.raises(InputError, match=fault):
            load_t5(tmp_path / "right", dtype=dtype)
        with pytest.raises(InputError, match=fault):
            save_t5(tmp_path / "wrong", T5, params, dtype=dtype)
    large = {**params, "final_norm": {"scale": np.full(12, -7e4, np.float32)}}
    fault = (
        "tensor 'encoder.final_layer_norm.weight' has numbers up to 7e+04, expected what float16"
    )
    with pytest.raises(InputError, match=re.escape(fault)):
        save_t5(tmp_path / "wrong", T5, large, variant="fp16")
    assert not (tmp_path / "wrong").exists()
    save_t5(tmp_path / "wide", T5, large, dtype="bfloat16")
    with pytest.raises(InputError, match=re.escape(f"wide/model.safetensors: {fault[:50]}")):
        load_t5(tmp_path / "wide", dtype="float16")


def test_weights_of_another_model_are_called_by_their_type(tmp_path):
    save_t5(tmp_path, T5, random_params(T5))
    fault = r"config\.json: model_type is 't5', expected clip or clip_text"
    with pytest.raises(InputError, match=fault):
        load_clip(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="no weights of a CLIP"):
        load_clip(tmp_path)
