"""The causal autoencoder against diffusers' AutoencoderKLWan with the same random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.interop.causal_autoencoder_weights import (
    causal_autoencoder_options,
    causal_autoencoder_params,
    causal_latent_statistics,
    write_causal_autoencoder,
)
from jaxgen.interop.safetensors import TensorFile

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers (the [parity] extra) is not installed"
)

SMALL = {
    "base_dim": 4,
    "z_dim": 3,
    "dim_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "latents_mean": [0.1, -0.2, 0.3],
    "latents_std": [1.5, 2.5, 0.5],
    "scale_factor_spatial": 4,
}
CASES = {
    "two_halvings_of_frames": {},
    "wider_decoder": {"temperal_downsample": [True, False], "decoder_base_dim": 6},
    "wan": {
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "scale_factor_spatial": 8,
    },
}


def randomised(model, seed=0):
    """Every parameter random, norms' and biases' too, at a size that keeps the signal alive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            if name.endswith("gamma"):
                fan_in = 16
            parameter.normal_(0, fan_in**-0.5, generator=generator)
            if name.endswith("gamma"):
                parameter += 1
        # Their decoder clips to [-1, 1]; most numbers are to be within.
        model.decoder.conv_out.weight *= 0.2
        model.decoder.conv_out.bias *= 0.2
    return model.eval()


def theirs(model, video, latents):
    """Moments of a video and the frames of latents, by diffusers, [B, T, Y, X, C]."""

    def turned(x):
        return torch.tensor(np.moveaxis(x, -1, 1))

    with torch.no_grad():
        moments = model.encode(turned(video)).latent_dist.parameters
        frames = model.decode(turned(latents)).sample
    return (np.moveaxis(x.numpy(), 1, -1) for x in (moments, frames))


def difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "case",
    ["two_halvings_of_frames", *(pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[1:])],
)
def test_encoder_and_decoder(case, tmp_path):
    model = randomised(diffusers.AutoencoderKLWan(**{**SMALL, **CASES[case]}))
    model.save_pretrained(tmp_path)
    tensors = TensorFile(tmp_path)
    config = CausalAutoencoderConfig(**causal_autoencoder_options(tensors))
    network = config.make_model()
    _, height, width = config.strides
    image = jnp.zeros((1, 1, height, width, 3))
    like = nn.meta.unbox(jax.eval_shape(network.init, jax.random.key(0), image)["params"])
    params = causal_autoencoder_params(tensors, like)
    encode, decode = (
        jax.jit(lambda params, x, way=way: network.apply({"params": params}, x, method=way))
        for way in ("encode", "decode")
    )
    rng = np.random.default_rng(1)
    for frames in (1, 5, 9):
        video = rng.uniform(-1, 1, (2, frames, 2 * height, width, 3)).astype(np.float32)
        shape = (2, *config.latent_grid(video.shape[1:-1]), config.latent_channels)
        latents = rng.normal(size=shape).astype(np.float32)
        moments, decoded = theirs(model, video, latents)
        assert difference(encode(params, video), moments) < 1e-4
        ours = np.asarray(decode(params, latents))
        assert difference(np.clip(ours, -1, 1), decoded) < 1e-4
        assert np.mean(np.abs(ours) < 1) > 0.5
    # And back: the same tensors, bit by bit, which their model takes.
    (tmp_path / "config.json").unlink()
    statistics = causal_latent_statistics(tensors)
    write_causal_autoencoder(tmp_path, params, dataclasses.asdict(config), statistics)
    back = TensorFile(tmp_path)
    assert set(back) == set(tensors)
    again = diffusers.AutoencoderKLWan.from_pretrained(tmp_path).eval()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    for field in ("latents_mean", "latents_std", "temperal_downsample", "scale_factor_spatial"):
        assert list(np.atleast_1d(again.config[field])) == list(np.atleast_1d(model.config[field]))
    for found, expected in zip(
        theirs(again, video, latents), theirs(model, video, latents), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
