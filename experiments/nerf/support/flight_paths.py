"""The cameras of a flight through a scene: an orbit, a spiral in front of it, or its own views."""

from typing import Literal

import numpy as np

from jaxgen.data import Scene
from jaxgen.nerf import (
    Cameras,
    focus_depth,
    key_pose_cameras,
    orbit_cameras,
    spiral_cameras,
)

FRAMES, ELEVATION, KEYS = 48, 30.0, 8
FORWARD = 30.0
"""Cameras that look within so many degrees of their mean direction face forward."""

FlightPath = Literal["orbit", "spiral", "keys"]


def usual_path(scene: Scene) -> FlightPath:
    """A spiral where the training views face forward, as LLFF's do; else an orbit."""
    back_N3 = scene.part("train").camera_to_world[:, :, 2]
    mean_3 = back_N3.mean(axis=0)
    cosine = (back_N3 @ mean_3).min() / max(float(np.linalg.norm(mean_3)), 1e-12)
    return "spiral" if cosine > np.cos(np.radians(FORWARD)) else "orbit"


def flight_cameras(scene: Scene, side: int, path: FlightPath | None = None) -> Cameras:
    """Cameras with square images and the angle of view of the first training view.

    Args:
      scene: gives the cameras' distance and angle of view.
      side: height and width of the images.
      path: "orbit", around the middle of the scene's box; "spiral", in front of what the training
        views see; "keys", through 8 training views in their order. None: `usual_path`.
    """
    views = scene.part("train")
    poses = views.camera_to_world
    focal = views.intrinsics.focal[0, 0] * side / views.images.shape[2]
    middle_3 = np.mean(scene.box, axis=0)
    distance = float(np.linalg.norm(poses[:, :, 3] - middle_3, axis=-1).mean())
    match path or usual_path(scene):
        case "spiral":
            focus = focus_depth(scene.near, scene.far) if scene.bounded else distance
            return spiral_cameras(FRAMES, poses, focus=focus, focal=focal, height=side, width=side)
        case "keys":
            chosen = np.linspace(0, len(poses) - 1, min(KEYS, len(poses))).round().astype(int)
            return key_pose_cameras(FRAMES, poses[chosen], focal=focal, height=side, width=side)
        case _:
            return orbit_cameras(
                FRAMES,
                radius=distance,
                elevation=ELEVATION,
                focal=focal,
                height=side,
                width=side,
                target=tuple(middle_3.tolist()),
            )
