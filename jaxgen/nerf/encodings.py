"""Encodings of positions and of directions.

Positions as waves (Mildenhall et al. 2020, equation 4)::

    gamma(x) = (x, sin x, cos x, sin 2x, cos 2x, ..., sin 2^(L-1) x, cos 2^(L-1) x)

each a vector over the axes of x; without the factor pi of the paper, as in its published code.

Directions as real spherical harmonics to degree 4 (16 of them: l = 0 to 3), orthonormal on the
sphere, in the order (l, m) = (0, 0), (1, -1), (1, 0), (1, 1), ... with the signs of
instant-NGP (Müller et al. 2022, section 5.4 and their code): the sign (-1)^m of Condon and Shortley
is included.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

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
