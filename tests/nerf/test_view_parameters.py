"""Codes, exposures and corrections of photographs; backgrounds by direction."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_params import random_params
from scipy.spatial.transform import Rotation

from jaxgen.errors import InputError
from jaxgen.nerf import (
    NeRFFieldConfig,
    RadianceConfig,
    SurroundingsConfig,
    ViewConfig,
    camera_rays,
    orbit_cameras,
    pixel_rays,
    refine_cameras,
    render_rays,
)
from jaxgen.nerf.view_parameters import rotation_of

FIELD = NeRFFieldConfig(
    depth=2, width=8, skip=0, position_octaves=1, direction_octaves=1, colour_width=8, code_size=3
)
CAMERAS = orbit_cameras(3, radius=3, elevation=20.0, focal=8.0, height=4, width=5)


refine, rays_of = jax.jit(refine_cameras), jax.jit(camera_rays, static_argnames="footprints")


def rays_and_views():
    rays = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rays_of(CAMERAS))
    return rays, jnp.repeat(jnp.arange(3), 20)


def test_rotations_are_those_of_scipy():
    vector = np.random.default_rng(0).normal(size=(20, 3)) * np.geomspace(1e-9, 1, 20)[:, None]
    found = jax.jit(rotation_of)(vector.astype(np.float32))
    np.testing.assert_allclose(found, Rotation.from_rotvec(vector).as_matrix(), atol=1e-6)
    slope = jax.jit(jax.jacobian(rotation_of))(np.zeros(3, np.float32))
    expected = np.zeros((3, 3, 3))
    for axis, (i, j) in enumerate([(2, 1), (0, 2), (1, 0)]):
        expected[i, j, axis], expected[j, i, axis] = 1, -1
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_corrections_start_at_none_and_can_be_found_again():
    """Gradient descent on where rays go finds poses and focal lengths that were disturbed."""
    config = ViewConfig(3, poses=True, intrinsics=True)
    start = nn.meta.unbox(jax.jit(config.init)(jax.random.key(0)))
    same = refine(start, CAMERAS)
    np.testing.assert_allclose(same.camera_to_world, CAMERAS.camera_to_world, atol=1e-6)
    np.testing.assert_allclose(same.focal, CAMERAS.focal, rtol=1e-6)
    rng = np.random.default_rng(1)
    off = {k: jnp.asarray(rng.normal(size=v.shape), jnp.float32) for k, v in start.items()}
    off["intrinsics"] = off["intrinsics"] * 0.5
    wrong = refine(off, CAMERAS)

    truth = rays_of(CAMERAS)

    @jax.jit
    def loss(params):
        found = camera_rays(refine_cameras(params, wrong))
        ends = [r.origin + t * r.direction for r in (found, truth) for t in (1.0, 3.0)]
        return ((ends[0] - ends[2]) ** 2 + (ends[1] - ends[3]) ** 2).sum(axis=-1).mean()

    step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 8 * g, p, jax.grad(loss)(p)))
    params, first = start, loss(start)
    for _ in range(400):
        params = step(params)
    assert first > 1e-3
    assert loss(params) < 1e-2 * first


def field_of(**changes):
    views = ViewConfig(3, code_size=3, exposure=True)
    config = RadianceConfig(FIELD, coarse_samples=6, fine_samples=0, views=views)
    config = dataclasses.replace(config, **changes)
    return config, random_params(config.make_init())


def test_codes_and_exposures_are_those_of_the_photograph():
    config, params = field_of()
    rays, view = rays_and_views()
    render = jax.jit(lambda p, view: render_rays(config, p, rays, view=view).rendering)
    params["views"]["exposures"] = jnp.log(jnp.array([[2.0] * 3, [4.0] * 3, [1.0] * 3]))
    own, turned = render(params, view), render(params, (view + 1) % 3)
    assert np.abs(own.colour - turned.colour).max() > 1e-3
    np.testing.assert_allclose(own.opacity, turned.opacity, atol=1e-6)
    equal = {**params, "views": {**params["views"], "codes": jnp.ones((3, 3))}}
    nowhere = render(equal, None).colour  # the mean of all codes, and no exposure
    factor = np.repeat([1.0, 2.0, 0.5], 20)[:, None]
    np.testing.assert_allclose(render(equal, view).colour, nowhere * factor, rtol=1e-4)


def test_the_background_is_a_function_of_the_direction():
    config, params = field_of(surroundings=SurroundingsConfig(8, 1))
    rays, _ = rays_and_views()
    empty = jax.tree.map(lambda x: x, params)
    missing = dataclasses.replace(rays, valid=jnp.zeros(60, bool))
    render = jax.jit(lambda p: render_rays(config, p, missing).rendering.colour)
    colour = np.asarray(render(empty))
    model = config.surroundings.make_model()
    expected = jax.jit(model.apply)({"params": params["surroundings"]}, rays.direction)
    np.testing.assert_allclose(colour, expected, atol=1e-6)
    assert colour.std(axis=0).min() > 1e-3
    given = jax.jit(lambda p: render_rays(config, p, missing, background=jnp.zeros(3)))(empty)
    np.testing.assert_array_equal(given.rendering.colour, 0.0)


def test_footprints_of_rays_are_those_of_pixels():
    """2 / sqrt(12) of the pixel's width at distance 1, in the middle of a pinhole's image."""
    cameras = orbit_cameras(1, radius=3, elevation=0.0, focal=100.0, height=3, width=3)
    one = jax.jit(functools.partial(pixel_rays, footprints=True))
    rays = one(cameras, np.array([0]), np.array([1]), np.array([1]))
    np.testing.assert_allclose(rays.radius, 2 / np.sqrt(12) / 100, rtol=1e-3)
    whole = rays_of(cameras, footprints=True)
    np.testing.assert_allclose(whole.radius[0, 1, 1], rays.radius[0], rtol=1e-5)
    assert jax.eval_shape(camera_rays, cameras).radius is None


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: ViewConfig(0), "count is 0, expected 1 or more photographs"),
        (lambda: ViewConfig(1, code_size=-1), "code_size is -1, expected 0 or more"),
        (lambda: SurroundingsConfig(width=0), "width is 0, expected 1 or more"),
    ],
)
def test_what_is_learned_of_nothing(make, fault):
    with pytest.raises(InputError, match=fault):
        make()


def test_codes_of_another_size_are_refused():
    config = RadianceConfig(FIELD, views=ViewConfig(3, code_size=2))
    params = nn.meta.unbox(jax.eval_shape(config.make_init(), jax.random.key(0)))
    rays, view = rays_and_views()
    with pytest.raises(InputError, match="code has 2 numbers, expected code_size=3"):
        jax.eval_shape(lambda p: render_rays(config, p, rays, view=view), params)
