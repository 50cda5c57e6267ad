"""Rotary positions (Su et al. 2021) on one or several axes: queries and keys are turned by angles.

Numbers 2 i and 2 i + 1 of a head are a point of the plane, turned by ``p theta^(-2 i / d)`` at
position p. The product of a query and a key then depends on the difference of their positions
alone. With several axes each has a share of the head, its own d, in the order of the axes: time,
row, column. The default split is that of Wan 2.1: a third, rounded down to an even number, for each
but the first axis, the rest for the first.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from jaxgen.errors import InputError
from jaxgen.nn.positions import MAX_PERIOD, as_places


def rotary_split(head_size: int, axes: int = 3) -> tuple[int, ...]:
    """How many numbers of a head each axis turns: Wan's split, such as (44, 42, 42) of 128.

    Args:
      head_size: K, even.
      axes: how many axes places have.

    Raises:
      InputError: for a head that is odd or has not two numbers for each axis.
    """
    if head_size % 2 or head_size < 2 * axes:
        raise InputError(
            f"head size is {head_size}, expected an even number of {2 * axes} or more: two numbers "
            f"for each of {axes} axes"
        )
    share = 2 * (head_size // (2 * axes))
    return (head_size - (axes - 1) * share, *[share] * (axes - 1))


def rotary_angles(
    places: Real[Any, "*B L A"], split: Sequence[int], theta: float = MAX_PERIOD
) -> Float[Any, "*B L K2"]:
    """The angles by which heads at some places are turned.

    Args:
      places: [..., L, A]; whole or fractional. Known ones are computed with in float64.
      split: numbers of the head for each axis, even.
      theta: sets the slowest rotation.

    Returns:
      [..., L, K / 2].

    Raises:
      InputError: unless there is an even number for each axis.
    """
    if len(split) != places.shape[-1] or any(size % 2 or size < 0 for size in split):
        raise InputError(
            f"split is {tuple(split)} for places of shape {places.shape}, expected an even number "
            f"for each of {places.shape[-1]} axes"
        )
    places, xp = as_places(places)
    angles = []
    for axis, size in enumerate(split):
        w_D = (theta ** (-xp.arange(0, size, 2) / max(size, 1))).astype(places.dtype)
        angles.append(places[..., axis, None] * w_D)
    return xp.concatenate(angles, axis=-1)


def rotate(
    x_BLHK: Float[Array, "B L H K"],
    angle: Float[Any, "#B L K2"] | Float[Any, "L K2"] | Float[Any, "#B L H K2"],
) -> Float[Array, "B L H K"]:
    """Turns the pairs of each head, in float32; the result has the type of x.

    Args:
      x_BLHK: queries or keys.
      angle: [B, L, K / 2], or [L, K / 2] of every example; [B, L, H, K / 2] where heads differ.
    """
    _, xp = as_places(angle)
    cos, sin = (jnp.asarray(wave(angle), jnp.float32) for wave in (xp.cos, xp.sin))
    if cos.ndim < 4:
        cos, sin = (wave[..., :, None, :] for wave in (cos, sin))
    pairs = x_BLHK.astype(jnp.float32).reshape(*x_BLHK.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.reshape(x_BLHK.shape).astype(x_BLHK.dtype)
