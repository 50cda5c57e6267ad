"""The volume rendering integral by quadrature (Max 1995; Mildenhall et al. 2020, equation 3).

A ray is cut into intervals of lengths delta_i, in which density sigma_i and colour c_i are
constant::

    tau_i   = sigma_i delta_i
    log T_i = -sum_{j<i} tau_j          transmittance: the share of light that reaches interval i
    w_i     = T_i (1 - exp(-tau_i))     the share that is absorbed in it
    opacity = sum_i w_i
    colour  = sum_i w_i c_i + (1 - opacity) background
    depth   = sum_i w_i t_i / opacity

and the distance at which a share q of the opacity is reached, the median at q = 1/2.
All are finite, with finite gradients, for densities from 0 to 1e10 and more.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6


def render_weights(
    density: Float[Array, "*B S"], edges: Float[Array, "*B S1"]
) -> Float[Array, "*B S"]:
    """``w_i``.

    Args:
      density: sigma_i of S intervals, 0 or more, per unit of length.
      edges: S + 1 rising distances along each ray.
    """
    tau = density * jnp.diff(edges, axis=-1)
    # Without the last one, rather than as a difference of sums: tau may be 1e10.
    passed = jnp.cumsum(tau[..., :-1], axis=-1)
    passed = jnp.concatenate([jnp.zeros_like(tau[..., :1]), passed], axis=-1)
    return jnp.exp(-passed) * -jnp.expm1(-tau)


def composite(
    weights: Float[Array, "*B S"],
    colour: Float[Array, "*B S C"],
    background: Float[Array, "*#B C"],
) -> Float[Array, "*B C"]:
    """The colour of rays in front of a background.

    Args:
      weights: w_i.
      colour: c_i.
      background: of each ray, or [C] of all.
    """
    remainder = 1 - weights.sum(axis=-1, keepdims=True)
    return (weights[..., None] * colour).sum(axis=-2) + remainder * background


def expected_depth(
    weights: Float[Array, "*B S"], distances: Float[Array, "*B S"]
) -> Float[Array, "*B"]:
    """The expected distance along the ray of what it hits, ``sum w t / max(opacity, 1e-6)``.

    It goes to 0, not to the far end, where the ray hits nothing: see the opacity.

    Args:
      weights: w_i.
      distances: t_i.
    """
    return (weights * distances).sum(axis=-1) / jnp.maximum(weights.sum(axis=-1), EPSILON)


def percentile_distance(
    weights: Float[Array, "*B S"], edges: Float[Array, "*B S1"], q: float = 0.5
) -> Float[Array, "*B"]:
    """The distance at which the sum of the weights so far is q of their total.

    Weights count as spread evenly in their intervals. Where a ray hits nothing (a total below 1e-6)
    it is the far edge. Unlike the expected distance it is not between two surfaces that a ray hits
    in part. Gradients are finite.

    Args:
      weights: w_i of S intervals.
      edges: S + 1 rising distances along each ray.
      q: in [0, 1].
    """
    above = jnp.cumsum(weights, axis=-1)
    total = above[..., -1:]
    target = q * total
    index = jnp.minimum((above < target).sum(axis=-1, keepdims=True), weights.shape[-1] - 1)
    weight, end, begin, until = (
        jnp.take_along_axis(x, index, axis=-1)[..., 0]
        for x in (weights, above, edges[..., :-1], edges[..., 1:])
    )
    hit = weight > 0
    share = 1 - (end - target[..., 0]) / jnp.where(hit, weight, 1)
    share = jnp.clip(jnp.where(hit, share, 0), 0, 1)
    found = begin + share * (until - begin)
    return jnp.where(total[..., 0] > EPSILON, found, edges[..., -1])
