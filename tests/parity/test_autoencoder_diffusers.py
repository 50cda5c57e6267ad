"""Autoencoders of frames against diffusers' with the same random weights, both ways."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_models import randomised

from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.compressors.temporal_decoder import TemporalDecoderConfig
from jaxgen.compressors.tiny_autoencoder import TinyAutoencoderConfig
from jaxgen.interop.autoencoder_config import (
    autoencoder_options,
    latent_statistics,
    temporal_decoder_options,
)
from jaxgen.interop.autoencoder_weights import autoencoder_params, write_autoencoder
from jaxgen.interop.safetensors import TensorFile
from jaxgen.interop.tiny_autoencoder_weights import tiny_autoencoder_tensors

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers (the [parity] extra) is not installed"
)

SMALL = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
CASES = {
    "default": {},
    "without_1x1": {
        **{"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 3},
        **{"scaling_factor": 0.3611, "shift_factor": 0.1159},
    },
    "attention": {
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        **{"layers_per_block": 2, "mid_block_add_attention": False},
        **{"latents_mean": [0.1, 0.2, 0.3, -1.0], "latents_std": [1.0, 2.0, 0.5, 3.0]},
    },
}


def theirs(function, x, **options):
    """A method of a model of theirs on frames with channels last."""
    frames = torch.tensor(np.moveaxis(x.reshape(-1, *x.shape[-3:]), -1, 1))
    with torch.no_grad():
        found = function(frames, **options)
    found = found.latent_dist.parameters if hasattr(found, "latent_dist") else found.sample
    found = np.moveaxis(found.numpy(), 1, -1)
    return found.reshape(*x.shape[:-3], *found.shape[1:])


def abstract(config):
    image = jnp.zeros((1, config.factor, config.factor, config.in_channels))
    boxed = jax.eval_shape(config.make_model().init, jax.random.key(0), image)["params"]
    return nn.meta.unbox(boxed)


def ours(config, params, x, method):
    apply = jax.jit(config.make_model().apply, static_argnames="method")
    return np.asarray(apply({"params": params}, x, method=method))


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def assert_same_both_ways(model, config, params, videos, latents, options, folder):
    """Moments and images are equal, and so are those of their model with what we write."""
    moments = theirs(model.encode, videos)
    images = theirs(model.decode, latents, **options)
    assert_close(ours(config, params, videos, "encode"), moments)
    assert_close(ours(config, params, latents, "decode"), images)
    statistics = latent_statistics(TensorFile(folder))
    written = folder / "ours"
    written.mkdir()
    write_autoencoder(written, params, dataclasses.asdict(config), statistics)
    again = type(model).from_pretrained(written)
    np.testing.assert_array_equal(theirs(again.encode, videos), moments)
    np.testing.assert_array_equal(theirs(again.decode, latents, **options), images)
    for name, value in json.loads((written / "config.json").read_text()).items():
        expected = model.config.get(name)
        same = list(expected) if isinstance(expected, tuple) else expected
        assert name.startswith(("_", "scaling", "latents_std")) or value == same, name
    for name, value in latent_statistics(TensorFile(written)).items():
        np.testing.assert_allclose(value, statistics[name], rtol=2e-7)


@pytest.mark.parametrize("case", CASES)
def test_images(case, tmp_path):
    model = randomised(diffusers.AutoencoderKL(**{**SMALL, **CASES[case]}))
    model.save_pretrained(tmp_path)
    config = FrameAutoencoderConfig(**autoencoder_options(TensorFile(tmp_path)))
    params = autoencoder_params(TensorFile(tmp_path), abstract(config))
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 8, 12, 3)).astype(np.float32)
    latents = rng.normal(size=(2, 4, 6, config.latent_channels)).astype(np.float32)
    assert_same_both_ways(model, config, params, images, latents, {}, tmp_path)


def test_videos(tmp_path):
    model = diffusers.AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=2,
    )
    randomised(model).save_pretrained(tmp_path)
    config = TemporalDecoderConfig(**temporal_decoder_options(TensorFile(tmp_path)))
    params = autoencoder_params(TensorFile(tmp_path), abstract(config))
    rng = np.random.default_rng(1)
    videos = rng.normal(size=(2, 3, 4, 6, 3)).astype(np.float32)
    latents = rng.normal(size=(2, 3, 2, 3, 4)).astype(np.float32)
    assert_same_both_ways(model, config, params, videos, latents, {"num_frames": 3}, tmp_path)


class Block(torch.nn.Module):
    """A block of TAESD, by its README and its tensors' names."""

    def __init__(self, pooled):
        super().__init__()
        layer, relu = torch.nn.Conv2d, torch.nn.ReLU
        self.conv = torch.nn.Sequential(
            *(layer(8, 8, 3, padding=1), relu(), layer(8, 8, 3, padding=1), relu()),
            layer(8, 8, 3, padding=1),
        )
        if pooled:
            self.pool = torch.nn.Sequential(
                *(layer(8, 32, 1, bias=False), torch.nn.GroupNorm(4, 32), relu()),
                layer(32, 8, 1, bias=False),
            )

    def forward(self, x):
        if hasattr(self, "pool"):
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Bounded(torch.nn.Module):
    def forward(self, z):
        return 3 * torch.tanh(z / 3)


def reference_halves():
    """The numbered layers of an encoder and a decoder with two halvings and two blocks of each."""
    layer = torch.nn.Conv2d
    down = {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False}
    up = {"kernel_size": 3, "padding": 1, "bias": False}
    encoder = torch.nn.Sequential(
        *(layer(3, 8, 3, padding=1), Block(False)),
        *(layer(8, 8, **down), Block(False), Block(False)),
        *(layer(8, 8, **down), Block(True), Block(True), layer(8, 5, 3, padding=1)),
    )
    twice = {"scale_factor": 2}
    decoder = torch.nn.Sequential(
        *(Bounded(), layer(5, 8, 3, padding=1), torch.nn.ReLU()),
        *(Block(True), Block(True), torch.nn.Upsample(**twice), layer(8, 8, **up)),
        *(Block(False), Block(False), torch.nn.Upsample(**twice), layer(8, 8, **up)),
        *(Block(False), layer(8, 3, 3, padding=1)),
    )
    return encoder, decoder


def test_tiny():
    config = TinyAutoencoderConfig(latent_channels=5, width=8, blocks=2, halvings=2)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(config.make_model().init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    params = jax.tree.map(
        lambda x: (rng.normal(size=x.shape) * max(1, np.prod(x.shape[:-1])) ** -0.5).astype("f"),
        nn.meta.unbox(shapes)["params"],
    )
    halves = reference_halves()
    for half, tensors in zip(halves, tiny_autoencoder_tensors(params), strict=True):
        half.load_state_dict({k: torch.tensor(np.array(v)) for k, v in tensors.items()})
    images = rng.normal(size=(2, 8, 12, 3)).astype(np.float32)
    latents = 3 * rng.normal(size=(2, 2, 3, 5)).astype(np.float32)
    with torch.no_grad():
        h = halves[0](torch.tensor(np.moveaxis((images + 1) / 2, -1, 1))).numpy()
        x = halves[1](torch.tensor(np.moveaxis(latents, -1, 1))).numpy()
    assert_close(ours(config, params, images, "encode"), np.moveaxis(h, 1, -1))
    assert_close(ours(config, params, latents, "decode"), 2 * np.moveaxis(x, 1, -1) - 1)
