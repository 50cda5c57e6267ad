"""Normalised device coordinates: lines stay lines, the plane is at 0 and infinity at 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_params

from jaxgen import nerf
from jaxgen.errors import InputError
from jaxgen.nerf import Rays, make_cameras

ndc_points, ndc_rays = (
    jax.jit(f, static_argnums=(1, 2, 3)) for f in (nerf.ndc_points, nerf.ndc_rays)
)
ndc_shares, camera_rays = map(jax.jit, (nerf.ndc_shares, nerf.camera_rays))

LENS = ((30.0, 25.0), 12, 8, 0.7)  # focal, width, height, near


def some_rays(count=60, seed=0):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3)) * [0.4, 0.4, 0] - [0, 0, 1]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    origin = rng.normal(size=(count, 3)) * [0.3, 0.3, 0.2]
    return Rays(*(jnp.asarray(x, jnp.float32) for x in (origin, direction)))


def test_a_point_of_a_ray_is_on_its_ray_in_the_cube():
    rays = some_rays()
    distances = jnp.asarray(np.random.default_rng(1).uniform(1.5, 40, (60, 9)), jnp.float32)

    @jax.jit
    def both(rays, distances):
        share = nerf.ndc_shares(rays, distances, LENS[3])
        found = nerf.ndc_rays(rays, *LENS)
        return share, found, found.points(share), nerf.ndc_points(rays.points(distances), *LENS)

    share, found, on_the_ray, expected = both(rays, distances)
    np.testing.assert_allclose(on_the_ray, expected, rtol=1e-4, atol=1e-4)
    assert np.all((share > 0) & (share < 1))
    assert found.valid.all()
    # The formula of the paper for t', with t from the plane on.
    o, d = np.asarray(rays.origin, float), np.asarray(rays.direction, float)
    begin = -(0.7 + o[:, 2:]) / d[:, 2:]
    o_z = o[:, 2:] + begin * d[:, 2:]
    written = 1 - o_z / (o_z + (np.asarray(distances) - begin) * d[:, 2:])
    np.testing.assert_allclose(share, written, atol=1e-5)


def test_the_cube_reaches_from_the_plane_to_infinity():
    rays = some_rays()
    found = ndc_rays(rays, *LENS)
    np.testing.assert_allclose(np.asarray(found.origin)[:, 2], -1, atol=1e-5)
    np.testing.assert_allclose(
        np.add(*map(np.asarray, (found.origin, found.direction)))[:, 2], 1, atol=1e-5
    )
    plane = -(0.7 + np.asarray(rays.origin)[:, 2:]) / np.asarray(rays.direction)[:, 2:]
    ends = np.concatenate([plane, np.full_like(plane, 1e8)], axis=1)
    np.testing.assert_allclose(ndc_shares(rays, ends, 0.7), [[0, 1]] * 60, atol=1e-5)
    # The vanishing point: all rays of a direction end there.
    end = np.asarray(found.origin) + np.asarray(found.direction)
    slope = np.asarray(rays.direction)[:, :2] / np.asarray(rays.direction)[:, 2:]
    np.testing.assert_allclose(end[:, :2], slope * [-60 / 12, -50 / 8], rtol=1e-4, atol=1e-5)


def test_the_image_is_a_side_of_the_cube():
    """A camera at the origin: x' and y' are constant along its rays, and those of its pixels."""
    cameras = make_cameras(np.eye(4)[None], LENS[0], height=8, width=12)
    found = ndc_rays(jax.tree.map(lambda x: x[0], camera_rays(cameras)), *LENS)
    np.testing.assert_allclose(found.direction[..., :2], 0, atol=1e-5)
    np.testing.assert_allclose(found.origin[0, :, 0], (np.arange(12) + 0.5) / 6 - 1, atol=1e-5)
    np.testing.assert_allclose(found.origin[:, 0, 1], 1 - (np.arange(8) + 0.5) / 4, atol=1e-5)


def test_gradients_are_finite_and_those_of_differences():
    rays = jax.tree.map(np.asarray, some_rays(4))
    across = Rays(rays.origin, np.where(np.arange(4)[:, None] == 0, [1, 0, 0], rays.direction))
    across = jax.tree.map(np.float32, across)

    def total(rays, near):
        found = nerf.ndc_rays(rays, LENS[0], 12, 8, near)
        return (found.origin + 0.3 * found.direction).sum(), found.valid

    gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, valid), (found, of_near) = gradient(across, 0.7)
    np.testing.assert_array_equal(valid, [False, True, True, True])
    assert all(np.isfinite(x).all() for x in (found.origin, found.direction, of_near))
    _, (found, _) = gradient(rays, 0.7)
    step = np.float32(1e-2)
    for i in range(3):
        moved = []
        for sign in (1, -1):
            origin = rays.origin.copy()
            origin[2, i] += sign * step
            moved.append(float(gradient(Rays(origin, rays.direction), 0.7)[0][0]))
        expected = (moved[0] - moved[1]) / (2 * step)
        assert np.asarray(found.origin)[2, i] == pytest.approx(expected, rel=2e-2, abs=2e-2)


POSE = nerf.look_at((0.3, -3.0, 0.4), (0.0, 1.0, 0.2))
CUBE = nerf.NdcConfig(tuple(map(tuple, POSE.tolist())), *LENS)
FRONTAL = nerf.RadianceConfig(
    nerf.NeRFFieldConfig(depth=2, width=16, skip=-1, position_octaves=2, colour_width=8),
    coarse_samples=64,
    fine_samples=0,
    ndc=CUBE,
)


def rays_of_the_world(count=20):
    rays = some_rays(count)
    turn, move = POSE[:, :3], POSE[:, 3]
    origin, direction = (np.asarray(x) @ turn.T for x in (rays.origin, rays.direction))
    return Rays(*(jnp.asarray(x, jnp.float32) for x in (origin + move, direction)))


def test_shares_and_distances_are_inverse():
    """Also for cameras that are turned; infinity has a depth that is finite and large."""
    rays = rays_of_the_world()
    shares = jnp.tile(jnp.linspace(0, 1, 9), (20, 1))

    @jax.jit
    def both(rays, shares):
        distances = CUBE.distances(rays, shares)
        return distances, CUBE.points(rays.points(distances)), *CUBE.rays(rays)

    distances, (points, beyond), cube, length = both(rays, shares)
    expected = cube.points(shares * length[:, None])
    np.testing.assert_allclose(points[:, 1:-1], expected[:, 1:-1], atol=2e-4)
    assert np.all(beyond[:, 1:])
    np.testing.assert_allclose(np.linalg.norm(cube.direction, axis=-1), 1, atol=1e-6)
    assert np.all((distances[:, -1] > 1e3) & np.isfinite(distances[:, -1]))


def test_a_field_in_the_cube_is_rendered_in_the_units_of_the_world():
    """A wall of density across the cube is at the depth of its plane, and faces the camera."""
    wall_at = 5.0  # from the mean camera
    z = 1 - 2 * CUBE.near / wall_at

    class Wall(nerf.NeRFFieldConfig):
        def make_model(self):
            return WallField()

    class WallField(nerf.NeRFField):
        config: nerf.NeRFFieldConfig = nerf.NeRFFieldConfig()

        def setup(self):
            pass

        def density(self, x, context=None):
            return 3e3 * jax.nn.sigmoid((x[..., 2] - z) / 3e-4)

        def __call__(self, x, direction, context=None):
            return nerf.FieldOutput(self.density(x), jnp.abs(direction))

    config = nerf.RadianceConfig(Wall(), coarse_samples=2000, fine_samples=0, ndc=CUBE)
    rays = rays_of_the_world()

    @jax.jit
    def run(rays):
        found = nerf.render_rays(config, {"fine": {}}, rays, normals=True).rendering
        return found, config.make_density({"fine": {}})(rays.points(found.depth[:, None] + 0.3))

    found, density = run(rays)
    back = POSE[:, 2]
    expected = (-wall_at - (np.asarray(rays.origin) - POSE[:, 3]) @ back) / (rays.direction @ back)
    np.testing.assert_allclose(found.depth, expected, rtol=0.01)
    np.testing.assert_allclose(found.opacity, 1, atol=1e-4)  # a sum of 2,000 in float32
    np.testing.assert_allclose(found.normals, np.tile(back, (20, 1)), atol=0.02)
    np.testing.assert_allclose(found.colour, np.abs(rays.direction), atol=1e-4)
    assert np.all(np.diff(found.edges, axis=-1) > 0)
    assert np.all(density > 1e3)


def test_gradients_reach_parameters_and_rays():
    params = random_params(FRONTAL.make_init())
    rays = rays_of_the_world(4)

    @jax.jit
    @jax.grad
    def gradient(both):
        params, origin = both
        moved = Rays(origin, rays.direction)
        found = nerf.render_rays(FRONTAL, params, moved, jax.random.key(1)).rendering
        return (found.colour**2).sum()

    to_params, to_origin = gradient((params, rays.origin))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(to_params))
    assert np.abs(to_origin).max() > 1e-6


def test_what_has_no_place_in_the_cube_is_refused():
    pose = CUBE.camera_to_world
    with pytest.raises(InputError, match=r"camera_to_world has shape \[2, 4\], expected \[3, 4\]"):
        nerf.NdcConfig(pose[:2], *LENS)
    with pytest.raises(InputError, match="near is 0"):
        nerf.NdcConfig(pose, *LENS[:3], 0.0)
    for field in (nerf.HashFieldConfig(), nerf.NeRFFieldConfig(integrated=True)):
        with pytest.raises(InputError, match="ndc is given with an integrated encoding, proposals"):
            nerf.RadianceConfig(field, ndc=CUBE)
    with pytest.raises(InputError, match="bounds are given with ndc, expected none"):
        nerf.render_rays(FRONTAL, {"fine": {}}, rays_of_the_world(2), bounds=jnp.array([0.0, 1.0]))
