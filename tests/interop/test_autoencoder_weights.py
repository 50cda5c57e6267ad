"""Autoencoders of frames under names of diffusers and TAESD: round trips, what does not fit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_weights import assert_same_bits, randomly

from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.compressors.temporal_decoder import TemporalDecoderConfig
from jaxgen.compressors.tiny_autoencoder import TinyAutoencoderConfig
from jaxgen.data.images.image_files import read_image
from jaxgen.errors import InputError
from jaxgen.evaluation import psnr
from jaxgen.interop.autoencoder_config import (
    autoencoder_fields,
    autoencoder_options,
    latent_statistics,
    temporal_decoder_options,
)
from jaxgen.interop.autoencoder_weights import (
    autoencoder_params,
    autoencoder_tensors,
    write_autoencoder,
)
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.interop.tiny_autoencoder_weights import (
    tiny_autoencoder_options,
    tiny_autoencoder_params,
    tiny_autoencoder_tensors,
)
from jaxgen.pixels import to_unit

IMAGES = FrameAutoencoderConfig(channels=(8, 16), blocks=1, groups=4, attention_levels=(1,))
VIDEOS = TemporalDecoderConfig(channels=(32, 64))
TINY = TinyAutoencoderConfig(latent_channels=5, width=8, blocks=2, halvings=2)
STABLE_DIFFUSION = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
}


@functools.cache
def like(config):
    """The abstract parameters of the model."""
    image = jnp.zeros((1, config.factor, config.factor, 3))
    boxed = jax.eval_shape(config.make_model().init, jax.random.key(0), image)["params"]
    return nn.meta.unbox(boxed)


def random_params(config, seed=0):
    return randomly(like(config), seed)


@pytest.mark.parametrize("config", [IMAGES, VIDEOS], ids=["images", "videos"])
def test_a_written_folder_is_read_back_bit_by_bit(config, tmp_path):
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params(config))
    params = jax.tree.map(lambda x: x.astype(np.float32), rounded)
    statistics = {"mean": np.zeros(4, "f"), "deviation": np.full(4, 1 / 0.18215, "f")}
    options = dataclasses.asdict(config)
    files = write_autoencoder(tmp_path, params, options, statistics, "bfloat16")
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files}
    file = TensorFile(tmp_path)
    assert file.config["scaling_factor"] == 0.18215
    told = temporal_decoder_options if config is VIDEOS else autoencoder_options
    assert type(config)(**told(file)) == config
    assert_same_bits(latent_statistics(file), statistics)
    assert_same_bits(autoencoder_params(file, like(config)), params)
    assert_same_bits(autoencoder_params(file, like(config), None), rounded)
    prefixed = {f"vae.{name}": value for name, value in file.items()}
    assert_same_bits(autoencoder_params(prefixed, like(config)), params)


def test_names_and_axes():
    params = random_params(VIDEOS)
    tensors = autoencoder_tensors(params)
    block = params["decoder"]["up_1_block_0"]
    attention = params["encoder"]["middle_attention_0"]
    turned = (4, 3, 0, 1, 2)
    names = {
        "quant_conv.bias": params["encoder"]["quant_conv"]["bias"],
        "encoder.conv_norm_out.weight": params["encoder"]["norm_out"]["scale"],
        "encoder.down_blocks.0.downsamplers.0.conv.weight": params["encoder"]["down_0_resample"][
            "kernel"
        ].transpose(3, 2, 0, 1),
        "encoder.mid_block.attentions.0.to_k.weight": attention["qkv"]["kernel"][:, 0, 1].T,
        "encoder.mid_block.attentions.0.to_out.0.weight": attention["output"]["kernel"][0].T,
        "decoder.up_blocks.0.upsamplers.0.conv.bias": params["decoder"]["up_0_resample"]["bias"],
        "decoder.up_blocks.1.resnets.0.spatial_res_block.conv_shortcut.bias": block["frame"][
            "skip"
        ]["bias"],
        "decoder.up_blocks.1.resnets.0.temporal_res_block.conv2.weight": block["time"]["conv2"][
            "kernel"
        ].transpose(turned),
        "decoder.up_blocks.1.resnets.0.time_mixer.mix_factor": block["mix"],
        "decoder.time_conv_out.weight": params["decoder"]["time_conv_out"]["kernel"].transpose(
            turned
        ),
    }
    for name, value in names.items():
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)
    assert len(tensors) == len(jax.tree.leaves(params)) + 2 * 2 * 2  # qkv apart, in 2 layers


def test_layers_of_older_files():
    """Other names of attention, its matrices as convolutions, and convolutions as matrices."""
    tensors = {}
    for name, value in autoencoder_tensors(random_params(IMAGES)).items():
        if ".attentions." in name and value.ndim == 2:
            value = value[:, :, None, None]
        if "quant_conv" in name and value.ndim == 4:
            value = value[:, :, 0, 0]
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value"}.items():
            name = name.replace(f".{new}.", f".{old}.")
        tensors[name.replace(".to_out.0.", ".proj_attn.")] = value
    assert not set(tensors) & {"encoder.mid_block.attentions.0.to_q.weight"}
    assert_same_bits(autoencoder_params(tensors, like(IMAGES)), random_params(IMAGES))


def test_published_configurations():
    assert FrameAutoencoderConfig(**autoencoder_options(STABLE_DIFFUSION)) == (
        FrameAutoencoderConfig()
    )
    statistics = latent_statistics(STABLE_DIFFUSION)
    np.testing.assert_allclose(1 / statistics["deviation"], [0.18215] * 4, rtol=1e-6)
    np.testing.assert_array_equal(statistics["mean"], np.zeros(4))
    videos = {k: v for k, v in STABLE_DIFFUSION.items() if k in autoencoder_fields_of_videos()}
    videos["_class_name"] = "AutoencoderKLTemporalDecoder"
    assert TemporalDecoderConfig(**temporal_decoder_options(videos)) == TemporalDecoderConfig()
    flux = {
        **STABLE_DIFFUSION,
        **{"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159},
        **{"use_quant_conv": False, "use_post_quant_conv": False},
    }
    options = autoencoder_options(flux)
    assert (options["use_quant_conv"], options["use_post_quant_conv"]) == (False, False)
    latents = np.random.default_rng(0).normal(size=(5, 16))
    found = latent_statistics(flux)
    scaled = (latents - found["mean"]) / found["deviation"]
    np.testing.assert_allclose(scaled, (latents - 0.1159) * 0.3611, rtol=1e-5, atol=1e-6)
    each = {**STABLE_DIFFUSION, "latents_mean": [1, 2, 3, 4], "latents_std": [1, 2, 1, 2]}
    found = latent_statistics({**each, "scaling_factor": 0.5})
    np.testing.assert_array_equal(found["mean"], [1, 2, 3, 4])
    np.testing.assert_array_equal(found["deviation"], [2, 4, 2, 4])


def autoencoder_fields_of_videos():
    return autoencoder_fields(dataclasses.asdict(TemporalDecoderConfig()), temporal=True)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"_class_name": "VQModel"}, "_class_name is 'VQModel', expected AutoencoderKL"),
        ({"act_fn": "relu"}, "act_fn is 'relu', expected 'silu'"),
        ({"down_block_types": ["DownBlock2D"] * 4}, "down_block_types has 'DownBlock2D', expected"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types has 1 entries, expected 4"),
        (
            {"up_block_types": ["AttnUpDecoderBlock2D"] * 4},
            "expected attention at the levels of down_block_types",
        ),
    ],
    ids=str,
)
def test_configurations_that_cannot_be_had(changes, fault):
    with pytest.raises(InputError, match=fault):
        autoencoder_options({**STABLE_DIFFUSION, **changes})


def test_statistics_and_options_that_cannot_be_had(tmp_path):
    for changes, fault in (
        ({"scaling_factor": 0}, "scaling_factor 0, .* expected finite numbers"),
        ({"latents_mean": [1, 2, 3]}, r"latents_mean \[1, 2, 3\], .* one or 4 of each"),
        ({"latents_mean": [0] * 4, "shift_factor": 1}, "has shift_factor and latents_mean"),
        ({"latents_std": "many"}, "latents_std 'many', expected finite numbers"),
    ):
        with pytest.raises(InputError, match=fault):
            latent_statistics({**STABLE_DIFFUSION, **changes})
    with pytest.raises(InputError, match="1 blocks for each level, expected 2"):
        temporal_decoder_options({})
    options = dataclasses.asdict(VIDEOS)
    for changes, fault in (
        ({"gaussian": False}, "gaussian is False, expected True"),
        ({"groups": 8}, "groups is 8, expected 32"),
        ({"use_post_quant_conv": True}, "use_post_quant_conv is True, expected False"),
    ):
        with pytest.raises(InputError, match=fault):
            autoencoder_fields({**options, **changes}, temporal=True)
    statistics = {"mean": np.ones(4), "deviation": np.ones(4)}
    with pytest.raises(InputError, match="expected mean 0 and one deviation"):
        write_autoencoder(tmp_path, random_params(VIDEOS), options, statistics)
    assert not list(tmp_path.iterdir())


def test_checkpoints_that_do_not_fit(tmp_path):
    tensors = autoencoder_tensors(random_params(IMAGES))
    name = "decoder.mid_block.resnets.1.conv2.bias"
    missing = {k: v for k, v in tensors.items() if k != name}
    write_safetensors(tmp_path / "m.safetensors", missing)
    file = TensorFile(tmp_path)
    with pytest.raises(InputError, match=rf"m\.safetensors: no tensor '{name}', expected shape"):
        autoencoder_params(file, like(IMAGES))
    with pytest.raises(InputError, match=r"no config\.json beside it"):
        autoencoder_options(file)
    with pytest.raises(InputError, match=r"^f: tensor 'decoder\.x' is no part of the model"):
        autoencoder_params({**tensors, "decoder.x": np.zeros(1, "f")}, like(IMAGES), name="f")
    with pytest.raises(InputError, match=r"'quant_conv.bias' has shape \(3,\), expected \(8,\)"):
        autoencoder_params({**tensors, "quant_conv.bias": np.zeros(3, "f")}, like(IMAGES))
    for path in ("encoder/blocks_0/scale", "middle/scale", "decoder/up_0_block_0/conv9/bias"):
        tree = functools.reduce(lambda t, k: {k: t}, reversed(path.split("/")), np.zeros(3))
        with pytest.raises(InputError, match=f"parameter {path} has no counterpart"):
            autoencoder_tensors(tree)


def test_a_tiny_autoencoder_is_read_back_bit_by_bit(tmp_path):
    params = random_params(TINY)
    encoder, decoder = tiny_autoencoder_tensors(params)
    assert (encoder["6.conv.2.weight"].shape, "5.weight" in encoder) == ((8, 8, 3, 3), True)
    assert TinyAutoencoderConfig(**tiny_autoencoder_options(encoder)) == TINY
    plain = TinyAutoencoderConfig(latent_channels=4, width=8, blocks=1, halvings=1, pooled=False)
    other, _ = tiny_autoencoder_tensors(random_params(plain))
    assert TinyAutoencoderConfig(**tiny_autoencoder_options(other)) == plain
    write_safetensors(tmp_path / "encoder.safetensors", encoder)
    write_safetensors(tmp_path / "decoder.safetensors", decoder)
    files = [TensorFile(tmp_path / f"{half}.safetensors") for half in ("encoder", "decoder")]
    assert_same_bits(tiny_autoencoder_params(*files, like(TINY)), params)
    for faulty, fault in (
        ({k: v for k, v in encoder.items() if k != "3.conv.4.bias"}, "no tensor '3.conv.4.bias'"),
        ({**encoder, "9.bias": np.zeros(2, "f")}, "tensor '9.bias' is no part of the model"),
        ({**encoder, "0.bias": np.zeros(2, "f")}, r"'0.bias' has shape \(2,\), expected \(8,\)"),
    ):
        with pytest.raises(InputError, match=fault):
            tiny_autoencoder_params(faulty, decoder, like(TINY))
    for faulty, fault in (
        ({}, "no tensor '0.weight', expected the encoder of a tiny"),
        (decoder, "no tensor '0.weight', expected the encoder of a tiny"),
        ({**encoder, "9.weight": encoder["0.weight"]}, "has 3 convolutions without bias among 10"),
    ):
        with pytest.raises(InputError, match=fault):
            tiny_autoencoder_options(faulty)


@pytest.mark.slow
def test_published_weights_on_photographs(data_folder):
    """TAESD for FLUX.2's latents on the middle of photographs at half their size, in dB.

    Its README has 32.4, 29.9, 31.2 and 32.5 dB of crops of the photographs; no crop of the halves
    has them all (the last is at most 31.8 there).
    """
    encoder, decoder = (
        TensorFile(data_folder / f"weights/taef2/taef2_{half}.safetensors")
        for half in ("encoder", "decoder")
    )
    config = TinyAutoencoderConfig(**tiny_autoencoder_options(encoder))
    assert config == TinyAutoencoderConfig()
    params = tiny_autoencoder_params(encoder, decoder, like(config))
    back = tiny_autoencoder_tensors(params, "float16")
    for file, tensors in zip((encoder, decoder), back, strict=True):
        assert set(file) == set(tensors)
        assert all(file[name].tobytes() == tensors[name].tobytes() for name in tensors)

    @jax.jit
    def both(params, x):
        model = config.make_model()
        z = model.apply({"params": params}, x, method="encode")
        return z, model.apply({"params": params}, z, method="decode")

    decibels = []
    for number in (3, 15, 20, 23):
        photo = read_image(data_folder / f"photos/kodak/kodim{number:02}_half.png")
        images = to_unit(np.asarray(photo))[None, :, 64:320]
        z, decoded = both(params, images)
        assert abs(z.mean()) < 0.05
        assert 0.78 < z.std() < 0.87
        decibels.append(float(psnr(images, np.clip(decoded, -1, 1), 2.0)[0]))
    np.testing.assert_allclose(decibels, [32.32, 29.65, 30.18, 29.91], atol=0.02)
