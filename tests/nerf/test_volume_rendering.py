"""The quadrature against closed forms, and at its extremes."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxgen import nerf

render_weights, composite, expected_depth = map(
    jax.jit, (nerf.render_weights, nerf.composite, nerf.expected_depth)
)


def edges_of(samples, near=2.0, far=6.0):
    return np.linspace(near, far, samples + 1, dtype=np.float32)


def middles(edges):
    return (edges[1:] + edges[:-1]) / 2


def test_the_sum_by_hand():
    """Transmittance as a product of what each interval lets through, in float64."""
    rng = np.random.default_rng(0)
    density, edges = rng.uniform(0, 3, size=(5, 9)), 2 + np.cumsum(rng.uniform(size=(5, 10)), 1)
    colour, background = rng.uniform(size=(5, 9, 3)), rng.uniform(size=(5, 3))
    passed = np.exp(-density * np.diff(edges))
    before = np.cumprod(np.concatenate([np.ones((5, 1)), passed[:, :-1]], axis=1), axis=1)
    expected = before * (1 - passed)
    weights = render_weights(density.astype(np.float32), edges.astype(np.float32))
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(1 - np.asarray(weights).sum(axis=1), passed.prod(axis=1), atol=1e-6)
    found = composite(weights, colour.astype(np.float32), background.astype(np.float32))
    seen = (expected[..., None] * colour).sum(1) + passed.prod(1)[:, None] * background
    np.testing.assert_allclose(found, seen, atol=1e-5)


def test_a_slab():
    """Exact when it begins and ends at edges: opacity 1 - exp(-sigma d), and its colour."""
    edges = edges_of(8)
    density = np.where((middles(edges) > 3) & (middles(edges) < 5), 0.7, 0.0).astype(np.float32)
    weights = render_weights(density, edges)
    opacity = 1 - np.exp(-0.7 * 2)
    assert np.asarray(weights).sum() == pytest.approx(opacity, rel=1e-6)
    red, blue = np.eye(3, dtype=np.float32)[[0, 2]]
    found = composite(weights, np.tile(red, (8, 1)), blue)
    np.testing.assert_allclose(found, [opacity, 0, 1 - opacity], atol=1e-6)


def test_a_constant_medium_at_any_number_of_samples():
    """w of an interval is the difference of exp(-sigma t): exact; depth of second order."""
    sigma, errors = 0.8, []
    total = 1 - np.exp(-4 * sigma)
    true = 2 + 1 / sigma - 4 * np.exp(-4 * sigma) / total
    for samples in (1, 10, 20, 40):
        edges = edges_of(samples)
        weights = render_weights(np.full(samples, sigma, np.float32), edges)
        passed = np.exp(-sigma * (np.asarray(edges) - 2))
        np.testing.assert_allclose(weights, -np.diff(passed), atol=1e-6)
        errors.append(abs(float(expected_depth(weights, middles(edges))) - true))
    for coarse, fine in pairwise(errors[1:]):
        assert coarse / fine == pytest.approx(4, rel=0.1)


def test_a_gaussian_blob_to_second_order():
    """Opacity 1 - exp(-integral of density): the error falls as the square of the step.

    The blob is cut off by the end of the ray: a whole one would be integrated better than that.
    """
    middle, width, peak = 5.0, 0.6, 1.5

    def integral(t):
        return peak * width * np.sqrt(np.pi / 2) * erf((t - middle) / width / np.sqrt(2))

    true = 1 - np.exp(integral(2) - integral(6))
    errors = []
    for samples in (8, 16, 32):
        edges = edges_of(samples)
        density = peak * np.exp(-(((middles(edges) - middle) / width) ** 2) / 2)
        errors.append(abs(float(np.asarray(render_weights(density, edges)).sum()) - true))
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.15)


def test_splitting_an_interval_changes_nothing():
    rng = np.random.default_rng(0)
    density, edges = rng.uniform(0, 3, size=6), np.cumsum(rng.uniform(size=7))
    density, edges = density.astype(np.float32), edges.astype(np.float32)
    whole = np.asarray(render_weights(density, edges))
    halves = np.sort(np.concatenate([edges, (0.3 * edges[1:] + 0.7 * edges[:-1])]))
    parts = np.asarray(render_weights(np.repeat(density, 2), halves))
    np.testing.assert_allclose(parts.reshape(6, 2).sum(axis=1), whole, atol=1e-6)


def test_extreme_densities_have_finite_values_and_gradients():
    """0, 1e10, and both on one ray; and intervals without length."""
    rows = [[0] * 6, [1e10] * 6, [0, 1e10, 0, 1e10, 0, 0], [0.1, 0.2, 1e10, 1e-10, 1e10, 3]]
    density = np.array(rows, np.float32)
    steps = np.array([[0.0] * 7, [0, 1, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]], np.float32)

    @jax.jit
    def everything(density, edges):
        def loss(density, edges):
            weights = render_weights(density, edges)
            distances = (edges[..., 1:] + edges[..., :-1]) / 2
            colour = composite(weights, jnp.ones((*weights.shape, 3)) / 2, jnp.ones(3))
            return (colour**2).sum() + expected_depth(weights, distances).sum(), weights

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(density, edges)

    for edges in steps:
        (value, weights), gradients = everything(density, np.tile(edges, (4, 1)))
        assert np.isfinite(value)
        weights = np.asarray(weights)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
        assert np.all(weights >= 0)
        assert np.all(np.asarray(weights).sum(axis=1) <= 1 + 1e-6)
    np.testing.assert_allclose(weights[1], [1, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(weights[2], [0, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(weights[3].sum(), 1, rtol=1e-6)


def test_depth_is_the_distance_of_a_surface_and_0_of_nothing():
    edges = edges_of(100)
    wall = np.where(middles(edges) > 4, 1e4, 0.0).astype(np.float32)
    assert expected_depth(render_weights(wall, edges), middles(edges)) == pytest.approx(4, abs=0.05)
    assert expected_depth(np.zeros(100), middles(edges)) == 0


percentile_distance = jax.jit(nerf.percentile_distance)


def test_percentiles_of_a_constant_medium():
    """Those of an exponential distribution that is cut off at the ray's end."""
    density = np.array([[0.05], [0.7], [3.0]], np.float32)
    edges = np.broadcast_to(edges_of(400), (3, 401))
    weights = render_weights(np.broadcast_to(density, (3, 400)), edges)
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        share = q * -np.expm1(-density[:, 0].astype(float) * 4)
        expected = 2 - np.log1p(-share) / density[:, 0]
        np.testing.assert_allclose(percentile_distance(weights, edges, q), expected, atol=2e-3)


