"""Losses on the weights of rays, against double sums in numpy, and what they are made for."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nerf import distortion_loss, interlevel_loss
from jaxgen.nerf.ray_losses import overlapping_weights


def histogram(rays, samples, seed):
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(size=(rays, samples + 1)), axis=-1)
    edges[:, 0], edges[:, -1] = 0, 1
    weights = rng.dirichlet(np.ones(samples + 1), size=rays)[:, 1:]
    return edges.astype(np.float32), weights.astype(np.float32)


def test_distortion_is_the_double_sum():
    """Also the double integral of |x - y| over the step function, by Monte-Carlo."""
    edges, weights = histogram(5, 7, 0)
    middle = (edges[:, 1:] + edges[:, :-1]) / 2
    pairs = weights[:, :, None] * weights[:, None]
    apart = np.abs(middle[:, :, None] - middle[:, None])
    expected = (pairs * apart).sum((1, 2)) + (weights**2 * np.diff(edges, axis=1)).sum(1) / 3
    np.testing.assert_allclose(jax.jit(distortion_loss)(edges, weights), expected, rtol=1e-5)
    rng = np.random.default_rng(1)
    total = weights[0].sum()
    which = rng.choice(7, size=(2, 200_000), p=weights[0] / total)
    x, y = edges[0, which] + rng.uniform(size=which.shape) * np.diff(edges[0])[which]
    assert abs(np.abs(x - y).mean() * total**2 - expected[0]) < 2e-3


def test_overlaps_are_found_by_comparing_all_pairs():
    edges, _ = histogram(4, 6, 2)
    others, weights = histogram(4, 9, 3)
    found = np.asarray(jax.jit(overlapping_weights)(edges, others, weights))
    for r, i in np.ndindex(4, 6):
        low, high = edges[r, i : i + 2]
        meets = (others[r, :-1] < high) & (others[r, 1:] > low)
        assert abs(found[r, i] - weights[r][meets].sum()) < 1e-6


def test_a_proposal_that_covers_the_weights_costs_nothing():
    """The field's own histogram is such a proposal, and so is a coarser one of the same masses."""
    edges, weights = histogram(6, 8, 4)
    loss = jax.jit(interlevel_loss)
    np.testing.assert_allclose(loss(edges, weights, edges, weights), 0, atol=1e-7)
    coarse = weights[:, ::2] + weights[:, 1::2]
    np.testing.assert_allclose(loss(edges, weights, edges[:, ::2], coarse), 0, atol=1e-7)
    low = loss(edges, weights, edges, 0.5 * weights)
    np.testing.assert_allclose(low, (0.25 * weights).sum(-1), rtol=1e-4)


def test_gradients_are_the_proposal_s_alone_and_finite_where_there_is_no_weight():
    edges, weights = histogram(3, 8, 5)
    others, own = histogram(3, 5, 6)
    weights[0], own[1] = 0, 0
    total = jax.jit(
        jax.grad(lambda *x: interlevel_loss(x[0], x[1], others, x[2]).sum(), argnums=(0, 1, 2))
    )
    to_edges, to_weights, to_own = total(edges, weights, own)
    assert not np.any(to_edges)
    assert not np.any(to_weights)
    assert np.all(np.isfinite(to_own))
    assert np.any(to_own[1] < 0)
    gradient = jax.jit(jax.grad(lambda w: distortion_loss(edges, w).sum()))(jnp.asarray(weights))
    assert np.all(np.isfinite(gradient))
