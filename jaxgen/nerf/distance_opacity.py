"""The opacity of intervals of a ray by a signed distance (Wang et al. 2021, "NeuS").

With f the distance, s a sharpness and S the logistic function, an interval from f_0 to f_1 absorbs
the share ``(S(s f_0) - S(s f_1)) / S(s f_0)`` of the light that reaches it. Along a ray that meets
a plane the weights are then S's derivative, with its peak at the plane.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

EPSILON = 1e-5
"""Added to S."""
SHORTEST = 1e-10
"""Length by which an interval of none is divided."""


def interval_density(
    distance: Float[Array, "*B"],
    slope: Float[Array, "*B"],
    length: Float[Array, "*B"],
    offset: Float[Array, "*B"] | None,
    sharpness: Float[Array, ""] | float,
) -> Float[Array, "*B"]:
    """Of intervals, the constant density that absorbs what NeuS's opacity does.

    With f_0 and f_1 the distances at both ends and e = 1e-5::

        alpha = (S(s f_0) - S(s f_1) + e) / (S(s f_0) + e)
        -log(1 - alpha) = log(S(s f_0) + e) - log S(s f_1)

    which is finite, and so are its gradients, where alpha rounds to 1.

    Args:
      distance: f of samples.
      slope: of the distance along the ray, 0 or less.
      length: of the intervals.
      offset: of a sample from the beginning of its interval; None: half the length.
      sharpness: s.
    """
    before = length / 2 if offset is None else offset
    begin, end = distance - slope * before, distance + slope * (length - before)
    depth = jnp.log(nn.sigmoid(sharpness * begin) + EPSILON) - nn.log_sigmoid(sharpness * end)
    return jnp.maximum(depth, 0) / jnp.maximum(length, SHORTEST)


def anneal_slope(
    slope: Float[Array, "*B"], progress: Float[Array, ""] | None, share: float
) -> Float[Array, "*B"]:
    """The slope of a distance along rays, made 0 or less.

    From ``-max(0, 1/2 - c/2)`` at the beginning, with which surfaces seen from behind have a
    gradient too, to ``-max(0, -c)`` after a share of the training (NeuS's code).
    """
    done = -nn.relu(-slope)
    if progress is None or not share:
        return done
    part = jnp.clip(progress / share, 0, 1)
    return part * done - (1 - part) * nn.relu(0.5 - slope / 2)
