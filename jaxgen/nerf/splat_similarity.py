"""Gaussians turned, scaled and moved as a whole: what takes them to another world's coordinates.

A mean goes from m to ``scale R m + translation``, a rotation Q to R Q, scales grow. Colours turn
along: what was seen in direction d is then seen in R d. Harmonics of one degree only mix with each
other in this, by matrices that the least squares of some directions give exactly.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxgen.nerf.encodings import spherical_harmonics
from jaxgen.nerf.splat_projection import (
    HARMONICS,
    LOG_SCALES,
    MEANS,
    OPACITY_LOGITS,
    QUATERNIONS,
)
from jaxgen.typing import Tree

DIRECTIONS = 256
"""More than enough for 16 harmonics."""


def move_splats(
    params: Tree,
    scale: float,
    rotation: Float[np.ndarray, "3 3"],
    translation: Float[np.ndarray, "3"],
) -> Tree:
    """Gaussians in another world, numpy arrays in float32.

    Args:
      params: of the scene.
      scale: above 0.
      rotation: R.
      translation: added last.
    """
    given = {name: np.asarray(array, np.float64) for name, array in params.items()}
    own, turn = _quaternion(rotation), given[QUATERNIONS]
    cross_G3 = np.cross(np.broadcast_to(own[1:], turn[:, 1:].shape), turn[:, 1:])
    vector_G3 = own[0] * turn[:, 1:] + turn[:, :1] * own[1:] + cross_G3
    count = given[HARMONICS].shape[1]
    moved = {
        MEANS: scale * given[MEANS] @ rotation.T + translation,
        LOG_SCALES: given[LOG_SCALES] + np.log(scale),
        QUATERNIONS: np.concatenate(
            [own[0] * turn[:, :1] - turn[:, 1:] @ own[1:, None], vector_G3], axis=1
        ),
        OPACITY_LOGITS: given[OPACITY_LOGITS],
        HARMONICS: np.einsum("mk,gkc->gmc", _turned_harmonics(rotation, count), given[HARMONICS]),
    }
    return {name: array.astype(np.float32) for name, array in moved.items()}


def _quaternion(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4"]:
    """(w, x, y, z) of a rotation: an eigenvector (Bar-Itzhack 2000), so no case is special."""
    r = np.asarray(rotation, np.float64)
    table_44 = np.zeros((4, 4))
    table_44[1:, 1:] = r + r.T - np.eye(3) * np.trace(r)
    table_44[0, 0] = np.trace(r)
    table_44[0, 1:] = table_44[1:, 0] = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    return np.linalg.eigh(table_44)[1][:, -1]


def _turned_harmonics(rotation: Float[np.ndarray, "3 3"], count: int) -> Float[np.ndarray, "K K"]:
    """What takes coefficients of harmonics to those of the turned function."""
    direction_N3 = np.random.default_rng(0).normal(size=(DIRECTIONS, 3))
    direction_N3 /= np.linalg.norm(direction_N3, axis=1, keepdims=True)
    after, before = (
        np.asarray(spherical_harmonics(jnp.asarray(d, jnp.float32)), np.float64)[:, :count]
        for d in (direction_N3, direction_N3 @ rotation)
    )
    return np.linalg.lstsq(after, before, rcond=None)[0]
