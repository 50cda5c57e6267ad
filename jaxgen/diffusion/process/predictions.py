"""What a network may predict, and how any prediction becomes any other.

Symbols: z = a x + s e, r = a^2 + s^2 (one in the scaling "vp"). Targets::

    x       the data                      also called "x0"
    e       the noise                     also called "epsilon"
    v       a e - s x                     Salimans & Ho 2022; dz/dphi with phi = atan(s/a)
    score   -e / s                        gradient of log p(z | x) with respect to z
    flow    e - x                         the velocity dz/dt of a straight line, Lipman et al. 2022
    both    (x~, e~), on the last axis    x^ = (s^2 x~ + a (z - s e~)) / r, Salimans & Ho 2022

Given z, each of the first five determines x and e, by two linear equations::

    x = (a z - s v) / r      x = (z - s flow) / (a + s)      x = (z - s e) / a      e = -s score
    e = (s z + a v) / r      e = (z + a flow) / (a + s)      e = (z - a x) / s

The first two never divide by anything small. The others lose what the latent does not hold: e at
s = 0, x at a = 0. There the mean of what is unknown is taken, zero, so that values and gradients
stay finite; v and flow convert into anything without loss at both ends.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.process.levels import Level, expand
from jaxgen.errors import InputError

Target = Literal["x", "e", "v", "score", "flow", "both"]
"""What a network predicts."""

TARGETS: tuple[Target, ...] = get_args(Target)

TargetName = Literal["x", "e", "v", "score", "flow", "both", "x0", "epsilon"]
"""A target as it may be asked for; `check_target` makes it a `Target`."""

LONG_NAMES: dict[str, Target] = {"x0": "x", "epsilon": "e"}
NOISE_TARGETS: tuple[Target, ...] = ("e", "score")
"""Those which say nothing of the data where a = 0."""


def channels_of(target: TargetName, channels: int) -> int:
    """Numbers that a network predicts for each pixel of so many channels."""
    return 2 * channels if check_target(target) == "both" else channels


def make_target(
    target: TargetName, x: Float[Array, "B ..."], e: Float[Array, "B ..."], level: Level
) -> Float[Array, "B ..."]:
    """The value of a target where data and noise are known.

    Args:
      target: which.
      x: data, [B, ...].
      e: noise, of the same shape.
      level: the noise level of each example ([B]), of its parts ([B, T]) or of all ([]).

    Returns:
      Of the shape of x; for "both" twice as long along the last axis.

    Raises:
      InputError: for an unknown target.
    """
    a, s = expand(level.a, x), expand(level.s, x)
    match check_target(target):
        case "x":
            return x
        case "e":
            return e
        case "v":
            return a * e - s * x
        case "score":
            return -divide(e, s)
        case "flow":
            return e - x
        case "both":
            return jnp.concatenate([x, e], -1)


def to_x_and_e(
    prediction: Float[Array, "B ..."], z: Float[Array, "B ..."], level: Level, target: TargetName
) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
    """Data and noise that a prediction means, such that ``z = a x + s e`` wherever a, s > 0.

    Args:
      prediction: of the target, [B, ...].
      z: the latent, [B, ...].
      level: its noise level, [B], [B, T] or [].
      target: what is predicted.

    Returns:
      x^ and e^, of the shape of z.

    Raises:
      InputError: for an unknown target, or a prediction that does not have the target's shape.
    """
    target = check_target(target)
    width = channels_of(target, z.shape[-1])
    if prediction.shape != (*z.shape[:-1], width):
        raise InputError(
            f"prediction has shape {prediction.shape} for latents of shape {z.shape}, expected "
            f"{(*z.shape[:-1], width)} for target {target!r}"
        )
    a, s = expand(level.a, z), expand(level.s, z)
    r = a * a + s * s
    match target:
        case "x":
            return prediction, divide(z - a * prediction, s)
        case "e":
            return divide(z - s * prediction, a), prediction
        case "v":
            return (a * z - s * prediction) / r, (s * z + a * prediction) / r
        case "score":
            e = -s * prediction
            return divide(z - s * e, a), e
        case "flow":
            return (z - s * prediction) / (a + s), (z + a * prediction) / (a + s)
        case "both":
            x, e = jnp.split(prediction, 2, -1)
            # The second is (z - a x^) / s, written out so that nothing is divided by s.
            return (s * s * x + a * (z - s * e)) / r, (s * z - a * s * x + a * a * e) / r


def convert(
    prediction: Float[Array, "B ..."],
    z: Float[Array, "B ..."],
    level: Level,
    source: TargetName,
    target: TargetName,
) -> Float[Array, "B ..."]:
    """A prediction of one target as a prediction of another.

    Args:
      prediction: of the source, [B, ...].
      z: the latent, [B, ...].
      level: its noise level, [B], [B, T] or [].
      source: what is predicted.
      target: what is wanted.

    Returns:
      [B, ...], of the target's shape. From "both" only the estimate x^ survives.

    Raises:
      InputError: as `to_x_and_e`.
    """
    source, target = check_target(source), check_target(target)
    if source == target:
        return prediction
    x, e = to_x_and_e(prediction, z, level, source)
    return make_target(target, x, e, level)


def divide(numerator: Float[Array, "..."], denominator: Float[Array, "..."]) -> Array:
    """``numerator / denominator``, and zero where the denominator is; with finite gradients."""
    zero = denominator == 0
    return jnp.where(zero, 0.0, numerator / jnp.where(zero, 1.0, denominator))


def check_target(target: str) -> Target:
    """The target of a name: itself, "x" for "x0", "e" for "epsilon".

    Raises:
      InputError: for another name.
    """
    target = LONG_NAMES.get(target, target)
    if target not in TARGETS:
        raise InputError(
            f"target is {target!r}, expected one of {', '.join(TARGETS)} (x0 is x, epsilon is e)"
        )
    return target
