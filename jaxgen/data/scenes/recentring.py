"""Captures in a common place, position and size, and how to get back.

Reconstructions from photographs come in arbitrary units, somewhere in space, leaning. Here the
point nearest to all optical axes becomes the origin, the mean of the cameras' upward directions
becomes +z, and the camera that is farthest away is at distance 1. What was done is a `Similarity`
and stays with the scene.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxgen.data.scenes.similarity import Similarity
from jaxgen.data.scenes.views import Scene, Views
from jaxgen.errors import InputError

PARALLEL = 1e-2
"""Below this share of the axes' spread they meet nowhere: the middle of the cameras is taken."""


def recentring_of(
    camera_to_world: Float[np.ndarray, "N 3 4"], where: str = "cameras"
) -> Similarity:
    """What takes cameras to the common place.

    Args:
      camera_to_world: The cameras.
      where: What an error begins with.

    Raises:
      InputError: All cameras are in one place, so that nothing has a size.
    """
    poses = camera_to_world.astype(np.float64)
    place_N3 = poses[:, :, 3]
    origin_3 = _focus(place_N3, -poses[:, :, 2])
    turn_33 = _upright(poses[:, :, 1].mean(axis=0))
    farthest = np.linalg.norm(place_N3 - origin_3, axis=1).max()
    if not farthest > 1e-9 * max(1.0, float(np.abs(place_N3).max())):
        raise InputError(
            f"{where}: all {len(poses)} cameras are in one place, expected two places or more to"
            " recentre"
        )
    scale = 1 / float(farthest)
    return Similarity(scale, turn_33, -scale * turn_33 @ origin_3)


def _focus(
    place_N3: Float[np.ndarray, "N 3"], ahead_N3: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, "3"]:
    """The point with the least squared distances to all optical axes, if it is in front of most."""
    off_N33 = np.eye(3) - ahead_N3[:, :, None] * ahead_N3[:, None]
    sum_33, mean_3 = off_N33.mean(axis=0), place_N3.mean(axis=0)
    if np.linalg.eigvalsh(sum_33)[0] < PARALLEL:
        return mean_3
    focus_3 = np.linalg.solve(sum_33, (off_N33 @ place_N3[..., None]).mean(axis=0)[:, 0])
    before_N = ((focus_3 - place_N3) * ahead_N3).sum(axis=1) > 0
    return focus_3 if before_N.mean() > 0.5 else mean_3


def _upright(up_3: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes a direction to +z."""
    length = np.linalg.norm(up_3)
    if length < 1e-6:  # cameras in all positions: none is upright
        return np.eye(3)
    x, y, z = up_3 / length
    if z < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    cross_33 = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return np.eye(3) + cross_33 + cross_33 @ cross_33 / (1 + z)


def recentred(scene: Scene, near: float, far: float, half: float) -> Scene:
    """A scene in the common place.

    Args:
      scene: In the world of its files.
      near: Where rays begin, in the new units, in which the farthest camera is at distance 1.
      far: Where they end.
      half: Half the side of the box around the middle, beyond which there is more to be seen.
    """
    poses = np.concatenate([views.camera_to_world for views in scene.parts.values()])
    move = recentring_of(poses, scene.name)
    parts = {part: moved_views(views, move) for part, views in scene.parts.items()}
    back = scene.to_files.after(move.inverse())
    box = (-half,) * 3, (half,) * 3
    return dataclasses.replace(
        scene, parts=parts, near=near, far=far, box=box, to_files=back, bounded=False
    )


def moved_views(views: Views, move: Similarity) -> Views:
    """Views in another world: cameras, depth and normals."""
    return dataclasses.replace(
        views,
        camera_to_world=move.poses(views.camera_to_world.astype(np.float64)).astype(np.float32),
        depth=None if views.depth is None else (move.scale * views.depth).astype(np.float32),
        normals=None
        if views.normals is None
        else move.directions(views.normals).astype(np.float32),
    )
