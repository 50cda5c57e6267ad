"""Normalised device coordinates: lines stay lines, the plane is at 0 and infinity at 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nerf import Rays, camera_rays, make_cameras, ndc_points, ndc_rays, ndc_shares

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
        share = ndc_shares(rays, distances, LENS[3])
        found = ndc_rays(rays, *LENS)
        return share, found, found.points(share), ndc_points(rays.points(distances), *LENS)

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
    np.testing.assert_allclose(found.origin[:, 2], -1, atol=1e-5)
    np.testing.assert_allclose((found.origin + found.direction)[:, 2], 1, atol=1e-5)
    plane = -(0.7 + rays.origin[:, 2:]) / rays.direction[:, 2:]
    ends = jnp.concatenate([plane, jnp.full_like(plane, 1e8)], axis=1)
    np.testing.assert_allclose(ndc_shares(rays, ends, 0.7), [[0, 1]] * 60, atol=1e-5)
    # The vanishing point: all rays of a direction end there.
    end = found.origin + found.direction
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
    rays = some_rays(4)
    across = Rays(rays.origin, rays.direction.at[0].set(jnp.array([1.0, 0, 0])))
    assert not ndc_rays(across, *LENS).valid[0]

    def total(rays, near):
        found = ndc_rays(rays, LENS[0], 12, 8, near)
        return (found.origin + 0.3 * found.direction).sum()

    total = jax.jit(total)
    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    found, of_near = gradient(across, 0.7)
    assert all(np.isfinite(x).all() for x in (found.origin, found.direction, of_near))
    found, of_near = gradient(rays, 0.7)
    step = 1e-2
    for i in range(3):
        moved = [
            total(Rays(rays.origin.at[2, i].add(sign * step), rays.direction), 0.7)
            for sign in (1, -1)
        ]
        expected = (moved[0] - moved[1]) / (2 * step)
        assert float(found.origin[2, i]) == pytest.approx(float(expected), rel=2e-2, abs=2e-2)
