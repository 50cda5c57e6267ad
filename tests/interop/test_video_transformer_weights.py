"""Wan and Latte under diffusers' names: round trips, configurations, what does not fit."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_weights import assert_same_bits, randomly

from jaxgen.errors import InputError
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.video_transformer_config import (
    latte_fields,
    latte_options,
    latte_spacing,
    wan_fields,
    wan_options,
)
from jaxgen.interop.video_transformer_weights import (
    video_transformer_naming,
    video_transformer_params,
    video_transformer_tensors,
    write_video_transformer,
)
from jaxgen.spacetime import VideoDiTConfig

WAN_T2V = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": "0.33.0.dev0",
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 8960,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 12,
    "num_layers": 30,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}
"""Wan 2.1 of 1.3 billion parameters."""
LATTE_1 = {
    "_class_name": "LatteTransformer3DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "caption_channels": 4096,
    "cross_attention_dim": 1152,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "norm_type": "ada_norm_single",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 64,
    "video_length": 16,
}
SIZES = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3}
SMALL = {
    "wan": {
        **WAN_T2V,
        **SIZES,
        "out_channels": None,
        "num_layers": 2,
        "ffn_dim": 49,
        "text_dim": 5,
        "patch_size": [2, 1, 2],
    },
    "latte": {
        **LATTE_1,
        **SIZES,
        "num_layers": 2,
        "cross_attention_dim": 24,
        "caption_channels": 5,
    },
}
OPTIONS = {"wan": wan_options, "latte": latte_options}
FIELDS = {"wan": wan_fields, "latte": latte_fields}
NAMINGS = pytest.mark.parametrize("naming", ["wan", "latte"])


def config_of(naming, **changes):
    return VideoDiTConfig(**OPTIONS[naming]({**SMALL[naming], **changes}))


@functools.cache
def like(config):
    """The abstract parameters of the network."""
    frames, height, width = config.patch
    z = jnp.zeros((1, frames, height, width, config.in_channels))
    init = functools.partial(
        config.make_model().init, text_BNC=jnp.zeros((1, 1, config.text_width))
    )
    return nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), z, jnp.zeros(1))["params"])


def random_params(config, seed=0):
    return randomly(like(config), seed)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@NAMINGS
def test_a_written_folder_in_shards_is_read_back_bit_by_bit(naming, tmp_path):
    config = config_of(naming)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params(config))
    params = jax.tree.map(lambda x: x.astype(np.float32), rounded)
    fields = FIELDS[naming](dataclasses.asdict(config))
    files = write_video_transformer(tmp_path, params, fields, "bfloat16", max_bytes=30_000)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files}
    assert "diffusion_pytorch_model.safetensors.index.json" in {file.name for file in files}
    assert len(files) > 3
    file = TensorFile(tmp_path)
    assert VideoDiTConfig(**OPTIONS[naming](file)) == config
    assert {file[name].dtype for name in file} == {np.dtype(jnp.bfloat16)}
    assert_same_bits(video_transformer_params(file, like(config), config.patch), params)
    assert_same_bits(video_transformer_params(file, like(config), config.patch, None), rounded)
    prefixed = {f"model.{name}": value for name, value in file.items()}
    assert video_transformer_naming(prefixed) == naming
    assert_same_bits(video_transformer_params(prefixed, like(config), config.patch), params)
    back = video_transformer_tensors(rounded, naming, config.patch)
    assert set(back) == set(file)
    for name, value in file.items():
        assert back[name].tobytes() == value.tobytes(), name


def test_names_and_axes_of_wan():
    config = config_of("wan")
    params = random_params(config)
    tensors = video_transformer_tensors(params, "wan", config.patch)
    block, heads = params["blocks_1"], (2, 12)
    text = block["text_attention"]
    kernel = params["patch_embedding"]["kernel"].reshape(2, 1, 2, 3, 24)
    names = {
        "patch_embedding.weight": kernel.transpose(4, 3, 0, 1, 2),
        "condition_embedder.time_proj.weight": params["shared_modulation"]["kernel"]
        .reshape(24, 144)
        .T,
        "condition_embedder.text_embedder.linear_2.bias": params["text"]["output"]["bias"],
        "scale_shift_table": params["final"]["modulation"]["table"][None],
        "proj_out.weight": params["final"]["output"]["kernel"].T,
        "blocks.1.scale_shift_table": block["modulation"]["table"][None],
        "blocks.1.attn1.to_k.weight": block["attention"]["qkv"]["kernel"][:, :, 1]
        .reshape(24, 24)
        .T,
        "blocks.1.attn1.norm_k.weight": block["attention"]["key_norm"]["scale"].reshape(24),
        "blocks.1.attn1.to_out.0.weight": block["attention"]["output"]["kernel"].reshape(24, 24).T,
        "blocks.1.attn2.to_v.bias": text["key_value"]["bias"]
        .reshape(*heads[:1], 2, 12)[:, 1]
        .reshape(24),
        "blocks.1.attn2.norm_q.weight": text["query_norm"]["scale"].reshape(24),
        "blocks.1.norm2.weight": block["text_norm"]["scale"],
        "blocks.1.ffn.net.0.proj.bias": block["mlp"]["hidden"]["bias"],
    }
    for name, value in names.items():
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)
    assert sum(tensor.size for tensor in tensors.values()) == count(params)


def test_names_and_axes_of_latte():
    config = config_of("latte")
    params = random_params(config)
    tensors = video_transformer_tensors(params, "latte", config.patch)
    kernel = params["patch_embedding"]["kernel"].reshape(2, 2, 3, 24)
    names = {
        "pos_embed.proj.weight": kernel.transpose(3, 2, 0, 1),
        "adaln_single.linear.bias": params["shared_modulation"]["bias"].reshape(144),
        "adaln_single.emb.timestep_embedder.linear_1.weight": params["condition"]["time"]["hidden"][
            "kernel"
        ].T,
        "caption_projection.linear_1.bias": params["text"]["hidden"]["bias"],
        "scale_shift_table": params["final"]["modulation"]["table"],
        "transformer_blocks.1.attn2.to_q.bias": params["blocks_2"]["text_attention"]["query"][
            "bias"
        ].reshape(24),
        "temporal_transformer_blocks.1.scale_shift_table": params["blocks_3"]["modulation"][
            "table"
        ],
        "temporal_transformer_blocks.0.ff.net.2.bias": params["blocks_1"]["mlp"]["output"]["bias"],
    }
    for name, value in names.items():
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)
    assert sum(tensor.size for tensor in tensors.values()) == count(params)


def test_published_configurations_are_read_and_written_again():
    wan, latte = VideoDiTConfig(**wan_options(WAN_T2V)), VideoDiTConfig(**latte_options(LATTE_1))
    assert (wan.width, wan.depth, wan.mlp_units, wan.qk_norm) == (1536, 30, 8960, "all_heads")
    assert (latte.width, latte.depth, latte.patch, latte.out_channels) == (1152, 56, (1, 2, 2), 8)
    later = {"pos_embed_seq_len": None}  # than that version of diffusers
    fields = wan_fields(dataclasses.asdict(wan))
    assert {**WAN_T2V, **later} == {**fields, "_diffusers_version": "0.33.0.dev0"}
    assert latte_fields(dataclasses.asdict(latte)) == LATTE_1
    assert wan_options({})["width"] == 5120
    for units in (49, 13824, 7, 101, 1023):  # none is lost by rounding
        assert config_of("wan", ffn_dim=units).mlp_units == units
    assert not config_of("wan", cross_attn_norm=False).text_query_norm


def test_spacing_of_other_sizes_than_that_of_training():
    assert latte_spacing(LATTE_1, (64, 64)) == (1.0, 1.0, 1.0)
    assert latte_spacing({**LATTE_1, "sample_size": 16}, (32, 12)) == (1.0, 0.5, 8 / 6)


@pytest.mark.parametrize(
    ("naming", "changes", "fault"),
    [
        ("wan", {"_class_name": "LTXVideoTransformer3DModel"}, "_class_name is 'LTX.*', expected"),
        ("wan", {"qk_norm": None}, "qk_norm is None, expected 'rms_norm_across_heads'"),
        ("wan", {"freq_dim": 128}, "freq_dim is 128, expected 256"),
        ("wan", {"eps": 1e-5}, "eps is 1e-05, expected 1e-06"),
        ("wan", {"image_dim": 1280}, "image_dim is 1280, expected None"),
        ("wan", {"added_kv_proj_dim": 8}, "added_kv_proj_dim is 8, expected None"),
        ("wan", {"pos_embed_seq_len": 514}, "pos_embed_seq_len is 514, expected None"),
        ("wan", {"patch_size": 2}, "patch_size is 2, expected three numbers of 1 or more"),
        ("wan", {"patch_size": [1, 2]}, r"patch_size is \[1, 2\], expected three"),
        ("wan", {"num_layers": "two"}, "num_layers is 'two', expected 1 or more"),
        ("wan", {"cross_attn_norm": None}, "cross_attn_norm is None, expected true or false"),
        ("wan", {"ffn_dim": None}, "ffn_dim is None, expected 1 or more"),
        ("latte", {"_class_name": "LatteT2V"}, "_class_name is 'LatteT2V', expected Latte"),
        ("latte", {"norm_type": "layer_norm"}, "norm_type is .*, expected 'ada_norm_single'"),
        ("latte", {"norm_eps": 1e-5}, "norm_eps is 1e-05, expected 1e-06"),
        ("latte", {"activation_fn": "geglu"}, "activation_fn is 'geglu', expected 'gelu-appr"),
        ("latte", {"attention_bias": False}, "attention_bias is False, expected True"),
        ("latte", {"dropout": 0.1}, "dropout is 0.1, expected 0.0"),
        ("latte", {"norm_elementwise_affine": True}, "affine is True, expected False"),
        ("latte", {"cross_attention_dim": None}, "cross_attention_dim is None, expected 24"),
        ("latte", {"caption_channels": None}, "caption_channels is None, expected 1 or more"),
        ("latte", {"sample_size": 128}, "sample_size is 128, expected less than 128"),
    ],
    ids=str,
)
def test_configurations_that_cannot_be_had(naming, changes, fault):
    with pytest.raises(InputError, match=fault):
        config_of(naming, **changes)


@NAMINGS
def test_a_folder_without_configuration(naming, tmp_path):
    config = config_of(naming)
    fields = FIELDS[naming](dataclasses.asdict(config))
    write_video_transformer(tmp_path, random_params(config), fields)
    assert json.loads((tmp_path / "config.json").read_text()) == fields
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json beside it, which says what no shape"):
        OPTIONS[naming](TensorFile(tmp_path))


@pytest.mark.parametrize(
    ("naming", "changes", "fault"),
    [
        ("wan", {"positions": "sincos"}, "positions is 'sincos', expected 'rotary', which Wan"),
        ("wan", {"rotary": "ltx"}, "rotary is 'ltx', expected 'wan'"),
        ("wan", {"causal": True}, "causal is True, expected False"),
        ("wan", {"null_text": True}, "null_text is True, expected False"),
        ("wan", {"text_width": 0}, "text_width is 0, expected 1 or more: Wan"),
        ("wan", {"numbers": ("fps",)}, r"numbers is \('fps',\), expected \(\)"),
        ("latte", {"attention_pattern": "joint"}, "attention_pattern is .* 'interleaved'"),
        ("latte", {"text_query_norm": True}, "text_query_norm is True, expected False"),
        ("latte", {"patch": (2, 2, 2)}, r"patch is \(2, 2, 2\), expected 1 frame and a square"),
        ("latte", {"depth": 3}, "depth is 3, expected an even number"),
        ("latte", {"mlp_ratio": 2.0}, "mlp_ratio is 2.0, expected 4, which Latte"),
    ],
    ids=str,
)
def test_options_that_cannot_be_written(naming, changes, fault):
    options = dataclasses.asdict(config_of(naming))
    with pytest.raises(InputError, match=fault):
        FIELDS[naming]({**options, **changes})


def test_tensors_that_do_not_fit(tmp_path):
    config = config_of("wan")
    params = random_params(config)
    tensors = video_transformer_tensors(params, "wan", config.patch)
    bias, table = "blocks.1.ffn.net.2.bias", "blocks.0.scale_shift_table"
    image = "condition_embedder.image_embedder.norm1.weight"
    for changed, fault in (
        ({}, "no weights of WanTransformer3DModel or LatteTransformer3DModel, expected a tensor"),
        (
            {k: v for k, v in tensors.items() if k != bias},
            rf"no tensor '{bias}', expected shape \(24,\) for blocks_1/mlp/output/bias",
        ),
        (
            {**tensors, table: tensors[table][0]},
            rf"'{table}' has shape \(6, 24\), expected \(1, 6, 24\)",
        ),
        ({**tensors, image: tensors[bias]}, f"tensor '{image}' is no part of the model"),
        ({**tensors, bias: np.zeros(24, int)}, f"'{bias}' has type int64, expected floating"),
    ):
        with pytest.raises(InputError, match=fault):
            video_transformer_params(changed, like(config), config.patch)
    with pytest.raises(InputError, match="naming is 'sora', expected one of wan, latte"):
        video_transformer_tensors(params, "sora", config.patch)
    # Of Latte's names those of norms are missing, and of attention to texts in time.
    with pytest.raises(InputError, match="blocks_0/attention/key_norm/scale has no counterpart"):
        video_transformer_tensors(params, "latte", (1, 2, 2))
    latte = random_params(config_of("latte"))
    latte["blocks_1"]["text_attention"] = latte["blocks_0"]["text_attention"]
    with pytest.raises(InputError, match=r"blocks_1/text_attention/\S* has no counterpart"):
        write_video_transformer(tmp_path, latte, SMALL["latte"])
    assert not list(tmp_path.iterdir())
