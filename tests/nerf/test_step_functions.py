"""Identities of step functions that any implementation has to fulfil.

They are those that the authors of "Zip-NeRF" (Barron et al. 2023) hold theirs to in camp_zipnerf:
how losses move and scale, and samples of histograms with many, empty and coinciding intervals.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen import nerf
from jaxgen.nerf.ray_samples import blurred_weights, jittered_edges

distortion_loss = jax.jit(nerf.distortion_loss)
inverse_cdf = jax.jit(nerf.inverse_cdf)
resampled_edges = jax.jit(nerf.resampled_edges, static_argnums=(2, 4))


def histogram(rays=10, samples=8, seed=0):
    """Edges in (-3, 3), one interval in ten without length, and weights."""
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(-3, 3, size=(rays, samples + 1)), axis=-1)
    shut = rng.uniform(size=(rays, samples)) < 0.1
    edges[:, 1:] = np.where(shut, edges[:, :-1], edges[:, 1:])
    return edges.astype(np.float32), rng.uniform(size=(rays, samples)).astype(np.float32)


def test_distortion_does_not_change_where_edges_move():
    edges, weights = histogram()
    shift = np.random.default_rng(1).normal(size=(10, 1)).astype(np.float32)
    expected = distortion_loss(edges, weights)
    np.testing.assert_allclose(distortion_loss(edges + shift, weights), expected, rtol=1e-4)


def test_distortion_is_linear_in_lengths_and_quadratic_in_weights():
    edges, weights = histogram()
    a, b = np.exp(np.random.default_rng(2).normal(size=(2, 10, 1))).astype(np.float32)
    expected = np.asarray(distortion_loss(edges, weights)) * (a * b**2)[:, 0]
    np.testing.assert_allclose(distortion_loss(a * edges, b * weights), expected, rtol=1e-4)


def test_samples_keep_the_distribution_where_edges_coincide():
    """What an interval without length weighs is found in its one place."""
    edges, weights = histogram(samples=16, seed=3)
    count = 200_000
    u = (np.arange(count, dtype=np.float32) + 0.5) / count
    found = np.asarray(inverse_cdf(edges, weights, np.tile(u, (10, 1))))
    assert np.all(np.diff(found, axis=1) >= 0)
    for ray in range(10):
        places = np.unique(edges[ray])
        share = weights[ray] / weights[ray].sum()
        # The share up to each place, that of intervals that end there included.
        expected = [share[edges[ray, 1:] <= place].sum() for place in places]
        below = np.searchsorted(found[ray], places + 1e-6) / count
        np.testing.assert_allclose(below, expected, atol=1e-4)


@pytest.mark.parametrize("weight", [1, 99_998])
def test_a_hundred_samples_of_a_hundred_thousand_intervals(weight):
    """Even intervals, and the same with half of all weight in the middle one."""
    edges = np.arange(100_000, dtype=np.float32)
    weights = np.ones(len(edges) - 1, np.float32)
    middle = len(weights) // 2
    weights[middle] = weight
    u = (np.arange(100, dtype=np.float32) + 0.5) / 100
    found = np.asarray(inverse_cdf(edges[None], weights[None], u[None]))[0]
    assert found.min() >= edges[0]
    assert found.max() <= edges[-1]
    within = (found >= middle) & (found <= middle + 1)
    assert within.mean() == pytest.approx(0.5 if weight > 1 else 0, abs=0.01)
    uniform = scipy.stats.kstest(found, "uniform", (edges[0], edges[-1])).statistic
    assert uniform == pytest.approx(0.25 if weight > 1 else 0.0, abs=0.02)


def test_all_samples_are_in_the_one_interval_that_weighs_something():
    edges = jnp.array([[0.0, 1.0, 3.0, 6.0, 10.0]])
    u = (jnp.arange(625.0) + 0.5)[None] / 625
    for i in range(4):
        found = np.asarray(inverse_cdf(edges, jax.nn.one_hot(jnp.array([i]), 4), u))
        np.testing.assert_allclose(found[0, [0, -1]], edges[0, i : i + 2], atol=0.01)


def test_intervals_that_are_placed_anew_place_the_same_ones_again():
    """Their masses are equal, so their own even histogram has the same edges."""
    edges, weights = histogram(samples=32, seed=4)
    edges = np.linspace(0, 1, 33, dtype=np.float32) + 0 * edges
    placed = resampled_edges(edges, weights, 12, None, 0.0)
    again = resampled_edges(placed, jnp.full((10, 12), 1 / 12), 12, None, 0.0)
    np.testing.assert_allclose(again, placed, atol=2e-6)


def test_blurred_weights_are_means_of_larger_neighbours():
    _, weights = histogram()
    found = jax.jit(blurred_weights)(weights)
    padded = np.pad(weights, ((0, 0), (1, 1)), mode="edge")
    larger = np.maximum(padded[:, :-1], padded[:, 1:])
    np.testing.assert_allclose(found, (larger[:, :-1] + larger[:, 1:]) / 2, rtol=1e-6)
    assert np.all(found >= weights)


def test_jittered_edges_move_by_half_an_interval_at_most():
    edges = np.linspace([2, -1], [6, 1], 9, axis=1, dtype=np.float32)
    jitter = np.random.default_rng(5).uniform(size=(2, 8)).astype(np.float32)
    expected = edges.copy()
    for ray, length in enumerate((0.5, 0.25)):
        expected[ray, 1:-1] += (jitter[ray, :7] - 0.5) * length
    found = np.asarray(jax.jit(jittered_edges)(edges, jitter))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.all(np.diff(found) > 0)
