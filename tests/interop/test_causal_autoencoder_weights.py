"""Causal autoencoders under diffusers' names: round trips, configurations, what does not fit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_weights import assert_same_bits, randomly

from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.errors import InputError
from jaxgen.interop.causal_autoencoder_weights import (
    causal_autoencoder_fields,
    causal_autoencoder_options,
    causal_autoencoder_params,
    causal_autoencoder_tensors,
    causal_latent_statistics,
    write_causal_autoencoder,
)
from jaxgen.interop.safetensors import TensorFile

CONFIG = CausalAutoencoderConfig(
    latent_channels=3,
    encoder_channels=6,
    width=4,
    decoder_width=8,
    multipliers=(1, 2, 3),
    blocks=1,
    temporal_down=(False, True),
)


@functools.cache
def like(config):
    """The abstract parameters of the model."""
    _, height, width = config.strides
    image = jnp.zeros((1, 1, height, width, config.channels))
    boxed = jax.eval_shape(config.make_model().init, jax.random.key(0), image)["params"]
    return nn.meta.unbox(boxed)


def random_params(config, seed=0):
    return randomly(like(config), seed)


def test_a_written_folder_is_read_back_bit_by_bit(tmp_path):
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params(CONFIG))
    params = jax.tree.map(lambda x: x.astype(np.float32), rounded)
    statistics = {"mean": np.array([0.1, -2, 3], "f"), "deviation": np.array([1, 2.5, 0.3], "f")}
    options = dataclasses.asdict(CONFIG)
    files = write_causal_autoencoder(tmp_path, params, options, statistics, "bfloat16")
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files}
    file = TensorFile(tmp_path)
    assert file.config["latents_mean"] == [0.1, -2.0, 3.0]
    assert (file.config["scale_factor_temporal"], file.config["scale_factor_spatial"]) == (2, 4)
    assert CausalAutoencoderConfig(**causal_autoencoder_options(file)) == CONFIG
    assert_same_bits(causal_latent_statistics(file), statistics)
    assert_same_bits(causal_autoencoder_params(file, like(CONFIG)), params)
    assert_same_bits(causal_autoencoder_params(file, like(CONFIG), None), rounded)
    prefixed = {f"vae.{name}": value for name, value in file.items()}
    assert_same_bits(causal_autoencoder_params(prefixed, like(CONFIG)), params)


def test_names_and_axes():
    params = random_params(CONFIG)
    tensors = causal_autoencoder_tensors(params)
    encoder, decoder = params["encoder"], params["decoder"]
    volume = (4, 3, 0, 1, 2)
    attention = encoder["middle_attention_0"]
    names = {
        "quant_conv.bias": params["quant_conv"]["bias"],
        "post_quant_conv.weight": params["post_quant_conv"]["kernel"].transpose(volume),
        "encoder.conv_in.weight": encoder["conv_in"]["kernel"].transpose(volume),
        "encoder.norm_out.gamma": encoder["norm_out"]["scale"][:, None, None, None],
        "encoder.down_blocks.0.conv1.bias": encoder["down_0_block_0"]["conv1"]["bias"],
        "encoder.down_blocks.1.resample.1.weight": encoder["down_0_resample"]["space"][
            "kernel"
        ].transpose(3, 2, 0, 1),
        "encoder.down_blocks.3.time_conv.weight": encoder["down_1_resample"]["time"][
            "kernel"
        ].transpose(volume),
        "encoder.mid_block.attentions.0.norm.gamma": attention["norm"]["scale"][:, None, None],
        "encoder.mid_block.attentions.0.to_qkv.weight": attention["qkv"]["kernel"]
        .reshape(12, 36)
        .T[..., None, None],
        "encoder.mid_block.attentions.0.proj.weight": attention["output"]["kernel"][0].T[
            ..., None, None
        ],
        "decoder.mid_block.resnets.1.norm2.gamma": decoder["middle_block_1"]["norm2"]["scale"][
            :, None, None, None
        ],
        "decoder.up_blocks.0.upsamplers.0.time_conv.bias": decoder["up_2_resample"]["time"]["bias"],
        "decoder.up_blocks.1.resnets.0.conv_shortcut.weight": decoder["up_1_block_0"]["skip"][
            "kernel"
        ].transpose(volume),
        "decoder.up_blocks.2.resnets.1.conv2.bias": decoder["up_0_block_1"]["conv2"]["bias"],
    }
    for name, value in names.items():
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)
    assert len(tensors) == len(jax.tree.leaves(params))


def test_the_published_configuration():
    assert CausalAutoencoderConfig(**causal_autoencoder_options({})) == CausalAutoencoderConfig()
    statistics = causal_latent_statistics({})
    assert statistics["mean"][0] == np.float32(-0.7571)
    assert statistics["deviation"][15] == np.float32(1.916)
    fields = causal_autoencoder_fields(dataclasses.asdict(CausalAutoencoderConfig()), statistics)
    told = causal_autoencoder_options(fields)
    assert CausalAutoencoderConfig(**told) == CausalAutoencoderConfig()
    assert_same_bits(causal_latent_statistics(fields), statistics)
    plain = causal_latent_statistics(causal_autoencoder_fields({}))
    np.testing.assert_array_equal(plain["mean"], np.zeros(16))
    np.testing.assert_array_equal(plain["deviation"], np.ones(16))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"_class_name": "AutoencoderKL"}, "_class_name is 'AutoencoderKL', expected"),
        ({"is_residual": True}, "is_residual is True, expected False"),
        ({"patch_size": 2}, "patch_size is 2, expected None"),
        ({"attn_scales": [0.5]}, r"attn_scales is \[0.5\], expected \[\]"),
        ({"out_channels": 12}, "out_channels is 12, expected 3"),
    ],
    ids=str,
)
def test_configurations_that_cannot_be_had(changes, fault):
    with pytest.raises(InputError, match=fault):
        causal_autoencoder_options(changes)


def test_statistics_options_and_tensors_that_cannot_be_had(tmp_path):
    for changes, fault in (
        ({"latents_mean": [0.0]}, "latents_mean is .*, expected 16 finite numbers"),
        ({"latents_std": [0.0] * 16}, "latents_std is .*, expected 16 finite positive numbers"),
        ({"latents_std": "many"}, "latents_std is 'many', expected 16"),
        ({"latents_mean": [float("nan")] * 16}, "latents_mean is .*, expected 16 finite"),
    ):
        with pytest.raises(InputError, match=fault):
            causal_latent_statistics(changes)
    small = dataclasses.asdict(CausalAutoencoderConfig.patch_first())
    for name, expected in (("padding", "'zeros'"), ("shortcut", "False"), ("patch", "(1, 1, 1)")):
        options = {**dataclasses.asdict(CONFIG), name: small[name]}
        with pytest.raises(InputError, match=f"{name} is .*, expected ") as caught:
            causal_autoencoder_fields(options)
        assert expected in str(caught.value)
    params = random_params(CONFIG)
    tensors = causal_autoencoder_tensors(params)
    with pytest.raises(InputError, match=r"no tensor 'encoder\.conv_out\.bias', expected shape"):
        causal_autoencoder_params(
            {k: v for k, v in tensors.items() if k != "encoder.conv_out.bias"}, like(CONFIG)
        )
    with pytest.raises(InputError, match="tensor 'extra' is no part of the model"):
        causal_autoencoder_params({**tensors, "extra": tensors["quant_conv.bias"]}, like(CONFIG))
    wrong = {**tensors, "encoder.norm_out.gamma": np.ones(12, np.float32)}
    with pytest.raises(InputError, match=r"shape \(12,\), expected \(12, 1, 1, 1\)"):
        causal_autoencoder_params(wrong, like(CONFIG))
    preset = CausalAutoencoderConfig.patch_first(width=8)
    with pytest.raises(InputError, match=r"parameter shortcut/analysis\S* has no counterpart"):
        causal_autoencoder_tensors({"shortcut": random_params(preset)["shortcut"]})
    with pytest.raises(InputError, match="middle_attention is False, expected True"):
        write_causal_autoencoder(
            tmp_path, params, {**dataclasses.asdict(CONFIG), "middle_attention": False}
        )
    assert not list(tmp_path.iterdir())
