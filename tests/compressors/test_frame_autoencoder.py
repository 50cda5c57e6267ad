"""Autoencoders of frames: sizes, frames as batch, closed forms, gradients, what is refused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.compressors.temporal_decoder import TemporalDecoderConfig
from jaxgen.compressors.tiny_autoencoder import TinyAutoencoderConfig
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh, plan_layout

OPTIONS = {"channels": (8, 16), "blocks": 1, "groups": 4}
IMAGES = FrameAutoencoderConfig(**OPTIONS)
VIDEOS = TemporalDecoderConfig(**OPTIONS, use_post_quant_conv=True)
TINY = TinyAutoencoderConfig(latent_channels=5, width=8, blocks=1, halvings=1)
ALL = pytest.mark.parametrize("config", [IMAGES, VIDEOS, TINY], ids=["images", "videos", "tiny"])


def shapes(config):
    image = jnp.zeros((1, config.factor, config.factor, 3))
    return nn.meta.unbox(jax.eval_shape(config.make_model().init, jax.random.key(0), image))


def random_params(config, seed=0):
    """Every parameter random, at a size that keeps the signal alive."""
    rng = np.random.default_rng(seed)

    def one(x):
        return (rng.normal(size=x.shape) * max(1, math.prod(x.shape[:-1])) ** -0.5).astype("f")

    return jax.tree.map(one, shapes(config)["params"])


@functools.cache
def apply(config, method):
    model = config.make_model()
    return jax.jit(lambda params, x: model.apply({"params": params}, x, method=method))


def data(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (FrameAutoencoderConfig(), 83_653_863),
        (TemporalDecoderConfig(), 97_742_847),
        (TinyAutoencoderConfig(), 1_338_528 + 1_338_499),
        (TinyAutoencoderConfig(latent_channels=4, pooled=False), 2_445_063),
    ],
    ids=["stable_diffusion", "stable_video_diffusion", "taef2", "taesd"],
)
def test_parameters_of_published_networks(config, count):
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(config))) == count


@pytest.mark.parametrize(
    "config",
    [FrameAutoencoderConfig(), TemporalDecoderConfig(), TinyAutoencoderConfig()],
    ids=["images", "videos", "tiny"],
)
def test_published_networks_can_be_sharded(config):
    mesh = make_mesh("fsdp=2,model=4")
    image = jnp.zeros((1, config.factor, config.factor, 3))
    layout = plan_layout(config.make_model().init, jax.random.key(0), image, mesh=mesh)
    leaves = jax.tree.leaves(layout.abstract)
    local = [math.prod(x.sharding.shard_shape(x.shape)) for x in leaves]
    assert sum(local) < 0.3 * sum(math.prod(x.shape) for x in leaves)


@ALL
def test_shapes_and_frames_as_batch(config):
    """A video's frames are coded as images; those of a decoder of videos see each other."""
    params = random_params(config)
    encode, decode = apply(config, "encode"), apply(config, "decode")
    videos = data(2, 3, 4, 6, 3)
    h = encode(params, videos)
    assert h.shape == (2, *config.latent_grid((3, 4, 6)), config.encoder_channels)
    frames = np.asarray(encode(params, videos.reshape(6, 4, 6, 3)))
    np.testing.assert_allclose(h, frames.reshape(h.shape), rtol=1e-5, atol=1e-5)
    z = np.asarray(h[..., : config.latent_channels])
    x = decode(params, z)
    assert x.shape == (2, 3, 4, 6, 3)
    assert x.dtype == jnp.float32
    alone = np.asarray(decode(params, z.reshape(6, *z.shape[2:]))).reshape(x.shape)
    far = np.abs(alone - x).max()
    assert far > 0.01 if config is VIDEOS else far < 1e-5
    # Nor do examples see each other.
    changed = decode(params, np.concatenate([z[1:], z[1:]]))
    np.testing.assert_allclose(changed[1], x[1], rtol=1e-5, atol=1e-5)
    assert np.abs(changed[0] - x[0]).max() > 0.01


