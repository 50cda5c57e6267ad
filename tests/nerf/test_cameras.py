"""Rays against plain numpy, their inverse, poses, and boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import nerf
from jaxgen.errors import InputError
from jaxgen.nerf import Rays, look_at, make_cameras

camera_rays, pixel_rays, project = map(jax.jit, (nerf.camera_rays, nerf.pixel_rays, nerf.project))
ray_box, ray_sphere = jax.jit(nerf.ray_box), jax.jit(nerf.ray_sphere)

FOCAL, CENTRE = (30.0, 25.0), (5.5, 3.0)


def random_poses(count, seed=0):
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    turn *= np.linalg.det(turn)[:, None, None]
    return np.concatenate([turn, rng.normal(size=(count, 3, 1))], axis=-1)


def some_cameras(count=3):
    return make_cameras(random_poses(count), FOCAL, CENTRE, height=7, width=12)


def test_rays_go_through_the_centres_of_pixels():
    """The module's formula, pixel by pixel in float64."""
    cameras = some_cameras()
    rays = jax.tree.map(np.asarray, camera_rays(cameras))
    assert rays.origin.shape == rays.direction.shape == (3, 7, 12, 3)
    poses = random_poses(3)
    for n, j, i in np.ndindex(3, 7, 12):
        local = (i + 0.5 - 5.5) / 30, -(j + 0.5 - 3) / 25, -1
        expected = poses[n, :, :3] @ (local / np.linalg.norm(local))
        np.testing.assert_allclose(rays.direction[n, j, i], expected, atol=1e-6)
        np.testing.assert_allclose(rays.origin[n, j, i], poses[n, :, 3], atol=1e-6)


def test_a_camera_looks_along_minus_z_with_x_right_and_y_up():
    cameras = make_cameras(np.eye(4)[None], 10.0, height=4, width=6)
    direction = np.asarray(camera_rays(cameras).direction)[0]
    assert np.all(direction[..., 2] < 0)
    assert np.all(direction[:, 3:, 0] > 0)
    assert np.all(direction[:, :3, 0] < 0)
    assert np.all(direction[:2, :, 1] > 0)
    assert np.all(direction[2:, :, 1] < 0)


def test_chosen_pixels_are_those_of_the_images():
    cameras = some_cameras()
    chosen = tuple(np.random.default_rng(0).integers(0, [[3], [7], [12]], (3, 20)))
    every, rays = camera_rays(cameras), pixel_rays(cameras, *chosen)
    np.testing.assert_allclose(rays.direction, every.direction[chosen], atol=1e-7)
    np.testing.assert_array_equal(rays.origin, every.origin[chosen])


def test_projection_is_the_inverse_of_rays():
    """Pixel (i, j) at (i + 1/2, j + 1/2); t is a distance, depth that along the camera's axis."""
    cameras = some_cameras()
    rays = jax.tree.map(np.asarray, camera_rays(cameras))
    distance = np.random.default_rng(0).uniform(1, 5, size=(3, 7, 12, 1)).astype(np.float32)
    points = np.asarray(rays.points(distance))[..., 0, :]
    for n in range(3):
        place, depth, _ = map(np.asarray, project(cameras, points[n].reshape(-1, 3)))
        place = place[n].reshape(7, 12, 2)
        np.testing.assert_allclose(place[..., 0], np.tile(np.arange(12) + 0.5, (7, 1)), atol=1e-3)
        np.testing.assert_allclose(place[..., 1].T, np.tile(np.arange(7) + 0.5, (12, 1)), atol=1e-3)
        cosine = -rays.direction[n] @ np.asarray(cameras.camera_to_world)[n, :, 2]
        expected = distance[n, ..., 0] * cosine
        np.testing.assert_allclose(depth[n].reshape(7, 12), expected, rtol=1e-4)


def test_a_camera_at_its_target():
    rng = np.random.default_rng(0)
    position, target = rng.normal(size=(2, 5, 3)).astype(np.float32)
    pose = look_at(position, target, (0, 1, 0))
    cameras = make_cameras(pose, 20.0, height=10, width=20)
    place, depth, _ = map(np.asarray, project(cameras, target))
    for n in range(5):
        np.testing.assert_allclose(place[n, n], (10, 5), atol=1e-3)
        assert depth[n, n] == pytest.approx(np.linalg.norm(position[n] - target[n]), rel=1e-5)
    # Upright: a point above the target is straight above it in the image.
    above = np.asarray(project(cameras, target + np.array([0, 0.1, 0])).place)
    for n in range(5):
        assert above[n, n, 0] == pytest.approx(10, abs=1e-3)
        assert above[n, n, 1] < 5
    with pytest.raises(InputError, match="expected one that is not on a line along up="):
        look_at((0.0, 0.0, 2.0))


LOW, HIGH = (-1.0, -0.5, 0.0), (1.0, 0.5, 2.0)


