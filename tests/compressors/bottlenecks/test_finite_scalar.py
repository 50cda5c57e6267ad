"""Finite scalar quantisation: every code there and back, the formula in numpy, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.compressors.bottlenecks import FSQConfig, total_code_counts
from jaxgen.errors import InputError

LEVELS = [(8, 5, 5, 5), (8, 8, 8, 5, 5, 5), (2,), (3, 2, 7), (16, 9, 4), (1000, 2)]


def reference(h, levels):
    """Values and codes of the paper's formula in float64."""
    levels = np.array(levels)
    half = (levels - 1) * 1.001 / 2
    offset = np.where(levels % 2 == 0, 0.5, 0.0)
    bounded = np.tanh(h + np.arctanh(offset / half)) * half - offset
    steps = np.round(bounded).astype(int)
    places = [int(np.prod(levels[:i])) for i in range(len(levels))]
    return steps / (levels // 2), ((steps + levels // 2) * places).sum(-1)


def encodings_of(values, levels):
    """h whose bound is exactly in the middle of each level."""
    levels = np.array(levels)
    half = (levels - 1) * 1.001 / 2
    offset = np.where(levels % 2 == 0, 0.5, 0.0)
    steps = np.asarray(values, np.float64) * (levels // 2)
    return np.arctanh((steps + offset) / half) - np.arctanh(offset / half)


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_comes_back_exactly(levels):
    config = FSQConfig(levels)
    module = config.make_model()
    codes = np.arange(config.codebook_size, dtype=np.int32)[:, None]
    values = jax.jit(lambda codes: module.apply({}, codes, method="values"))(codes)
    assert len(np.unique(values, axis=0)) == config.codebook_size
    latent = jax.jit(lambda h: module.apply({}, h))(encodings_of(values, levels).astype(np.float32))
    np.testing.assert_array_equal(latent.codes, codes)
    np.testing.assert_array_equal(latent.values, values)
    np.testing.assert_allclose(latent.metrics["perplexity"], config.codebook_size, rtol=1e-4)
    assert total_code_counts([latent.codes], config.codebook_size).max() == 1
    assert latent.codes.dtype == jnp.int32
    assert not latent.loss.any()
    assert latent.loss.shape == (len(codes),)


def test_published_codebooks():
    assert FSQConfig((8, 5, 5, 5)).codebook_size == 1_000
    assert FSQConfig((8, 8, 8, 5, 5, 5)).codebook_size == 64_000
    config = FSQConfig([8, 5])
    assert config == FSQConfig((8, 5))
    assert config.latent_channels == config.encoder_channels == 2
    assert hash(config)


def test_values_codes_and_gradients_are_those_of_the_formula():
    levels = (8, 5, 2, 3)
    module = FSQConfig(levels).make_model()
    h = np.random.default_rng(0).normal(size=(3, 4, 5, 4)).astype(np.float32) * 2

    @jax.jit
    def both(h):
        latent, pull = jax.vjp(lambda h: module.apply({}, h).values, h)
        return module.apply({}, h), pull(jnp.ones_like(latent))[0]

    latent, gradient = both(h)
    values, codes = reference(h, levels)
    np.testing.assert_allclose(latent.values, values, rtol=1e-6)
    np.testing.assert_array_equal(latent.codes, codes)
    levels = np.array(levels)
    half = (levels - 1) * 1.001 / 2
    shift = np.arctanh(np.where(levels % 2 == 0, 0.5, 0.0) / half)
    slope = half / np.cosh(h + shift) ** 2 / (levels // 2)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


def test_the_middle_and_both_ends():
    levels = (8, 5, 2, 1000)
    module = FSQConfig(levels).make_model()
    h = jnp.array([0.0, 1e4, -1e4])[:, None] * jnp.ones(4)
    latent, gradient = jax.jit(
        lambda h: (
            module.apply({}, h),
            jax.grad(lambda h: module.apply({}, h).values.sum())(h),
        )
    )(h)
    np.testing.assert_array_equal(latent.values[0], 0)
    np.testing.assert_allclose(latent.values[1], [0.75, 1, 0, 0.998], rtol=1e-6)
    np.testing.assert_array_equal(latent.values[2], -1)
    assert np.isfinite(gradient).all()
    assert latent.codes[1] == 8 * 5 * 2 * 1000 - 1
    assert latent.codes[2] == 0


def test_bad_values_are_refused():
    for levels in ((), (1, 5), (8, 1001)):
        with pytest.raises(InputError, match=r"levels is \(.*expected numbers from 2 to 1000"):
            FSQConfig(levels)
    with pytest.raises(InputError, match="codebook_size is 1000000000, expected 2 to 16777216"):
        FSQConfig((1000, 1000, 1000))
    module = FSQConfig((8, 5)).make_model()
    with pytest.raises(InputError, match=r"h has shape \(2, 3\), expected \[B, ..., 2\]"):
        module.apply({}, jnp.zeros((2, 3)))
    for bad in (40, -1):
        codes = np.array([0, bad, 39])
        with pytest.raises(InputError, match=f"codes hold {bad}, expected 0 to 39, the codebook's"):
            module.apply({}, codes, method="values")
        traced = jax.jit(lambda codes: module.apply({}, codes, method="values"))(codes)
        np.testing.assert_array_equal(np.isnan(traced).any(-1), [False, True, False])
    with pytest.raises(InputError, match="codes have dtype float32, expected integers"):
        module.apply({}, np.zeros(3, np.float32), method="values")