def test_time_starts_as_the_identity():
    """Weights of images, opened as videos, give the same frames; so does a closed mixture."""
    z, images = data(2, 3, 2, 3, 4), random_params(IMAGES)
    image = jnp.zeros((1, 2, 2, 3))
    fresh = jax.jit(VIDEOS.make_model().init)(jax.random.key(0), image)
    fresh = nn.meta.unbox(fresh)["params"]["decoder"]
    expected = apply(IMAGES, "decode")(images, z)
    for decoder, mix in ((fresh, 0.0), (fresh, 1.0), (random_params(VIDEOS)["decoder"], -np.inf)):
        opened = {"time_conv_out": fresh["time_conv_out"]}
        for name, value in images["decoder"].items():
            is_mixed = "mix" in decoder[name]
            parts = {"frame": value, "mix": np.float32([mix]), "time": decoder[name].get("time")}
            opened[name] = parts if is_mixed else value
        found = apply(VIDEOS, "decode")({**images, "decoder": opened}, z)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_strided_convolutions_pad_at_the_end():
    """Against a loop over pixels: zeros below and to the right, none above and to the left."""
    params, images = random_params(IMAGES), data(2, 4, 6, 3)
    model = IMAGES.make_model()

    def outputs(params, x):
        options = {"method": "encode", "capture_intermediates": True, "mutable": ["intermediates"]}
        return model.apply({"params": params}, x, **options)[1]["intermediates"]["encoder"]

    found = jax.jit(outputs)(params, images)
    (x,), (halved,) = (found[f"down_0_{name}"]["__call__"] for name in ("block_0", "resample"))
    layer, padded = (
        params["encoder"]["down_0_resample"],
        np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]),
    )
    assert halved.shape == (2, 2, 3, 8)
    for row, column in np.ndindex(2, 3):
        part = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected = np.einsum("BYXC,YXCD->BD", part, layer["kernel"]) + layer["bias"]
        np.testing.assert_allclose(halved[:, row, column], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config", [TemporalDecoderConfig(channels=(8,), blocks=1, groups=4), TINY], ids=["one", "tiny"]
)
def test_extremes_have_finite_values_and_gradients(config):
    """Constant images leave norms without variance; huge and tiny ones too."""
    model, params = config.make_model(), random_params(config)

    def loss(params, x):
        return jnp.square(model.apply({"params": params}, x)).mean()

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for scale in (0.0, 1e-6, 1.0, 1e3):
        x = np.full((1, 4, 4, 3), scale, np.float32)
        leaves = jax.tree.leaves(grad(params, x))
        assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_far_latents_of_a_tiny_autoencoder_are_bounded():
    params, decode = random_params(TINY), apply(TINY, "decode")
    z = np.sign(data(1, 2, 2, 5))
    np.testing.assert_allclose(decode(params, 1e3 * z), decode(params, 1e9 * z), rtol=1e-6)
    bounded = 3 * np.tanh(1 / 3) * z
    assert np.abs(decode(params, z) - decode(params, bounded)).max() > 1e-3
    small = decode(params, 1e-4 * z) - decode(params, 0 * z)
    twice = decode(params, 2e-4 * z) - decode(params, 0 * z)
    np.testing.assert_allclose(twice, 2 * small, rtol=0.05, atol=2e-6)


def test_bfloat16_stays_near_float32():
    params, x = random_params(IMAGES), np.tanh(data(2, 3, 4, 6, 3))
    half = FrameAutoencoderConfig(**OPTIONS, dtype="bfloat16")
    expected, found = (apply(c, "encode")(params, x) for c in (IMAGES, half))
    assert found.dtype == jnp.float32
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_channels_of_both_kinds_of_bottlenecks():
    assert (IMAGES.encoder_channels, IMAGES.latent_channels) == (8, 4)
    plain = FrameAutoencoderConfig(**OPTIONS, gaussian=False)
    assert (plain.encoder_channels, plain.latent_channels) == (4, 4)
    image = jnp.zeros((1, 4, 4, 3))
    init = jax.eval_shape(plain.make_model().init, jax.random.key(0), image)
    assert nn.meta.unbox(init)["params"]["encoder"]["conv_out"]["kernel"].shape == (3, 3, 16, 4)


@ALL
def test_data_that_do_not_fit(config):
    model, params = config.make_model(), shapes(config)
    for method, shape, fault in (
        ("encode", (4, 4, 3), r"images have shape \(4, 4, 3\), expected \[B, Y, X, 3\]"),
        ("encode", (1, 4, 4, 1), r"images have shape \(1, 4, 4, 1\), expected \[B, Y, X, 3\]"),
        ("encode", (1, 0, 4, 4, 3), r"images have shape \(1, 0, 4, 4, 3\)"),
        ("encode", (1, 5, 4, 3), r"grid is \(5, 4\), expected height and width divisible by 2"),
        ("encode", (1, 3, 4, 5, 3), r"grid is \(3, 4, 5\), expected height and width"),
        ("decode", (1, 4, 4, 3), r"latents have shape \(1, 4, 4, 3\), expected \[B, Y, X, [45]\]"),
    ):
        with pytest.raises(InputError, match=fault):
            jax.eval_shape(
                lambda p, x, method=method: model.apply(p, x, method=method),
                params,
                jax.ShapeDtypeStruct(shape, jnp.float32),
            )
    assert config.latent_grid((17, 8, 6)) == (17, 4, 3)
    assert config.latent_grid((8, 6)) == (4, 3)
    for grid in ((8,), (1, 2, 3, 4), (0, 8), (3, 8)):
        with pytest.raises(InputError, match=r"^grid is "):
            config.latent_grid(grid)


@pytest.mark.parametrize(
    ("make", "changes", "fault"),
    [
        (FrameAutoencoderConfig, {"channels": ()}, "channels is empty"),
        (FrameAutoencoderConfig, {"channels": (32, 48)}, r"channels\[1\] is 48, expected a mult"),
        (FrameAutoencoderConfig, {"blocks": 0}, "blocks is 0, expected 1 or more"),
        (FrameAutoencoderConfig, {"groups": 0}, "groups is 0, expected 1 or more"),
        (FrameAutoencoderConfig, {"attention_levels": (4,)}, "attention_levels has 4, expected"),
        (FrameAutoencoderConfig, {"dtype": "float16"}, "dtype is 'float16'"),
        (TemporalDecoderConfig, {"attention": "fast"}, "attention is 'fast', expected one of"),
        (TinyAutoencoderConfig, {"halvings": 0}, "halvings is 0, expected 1 or more"),
        (TinyAutoencoderConfig, {"dtype": "float16"}, "dtype is 'float16'"),
    ],
    ids=str,
)
def test_options_that_cannot_be_had(make, changes, fault):
    with pytest.raises(InputError, match=fault):
        make(**changes)
