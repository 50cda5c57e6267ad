"""Losses on the samples of rays.

On their weights (Barron et al. 2022, "Mip-NeRF 360"): with w_i the weights of intervals from s_i to
s_(i+1), in [0, 1], and m_i their middles::

    distortion    sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 (s_(i+1) - s_i)           equation 15
    interlevel    sum_i max(0, w_i - bound_i)^2 / w_i                                    equation 13

bound_i is the sum of the proposal's weights in all of its intervals that overlap with i: what the
field finds, the proposal must have allowed for. The field's weights are constants there.

On the gradients g of a signed distance, which have length 1 where it is one (Gropp et al. 2020)::

    eikonal       mean_i (|g_i| - 1)^2
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

EPSILON = 1e-7


def distortion_loss(
    edges: Float[Array, "*B S1"], weights: Float[Array, "*B S"]
) -> Float[Array, "*B"]:
    """Of each ray; small where its weights are in one short stretch.

    Args:
      edges: in [0, 1], rising.
      weights: of the intervals between them.
    """
    middle = (edges[..., :-1] + edges[..., 1:]) / 2
    # Of pairs j < i, sum_j w_j (m_i - m_j), by sums up to i: linear in the number of intervals.
    before = jnp.cumsum(weights, axis=-1) - weights
    moment = jnp.cumsum(weights * middle, axis=-1) - weights * middle
    between = 2 * (weights * (middle * before - moment)).sum(axis=-1)
    within = (weights**2 * jnp.diff(edges, axis=-1)).sum(axis=-1) / 3
    return between + within


def interlevel_loss(
    edges: Float[Array, "*B S1"],
    weights: Float[Array, "*B S"],
    proposal_edges: Float[Array, "*B M1"],
    proposal_weights: Float[Array, "*B M"],
) -> Float[Array, "*B"]:
    """Of each ray; its gradient is the proposal's alone.

    Args:
      edges: of the field's intervals, in [0, 1].
      weights: the field's.
      proposal_edges: of the proposal's intervals, in [0, 1].
      proposal_weights: the proposal's.
    """
    edges, weights = jax.lax.stop_gradient((edges, weights))
    bound = overlapping_weights(edges, proposal_edges, proposal_weights)
    excess = jnp.maximum(weights - bound, 0)
    return (excess**2 / (weights + EPSILON)).sum(axis=-1)


def eikonal_loss(
    gradient: Float[Array, "*B S 3"], mask: Bool[Array, "*B S"] | None = None
) -> Float[Array, "*B"]:
    """Of each ray; 0 of one whose samples do not count.

    Args:
      gradient: of the distance at samples.
      mask: which samples count; None: all.
    """
    squared = (gradient**2).sum(axis=-1)
    error = (jnp.sqrt(jnp.maximum(squared, EPSILON**2)) - 1) ** 2
    if mask is None:
        return error.mean(axis=-1)
    return jnp.where(mask, error, 0).sum(axis=-1) / jnp.maximum(mask.sum(axis=-1), 1)


def overlapping_weights(
    edges: Float[Array, "*B S1"],
    other_edges: Float[Array, "*B M1"],
    other_weights: Float[Array, "*B M"],
) -> Float[Array, "*B S"]:
    """For each interval the sum of another histogram's weights that overlap with it.

    Args:
      edges: of the intervals.
      other_edges: of the histogram.
      other_weights: of the histogram.
    """
    low, high = edges[..., :-1, None], edges[..., 1:, None]
    begin, end = other_edges[..., None, :-1], other_edges[..., None, 1:]
    return jnp.where((begin < high) & (end > low), other_weights[..., None, :], 0).sum(axis=-1)
