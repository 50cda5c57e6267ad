"""Similarities of space, ``x -> scale rotation x + translation``: what scenes are recentred by."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Similarity:
    """A change of scale, axes and origin.

    Attributes:
      scale: > 0.
      rotation: [3, 3].
      translation: [3].
    """

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    def points(self, x: Float[np.ndarray, "*B 3"]) -> Float[np.ndarray, "*B 3"]:
        """Points, in the new world."""
        return self.scale * np.asarray(x) @ self.rotation.T + self.translation

    def directions(self, n: Float[np.ndarray, "*B 3"]) -> Float[np.ndarray, "*B 3"]:
        """Directions (normals), of the same length."""
        return np.asarray(n) @ self.rotation.T

    def poses(self, camera_to_world: Float[np.ndarray, "N 3 4"]) -> Float[np.ndarray, "N 3 4"]:
        """Cameras: turned and moved; lengths along their rays scale by ``scale``."""
        turned = self.rotation @ camera_to_world[:, :, :3]
        return np.concatenate([turned, self.points(camera_to_world[:, :, 3])[..., None]], axis=-1)

    def matrix(self) -> Float[np.ndarray, "3 4"]:
        """``[scale rotation, translation]``."""
        return np.concatenate([self.scale * self.rotation, self.translation[:, None]], axis=1)

    def inverse(self) -> "Similarity":
        """The way back."""
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -back @ self.translation / self.scale)

    def after(self, first: "Similarity") -> "Similarity":
        """``first``, then this one."""
        return Similarity(
            self.scale * first.scale,
            self.rotation @ first.rotation,
            self.points(first.translation),
        )


def align_cameras(
    first: Float[np.ndarray, "N 3 4"], second: Float[np.ndarray, "N 3 4"]
) -> Similarity:
    """The similarity that takes cameras closest to where the same cameras are in another world.

    Its rotation is the mean of those of the cameras, ``second first^T``; scale and translation then
    fit their places by least squares. (With the rotation by places alone, cameras on a line would
    leave a turn around it open.)

    Args:
      first: camera to world, [N, 3, 4].
      second: of the same cameras, in the same order.
    """
    turns = (second[:, :, :3].astype(np.float64) @ first[:, :, :3].swapaxes(1, 2)).sum(axis=0)
    left, _, right = np.linalg.svd(turns)
    rotation = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    here = first[:, :, 3] - first[:, :, 3].mean(axis=0)
    there = second[:, :, 3] - second[:, :, 3].mean(axis=0)
    spread = float((here**2).sum())
    scale = float((there * (here @ rotation.T)).sum()) / spread if spread > 0 else 1.0
    translation = second[:, :, 3].mean(axis=0) - scale * rotation @ first[:, :, 3].mean(axis=0)
    return Similarity(scale, rotation, translation)


IDENTITY = Similarity(1.0, np.eye(3), np.zeros(3))
