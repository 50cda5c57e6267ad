"""How intervals are spread along a ray: evenly in distance, in its inverse, or in both by turns."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Spacing = Literal["linear", "inverse", "piecewise"]


def spaced_distances(
    spacing: Spacing,
    near: Float[Array, "*B"],
    far: Float[Array, "*B"],
    s: Float[Array, "*B S"],
) -> Float[Array, "*B S"]:
    """t of s in [0, 1], ``g(t) = g(near) + s (g(far) - g(near))``.

    Args:
      spacing: "linear", g(t) = t; "inverse", g(t) = -1 / t; "piecewise", g(t) = t / 2 for t < 1,
        1 - 1 / (2 t) from there.
      near: where rays begin; above 0 for "inverse".
      far: where they end.
      s: shares, any number for each ray.
    """
    near, far = near[..., None], far[..., None]
    if spacing == "linear":
        return near + (far - near) * s
    if spacing == "inverse":
        return 1 / (1 / near + (1 / far - 1 / near) * s)
    first, last = _piecewise(near), _piecewise(far)
    share = first + (last - first) * s
    beyond = share > 0.5
    return jnp.where(beyond, 0.5 / jnp.where(beyond, 1 - share, 1), 2 * share)


def _piecewise(t: Array) -> Array:
    beyond = t > 1
    return jnp.where(beyond, 1 - 0.5 / jnp.where(beyond, t, 1), 0.5 * t)
