"""Compressors: network, bottleneck and statistics together; the transform they start as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.compressors.block_transforms import principal_basis, second_moments
from jaxgen.compressors.bottlenecks import FSQConfig, KLConfig, LFQConfig, VQConfig
from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.compressors.compressor import (
    BOTTLENECK,
    CODEBOOK,
    NETWORK,
    STATISTICS,
    CompressorConfig,
    with_statistics,
)
from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.compressors.linear_shortcut import SHORTCUT, with_transform
from jaxgen.compressors.tubelets import from_tubelets, to_tubelets
from jaxgen.errors import InputError
from jaxgen.training.saved_configs import config_from_json, config_to_json

PATCH = (2, 4, 4)


def small(bottleneck, axes=3):
    network = CausalAutoencoderConfig.patch_first(
        channels=1,
        latent_channels=bottleneck.latent_channels,
        encoder_channels=bottleneck.encoder_channels,
        patch=PATCH if axes == 3 else (1, 4, 4),
        width=8,
        blocks=1,
        decoder_blocks=1,
    )
    return CompressorConfig(network, bottleneck, (3, 8, 8, 1)[3 - axes :])


def new_params(config):
    key = jax.random.key(0)
    return {**nn.unbox(jax.jit(config.make_init())(key)), **config.make_variables(key)}


def videos(count=4, frames=5):
    return np.random.default_rng(0).uniform(-1, 1, (count, frames, 8, 12, 1)).astype(np.float32)


def test_latents_have_mean_zero_and_variance_one_and_decode_as_before():
    config = small(KLConfig(3))
    params, x = new_params(config), videos()
    full = with_statistics(config, params, [x[:2], x[2:]])
    assert set(full) == {NETWORK, BOTTLENECK, STATISTICS}
    compressor, plain = (config.make_compressor(p) for p in (full, params))
    z = np.asarray(jax.jit(compressor.encode)(x))
    assert z.shape == (4, *compressor.grid(x.shape[1:-1]), compressor.channels) == (4, 3, 2, 3, 3)
    np.testing.assert_allclose(z.mean((0, 1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std((0, 1, 2, 3)), 1, atol=1e-4)
    np.testing.assert_allclose(
        jax.jit(compressor.decode)(z),
        jax.jit(lambda x: plain.decode(plain.encode(x)))(x),
        atol=1e-5,
        rtol=1e-5,
    )
    with pytest.raises(InputError, match="there are no data"):
        with_statistics(config, params, [])


@pytest.mark.parametrize(
    "bottleneck",
    [
        VQConfig(16, 3),
        VQConfig(16, 3, ema_decay=None, revive_below=0),
        FSQConfig((4, 3)),
        LFQConfig(5),
    ],
    ids=["vq-ema", "vq", "fsq", "lfq"],
)
def test_codes_decode_to_what_latents_decode_to(bottleneck):
    config = small(bottleneck)
    params, x = new_params(config), videos()
    assert (CODEBOOK in params) == (isinstance(bottleneck, VQConfig) and bool(bottleneck.ema_decay))
    compressor = config.make_compressor(params)
    codes = np.asarray(jax.jit(compressor.codes)(x))
    assert codes.shape == (4, 3, 2, 3)
    assert codes.min() >= 0
    assert codes.max() < compressor.codebook_size == bottleneck.codebook_size
    np.testing.assert_allclose(
        jax.jit(compressor.from_codes)(codes),
        jax.jit(lambda x: compressor.decode(compressor.encode(x)))(x),
        atol=1e-5,
    )
    with pytest.raises(InputError, match="code"):
        compressor.from_codes(codes + compressor.codebook_size)


def test_networks_of_images_take_frames_as_a_batch():
    config = small(KLConfig(3), axes=2)
    compressor, x = config.make_compressor(new_params(config)), videos()
    z = np.asarray(jax.jit(compressor.encode)(x))
    assert z.shape == (4, *compressor.grid((5, 8, 12)), 3) == (4, 5, 2, 3, 3)
    frames = np.asarray(jax.jit(compressor.encode)(x.reshape(20, 8, 12, 1)))
    np.testing.assert_allclose(z.reshape(frames.shape), frames, atol=1e-6)
    assert jax.eval_shape(compressor.decode, z).shape == x.shape
    assert compressor.grid((8, 12)) == (2, 3)
    with pytest.raises(InputError, match=r"data have shape \(8, 12, 1\), expected \[B, Y, X"):
        compressor.encode(x[0, 0])


def test_networks_of_videos_take_images_as_first_frames():
    config = small(FSQConfig((5, 3)))
    compressor, x = config.make_compressor(new_params(config)), videos()
    z = np.asarray(jax.jit(compressor.encode)(x))
    images = np.asarray(jax.jit(compressor.encode)(x[:, 0]))
    assert images.shape == (4, *compressor.grid((8, 12)), 2) == (4, 2, 3, 2)
    np.testing.assert_allclose(images, z[:, 0], atol=1e-6)
    codes = jax.jit(compressor.codes)(x[:, 0])
    expected = jax.jit(compressor.decode)(z[:, :1])[:, 0]
    np.testing.assert_allclose(jax.jit(compressor.from_codes)(codes), expected, atol=1e-6)


def test_a_new_compressor_is_the_transform_that_it_is_given():
    config = small(KLConfig(3))
    params, x = new_params(config), videos()
    blocks = np.asarray(to_tubelets(x, PATCH, first_frame=True))
    moments = second_moments([blocks])
    basis = principal_basis(moments, 3)
    deviation = np.sqrt(np.einsum("pk,pq,qk->k", basis, moments, basis))
    params = {**params, NETWORK: with_transform(params[NETWORK], basis, deviation)}
    compressor = config.make_compressor(params)
    z = np.asarray(jax.jit(compressor.encode)(x))
    np.testing.assert_allclose(np.square(z).mean((0, 1, 2, 3)), 1, rtol=1e-4)
    expected = from_tubelets(jnp.asarray(blocks @ basis @ basis.T, jnp.float32), PATCH)
    np.testing.assert_allclose(jax.jit(compressor.decode)(z), expected, atol=1e-5)
    with pytest.raises(InputError, match=r"shortcut has shape \(32, 3\), expected \(32, 2\)"):
        with_transform(params[NETWORK], basis[:, :2], deviation[:2])
    bare = {name: x for name, x in params[NETWORK].items() if name != SHORTCUT}
    with pytest.raises(InputError, match="shortcut has shape None"):
        with_transform(bare, basis, deviation)


def test_the_network_learns_beside_the_transform():
    config = small(KLConfig(3))
    x = videos()

    def loss(params):
        latent = config.squeeze(params, config.encode(params, x), jax.random.key(1))
        return jnp.mean((config.decode(params, latent.values) - x) ** 2)

    gradients = jax.jit(jax.grad(loss))(new_params(config))[NETWORK]
    for part in ("encoder", "decoder"):
        assert float(jnp.abs(gradients[part]["conv_out"]["kernel"]).max()) > 1e-6
    assert float(jnp.abs(gradients[SHORTCUT]["analysis"]["kernel"]).max()) > 1e-6


def test_configurations_are_saved_and_checked():
    for config in (
        small(KLConfig(3)),
        CompressorConfig(FrameAutoencoderConfig(), KLConfig(4), (64, 64, 3)),
        small(VQConfig(16, 3)),
        small(FSQConfig((4, 3))),
        small(LFQConfig(5)),
    ):
        assert config_from_json(config_to_json(config)) == config
    with pytest.raises(InputError, match="the network's latent_channels is 4, expected 3"):
        CompressorConfig(FrameAutoencoderConfig(), KLConfig(3), (64, 64, 3))
