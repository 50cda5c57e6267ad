"""Samples of rays against the densities that they are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import nerf
from jaxgen.nerf.ray_samples import jittered_edges

even_edges = jax.jit(nerf.even_edges, static_argnums=2)
inverse_cdf, stratified_distances = map(jax.jit, (nerf.inverse_cdf, nerf.stratified_distances))
resampled_edges = jax.jit(nerf.resampled_edges, static_argnums=2)
ray_jitter = jax.jit(nerf.ray_jitter, static_argnums=2)


def uneven(rays=3, samples=6, seed=0):
    rng = np.random.default_rng(seed)
    edges = 2 + np.cumsum(rng.uniform(0.1, 1, size=(rays, samples + 1)), axis=1)
    weights = rng.uniform(size=(rays, samples))
    weights[:, 2] = 0
    return edges.astype(np.float32), weights.astype(np.float32)


def test_even_intervals_and_their_midpoints():
    edges = even_edges(jnp.array([0.0, 2.0, 3.0]), jnp.array([1.0, 6.0, 3.0]), 4)
    np.testing.assert_allclose(edges[1], [2, 3, 4, 5, 6])
    np.testing.assert_allclose(edges[2], 3)
    np.testing.assert_allclose(stratified_distances(edges)[1], [2.5, 3.5, 4.5, 5.5])
    jitter = np.random.default_rng(0).uniform(size=(3, 4)).astype(np.float32)
    found = np.asarray(stratified_distances(edges, jitter))
    np.testing.assert_allclose(found[1], np.arange(2, 6) + jitter[1], rtol=1e-6)


def test_the_inverse_of_the_cumulative_sum():
    """F(F^-1(u)) = u, with F by numpy's interpolation; intervals without weight are left out."""
    edges, weights = uneven()
    u = np.tile(np.linspace(0, 1, 101, dtype=np.float32), (3, 1))
    found = np.asarray(inverse_cdf(edges, weights, u))
    for ray in range(3):
        cumulative = np.concatenate([[0], np.cumsum(weights[ray]) / weights[ray].sum()])
        np.testing.assert_allclose(np.interp(found[ray], edges[ray], cumulative), u[ray], atol=1e-5)
        assert np.all(np.diff(found[ray]) > 0)
        within = (found[ray] > edges[ray, 2] + 1e-4) & (found[ray] < edges[ray, 3] - 1e-4)
        assert not within.any()
    np.testing.assert_allclose(found[:, [0, -1]], edges[:, [0, -1]], rtol=1e-6)


def test_samples_have_the_density_of_the_weights():
    """Histograms of 100,000 samples, to 5 deviations."""
    edges, weights = uneven()
    count = 100_000
    u = np.random.default_rng(0).uniform(size=(3, count)).astype(np.float32)
    found = np.asarray(inverse_cdf(edges, weights, u))
    share = weights / weights.sum(axis=1, keepdims=True)
    for ray in range(3):
        counts, _ = np.histogram(found[ray], edges[ray])
        error = 5 * np.sqrt(share[ray] * count) + 1
        assert np.all(np.abs(counts - share[ray] * count) <= error)


def assert_uniform(values, low, high):
    """Chi-square over 64 bins, to 5 deviations; values that are stratified have a smaller one."""
    counts, _ = np.histogram(values, 64, (low, high))
    assert counts.sum() == np.size(values)
    expected = np.size(values) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * np.sqrt(2 * 63)


def test_jittered_samples_and_edges_are_uniform():
    """Of 50,000 rays: samples over all of the ray, inner edges but for half an interval."""

    @jax.jit
    def draw(key):
        jitter = ray_jitter(key, jnp.arange(50_000), 8)
        edges = jnp.broadcast_to(jnp.linspace(2.0, 6.0, 9), (50_000, 9))
        return nerf.stratified_distances(edges, jitter), jittered_edges(edges, jitter)

    samples, edges = map(np.asarray, draw(jax.random.key(0)))
    assert_uniform(samples, 2, 6)
    assert_uniform(edges[:, 1:-1], 2.25, 5.75)
    assert np.all(np.diff(edges) >= 0)
    np.testing.assert_array_equal(edges[:, [0, -1]], np.tile([2, 6], (50_000, 1)))