def test_rays_meet_a_box_where_points_of_them_are_inside():
    """Against 20,001 points of each ray."""
    rng = np.random.default_rng(0)
    origin = rng.uniform(-3, 3, size=(200, 3))
    direction = rng.uniform(LOW, HIGH, size=(200, 3)) - origin
    direction[100:] = rng.normal(size=(100, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    rays = Rays(*(jnp.asarray(x, jnp.float32) for x in (origin, direction)))
    near, far = (np.asarray(x) for x in ray_box(rays, LOW, HIGH))
    t = np.linspace(0, 10, 20_001)
    points = origin[:, None] + t[:, None] * direction[:, None]
    inside = ((points >= LOW) & (points <= HIGH)).all(axis=-1)
    length = inside.sum(axis=1) * (t[1] - t[0])
    np.testing.assert_allclose(np.maximum(far - near, 0), length, atol=2e-3)
    hit = length > 0.01
    assert 80 < hit.sum() < 199
    np.testing.assert_allclose(near[hit], t[inside.argmax(axis=1)][hit], atol=1e-3)


def test_rays_along_an_axis_have_finite_ends_and_gradients():
    """Through the box, beside it, from within it, away from it."""
    origin = jnp.array([[-4.0, 0, 1], [-4, 2, 1], [0.5, 0, 1], [4, 0, 1]])
    direction = jnp.broadcast_to(jnp.array([1.0, 0, 0]), origin.shape)
    near, far = map(np.asarray, ray_box(Rays(origin, direction), LOW, HIGH))
    np.testing.assert_allclose(near[[0, 2]], [3, 0])
    np.testing.assert_allclose(far[[0, 2]], [5, 0.5])
    assert np.all(np.isfinite(near))
    assert np.all(np.isfinite(far))
    assert np.all(far[[1, 3]] <= near[[1, 3]])
    sums = jax.jit(jax.grad(lambda rays: sum(x.sum() for x in ray_box(rays, LOW, HIGH))))
    gradients = sums(Rays(origin, direction))
    assert all(np.all(np.isfinite(x)) for x in (gradients.origin, gradients.direction))
    np.testing.assert_allclose(gradients.origin[0], [-2, 0, 0])


def test_rays_meet_a_sphere_where_points_of_them_are_inside():
    """Against 20,001 points of each ray: from outside, from within, past it, away from it."""
    rng = np.random.default_rng(0)
    centre, radius = np.array([0.3, -0.2, 0.5]), 1.2
    origin = rng.uniform(-3, 3, size=(200, 3))
    direction = centre + rng.normal(size=(200, 3)) * 0.7 - origin
    direction[100:150] = rng.normal(size=(50, 3))
    origin[150:] = centre + rng.uniform(-0.6, 0.6, size=(50, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    rays = Rays(*(jnp.asarray(x, jnp.float32) for x in (origin, direction)))
    near, far = (np.asarray(x) for x in ray_sphere(rays, centre, radius))
    t = np.linspace(0, 10, 20_001)
    points = origin[:, None] + t[:, None] * direction[:, None]
    inside = np.linalg.norm(points - centre, axis=-1) <= radius
    length = inside.sum(axis=1) * (t[1] - t[0])
    np.testing.assert_allclose(np.maximum(far - near, 0), length, atol=2e-3)
    hit = length > 0.01
    assert 120 < hit.sum() < 199
    np.testing.assert_allclose(near[hit], t[inside.argmax(axis=1)][hit], atol=1e-3)
    assert np.all(near >= 0)


def test_rays_that_touch_or_miss_a_sphere_have_finite_gradients():
    """Through the centre, touching, past it, behind."""
    origin = jnp.array([[-4.0, 0, 0], [-4, 1, 0], [-4, 2, 0], [4, 0, 0]])
    rays = Rays(origin, jnp.broadcast_to(jnp.array([1.0, 0, 0]), origin.shape))
    near, far = map(np.asarray, ray_sphere(rays, np.zeros(3), 1.0))
    np.testing.assert_allclose([near[0], far[0]], [3, 5])
    assert np.all(far[1:] <= near[1:])

    def total(rays, centre, radius):
        return sum(x.sum() for x in nerf.ray_sphere(rays, centre, radius))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(rays, jnp.zeros(3), 1.0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))
    np.testing.assert_allclose(gradients[0].origin[0], [-2, 0, 0], atol=1e-6)


POSES = random_poses(3)
MIRRORED = POSES * np.array([1.0, 1, -1, 1])
SHEARED = POSES + np.array([0, 0, 0.01, 0])
BROKEN = np.where(np.arange(3)[:, None, None] == 1, np.nan, POSES)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"camera_to_world": POSES[0]}, r"camera_to_world has shape \[3, 4\], expected \[N, 3, 4"),
        ({"camera_to_world": BROKEN}, r"camera_to_world\[1\] is .*nan.*, expected finite numbers"),
        ({"camera_to_world": MIRRORED}, r"camera_to_world\[0\] has the rotation .*determinant 1"),
        ({"camera_to_world": SHEARED}, r"camera_to_world\[0\] has the rotation .*determinant 1"),
        ({"focal": np.ones((2, 2))}, r"focal has shape \[2, 2\], expected \[2\] or \[3, 2\]"),
        ({"focal": [[1, 1], [1, 1], [1, 0]]}, r"focal\[2\] is \[1.0, 0.0\], expected numbers > 0"),
        ({"centre": (np.inf, 0)}, r"centre\[0\] is \[inf, 0.0\], expected finite numbers"),
        ({"height": 0}, "height is 0, expected 1 or more"),
        ({"model": "PIN"}, "model is 'PIN', expected one of SIMPLE_PINHOLE, PINHOLE"),
        ({"focal": None}, "focal is None with the model PINHOLE, expected numbers > 0"),
        ({"distortion": [0.1]}, r"distortion has shape \[1\], expected \[0\] or \[3, 0\]"),
        ({"model": "RADIAL"}, r"distortion has shape \[0\], expected \[2\] or \[3, 2\]"),
        (
            {"model": "FOV", "distortion": [[1.0], [np.nan], [1.0]]},
            r"distortion\[1\] is \[nan\], expected finite numbers",
        ),
    ],
    ids=range(13),
)
def test_what_is_no_camera(change, fault):
    given = {"camera_to_world": POSES, "focal": 10.0, "height": 4, "width": 5, **change}
    with pytest.raises(InputError, match=fault):
        make_cameras(**given)
