"""Tiles: the reach of the layers, exact tiles with halos, blended tiles and their error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal_networks import randomised
from flax import linen as nn

from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig
from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.compressors.tiling import (
    blend_tiles,
    decoder_reach,
    encoder_reach,
    exact_tiles,
    plan_tiles,
    tiled_decode,
    tiled_encode,
)
from jaxgen.errors import InputError

SMALL = {
    "latent_channels": 2,
    "encoder_channels": 4,
    "width": 4,
    "blocks": 1,
    "decoder_blocks": 1,
    "middle_attention": False,
    "norm_epsilon": 1e-6,
}
LEVELS = CausalAutoencoderConfig(
    **SMALL, multipliers=(1, 2, 2), temporal_down=(False, True), middle_blocks=0
)
PATCHES = CausalAutoencoderConfig.patch_first(
    **{**SMALL, "encoder_channels": 4}, patch=(2, 2, 4), data_kernel=(1, 3, 3)
)


@pytest.mark.parametrize("config", [LEVELS, PATCHES], ids=["levels", "patches"])
def test_tiles_with_halos_equal_the_whole_and_the_reach_is_no_larger_than_needed(config):
    params, model = randomised(config), config.make_model()
    r, y, x = config.strides
    cells = 20, 17
    video = np.random.default_rng(0).normal(size=(1, 1 + r, cells[0] * y, cells[1] * x, 3))
    video = video.astype(np.float32)
    encode, decode = (
        jax.jit(lambda params, x, way=way: model.apply({"params": params}, x, method=way))
        for way in ("encode", "decode")
    )
    h = np.asarray(encode(params, video))
    found = tiled_encode(config, params, video, tile=(8, 5))
    np.testing.assert_allclose(found, h, atol=1e-5 * np.abs(h).max())
    z = h[..., : config.latent_channels]
    whole = np.asarray(decode(params, z))
    found = tiled_decode(config, params, z, tile=(6, 7))
    np.testing.assert_allclose(found, whole, atol=1e-5 * np.abs(whole).max())
    # The reach: the pixels and latents that one cell in the middle depends on.
    row, column = cells[0] // 2, cells[1] // 2

    @jax.jit
    def influence(params, video, z):
        def latent(video):
            return jnp.sum(jnp.square(encode(params, video)[:, :, row, column]))

        def pixels(z):
            rows = slice(row * y, (row + 1) * y)
            columns = slice(column * x, (column + 1) * x)
            return jnp.sum(jnp.square(decode(params, z)[:, :, rows, columns]))

        return jax.grad(latent)(video), jax.grad(pixels)(z)

    of_latent, of_pixels = (np.abs(g).max(axis=(0, 1, 4)) for g in influence(params, video, z))
    for found, stride, reach in (
        (of_latent, (y, x), encoder_reach(config)),
        (of_pixels, (1, 1), decoder_reach(config)),
    ):
        for axis, centre in ((0, row), (1, column)):
            seen = np.flatnonzero(found.max(axis=1 - axis))
            first, last = centre * stride[axis], (centre + 1) * stride[axis] - 1
            assert max(first - seen[0], seen[-1] - last) == reach[axis]


def test_tiles_of_an_axis_cover_it_once_with_their_halos():
    for cells, tile, halo in ((20, 8, 3), (7, 8, 2), (16, 4, 0), (9, 2, 5), (1, 1, 1)):
        plan = plan_tiles(cells, tile, halo)
        kept = [i for start, stop in plan.kept for i in range(start, stop)]
        assert kept == list(range(cells))
        for window, (start, stop) in zip(plan.starts, plan.kept, strict=True):
            assert 0 <= window <= cells - plan.window
            assert window <= max(start - halo, 0)
            assert window + plan.window >= min(stop + halo, cells)


def test_blended_tiles_are_exact_for_functions_of_a_pixel_and_approximate_otherwise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 16, 20, 3)).astype(np.float32)
    shapes = []

    def larger(x):
        shapes.append(x.shape)
        return np.repeat(np.repeat(x, 2, axis=-3), 4, axis=-2) ** 2

    for overlap in (0.0, 0.25, 0.4):
        found = blend_tiles(larger, x, (16, 20), (8, 8), overlap)
        np.testing.assert_allclose(found, larger(x), rtol=1e-5)
    assert {shape[-3:-1] for shape in shapes[:-1]} == {(8, 8), (16, 20)}
    # Cells of several pixels: pixels to cells.
    pooled = blend_tiles(lambda x: np.asarray(x)[..., ::2, ::4, :], x, (8, 5), (4, 4))
    np.testing.assert_allclose(pooled, x[..., ::2, ::4, :], rtol=1e-6)
    # A step between two tiles becomes a ramp over the overlap, in pixels of the result.
    tile = [0.0]

    def constant(x):
        tile[0] += 1
        return np.full((1, 2, 4 * x.shape[-2], 1), tile[0])

    line = np.asarray(blend_tiles(constant, np.zeros((1, 1, 14, 1), np.float32), (1, 14), (1, 8)))
    ramp = 1 + (np.arange(8) + 0.5) / 8
    expected = np.concatenate([np.ones(24), ramp, np.full(24, 2.0)])
    np.testing.assert_allclose(line[0, 0, :, 0], expected, rtol=1e-6)


def test_attention_over_the_frame_is_refused_and_its_blended_error_is_measured():
    config = CausalAutoencoderConfig(
        **{**SMALL, "middle_attention": True, "multipliers": (1, 2), "temporal_down": (True,)}
    )
    params, model = randomised(config), config.make_model()
    z = np.random.default_rng(0).normal(size=(1, 2, 16, 16, 2)).astype(np.float32)
    with pytest.raises(InputError, match="middle_attention sees the whole frame, expected"):
        tiled_decode(config, params, z)
    with pytest.raises(InputError, match="middle_attention"):
        encoder_reach(config)
    decode = jax.jit(lambda z: model.apply({"params": params}, z, method="decode"))
    whole = np.asarray(decode(z))
    errors = {}
    for overlap in (0.0, 0.25):
        found = np.asarray(blend_tiles(decode, z, (16, 16), (12, 12), overlap))
        assert found.shape == whole.shape
        errors[overlap] = float(np.sqrt(np.mean(np.square(found - whole))) / whole.std())
    print(errors)
    assert 1e-4 < errors[0.25] < 0.2
    assert errors[0.25] < errors[0.0]


def test_blended_tiles_of_a_decoder_with_group_norms_are_near_the_whole():
    config = FrameAutoencoderConfig(
        channels=(8, 8), blocks=1, groups=2, latent_channels=2, middle_attention=False
    )
    model = config.make_model()
    image = jnp.zeros((1, 2, 2, 3))
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), image))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape) / max(1, np.prod(x.shape[:-1])) ** 0.5, shapes
    )
    decode = jax.jit(lambda z: model.apply(params, z, method="decode"))
    z = rng.normal(size=(1, 32, 32, 2)).astype(np.float32)
    whole = np.asarray(decode(z))
    found = np.asarray(blend_tiles(decode, z, (32, 32), (24, 24)))
    assert found.shape == whole.shape
    error = float(np.sqrt(np.mean(np.square(found - whole))) / whole.std())
    print(error)
    assert 1e-4 < error < 0.2


def test_what_is_wrong_is_named():
    x = np.zeros((1, 10, 8, 3), np.float32)
    with pytest.raises(InputError, match=r"data have shape .* multiples of 4 and 4 cells"):
        exact_tiles(lambda x: x, x, (4, 4), (2, 2), (1, 1))
    with pytest.raises(InputError, match=r"overlap is 0\.5, expected"):
        blend_tiles(lambda x: x, x, (5, 4), (2, 2), 0.5)
    with pytest.raises(InputError, match="tile and halo are 0 and 1 cells"):
        plan_tiles(4, 0, 1)
