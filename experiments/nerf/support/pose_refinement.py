"""Poses that are not exact: noise to try their refinement with, and test cameras that follow it."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from experiments.nerf.support.view_rays import cameras_of
from experiments.shared.training_runs import TrainedModel
from jaxgen.data import Scene
from jaxgen.data.scenes.similarity import align_cameras
from jaxgen.nerf.renderer import VIEWS
from jaxgen.nerf.view_parameters import refine_cameras, rotation_of


def disturb_poses(scene: Scene, degrees: float, share: float, seed: int) -> Scene:
    """The scene with training cameras turned and moved, each in a random direction.

    Args:
      scene: the scene.
      degrees: by which each camera is turned around itself.
      share: of its distance from the middle of the box, by which each is moved.
      seed: of the directions.
    """
    views = scene.part("train")
    generator = np.random.default_rng(seed)
    axis_N3, way_N3 = (_directions(generator, len(views)) for _ in range(2))
    turn = np.asarray(rotation_of(np.radians(degrees) * axis_N3.astype(np.float32)))
    pose = views.camera_to_world
    distance_N = np.linalg.norm(pose[:, :, 3] - np.mean(scene.box, axis=0), axis=-1)
    place = pose[:, :, 3] + share * distance_N[:, None] * way_N3
    moved = np.concatenate([turn @ pose[:, :, :3], place[:, :, None]], axis=-1)
    views = dataclasses.replace(views, camera_to_world=moved.astype(np.float32))
    return dataclasses.replace(scene, parts={**scene.parts, "train": views})


def _directions(generator: np.random.Generator, count: int) -> Float[np.ndarray, "N 3"]:
    vector = generator.normal(size=(count, 3))
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def follow_refinement(
    scene: Scene, given: Scene, trained: TrainedModel
) -> tuple[Scene, dict[str, float]]:
    """The scene with all but its training cameras moved to where the training moved the world.

    Corrections of poses may turn, move and scale the whole scene: the similarity that takes the
    scene's training cameras closest to the corrected ones takes its other cameras along.
    Corrections of intrinsics are theirs too. `Scene.to_files` leads back from there.

    Args:
      scene: as it is in its files.
      given: the one that was trained on, the same or with disturbed poses.
      trained: with corrections of poses or of intrinsics.

    Returns:
      The scene, and how far the corrected training cameras are from its own, aligned: the mean
      distance, as a share of the cameras' mean distance from their middle, and the mean angle.
    """
    corrections = jax.tree.map(np.asarray, trained.params[VIEWS])
    views = scene.part("train")
    refined = refine_cameras(corrections, cameras_of(given.part("train")))
    found = np.asarray(refined.camera_to_world, np.float64)
    move = align_cameras(views.camera_to_world, found)
    parts = {"train": views}
    for part, other in scene.parts.items():
        if part != "train":
            poses = move.poses(other.camera_to_world).astype(np.float32)
            lens = other.intrinsics
            if "intrinsics" in corrections:
                only = {"intrinsics": corrections["intrinsics"]}
                cameras = refine_cameras(only, cameras_of(other))
                lens = dataclasses.replace(
                    lens, focal=np.asarray(cameras.focal), centre=np.asarray(cameras.centre)
                )
            parts[part] = dataclasses.replace(other, camera_to_world=poses, intrinsics=lens)
    aligned = move.poses(views.camera_to_world)
    apart = np.linalg.norm(aligned[:, :, 3] - found[:, :, 3], axis=-1).mean()
    size = np.linalg.norm(found[:, :, 3] - found[:, :, 3].mean(axis=0), axis=-1).mean()
    trace = (aligned[:, :, :3] * found[:, :, :3]).sum(axis=(1, 2))
    angle = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))).mean()
    back = scene.to_files.after(move.inverse())
    return dataclasses.replace(scene, parts=parts, to_files=back), {
        "camera distance error": float(apart / size),
        "camera angle error, degrees": float(angle),
    }
