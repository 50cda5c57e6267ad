"""Captures in a common place, and the way back to the units of their files."""

import dataclasses

import numpy as np
import pytest
from captures import BOX, random_poses, random_scene, random_views
from scipy.spatial.transform import Rotation

from jaxgen.data.scenes.held_out import held_out_parts
from jaxgen.data.scenes.nerfstudio import read_nerfstudio, write_nerfstudio
from jaxgen.data.scenes.recentring import moved_views, recentred, recentring_of
from jaxgen.data.scenes.similarity import IDENTITY, Similarity, align_cameras
from jaxgen.data.scenes.views import Scene
from jaxgen.errors import InputError


def looking_at(target: np.ndarray, up: np.ndarray, count: int = 9, seed: int = 0) -> np.ndarray:
    """Cameras around a target, at different distances, upright."""
    rng = np.random.default_rng(seed)
    back = rng.normal(size=(count, 3))
    back -= 0.7 * (back @ up)[:, None] * up
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    right = np.cross(up, back)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    place = target + rng.uniform(2, 5, (count, 1)) * back
    return np.stack([right, np.cross(back, right), back, place], axis=-1)


def test_similarities_compose_and_have_inverses():
    rng = np.random.default_rng(0)
    first, second = (
        Similarity(scale, pose[:, :3].astype(float), rng.normal(size=3))
        for scale, pose in zip((2.0, 0.3), random_poses(2), strict=True)
    )
    points, poses = rng.normal(size=(5, 3)), random_poses(5).astype(float)
    both = second.after(first)
    np.testing.assert_allclose(both.points(points), second.points(first.points(points)))
    np.testing.assert_allclose(both.poses(poses), second.poses(first.poses(poses)), atol=1e-12)
    np.testing.assert_allclose(first.inverse().points(first.points(points)), points, atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(first.points(points), axis=0), axis=1),
        2 * np.linalg.norm(np.diff(points, axis=0), axis=1),
        rtol=1e-6,
    )
    np.testing.assert_allclose(first.directions(points), first.points(points) / 2 - first.points(np.zeros(3)) / 2, atol=1e-9)  # fmt: skip  # noqa: E501
    np.testing.assert_array_equal(IDENTITY.points(points), points)


def test_the_target_is_the_origin_and_up_is_z():
    target, up = np.array([5.0, -2, 1]), np.array([0.6, 0, -0.8])
    poses = looking_at(target, up, 40)

    move = recentring_of(poses)
    np.testing.assert_allclose(move.points(target), 0, atol=1e-9)
    found = move.poses(poses)
    np.testing.assert_allclose(np.linalg.norm(found[:, :, 3], axis=1).max(), 1, rtol=1e-9)
    mean = found[:, :, 1].mean(axis=0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(move.rotation), 1)


def test_the_same_scene_in_any_world_becomes_the_same_but_for_a_turn():
    """Distances between cameras and heights do not depend on the world of the files."""
    poses = looking_at(np.zeros(3), np.array([0.0, 0, 1]))
    world = Similarity(7.0, random_poses(1)[0, :, :3].astype(float), np.array([9.0, 8, 7]))
    plain, other = (recentring_of(p).poses(p) for p in (poses, world.poses(poses)))
    for left, right in zip(plain, other, strict=True):
        np.testing.assert_allclose(left[2], right[2], atol=1e-6)
    apart = [np.linalg.norm(p[:, None, :, 3] - p[None, :, :, 3], axis=-1) for p in (plain, other)]
    np.testing.assert_allclose(*apart, atol=1e-6)


def test_cameras_that_look_one_way_are_around_their_middle():
    poses = np.tile(np.eye(3, 4), (4, 1, 1))
    poses[:, :, 3] = [[0, 0, 5], [2, 0, 5], [0, 2, 5], [2, 2, 5]]
    move = recentring_of(poses)
    np.testing.assert_allclose(move.points(np.array([1.0, 1, 5])), 0, atol=1e-12)
    assert move.scale == pytest.approx(1 / np.sqrt(2))
    np.testing.assert_allclose(move.directions(np.array([0.0, 1, 0])), [0, 0, 1], atol=1e-12)
    upside_down = poses * np.array([1.0, -1, -1, 1])
    turned = recentring_of(upside_down).poses(upside_down)
    np.testing.assert_allclose(turned[:, :, 1], [[0, 0, 1]] * 4, atol=1e-12)
    poses[:, :, 3] = 3
    with pytest.raises(InputError, match=r"^s: all 4 cameras are in one place, expected two pl"):
        recentring_of(poses, "s")


