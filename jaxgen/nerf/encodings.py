"""Encodings of positions and of directions.

Positions as waves (Mildenhall et al. 2020, equation 4)::

    gamma(x) = (x, sin x, cos x, sin 2x, cos 2x, ..., sin 2^(L-1) x, cos 2^(L-1) x)

each a vector over the axes of x; without the factor pi of the paper, as in its published code.

Directions as real spherical harmonics to degree 4 (16 of them: l = 0 to 3), orthonormal on the
sphere, in the order (l, m) = (0, 0), (1, -1), (1, 0), (1, 1), ... with the signs of
instant-NGP (Müller et al. 2022, section 5.4 and their code): the sign (-1)^m of Condon and Shortley
is included.

Gaussians as the expectations of these waves (Barron et al. 2021, equation 14), along the columns p
of a basis: axes, or directions spread over the sphere (Barron et al. 2022, section 4)::

    E sin(2^l p.x) = sin(2^l p.mean) exp(-4^l p.covariance p / 2)        cos likewise

So waves shorter than a sample's footprint vanish, and do not alias.
"""

import functools
import itertools
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Basis = Literal["axes", "icosahedron"]
"""The three axes; or the 21 directions to the corners, and to the middles of the edges, of an
icosahedron."""

HARMONICS = 16
"""How many spherical harmonics a direction becomes."""


def encode_position(
    x: Float[Array, "*B A"], octaves: int, *, include_input: bool = True
) -> Float[Array, "*B D"]:
    """``gamma(x)``.

    Args:
      x: positions or directions, [..., A].
      octaves: L.
      include_input: whether x itself comes first.

    Returns:
      [..., A (2 L + 1)], or A 2 L without x.
    """
    angles = x[..., None, :] * 2.0 ** jnp.arange(octaves)[:, None]
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-2)
    waves = waves.reshape(*x.shape[:-1], 2 * octaves * x.shape[-1])
    return jnp.concatenate([x, waves], axis=-1) if include_input else waves


def integrated_encoding(
    mean: Float[Array, "*B 3"],
    covariance: Float[Array, "*B 3 3"],
    octaves: int,
    basis: Basis = "axes",
) -> Float[Array, "*B D"]:
    """Expectations of waves under Gaussians; with covariance 0, `encode_position` of the mean.

    Args:
      mean: of the Gaussians.
      covariance: of the Gaussians.
      octaves: L.
      basis: directions of the waves, A of them.

    Returns:
      [..., 2 L A]: of each octave the sines along all directions, then the cosines.
    """
    if basis == "axes":
        along, variance = mean, jnp.diagonal(covariance, axis1=-2, axis2=-1)
    else:
        directions_3A = jnp.asarray(basis_directions(basis))
        along = mean @ directions_3A
        variance = ((covariance @ directions_3A) * directions_3A).sum(axis=-2)
    scale = 2.0 ** jnp.arange(octaves)[:, None]
    damped = jnp.exp(-0.5 * variance[..., None, :] * scale**2)
    angles = along[..., None, :] * scale
    waves = jnp.stack([jnp.sin(angles) * damped, jnp.cos(angles) * damped], axis=-2)
    return waves.reshape(*mean.shape[:-1], 2 * octaves * along.shape[-1])


@functools.cache
def basis_directions(basis: Basis) -> Float[np.ndarray, "3 A"]:
    """Unit vectors as columns, one of each pair of opposite ones."""
    if basis == "axes":
        return np.eye(3)
    golden = (1 + math.sqrt(5)) / 2
    corners = [
        np.roll([0, a, b * golden], turn) for turn in range(3) for a in (1, -1) for b in (1, -1)
    ]
    # Two corners are neighbours where they are 2 apart.
    middles = [
        p + q for p, q in itertools.combinations(corners, 2) if abs(np.linalg.norm(p - q) - 2) < 0.1
    ]
    kept: list[np.ndarray] = []
    for vector in (*corners, *middles):
        unit = vector / np.linalg.norm(vector)
        if all(abs(unit @ other) < 1 - 1e-6 for other in kept):
            kept.append(unit)
    return np.stack(kept, axis=1)


def spherical_harmonics(direction: Float[Array, "*B 3"]) -> Float[Array, "*B 16"]:
    """The harmonics of unit directions; polynomials, so smooth in any direction."""
    x, y, z = direction[..., 0], direction[..., 1], direction[..., 2]
    xx, yy, zz = x * x, y * y, z * z
    one, three, five, seven, fifteen, thirty_five = (
        math.sqrt(n / math.pi) for n in (1, 3, 5, 7, 15, 35)
    )
    return jnp.stack(
        [
            jnp.full_like(x, one / 2),
            *(-three / 2 * y, three / 2 * z, -three / 2 * x),
            *(fifteen / 2 * x * y, -fifteen / 2 * y * z, five / 4 * (3 * zz - 1)),
            *(-fifteen / 2 * x * z, fifteen / 4 * (xx - yy)),
            math.sqrt(2) / 8 * thirty_five * y * (yy - 3 * xx),
            math.sqrt(7) / 2 * fifteen * x * y * z,
            math.sqrt(42) / 8 / math.sqrt(math.pi) * y * (1 - 5 * zz),
            seven / 4 * z * (5 * zz - 3),
            math.sqrt(42) / 8 / math.sqrt(math.pi) * x * (1 - 5 * zz),
            math.sqrt(7) / 4 * fifteen * z * (xx - yy),
            math.sqrt(2) / 8 * thirty_five * x * (3 * yy - xx),
        ],
        axis=-1,
    )
