"""The Gaussian bottleneck: its divergence against numpy and samples, noise, extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.compressors.bottlenecks import KLConfig
from jaxgen.errors import InputError

MODULE = KLConfig(latent_channels=3).make_model()
KEY = jax.random.key(0)
H = np.random.default_rng(0).normal(size=(4, 2, 5, 6)).astype(np.float32)


@jax.jit
def latent_of(h, key=None):
    return MODULE.apply({}, h, key)


def test_without_a_key_values_are_the_means_and_nothing_is_learned():
    latent = latent_of(H)
    np.testing.assert_array_equal(latent.values, H[..., :3])
    assert latent.codes is None
    assert not jax.tree.leaves(jax.eval_shape(MODULE.init, KEY, H))
    config = MODULE.config
    assert (config.latent_channels, config.encoder_channels, config.codebook_size) == (3, 6, None)


def test_the_loss_is_the_closed_form_summed_over_an_examples_numbers():
    mean, log_variance = np.split(H.astype(np.float64), 2, axis=-1)
    terms = (mean**2 + np.exp(log_variance) - 1 - log_variance) / 2
    latent = latent_of(H)
    np.testing.assert_allclose(latent.loss, terms.sum((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(latent.metrics["kl"], terms.sum((1, 2, 3)).mean(), rtol=1e-6)
    assert not latent_of(jnp.zeros((2, 4, 6))).loss.any()


def test_samples_have_the_moments_and_their_divergence_is_the_loss():
    """log q - log p averaged over 200,000 samples, within four standard errors."""
    mean, log_variance = np.array([0.5, -1.0, 0.0]), np.array([-1.0, 0.5, 0.2])
    h = np.broadcast_to(np.concatenate([mean, log_variance]), (1, 200_000, 6)).astype(np.float32)
    latent = latent_of(h, KEY)
    z = np.asarray(latent.values[0], np.float64)
    deviation = np.exp(log_variance / 2)
    np.testing.assert_allclose(z.mean(0), mean, atol=4 * deviation.max() / 200_000**0.5)
    np.testing.assert_allclose(z.std(0), deviation, rtol=0.01)
    log_ratio = (z**2 - ((z - mean) / deviation) ** 2 - log_variance).sum(1) / 2
    error = log_ratio.std() / 200_000**0.5
    assert abs(log_ratio.mean() - latent.loss[0] / 200_000) < 4 * error < 0.02


def test_noise_follows_the_key_and_not_the_batch_size():
    values = latent_of(H, KEY).values
    np.testing.assert_array_equal(latent_of(H, KEY).values, values)
    np.testing.assert_array_equal(latent_of(H[:2], KEY).values, values[:2])
    assert (latent_of(H, jax.random.key(1)).values != values).all()


def test_extreme_moments_are_clipped_and_everything_stays_finite():
    h = jnp.array([[0.0, 0, 0, -1e4, 0, 1e4], [1e3, -1e3, 0, -30, 20, 0]])[:, None]
    latent = latent_of(h, KEY)
    clipped = latent_of(jnp.clip(h, -30, 20).at[1].set(h[1]), KEY)
    np.testing.assert_array_equal(latent.loss, clipped.loss)
    np.testing.assert_allclose(latent.loss[0], (29 + np.exp(20) - 21) / 2, rtol=1e-6)

    @jax.jit
    @jax.grad
    def gradient(h):
        latent = MODULE.apply({}, h, KEY)
        return latent.values.sum() + latent.loss.sum()

    assert jnp.isfinite(latent.values).all()
    assert jnp.isfinite(gradient(h)).all()
    assert not gradient(h)[0, 0, [3, 5]].any()


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="latent_channels is 0, expected 1 or more"):
        KLConfig(0)
    for shape in ((2, 4, 3), (6,)):
        with pytest.raises(InputError, match=r"h has shape .*, expected \[B, ..., 6\] of the enc"):
            MODULE.apply({}, jnp.zeros(shape))
