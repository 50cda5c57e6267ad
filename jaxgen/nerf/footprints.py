"""What a pixel sees of an interval of its ray, as a Gaussian (Barron et al. 2021, "Mip-NeRF").

The rays of a round pixel fill a cone around its middle ray, of radius r t at distance t. Between
the distances t0 and t1 that is a frustum; points spread evenly in it have, along the ray and across
it, the moments::

    s = t0 + t1,    d = t1 - t0,    q = d^2 / (3 s^2 + d^2)

    mean of t       s (1/2 + q)
    variance of t   d^2 / 12 - q^2 (12 s^2 - d^2) / 15
    across          r^2 (s^2 / 16 + d^2 (5/48 - q / 15))       along each of the two axes

They are the paper's equation 7 as its authors' later code has it, without differences of large
numbers, and exact. Orthographic rays fill a cylinder instead.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

TINY = 1e-12
"""Distances below it are taken for 0, where the frustum is a point."""


def frustum_moments(
    t0: Float[Array, "*#B S"], t1: Float[Array, "*#B S"], radius: Float[Array, "..."] | float
) -> tuple[Float[Array, "*B S"], Float[Array, "*B S"], Float[Array, "*B S"]]:
    """Mean and variance of the distance, and the variance across, of points of frustums.

    All are finite, with finite gradients, also at ``t0 == t1`` and at ``t0 == 0``.

    Args:
      t0: where intervals begin, 0 or more.
      t1: where they end, t0 or more.
      radius: r, of the cone at distance 1; 2 / sqrt(12) of a pixel's width there has the variance
        of the square pixel. [..., 1] of each ray, or one number.

    Returns:
      t_mean, t_var and r_var, the last one along each axis across the ray.
    """
    s, d = t0 + t1, t1 - t0
    is_point = s < TINY
    # By d / s rather than by squares, whose gradients divide by s^4.
    ratio = jnp.where(is_point, 0, d / jnp.where(is_point, 1, s)) ** 2
    q = ratio / (3 + ratio)
    t_mean = s * (0.5 + q)
    t_var = d**2 / 12 - q**2 * (12 * s**2 - d**2) / 15
    r_var = radius**2 * (s**2 / 16 + d**2 * (5 / 48 - q / 15))
    return t_mean, t_var, r_var


def cylinder_moments(
    t0: Float[Array, "*#B S"], t1: Float[Array, "*#B S"], radius: Float[Array, "..."] | float
) -> tuple[Float[Array, "*B S"], Float[Array, "*B S"], Float[Array, "*B S"]]:
    """The same of cylinders: ``(t0 + t1) / 2``, ``d^2 / 12`` and ``r^2 / 4``.

    Args:
      t0: where intervals begin.
      t1: where they end.
      radius: of the cylinder, [..., 1] of each ray, or one number.
    """
    t_mean = (t0 + t1) / 2
    return t_mean, (t1 - t0) ** 2 / 12, jnp.broadcast_to(radius**2 / 4, t_mean.shape)


def frustum_gaussian(
    origin: Float[Array, "*#B 3"],
    direction: Float[Array, "*#B 3"],
    t0: Float[Array, "*#B S"],
    t1: Float[Array, "*#B S"],
    radius: Float[Array, "..."] | float,
) -> tuple[Float[Array, "*B S 3"], Float[Array, "*B S 3 3"]]:
    """The Gaussian with the moments of each frustum, in axes of the world.

    Args:
      origin: of the rays.
      direction: of the rays, of length 1.
      t0: as `frustum_moments` has it.
      t1: as `frustum_moments` has it.
      radius: as `frustum_moments` has it.

    Returns:
      Mean and covariance.
    """
    return lift_moments(origin, direction, *frustum_moments(t0, t1, radius))


def lift_moments(
    origin: Float[Array, "*#B 3"],
    direction: Float[Array, "*#B 3"],
    t_mean: Float[Array, "*#B S"],
    t_var: Float[Array, "*#B S"],
    r_var: Float[Array, "*#B S"],
) -> tuple[Float[Array, "*B S 3"], Float[Array, "*B S 3 3"]]:
    """Moments along and across rays, as mean and covariance ``t_var d d^T + r_var (1 - d d^T)``.

    Args:
      origin: of the rays.
      direction: of the rays, of length 1.
      t_mean: mean of the distance.
      t_var: its variance.
      r_var: variance along each axis across the ray.
    """
    mean = origin[..., None, :] + t_mean[..., None] * direction[..., None, :]
    along = (direction[..., :, None] * direction[..., None, :])[..., None, :, :]
    across = jnp.eye(3, dtype=along.dtype) - along
    return mean, t_var[..., None, None] * along + r_var[..., None, None] * across
