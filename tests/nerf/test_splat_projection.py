"""Gaussians in images of distorted cameras: the projection of points, linear about their means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from splat_reference import rotation_of

from jaxgen import nerf
from jaxgen.nerf import SplatConfig, make_cameras
from jaxgen.nerf.splat_projection import BLUR, project_splats

COUNT, HEIGHT, WIDTH, NEAR = 80, 40, 60, 0.3
LENSES = {
    "SIMPLE_RADIAL": (-0.2,),
    "OPENCV": (0.12, -0.05, 0.01, -0.02),
    "OPENCV_FISHEYE": (0.05, -0.02, 0.004, -0.0005),
    "EUCM": (0.6, 1.1),
    "EQUIRECTANGULAR": (),
    "ORTHOGRAPHIC": (),
}
ALONG_THE_AXIS = ("PINHOLE", "SIMPLE_RADIAL", "OPENCV", "ORTHOGRAPHIC")
POSE = np.concatenate([rotation_of(np.array([0.9, 0.3, -0.2, 0.1])), [[0.2], [-0.4], [0.1]]], 1)

project = jax.jit(nerf.project)
of_one = jax.jit(lambda params, cameras: project_splats(params, cameras.take(0), NEAR))


def cameras_of(model, distortion, poses=POSE[None]):
    focal = 9.5 if model == "EQUIRECTANGULAR" else (30.0, 28.0)
    return make_cameras(
        poses, focal, (31.0, 19.0), height=HEIGHT, width=WIDTH, model=model, distortion=distortion
    )


def params_of(points):
    rng = np.random.default_rng(1)
    count = len(points)
    return {
        "means": jnp.asarray(points),
        "log_scales": jnp.asarray(rng.normal(size=(count, 3)) / 2 - 3),
        "quaternions": jnp.asarray(rng.normal(size=(count, 4))),
        "opacity_logits": jnp.zeros(count),
        "harmonics": jnp.zeros((count, 1, 3)),
    }


def points_around(limit):
    """In all directions up to an angle from the axis, from within NEAR to far away."""
    rng = np.random.default_rng(0)
    around, angle = rng.uniform(0, 2 * np.pi, COUNT), rng.uniform(0, limit, COUNT)
    way = [np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), -np.cos(angle)]
    own = np.stack(way, axis=-1) * rng.uniform(0.1, 4, (COUNT, 1))
    return own @ POSE[:, :3].T + POSE[:, 3]


def in_image(place):
    return ((place > 0) & (place < [WIDTH, HEIGHT])).all(axis=-1)


@pytest.mark.parametrize("model", LENSES)
def test_places_and_covariances_are_those_of_the_projection(model):
    """J by central differences of `project`; what has no place is not seen."""
    points, step = points_around(3.0), 1e-5
    moves = np.concatenate([np.zeros((1, 3)), np.eye(3) * step, -np.eye(3) * step])
    with jax.enable_x64(True):
        cameras, params = cameras_of(model, LENSES[model]), params_of(points)
        found = jax.tree.map(np.asarray, of_one(params, cameras))
        moved = project(cameras, (points[:, None] + moves).reshape(-1, 3))
    place_G72 = np.asarray(moved.place).reshape(COUNT, 7, 2)
    depth = np.asarray(moved.depth).reshape(COUNT, 7)[:, 0]
    if model not in ALONG_THE_AXIS:
        depth = np.linalg.norm(points - POSE[:, 3], axis=-1)
    seen = np.asarray(moved.valid).reshape(COUNT, 7)[:, 0] & (depth > NEAR)
    np.testing.assert_array_equal(found.visible, seen)
    np.testing.assert_allclose(found.depth, depth, rtol=1e-12)
    np.testing.assert_allclose(found.place[seen], place_G72[seen, 0], rtol=1e-10)
    shown = np.flatnonzero(seen & in_image(place_G72[:, 0]))
    assert 8 < len(shown) < COUNT
    for i in shown:
        jacobian = (place_G72[i, 1:4] - place_G72[i, 4:]).T / (2 * step)
        scales = np.exp(np.asarray(params["log_scales"])[i])
        root = jacobian @ rotation_of(np.asarray(params["quaternions"])[i]) * scales
        a, b, c = found.conic[i]
        covariance = np.linalg.inv([[a, b], [b, c]]) - BLUR * np.eye(2)
        expected = root @ root.T
        np.testing.assert_allclose(covariance, expected, atol=1e-4 * expected.max())


def test_a_lens_that_bends_nothing_is_a_pinhole():
    """In the image; beside it J is taken elsewhere."""
    with jax.enable_x64(True):
        params = params_of(points_around(1.5))
        pinhole, lens = (
            jax.tree.map(np.asarray, of_one(params, cameras_of(model, k)))
            for model, k in (("PINHOLE", ()), ("SIMPLE_RADIAL", (0.0,)))
        )
    np.testing.assert_array_equal(lens.visible, pinhole.visible)
    shown = pinhole.visible & in_image(pinhole.place)
    assert 20 < shown.sum() < COUNT
    for name in ("place", "conic", "depth", "distance", "extent", "normal", "colour"):
        np.testing.assert_allclose(getattr(lens, name)[shown], getattr(pinhole, name)[shown])


def test_far_beside_an_image_gaussians_stay_small():
    """At 89.9 degrees from the axis, where the projection itself grows without bound."""
    angle = np.radians(89.9)
    own = np.array([[np.sin(angle), 0, -np.cos(angle)]]) * 300
    with jax.enable_x64(True):
        params = params_of(own @ POSE[:, :3].T + POSE[:, 3])
        found = jax.tree.map(np.asarray, of_one(params, cameras_of("SIMPLE_RADIAL", (0.05,))))
    assert found.visible[0]
    assert found.place[0, 0] > 1e6
    assert found.extent.max() < 3


@functools.cache
def renderer():
    return jax.jit(SplatConfig(1, degree=0, near=NEAR, pairs=64).make_render())


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "OPENCV"])
def test_a_small_gaussian_is_where_points_are(model):
    """The centroid of its opacity, against the projection of its mean, by cameras turned a bit."""
    turns = [np.array([1, a, b, 0.2]) for a in (-0.2, 0.2) for b in (-0.3, 0.25)]
    poses = np.stack([np.concatenate([rotation_of(q), np.zeros((3, 1))], 1) for q in turns])
    point = np.array([[0.1, -0.2, -3.0]])
    bent, straight = (
        cameras_of(*lens, poses) for lens in ((model, LENSES[model]), ("PINHOLE", ()))
    )
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params_of(point))
    params |= {"log_scales": jnp.full((1, 3), -9.0), "opacity_logits": jnp.full(1, 4.0)}
    opacity_NYX = np.asarray(renderer()(params, bent).opacity)
    row, column = np.indices((HEIGHT, WIDTH)) + 0.5
    total = opacity_NYX.sum(axis=(1, 2))
    centroid = np.stack([(opacity_NYX * x).sum(axis=(1, 2)) / total for x in (column, row)], -1)
    place, other = (
        np.asarray(project(c, point.astype(np.float32)).place)[:, 0] for c in (bent, straight)
    )
    np.testing.assert_allclose(centroid, place, atol=0.02)
    assert np.linalg.norm(place - other, axis=-1).max() > 1


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_gradients_are_finite_wherever_gaussians_are(model):
    """At the camera, beside it, behind it, on the axis, far away; of poses too."""
    own = np.array([[0, 0, 0], [5, 0, -1e-9], [1e4, 0, -1], [0, 0, 2], [0, 0, -2], [9e9, 1, -1e9]])
    params = jax.tree.map(
        lambda x: x.astype(jnp.float32), params_of(own @ POSE[:, :3].T + POSE[:, 3])
    )

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slopes(params, cameras):
        found = project_splats(params, cameras.take(0), NEAR)
        shape = jnp.concatenate([found.place, found.conic, found.depth[:, None]], axis=-1)
        return jnp.where(found.visible[:, None], shape, 0).sum()

    found = slopes(params, cameras_of(model, LENSES[model]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert np.abs(found[0]["means"][4]).max() > 1
