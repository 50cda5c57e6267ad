"""Lookup-free quantisation: bits, and the entropy loss against all codes one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.compressors.bottlenecks import LFQConfig
from jaxgen.errors import InputError


def reference(h, config):
    """The loss of each example in float64, from the probabilities of all codes."""
    codebook = np.array(list(itertools.product([-1.0, 1.0], repeat=config.bits)))
    logits = 2 * h.astype(np.float64) @ codebook.T / config.temperature
    logits -= logits.max(-1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    def entropy(p):
        return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=-1)

    certainty = entropy(p).mean(tuple(range(1, h.ndim - 1)))
    diversity = entropy(p.reshape(-1, p.shape[-1]).mean(0))
    commitment = ((h - np.where(h > 0, 1, -1)) ** 2).mean(tuple(range(1, h.ndim)))
    entropies = certainty - config.diversity * diversity
    return config.entropy_weight * entropies + config.commitment * commitment


@pytest.mark.parametrize(
    "config",
    [
        LFQConfig(5, entropy_weight=0.3, diversity=0.7, temperature=0.5),
        LFQConfig(6, temperature=3.0),
        LFQConfig(1, entropy_weight=1.0, temperature=1.0, commitment=0.0),
    ],
)
def test_the_loss_is_that_of_all_codes_one_by_one(config):
    h = np.random.default_rng(0).normal(size=(3, 2, 4, config.bits)).astype(np.float32)
    latent = jax.jit(lambda h: config.make_model().apply({}, h))(h)
    np.testing.assert_allclose(latent.loss, reference(h, config), rtol=2e-5, atol=1e-6)


def test_the_gradient_of_the_loss_is_that_of_differences():
    config = LFQConfig(3, entropy_weight=1.0, diversity=0.5, temperature=2.0)
    h = np.random.default_rng(1).normal(size=(2, 2, 3)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda h: config.make_model().apply({}, h).loss.mean()))(h)
    for index in np.ndindex(h.shape):
        ends = [h.astype(np.float64), h.astype(np.float64)]
        for end, step in zip(ends, (-1e-5, 1e-5), strict=True):
            end[index] += step
        low, high = (reference(end, config).mean() for end in ends)
        np.testing.assert_allclose(gradient[index], (high - low) / 2e-5, rtol=1e-3, atol=1e-5)


def test_codes_are_bits_the_first_number_most_significant_and_come_back():
    config = LFQConfig(10)
    module = config.make_model()
    codes = np.arange(1024, dtype=np.int32)[:, None]
    values = jax.jit(lambda codes: module.apply({}, codes, method="values"))(codes)
    np.testing.assert_array_equal(values[0b1000000011, 0], [1, *[-1] * 7, 1, 1])
    latent, gradient = jax.jit(
        lambda h: (
            module.apply({}, h),
            jax.grad(lambda h: module.apply({}, h).values.sum())(h),
        )
    )(0.3 * values)
    np.testing.assert_array_equal(latent.codes, codes)
    np.testing.assert_array_equal(latent.values, values)
    np.testing.assert_array_equal(gradient, 1)
    np.testing.assert_allclose(latent.metrics["perplexity"], 1024, rtol=1e-5)
    np.testing.assert_allclose(latent.metrics["batch_entropy"], np.log(1024), rtol=1e-5)
    assert latent.codes.dtype == jnp.int32
    assert config.encoder_channels == config.latent_channels == 10


def test_zero_is_minus_one_and_extremes_are_finite():
    """At the temperature 0.01 probabilities underflow to 0 and 1."""
    module = LFQConfig(4, entropy_weight=1.0).make_model()
    h = jnp.array([[0.0, -0.0, 1e4, -1e4], [1.0, -1.0, 1e-8, 30.0]])[:, None]
    latent, gradient = jax.jit(
        lambda h: (
            module.apply({}, h),
            jax.grad(lambda h: module.apply({}, h).loss.sum())(h),
        )
    )(h)
    np.testing.assert_array_equal(latent.values[:, 0], [[-1, -1, 1, -1], [1, -1, 1, 1]])
    assert np.isfinite(latent.loss).all()
    assert np.isfinite(gradient).all()


def test_large_codebooks_need_no_array_of_positions_times_codes():
    """2^18 codes, 512 positions: codes and positions together would be 512 MiB."""
    module = LFQConfig(18).make_model()
    h = jax.ShapeDtypeStruct((2, 256, 18), jnp.float32)
    compiled = jax.jit(jax.grad(lambda h: module.apply({}, h).loss.mean())).lower(h).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 32 * 2**20


def test_bad_values_are_refused():
    for kwargs, message in (
        ({"bits": 0}, "bits is 0, expected 1 or more"),
        ({"bits": 25}, r"2 \*\* bits is 33554432, expected 2 to 16777216 codes"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a finite number > 0"),
        ({"diversity": -1.0}, "diversity is -1.0, expected a finite number >= 0"),
    ):
        with pytest.raises(InputError, match=message):
            LFQConfig(**kwargs)
    with pytest.raises(InputError, match="codes hold 16, expected 0 to 15, the codebook's"):
        LFQConfig(4).make_model().apply({}, np.array([16]), method="values")
