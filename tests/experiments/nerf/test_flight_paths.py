"""Which path the cameras of a flight take, and where they are on it."""

import dataclasses

import numpy as np
import pytest

from experiments.nerf.support.flight_paths import flight_cameras, usual_path
from jaxgen.data import load_scene
from jaxgen.nerf import look_at


@pytest.fixture(scope="module")
def around():
    return load_scene("shapes", size=16)


def facing_forward(scene):
    """Its training views from a square of side 0.4 at x = 4, all towards -x."""
    train = scene.part("train")
    rng = np.random.default_rng(0)
    position = np.array([4.0, 0, 0]) + rng.uniform(-0.2, 0.2, (len(train), 3)) * [0, 1, 1]
    poses = np.asarray(look_at(position, position - [1, 0, 0]), np.float32)
    parts = {"train": dataclasses.replace(train, camera_to_world=poses)}
    return dataclasses.replace(scene, parts=parts)


def test_views_around_a_scene_have_an_orbit_and_views_in_front_of_it_a_spiral(around):
    assert usual_path(around) == "orbit"
    assert usual_path(facing_forward(around)) == "spiral"


def test_the_cameras_of_a_flight(around):
    forward = facing_forward(around)
    for scene, path in ((around, "orbit"), (forward, "spiral"), (around, "keys")):
        cameras = flight_cameras(scene, 20, None if path != "keys" else path)
        assert (len(cameras), cameras.height, cameras.width) == (48, 20, 20)
        views = scene.part("train")
        angle = views.images.shape[2] / views.intrinsics.focal[0, 0]
        np.testing.assert_allclose(20 / np.asarray(cameras.focal), angle, rtol=1e-5)
        poses, keys = np.asarray(cameras.camera_to_world), views.camera_to_world
        if path == "keys":
            np.testing.assert_allclose(poses[[0, -1]], keys[[0, -1]], atol=1e-5)
        elif path == "spiral":
            assert np.abs(poses[:, 1:, 3]).max() < 0.25
            assert poses[:, 0, 2].min() > 0.98
        else:
            offset = poses[:, :, 3] - np.mean(scene.box, axis=0)
            length = np.linalg.norm(offset, axis=1)
            np.testing.assert_allclose(offset[:, 2] / length, 0.5, rtol=1e-4)
