"""The forward process: what noise makes of data, q(z | x) = N(a x, s^2 I)."""

from typing import NamedTuple

from jaxtyping import Array, Float

from jaxgen.diffusion.process.levels import Level, expand


class Noised(NamedTuple):
    """Examples with noise.

    Attributes:
      z: latents a x + s e, [B, ...].
      e: their noise, [B, ...].
      level: their noise levels, [B] each, or [B, T] where parts have levels of their own.
    """

    z: Array
    e: Array
    level: Level


def add_noise(
    x: Float[Array, "B ..."], e: Float[Array, "B ..."], level: Level
) -> Float[Array, "B ..."]:
    """z = a x + s e, for a level of [], [B], or of the leading axes of x."""
    return expand(level.a, x) * x + expand(level.s, x) * e
