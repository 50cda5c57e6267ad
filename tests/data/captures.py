"""Small captures: random views of cameras of a model, and what two views must have in common."""

import dataclasses

import numpy as np
from image_files import random_images

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.data.scenes.intrinsics import Intrinsics
from jaxgen.data.scenes.similarity import IDENTITY, Similarity
from jaxgen.data.scenes.views import Scene, Views

BOX = ((-1.0,) * 3, (1.0,) * 3)
SHAPE = (12, 16)


def random_poses(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    turn *= np.linalg.det(turn)[:, None, None]
    return np.concatenate([turn, rng.normal(size=(count, 3, 1))], -1).astype(np.float32)


def random_lens(model: str, count: int, seed: int = 0) -> Intrinsics:
    """Every camera its own."""
    rng, known = np.random.default_rng(seed), CAMERA_MODELS[model]
    height, width = SHAPE
    if not known.focals:
        focal = np.tile([width / (2 * np.pi), height / np.pi], (count, 1))
        return Intrinsics(focal, np.tile([width / 2, height / 2], (count, 1)), focal[:, :0], model)
    focal = rng.uniform(14, 18, (count, known.focals)) * np.ones((1, 2))
    centre = rng.uniform(5, 7, (count, 2))
    return Intrinsics(focal, centre, rng.normal(size=(count, len(known.distortion))) / 99, model)


def random_views(count: int, model: str = "OPENCV", folder: str = "photos", seed: int = 0) -> Views:
    images = random_images(count, *SHAPE, 3, seed=seed)
    names = tuple(f"{folder}/{i:03d}" for i in range(count))
    return Views(names, images, random_poses(count, seed), random_lens(model, count, seed))


def random_scene(model: str = "OPENCV", count: int = 9, **changes: object) -> Scene:
    """With every eighth view as tests."""
    views = dataclasses.replace(random_views(count, model), **changes)
    test = list(range(0, count, 8))
    train = [i for i in range(count) if i % 8]
    return Scene("random", {"train": views.take(train), "test": views.take(test)}, 0.1, 9.0, BOX)


def moved(scene: Scene) -> Scene:
    """One whose files are in another world."""
    turn = random_poses(1, 5)[0, :, :3].astype(np.float64)
    turn = np.linalg.qr(turn)[0]
    turn *= np.linalg.det(turn)
    return dataclasses.replace(scene, to_files=Similarity(2.5, turn, np.array([3.0, -1.0, 0.5])))


def assert_same_views(left: Views, right: Views, to_files: Similarity = IDENTITY) -> None:
    """The right ones are those of files."""
    assert left.names == right.names
    np.testing.assert_array_equal(left.images, right.images)
    poses = to_files.poses(left.camera_to_world.astype(np.float64))
    np.testing.assert_allclose(poses, right.camera_to_world, atol=1e-6)
    for name in ("focal", "centre", "distortion"):
        ours, theirs = (getattr(views.intrinsics, name) for views in (left, right))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)
    assert (left.masks is None) == (right.masks is None)
    if left.masks is not None:
        np.testing.assert_array_equal(left.masks, right.masks)
