"""Contractions of space, of points and of Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nerf import contract, contract_gaussian

contracted = jax.jit(contract_gaussian)


@pytest.mark.parametrize("norm", ["largest", "euclidean"])
def test_space_fits_into_radius_two(norm):
    """Inside it stays; a point at norm n goes to 2 - 1 / n, in its direction."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 3)) * np.geomspace(0.01, 1e6, 200)[:, None]).astype(np.float32)
    size = np.abs(x).max(-1) if norm == "largest" else np.linalg.norm(x, axis=-1)
    found, slope = jax.jit(
        lambda x: (contract(x, norm), jax.vmap(jax.jacobian(lambda x: contract(x, norm)))(x))
    )(x)
    expected = np.where(size < 1, size, 2 - 1 / np.maximum(size, 1))
    np.testing.assert_allclose(found, x / size[:, None] * expected[:, None], rtol=1e-5)
    assert np.all(np.isfinite(slope))


def test_a_small_gaussian_is_contracted_as_its_samples_are():
    rng = np.random.default_rng(1)
    means = np.array([[0.3, 0.2, -0.5], [3.0, -1.0, 2.0], [0.0, 20.0, 5.0]])
    for mean in means:
        root = rng.normal(size=(3, 3)) * 1e-3 * np.linalg.norm(mean)
        covariance = root @ root.T
        draws = mean + rng.normal(size=(200_000, 3)) @ root.T
        size = np.linalg.norm(draws, axis=-1, keepdims=True)
        moved = np.where(size <= 1, draws, (2 - 1 / size) * draws / size)
        found_mean, found = contracted(mean.astype(np.float32), covariance.astype(np.float32))
        np.testing.assert_allclose(found_mean, moved.mean(axis=0), atol=2e-5)
        scale = np.abs(np.cov(moved.T)).max()
        np.testing.assert_allclose(np.asarray(found) / scale, np.cov(moved.T) / scale, atol=0.02)


def test_gradients_are_finite_at_the_origin_and_the_border():
    x = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1e8, 1.0, 0.0]], np.float32)

    @jax.jit
    @jax.grad
    def total(x):
        mean, covariance = contract_gaussian(x, jnp.broadcast_to(jnp.eye(3), (3, 3, 3)))
        return mean.sum() + covariance.sum() + contract(x, "euclidean").sum()

    assert np.all(np.isfinite(total(x)))