def test_percentiles_are_those_of_samples():
    """Of points drawn from the histogram, with intervals of no weight among them."""
    rng = np.random.default_rng(0)
    edges = np.sort(rng.uniform(1, 5, size=(4, 9)), axis=1).astype(np.float32)
    weights = (rng.uniform(size=(4, 8)) * (rng.uniform(size=(4, 8)) > 0.4)).astype(np.float32) / 8
    for n in range(4):
        bins = rng.choice(8, size=200_000, p=weights[n] / weights[n].sum(dtype=float))
        t = edges[n, bins] + rng.uniform(size=200_000) * np.diff(edges[n])[bins]
        for q in (0.2, 0.5, 0.8):
            found = float(percentile_distance(weights, edges, q)[n])
            assert (t < found).mean() == pytest.approx(q, abs=5e-3)


def test_the_median_is_on_one_of_two_surfaces_where_the_mean_is_between_them():
    edges = edges_of(40)
    weights = np.zeros(40, np.float32)
    weights[[5, 30]] = 0.6, 0.4
    assert 2.5 <= float(percentile_distance(weights, edges, 0.5)) <= 2.6
    assert 3 < float(expected_depth(weights, middles(edges))) < 4


def test_percentiles_of_nothing_are_the_far_edge_and_their_gradients_are_finite():
    weights = np.zeros((4, 6), np.float32)
    weights[1, 2] = 1
    weights[2] = 1e-9
    weights[3, 0] = weights[3, -1] = 0.5
    edges = np.broadcast_to(edges_of(6), (4, 7))
    found = np.asarray(percentile_distance(weights, edges, 0.5))
    np.testing.assert_allclose(found[[0, 2]], 6)
    assert found[1] == pytest.approx(2 + 2.5 * 4 / 6)
    gradient = jax.jit(jax.grad(lambda w, e: nerf.percentile_distance(w, e).sum(), argnums=(0, 1)))
    assert all(np.all(np.isfinite(x)) for x in gradient(weights, edges))