def test_jittered_intervals_have_the_density_of_the_weights():
    """The shares of the weights below 9 inner edges of 20,000 rays are uniform on (0.05, 0.95)."""
    edges, weights = uneven()

    @jax.jit
    def draw(key):
        jitter = ray_jitter(key, jnp.arange(20_000), 9)
        each = [jnp.broadcast_to(x[0], (20_000, x.shape[1])) for x in (edges, weights)]
        return nerf.resampled_edges(*each, 10, jitter, 0.05)

    inner = np.asarray(draw(jax.random.key(1)))[:, 1:-1]
    cumulative = np.concatenate([[0], np.cumsum(weights[0] + 0.05)])
    shares = np.interp(inner, edges[0], cumulative / cumulative[-1])
    assert_uniform(np.clip(shares, 0.05 + 1e-6, 0.95 - 1e-6), 0.05, 0.95)


def test_new_intervals_share_the_weights_evenly():
    """With the padding, between the ends of the old ones."""
    edges, weights = uneven()
    found = np.asarray(resampled_edges(edges, weights, 10, padding=0.05))
    assert found.shape == (3, 11)
    np.testing.assert_allclose(found[:, [0, -1]], edges[:, [0, -1]])
    for ray in range(3):
        cumulative = np.concatenate([[0], np.cumsum(weights[ray] + 0.05)])
        mass = np.diff(np.interp(found[ray], edges[ray], cumulative))
        np.testing.assert_allclose(mass, cumulative[-1] / 10, rtol=1e-3)


def test_jittered_intervals_rise_and_cover_the_ray():
    edges, weights = uneven(rays=50)
    jitter = np.asarray(ray_jitter(jax.random.key(0), jnp.arange(50), 9))
    found = np.asarray(resampled_edges(edges, weights, 10, jitter))
    assert np.all(np.diff(found, axis=1) >= 0)
    np.testing.assert_allclose(found[:, [0, -1]], edges[:, [0, -1]])
    plain = np.asarray(resampled_edges(edges, weights, 10))
    assert np.abs(found - plain).max() > 0.01


def test_rays_without_length_or_weight_stay_finite():
    edges = np.full((2, 5), 3, np.float32)
    edges[1] = np.arange(5)
    nothing = np.zeros((2, 4), np.float32)
    u = np.tile(np.linspace(0, 1, 5, dtype=np.float32), (2, 1))
    np.testing.assert_allclose(inverse_cdf(edges, nothing, u), edges, atol=1e-6)
    np.testing.assert_allclose(resampled_edges(edges, nothing, 4), edges, atol=1e-6)


def test_no_gradient_passes_through_places():
    edges, weights = uneven()

    def total(edges, weights):
        return resampled_edges(edges, weights, 7).sum() + even_edges(*edges.T[:2], 3).sum()

    for gradient in jax.jit(jax.grad(total, (0, 1)))(edges, weights):
        np.testing.assert_array_equal(gradient, 0)


def test_jitter_depends_on_the_key_and_the_number_of_a_ray_alone():
    whole = np.asarray(ray_jitter(jax.random.key(3), jnp.arange(400), 5))
    some = np.asarray(ray_jitter(jax.random.key(3), jnp.array([7, 3, 399]), 5))
    np.testing.assert_array_equal(some, whole[[7, 3, 399]])
    assert np.all((whole >= 0) & (whole < 1))
    assert whole.mean() == pytest.approx(0.5, abs=5 * np.sqrt(1 / 12 / 2000))
    assert len(np.unique(whole)) > 1990
