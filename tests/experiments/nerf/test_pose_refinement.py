"""Disturbed poses, and test cameras that follow what training made of the world."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from experiments.nerf.support.pose_refinement import disturb_poses, follow_refinement
from experiments.shared.training_runs import TrainedModel
from jaxgen.data.scenes.analytic_scene import make_analytic_scene

SCENE = make_analytic_scene(8, (6, 0, 3))


def angles(first, second):
    turn = first[:, :, :3].swapaxes(1, 2) @ second[:, :, :3]
    return np.degrees(Rotation.from_matrix(turn).magnitude())


def test_every_pose_is_turned_and_moved_by_as_much():
    before = SCENE.part("train").camera_to_world
    after = disturb_poses(SCENE, 2.0, 0.02, 0).part("train").camera_to_world
    np.testing.assert_allclose(angles(before, after), 2.0, atol=1e-2)
    away = np.linalg.norm(after[:, :, 3] - before[:, :, 3], axis=-1)
    np.testing.assert_allclose(away, 0.02 * 4, rtol=1e-3)  # cameras are 4 from the middle
    other = disturb_poses(SCENE, 2.0, 0.02, 1).part("train").camera_to_world
    assert np.abs(other - after).max() > 1e-3
    np.testing.assert_array_equal(
        disturb_poses(SCENE, 2.0, 0.02, 0).part("test").camera_to_world,
        SCENE.part("test").camera_to_world,
    )


def test_test_cameras_follow_a_turn_of_the_whole_world():
    """Corrections that turn all cameras around the vertical axis turn the test cameras too."""
    vector = np.array([0.0, 0.0, 0.05])
    turn = Rotation.from_rotvec(vector).as_matrix()
    before = SCENE.part("train").camera_to_world
    moves = before[:, :, 3] @ turn.T - before[:, :, 3]
    params = {"views": {"rotations": np.tile(vector, (6, 1)) * 10, "moves": moves * 10}}
    params = {k: {n: x.astype(np.float32) for n, x in v.items()} for k, v in params.items()}
    trained = TrainedModel(None, params, None, [], 1, 0, 1.0)
    followed, errors = follow_refinement(SCENE, SCENE, trained)
    expected = turn @ SCENE.part("test").camera_to_world
    np.testing.assert_allclose(followed.part("test").camera_to_world, expected, atol=1e-5)
    back = followed.to_files.poses(followed.part("test").camera_to_world.astype(float))
    np.testing.assert_allclose(back, SCENE.part("test").camera_to_world, atol=1e-5)
    assert errors["camera distance error"] == pytest.approx(0, abs=1e-5)
    assert errors["camera angle error, degrees"] == pytest.approx(0, abs=0.1)


def test_errors_are_those_that_no_alignment_takes_away():
    """With no corrections at all, disturbed poses stay as far off as they were disturbed."""
    given = disturb_poses(SCENE, 2.0, 0.02, 0)
    nothing = {name: np.zeros((6, 3), np.float32) for name in ("rotations", "moves")}
    trained = TrainedModel(None, {"views": nothing}, None, [], 1, 0, 1.0)
    _, errors = follow_refinement(SCENE, given, trained)
    assert 1 < errors["camera angle error, degrees"] < 2.5
    assert 0.005 < errors["camera distance error"] < 0.03


def test_focal_lengths_of_test_cameras_follow_too():
    params = {"views": {"intrinsics": np.array([1.0, -1.0, 0.1, 0.0], np.float32)}}
    trained = TrainedModel(None, params, None, [], 1, 0, 1.0)
    followed, _ = follow_refinement(SCENE, SCENE, trained)
    lens, before = followed.part("test").intrinsics, SCENE.part("test").intrinsics
    np.testing.assert_allclose(lens.focal, before.focal * np.exp([0.1, -0.1]), rtol=1e-5)
    np.testing.assert_allclose(lens.centre, before.centre + np.array([0.08, 0]), rtol=1e-5)
    assert dataclasses.replace(lens, focal=before.focal, centre=before.centre).model == "PINHOLE"
