"""The volume rendering integral by quadrature (Max 1995; Mildenhall et al. 2020, equation 3).

A ray is cut into intervals of lengths delta_i, in which density sigma_i and colour c_i are
constant::

    tau_i   = sigma_i delta_i
    log T_i = -sum_{j<i} tau_j          transmittance: the share of light that reaches interval i
    w_i     = T_i (1 - exp(-tau_i))     the share that is absorbed in it
    opacity = sum_i w_i
    colour  = sum_i w_i c_i + (1 - opacity) background
    depth   = sum_i w_i t_i / opacity

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
