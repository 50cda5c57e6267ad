"""Orbits, spirals and paths through key poses: where cameras are, what they see, how they move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import nerf
from jaxgen.errors import InputError
from jaxgen.nerf import (
    average_pose,
    focus_depth,
    key_pose_cameras,
    look_at,
    orbit_cameras,
    spiral_cameras,
)
from jaxgen.nerf.camera_paths import pose_path, rotation_vectors, rotations_of

project = jax.jit(nerf.project)
IMAGE = {"focal": 50.0, "height": 20, "width": 30}


def random_keys(count, seed=0):
    rng = np.random.default_rng(seed)
    turn = rotations_of(rng.normal(size=(count, 3)))
    return np.concatenate([turn, rng.normal(size=(count, 3, 1))], axis=-1)


def forward_facing(count=20, seed=1):
    """Cameras near a plane that look roughly along (1, 2, -0.5), upright."""
    rng = np.random.default_rng(seed)
    position = rng.normal(size=(count, 3)) * [0.5, 0.3, 0.2]
    target = position + np.array([1, 2, -0.5]) * 5 + 0.3 * rng.normal(size=(count, 3))
    return np.asarray(look_at(position, target))


def test_an_orbit():
    target = (1.0, 2.0, 3.0)
    cameras = orbit_cameras(
        20, radius=4, elevation=30, focal=50, height=20, width=30, target=target
    )
    offset = np.asarray(cameras.camera_to_world[:, :, 3]) - target
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), 4, rtol=1e-5)
    np.testing.assert_allclose(offset[:, 2], 2, rtol=1e-5)
    around = np.unwrap(np.arctan2(offset[:, 1], offset[:, 0]))
    np.testing.assert_allclose(around, np.arange(20) * np.pi / 10, atol=1e-5)
    place = project(cameras, jnp.array([target])).place
    np.testing.assert_allclose(place[:, 0], [[15, 10]] * 20, atol=1e-3)
    assert len(cameras) == 20
    assert len(cameras.take(np.array([1, 5]))) == 2


def test_the_average_pose():
    poses = forward_facing()
    found = average_pose(poses)
    np.testing.assert_allclose(found[:, :3].T @ found[:, :3], np.eye(3), atol=1e-6)
    assert np.linalg.det(found[:, :3]) == pytest.approx(1)
    np.testing.assert_allclose(found[:, 3], poses[:, :, 3].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.cross(found[:, 2], poses[:, :, 2].mean(axis=0)), 0, atol=1e-6)
    assert found[:, 1] @ poses[:, :, 1].mean(axis=0) > 0.9
    one = random_keys(1)
    np.testing.assert_allclose(average_pose(one), one[0], atol=1e-6)


def test_a_spiral_looks_at_its_focus_from_around_the_average_pose():
    poses = forward_facing()
    cameras = spiral_cameras(20, poses, focus=4.0, **IMAGE)
    middle = average_pose(poses)
    target = middle[:, 3] - 4 * middle[:, 2]
    place, depth, _ = map(np.asarray, project(cameras, jnp.asarray(target[None], jnp.float32)))
    np.testing.assert_allclose(place[:, 0], [[15, 10]] * 20, atol=1e-2)
    assert np.all(depth > 2)
    found = np.asarray(cameras.camera_to_world)
    offset = (found[:, :, 3] - middle[:, 3]) @ middle[:, :3]
    radius = np.percentile(np.abs((poses[:, :, 3] - middle[:, 3]) @ middle[:, :3]), 90, axis=0)
    angle = 4 * np.pi * np.arange(20) / 20
    expected = np.stack([np.cos(angle), -np.sin(angle), -np.sin(angle / 2)], axis=-1) * radius
    np.testing.assert_allclose(offset, expected, atol=1e-5)
    # Two turns: closed, without a jump.
    steps = np.linalg.norm(np.diff(found[:, :, 3], axis=0, append=found[:1, :, 3]), axis=-1)
    assert steps.max() < 3 * np.median(steps)
    assert focus_depth(2.0, 6.0) == pytest.approx(1 / (0.375 + 1 / 24))


@pytest.mark.parametrize("closed", [False, True])
def test_a_path_passes_through_its_keys(closed):
    keys = random_keys(5)
    count = 20 if closed else 17
    found = np.asarray(key_pose_cameras(count, keys, closed=closed, **IMAGE).camera_to_world)
    np.testing.assert_allclose(found[::4], keys, atol=1e-6)
    gram = found[:, :, :3].swapaxes(1, 2) @ found[:, :, :3]
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=1e-5)
    assert len(found) == count


def velocities(keys, time, closed):
    """Of positions and of rotations, by differences of both sides."""
    before, now, after = (pose_path(keys, time + step, closed) for step in (-1e-6, 0, 1e-6))
    for a, b in ((before, now), (now, after)):
        turned = rotation_vectors(a[:, :, :3].swapaxes(1, 2) @ b[:, :, :3])
        yield np.concatenate([b[:, :, 3] - a[:, :, 3], turned], axis=-1) / 1e-6


def test_the_velocity_is_continuous_at_keys():
    keys = random_keys(6)
    for closed, time in ((False, np.arange(1.0, 5)), (True, np.arange(6.0))):
        before, after = velocities(keys, time, closed)
        np.testing.assert_allclose(before, after, atol=1e-4)
        assert np.linalg.norm(after, axis=-1).min() > 0.1
    # A closed path repeats itself, and passes from the last key to the first one.
    time = np.linspace(0, 6, 50)
    np.testing.assert_allclose(
        pose_path(keys, time, True), pose_path(keys, time + 6, True), atol=1e-12
    )


def test_even_keys_are_passed_evenly():
    """On a line, and turning about one axis with the same steps, the path does the same."""
    turn = rotations_of(np.arange(5)[:, None] * np.array([[0.1, 0.5, -0.3]]))
    keys = np.concatenate([turn, np.arange(5)[:, None, None] * np.ones((5, 3, 1))], axis=-1)
    time = np.linspace(0, 4, 33)
    found = pose_path(keys, time)
    np.testing.assert_allclose(found[:, :, 3], time[:, None] * np.ones(3), atol=1e-12)
    np.testing.assert_allclose(
        found[:, :, :3], rotations_of(time[:, None] * np.array([[0.1, 0.5, -0.3]])), atol=1e-12
    )


def test_rotation_vectors_are_the_inverse_of_rotations():
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(200, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.concatenate([[0, 1e-9, 1e-5, np.pi - 1e-9], rng.uniform(0, np.pi, 196)])
    vectors = axis * angle[:, None]
    turn = rotations_of(vectors)
    np.testing.assert_allclose(np.linalg.det(turn), 1, rtol=1e-12)
    np.testing.assert_allclose(np.trace(turn, axis1=1, axis2=2), 1 + 2 * np.cos(angle), atol=1e-12)
    np.testing.assert_allclose(rotation_vectors(turn), vectors, atol=1e-7)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", turn, axis), axis, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"count": 0}, "count is 0, expected 1 or more"),
        ({"radius": -1}, "radius is -1, expected a number > 0"),
        ({"elevation": 90}, "elevation is 90, expected -90 < elevation < 90"),
    ],
    ids=range(3),
)
def test_what_is_no_orbit(change, fault):
    given = {"count": 2, "radius": 1, "elevation": 0, "focal": 5, "height": 4, "width": 5}
    with pytest.raises(InputError, match=fault):
        orbit_cameras(**{**given, **change})


FACING = np.stack([np.eye(3, 4), np.diag([-1.0, 1, -1, 1])[:3]])


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: spiral_cameras(0, FACING, focus=1, **IMAGE), "count is 0, expected 1 or more"),
        (lambda: spiral_cameras(1, FACING, focus=0, **IMAGE), "focus is 0, expected a finite num"),
        (lambda: average_pose(FACING), "camera_to_world has no mean direction, expected cameras"),
        (lambda: average_pose(FACING[:0]), "camera_to_world has no poses, expected 1 or more"),
        (lambda: key_pose_cameras(3, FACING[:1], **IMAGE), "has 1 key poses, expected 2 or more"),
        (
            lambda: key_pose_cameras(3, FACING * 2, **IMAGE),
            r"camera_to_world\[0\] has the rotation",
        ),
        (lambda: focus_depth(0.0, 1.0), "near is 0.0, expected a finite number > 0"),
    ],
    ids=range(7),
)
def test_what_is_no_path(make, fault):
    with pytest.raises(InputError, match=fault):
        make()
