"""All of space in a ball, or a cube, of radius 2 (Barron et al. 2022).

Equation 10::

    contract(x) = x                          |x| <= 1
                  (2 - 1 / |x|) x / |x|      beyond
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Norm = Literal["euclidean", "largest"]
"""|x|: of the paper, whose image is a ball; or the largest coordinate, whose image is a cube, as a
grid needs it (nerfacto; Tancik et al. 2023)."""


def contract(x: Float[Array, "*B 3"], norm: Norm = "largest") -> Float[Array, "*B 3"]:
    """``contract(x)``; finite, with finite gradients, at any finite x.

    Example:
      >>> contract(jnp.array([[0.5, 0.0, 0.0], [4.0, 0.0, 0.0]]))[:, 0].tolist()
      [0.5, 1.75]
    """
    size = _size(x, norm)
    beyond = size > 1
    size = jnp.where(beyond, size, 1)
    return jnp.where(beyond, (2 - 1 / size) / size * x, x)


def contract_gaussian(
    mean: Float[Array, "*B 3"], covariance: Float[Array, "*B 3 3"]
) -> tuple[Float[Array, "*B 3"], Float[Array, "*B 3 3"]]:
    """A Gaussian, contracted with the Euclidean norm to first order (equation 9).

    ``contract(mean)`` and ``J covariance J^T``, with J the Jacobian of the contraction: lengths
    across the ray from the origin shrink by 2 / |x| - 1 / |x|^2, those along it by 1 / |x|^2.
    """
    size = _size(mean, "euclidean")
    beyond = size > 1
    size = jnp.where(beyond, size, 1)[..., None]
    outwards = mean[..., None] / size
    across, along = 2 / size - 1 / size**2, 1 / size**2
    both = outwards * jnp.swapaxes(outwards, -1, -2)
    jacobian = across * jnp.eye(3) + (along - across) * both
    contracted = jacobian @ covariance @ jnp.swapaxes(jacobian, -1, -2)
    covariance = jnp.where(beyond[..., None], contracted, covariance)
    return contract(mean, "euclidean"), covariance


def _size(x: Array, norm: Norm) -> Array:
    if norm == "largest":
        return jnp.abs(x).max(axis=-1, keepdims=True)
    # The root has no gradient at 0, which is far inside of where x stays as it is.
    return jnp.sqrt(jnp.maximum((x**2).sum(axis=-1, keepdims=True), 1e-12))