def test_the_way_back_is_kept(tmp_path):
    """Poses, depth and normals; and files that are written of a moved scene are as before."""
    scene = random_scene()
    once = recentred(scene, 0.05, 8.0, 2.0)
    assert (once.near, once.far, once.box) == (0.05, 8.0, ((-2.0,) * 3, (2.0,) * 3))
    again = recentred(dataclasses.replace(once, parts=scene.parts), 0.1, 9.0, 1.0)
    for moved in (once, recentred(once, 0.1, 9.0, 1.0)):
        for part, views in scene.parts.items():
            back = moved.to_files.poses(moved.parts[part].camera_to_world.astype(float))
            np.testing.assert_allclose(back, views.camera_to_world, atol=2e-6)
    assert again.to_files.scale == pytest.approx(once.to_files.scale**2)
    write_nerfstudio(tmp_path / "s", once)
    read = read_nerfstudio(tmp_path / "s")
    for part, views in scene.parts.items():
        np.testing.assert_allclose(
            read.parts[part].camera_to_world, views.camera_to_world, atol=2e-6
        )


def test_depth_and_normals_move_along():
    views = random_views(3)
    depth = np.full((3, 12, 16), 2.0, np.float32)
    normals = np.tile(np.array([0, 0, 1], np.float32), (3, 12, 16, 1))
    move = Similarity(0.25, random_poses(1)[0, :, :3].astype(float), np.ones(3))
    moved = moved_views(dataclasses.replace(views, depth=depth, normals=normals), move)
    np.testing.assert_array_equal(moved.depth, depth / 4)
    np.testing.assert_allclose(moved.normals[0, 0, 0], move.rotation[:, 2], atol=1e-6)
    point = views.camera_to_world[0] @ [0.3, 0.2, -2, 1]
    own = moved.camera_to_world[0] @ [0.3 / 4, 0.2 / 4, -0.5, 1]
    np.testing.assert_allclose(move.points(point), own, atol=1e-5)


def test_every_eighth_view_is_held_out_by_name():
    views = random_views(17)
    shuffled = views.take(np.random.default_rng(0).permutation(17))
    parts = held_out_parts(shuffled)
    assert parts["test"].names == tuple(views.names[i] for i in (0, 8, 16))
    assert parts["train"].names == tuple(name for i, name in enumerate(views.names) if i % 8)
    np.testing.assert_array_equal(parts["test"].images, views.images[[0, 8, 16]])
    assert len(held_out_parts(views, 2)["test"]) == 9
    assert list(held_out_parts(views, 0)) == ["train"]
    for every in (1, -1):
        with pytest.raises(InputError, match=rf"^every is {every}, expected 0, or 2 or more"):
            held_out_parts(views, every)
    with pytest.raises(InputError, match=r"^s: 1 view, expected 2 or more to hold one out for tes"):
        held_out_parts(views.take([0]), where="s")
    Scene("s", held_out_parts(views.take([0, 1])), 0.1, 1.0, BOX)


def test_cameras_of_two_worlds_are_aligned():
    """A known similarity is found, of cameras in general places, on a line, and of one alone."""
    rng = np.random.default_rng(0)
    turn = Rotation.random(rng=np.random.default_rng(5)).as_matrix()
    move = Similarity(1.7, turn, np.array([0.3, -2.0, 1.0]))
    pose = np.concatenate(
        [Rotation.random(6, rng=rng).as_matrix(), rng.normal(size=(6, 3, 1))], axis=-1
    )
    line = pose.copy()
    line[:, :, 3] = np.arange(6)[:, None] * np.array([1.0, 2.0, -1.0])
    for cameras in (pose, line):
        found = align_cameras(cameras, move.poses(cameras))
        assert found.scale == pytest.approx(1.7)
        np.testing.assert_allclose(found.rotation, turn, atol=1e-9)
        np.testing.assert_allclose(found.translation, move.translation, atol=1e-9)
    alone = align_cameras(pose[:1], move.poses(pose[:1]))
    np.testing.assert_allclose(alone.poses(pose[:1]), move.poses(pose[:1]), atol=1e-9)
    noisy = move.poses(pose)
    noisy[:, :, 3] += 0.01 * rng.normal(size=(6, 3))
    near = align_cameras(pose, noisy)
    assert near.scale == pytest.approx(1.7, abs=0.05)
    assert np.linalg.det(near.rotation) == pytest.approx(1)
