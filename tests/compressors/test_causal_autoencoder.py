"""Causal video autoencoders: images as first frames, causality, lengths, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal_networks import CASES, clip, programs, randomised
from flax import linen as nn

from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.compressors.causal_layers import CausalConv, PixelNorm
from jaxgen.compressors.tubelets import (
    from_tubelets,
    latent_frames,
    pad_frames,
    to_tubelets,
    trim_frames,
)
from jaxgen.errors import InputError


def test_the_defaults_are_wans():
    config = CausalAutoencoderConfig()
    video = jnp.zeros((1, 5, 16, 16, 3))
    params = jax.eval_shape(config.make_model().init, jax.random.key(0), video)["params"]
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
    }
    assert sum(counts.values()) == 126_892_531
    assert (counts["encoder"], counts["decoder"]) == (53_595_872, 73_295_331)
    assert config.strides == (4, 8, 8)
    assert config.latent_grid((17, 480, 832)) == (5, 60, 104)
    assert config.data_grid((5, 60, 104)) == (17, 480, 832)
    assert config.latent_grid((480, 832)) == (60, 104)


@pytest.mark.parametrize("name", CASES)
def test_an_image_is_its_own_first_frame_and_no_frame_changes_earlier_ones(name):
    config = CASES[name]
    params, encode, decode = programs(name)
    video = clip(config)
    h = encode(params, video)
    grid = video.shape[1:-1]
    assert h.shape == (2, *config.latent_grid(grid), config.encoder_channels)
    z = h[..., : config.latent_channels]
    x = decode(params, z)
    assert x.shape == video.shape
    assert config.data_grid(config.latent_grid(grid)) == grid
    scale = np.abs(h).max(), np.abs(x).max()
    assert min(np.std(h), np.std(x)) > 0.1
    # Images, with and without an axis of frames.
    np.testing.assert_allclose(encode(params, video[:, 0]), h[:, 0], atol=1e-6 * scale[0])
    np.testing.assert_allclose(decode(params, z[:, 0]), x[:, 0], atol=1e-6 * scale[1])
    # Causality: frames of the last latent, whichever of them, change no earlier latent, and do it.
    ratio = config.strides[0]
    for frame in (1 + ratio, 2 * ratio):
        changed = video.copy()
        changed[:, frame] += 1
        difference = np.abs(encode(params, changed) - h).max(axis=(0, 2, 3, 4))
        assert difference[:2].max() == 0 < difference[2]
    changed = z.copy()
    changed[:, 2] += 1
    difference = np.abs(decode(params, changed) - x).max(axis=(0, 2, 3, 4))
    assert difference[: 1 + ratio].max() == 0 < difference[1 + ratio :].min()
    # Later latents know earlier frames: memory reaches over the chunk of a latent.
    changed = video.copy()
    changed[:, 0] += 1
    assert np.abs(encode(params, changed) - h)[:, 1].max() > 1e-3


def test_gradients_are_finite_even_of_grey_videos_and_remat_changes_nothing():
    fields = {"width": 8, "blocks": 1, "decoder_blocks": 1, "patch": (2, 2, 2), "middle_blocks": 1}
    stored, again = (CausalAutoencoderConfig.patch_first(**fields, remat=x) for x in (False, True))
    video = clip(stored, latents=2, batch=1)

    @jax.jit
    def values_and_gradients(params, video):
        def loss(params, model):
            return jnp.mean(jnp.square(model.apply({"params": params}, video) - video))

        return [jax.value_and_grad(loss)(params, c.make_model()) for c in (stored, again)]

    params = randomised(stored)
    for data in (video, 0 * video, 1e4 * video):
        first, second = values_and_gradients(params, data)
        for leaf, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            assert np.isfinite(leaf).all()
            np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5 * (1 + np.abs(leaf).max()))
    start = nn.meta.unbox(jax.jit(stored.make_model().init)(jax.random.key(0), video))["params"]
    gradients = values_and_gradients(start, 0 * video)[0][1]
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) < 1e3


def test_half_precision_is_near_single_and_its_results_are_float32():
    config = CASES["wan"]
    params, encode, _ = programs("wan")
    video = clip(config)
    model = dataclasses.replace(config, dtype="bfloat16").make_model()
    found = jax.jit(lambda x: model.apply({"params": params}, x, method="encode"))(video)
    h = encode(params, video)
    assert found.dtype == jnp.float32
    error = np.sqrt(np.mean(np.square(np.asarray(found) - h))) / h.std()
    assert 1e-4 < error < 0.03


def naive_convolution(x, kernel, bias, before, stride):
    """Loops over outputs and the kernel, in float64."""
    x = np.concatenate([before, x], axis=1).astype(np.float64)
    kt, ky, kx = kernel.shape[:3]
    pad = [(0, 0), (0, 0), ((ky - 1) // 2, ky // 2), ((kx - 1) // 2, kx // 2), (0, 0)]
    height, width = x.shape[2:4]
    x = np.pad(x, pad)
    frames = (x.shape[1] - kt) // stride + 1
    y = np.zeros((len(x), frames, height, width, kernel.shape[-1])) + bias
    for t, i, j, k in np.ndindex(frames, kt, ky, kx):
        y[:, t] += x[:, t * stride + i, j : j + height, k : k + width] @ kernel[i, j, k]
    return y


def test_causal_convolutions_against_loops():
    rng = np.random.default_rng(0)
    for frames, size, stride, first, joint in (
        (5, (3, 3, 3), 1, False, False),
        (5, (3, 3, 3), 1, True, False),
        (5, (3, 3, 3), 1, False, True),
        (1, (3, 3, 3), 1, False, False),
        (2, (4, 1, 2), 1, False, False),
        (6, (3, 1, 1), 2, False, False),
        (6, (3, 1, 1), 2, True, True),
        (6, (4, 3, 1), 2, False, False),
        (4, (1, 1, 1), 1, False, False),
    ):
        x = rng.normal(size=(2, frames, 4, 3, 5)).astype(np.float32)
        layer = CausalConv(6, size, first_frame=first, stride=stride, joint_kernels=joint)
        shapes = nn.meta.unbox(jax.eval_shape(layer.init, jax.random.key(0), x))["params"]
        params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), shapes)
        before = np.repeat(x[:, :1] if first else 0 * x[:, :1], size[0] - stride, axis=1)
        expected = naive_convolution(x, params["kernel"], params["bias"], before, stride)
        found = jax.jit(layer.apply)({"params": params}, x)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_tubelets_and_their_inverse():
    video = np.arange(2 * 5 * 4 * 6 * 3, dtype=np.float32).reshape(2, 5, 4, 6, 3)
    cuts = jax.jit(to_tubelets, static_argnums=(1, 2, 3))
    uncut = jax.jit(from_tubelets, static_argnums=(1, 2))
    for first_frame in (False, True):
        cut = np.asarray(cuts(video, (4, 2, 3), first_frame))
        assert cut.shape == (2, 2, 2, 2, 4 * 2 * 3 * 3)
        np.testing.assert_array_equal(uncut(cut, (4, 2, 3)), video)
        first = cut[:, 0, 0, 0].reshape(2, 4, 2, 3, 3)
        np.testing.assert_array_equal(first[:, 3], video[:, 0, :2, :3])
        expected = video[:, 0, :2, :3] if first_frame else 0 * video[:, 0, :2, :3]
        for t in range(3):
            np.testing.assert_array_equal(first[:, t], expected)
        last = cut[:, 1, 1, 1].reshape(2, 4, 2, 3, 3)
        np.testing.assert_array_equal(last, video[:, 1:, 2:, 3:])
    later = cuts(video[:, 1:], (4, 2, 3), False, False)
    np.testing.assert_array_equal(later, cut[:, 1:])
    np.testing.assert_array_equal(uncut(later, (4, 2, 3), False), video[:, 1:])


def test_norms_are_of_pixels():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    x[0, 0, 0, 0] = 0
    scale = np.arange(1.0, 7.0, dtype=np.float32)
    for epsilon in (0.0, 0.5):
        norm = PixelNorm(epsilon)
        length = np.sqrt(np.mean(np.square(x), -1, keepdims=True) + epsilon)
        expected = x / np.maximum(length, 1e-12) * scale
        found = jax.jit(norm.apply)({"params": {"scale": scale}}, x)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_lengths_are_padded_and_trimmed():
    video = np.random.default_rng(0).normal(size=(1, 11, 2, 2, 1)).astype(np.float32)
    for frames, padded in ((1, 1), (2, 5), (5, 5), (6, 9), (9, 9), (11, 13)):
        part = video[:, :frames]
        longer = np.asarray(jax.jit(pad_frames, static_argnums=1)(part, 4))
        assert longer.shape[1] == padded
        assert latent_frames(padded, 4) == (padded + 3) // 4
        np.testing.assert_array_equal(trim_frames(longer, frames), part)
        for t in range(frames, padded):
            np.testing.assert_array_equal(longer[:, t], part[:, -1])


def test_errors_name_what_is_wrong():
    wan = CausalAutoencoderConfig()
    with pytest.raises(InputError, match=r"6 frames, expected 1 \+ 4 k, such as 5 or 9"):
        wan.latent_grid((6, 16, 16))
    with pytest.raises(InputError, match=r"0 frames, expected 1 \+ 4 k, such as 1"):
        latent_frames(0, 4)
    with pytest.raises(InputError, match="12 x 16 pixels, expected multiples of 8 x 8"):
        wan.latent_grid((5, 12, 16))
    with pytest.raises(InputError, match="frames is 6, expected 1 to 5"):
        trim_frames(np.zeros((1, 5, 2, 2, 1), np.float32), 6)
    config = CASES["first_frame"]
    params, encode, decode = programs("first_frame")
    with pytest.raises(InputError, match=r"4 frames, expected 1 \+ 2 k, such as 3 or 5"):
        encode(params, np.zeros((1, 4, 4, 4, 3), np.float32))
    with pytest.raises(InputError, match=r"data have shape \(1, 3, 4, 4, 1\), expected"):
        encode(params, np.zeros((1, 3, 4, 4, 1), np.float32))
    with pytest.raises(InputError, match=r"latents have shape \(1, 2, 2, 4\), expected"):
        decode(params, np.zeros((1, 2, 2, config.latent_channels + 1), np.float32))
    for fields, message in (
        ({"temporal_down": (True,)}, "temporal_down is .* expected 3 entries"),
        ({"padding": "mirror"}, "padding is 'mirror', expected 'zeros' or 'first_frame'"),
        ({"middle_blocks": 1}, "middle_blocks is 1, expected 2 or more"),
        ({"patch": (4, 8)}, r"patch is \(4, 8\), expected three sides"),
        ({"decoder_width": 5, "multipliers": (1, 3, 4, 4)}, "has 15 channels, expected an even"),
        ({"width": 0}, "width is 0, expected 1 or more"),
        ({"multipliers": ()}, "multipliers are"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ):
        with pytest.raises(InputError, match=message):
            CausalAutoencoderConfig(**fields)
