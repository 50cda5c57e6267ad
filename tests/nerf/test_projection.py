"""Camera models: inverses, closed forms in numpy, gradients, folds, and what is rendered beyond."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import nerf
from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.data.scenes.nerfstudio import read_nerfstudio
from jaxgen.nerf import (
    HashFieldConfig,
    HashGridConfig,
    NeRFFieldConfig,
    RadianceConfig,
    make_cameras,
    render_rays,
)
from jaxgen.nerf.projection import from_plane, to_plane

OPENCV = [0.08, -0.03, 0.004, -0.006]
PARAMETERS = {
    "SIMPLE_PINHOLE": [],
    "PINHOLE": [],
    "SIMPLE_RADIAL": [-0.07],
    "RADIAL": [0.1, -0.04],
    "OPENCV": OPENCV,
    "OPENCV_FISHEYE": [0.02, -0.005, 0.002, -0.0003],
    "FULL_OPENCV": [*OPENCV, 0.01, 0.05, -0.01, 0.004],
    "FOV": [0.9],
    "SIMPLE_RADIAL_FISHEYE": [-0.02],
    "RADIAL_FISHEYE": [0.02, 0.003],
    "THIN_PRISM_FISHEYE": [0.02, -0.005, 0.002, -0.003, 0.001, 0.0002, 0.004, -0.003],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        *(0.02, -0.005, 0.002, 0.0003, -0.0001, 0.00001),
        *(0.002, -0.003, 0.004, 0.0003, -0.003, 0.0002),
    ],
    "SIMPLE_DIVISION": [-0.2],
    "DIVISION": [0.15],
    "SIMPLE_FISHEYE": [],
    "FISHEYE": [],
    "EUCM": [0.6, 1.1],
    "EQUIRECTANGULAR": [],
}
"""Distortions without a fold where points are taken."""
MODELS = list(PARAMETERS)
WIDE = [name for name in MODELS if "FISHEYE" in name or name == "EQUIRECTANGULAR"]
SAME_FORMULAS = {
    *("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "SIMPLE_DIVISION"),
    *("SIMPLE_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"),
}
"""As another model's, with fewer numbers."""
DISTINCT = [name for name in MODELS if name not in SAME_FORMULAS]
every_model = pytest.mark.parametrize(
    "models", [DISTINCT, pytest.param(sorted(SAME_FORMULAS), marks=pytest.mark.slow)], ids=range(2)
)
POINTS = 40


def some_points(model: str) -> np.ndarray:
    """At any distance; the first one on the axis, and of wide cameras some behind them."""
    rng = np.random.default_rng(0)
    around, length = rng.uniform(0, 2 * np.pi, POINTS), rng.uniform(0.5, 4, (POINTS, 1))
    theta = rng.uniform(0, 1.7 if model in WIDE else 0.7, POINTS)
    theta[0] = 0
    across = np.sin(theta)
    return length * np.stack(
        [across * np.cos(around), across * np.sin(around), np.cos(theta)], axis=-1
    )


def spread(model: str) -> np.ndarray:
    """The parameters of every point, [P, K]."""
    return np.tile(np.array(PARAMETERS[model]), (POINTS, 1))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


WEIGHTS = np.random.default_rng(1).normal(size=(POINTS, 3))


@functools.partial(jax.jit, static_argnums=0)
def there_and_back(model, point, k):
    place, seen = to_plane(model, point, k)
    direction, valid = from_plane(model, place, k)
    return direction / jnp.linalg.norm(direction, axis=-1, keepdims=True), seen & valid


@functools.partial(jax.jit, static_argnums=0)
def weighted(model, point, place, k):
    """Both ways: what is found, a weighted sum of each point's numbers, and its gradients."""

    def there(point, k):
        found, valid = to_plane(model, point, k)
        sums = (found * WEIGHTS[:, :2]).sum(axis=-1)
        return sums.sum(), (found, sums, valid)

    def back(place, k):
        found, valid = from_plane(model, place, k)
        found /= jnp.linalg.norm(found, axis=-1, keepdims=True)
        sums = (found * WEIGHTS).sum(axis=-1)
        return sums.sum(), (found, sums, valid)

    to_gradients, to = jax.grad(there, (0, 1), has_aux=True)(point, k)
    from_gradients, back_again = jax.grad(back, (0, 1), has_aux=True)(place, k)
    return to, back_again, (*to_gradients, *from_gradients)


@functools.cache
def float64_results(model):
    """Of some points: places, directions, whether valid, gradients and differences."""
    points, k = some_points(model), spread(model)
    with jax.enable_x64(True):
        place = np.asarray(weighted(model, points, points[:, :2] / 9, k)[0][0])
        (_, _, seen), (direction, _, valid), gradients = weighted(model, points, place, k)
        assert direction.dtype == np.float64
        differences = [
            numpy_gradient(lambda x: weighted(model, x, place, k)[0][1], points),
            numpy_gradient(lambda x: weighted(model, points, place, x)[0][1], k),
            numpy_gradient(lambda x: weighted(model, points, x, k)[1][1], place),
            numpy_gradient(lambda x: weighted(model, points, place, x)[1][1], k),
        ]
    return place, np.asarray(direction), seen & valid, gradients, differences


def numpy_gradient(function, x: np.ndarray) -> np.ndarray:
    """Central differences of sums, to each of which one row of x contributes."""
    columns, step = [], 2e-7
    for column in step * np.eye(x.shape[1]):
        columns.append((np.asarray(function(x + column)) - function(x - column)) / (2 * step))
    return np.stack(columns, axis=-1) if columns else np.zeros_like(x)


def test_every_model_has_parameters_here():
    assert [*PARAMETERS, "ORTHOGRAPHIC"] == list(CAMERA_MODELS)
    for model, values in PARAMETERS.items():
        assert len(values) == len(CAMERA_MODELS[model].distortion)


@every_model
def test_a_direction_comes_back_from_its_place(models):
    for model in models:
        points = some_points(model)
        _, direction, valid, *_ = float64_results(model)
        assert np.all(valid), model
        np.testing.assert_allclose(direction, unit(points), atol=1e-9, err_msg=model)
        single = points.astype(np.float32), spread(model).astype(np.float32)
        direction, valid = there_and_back(model, *single)
        assert direction.dtype == np.float32
        assert np.all(valid), model
        np.testing.assert_allclose(direction, unit(points), atol=1e-4, err_msg=model)


def numpy_place(model: str, points: np.ndarray) -> np.ndarray:
    """Of some models, as their papers and manuals write them."""
    k = PARAMETERS[model]
    x, y, z = points.T
    if model == "EQUIRECTANGULAR":
        return np.stack([np.arctan2(x, z), np.arcsin(y / np.linalg.norm(points, axis=1))], -1)
    if model == "EUCM":
        alpha, beta = k
        below = alpha * np.sqrt(beta * (x * x + y * y) + z * z) + (1 - alpha) * z
        return np.stack([x, y], -1) / below[:, None]
    across = np.hypot(x, y)
    turn = np.stack([x, y], -1) / np.where(across == 0, 1, across)[:, None]
    if model == "OPENCV_FISHEYE":
        theta = np.arccos(z / np.linalg.norm(points, axis=1))
        powers = theta ** np.arange(3, 11, 2)[:, None]
        return turn * (theta + np.array(k) @ powers)[:, None]
    if model == "FOV":
        (w,) = k
        return turn * (np.arctan(2 * across / z * np.tan(w / 2)) / w)[:, None]
    x, y = x / z, y / z
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    r2 = x * x + y * y
    ratio = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    across = x * ratio + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    return np.stack([across, y * ratio + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1)


def test_places_are_those_of_the_closed_forms():
    for model in ("FULL_OPENCV", "OPENCV_FISHEYE", "FOV", "EUCM", "EQUIRECTANGULAR"):
        place, points = float64_results(model)[0], some_points(model)
        np.testing.assert_allclose(place, numpy_place(model, points), atol=1e-9, err_msg=model)


def test_division_is_undone_by_a_division():
    """Fitzgibbon's model is defined the other way: ``x_u = x_d / (1 + k |x_d|^2)``."""
    points, (k,) = some_points("DIVISION"), PARAMETERS["DIVISION"]
    place = float64_results("DIVISION")[0]
    plain = place / (1 + k * (place**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(plain, points[:, :2] / points[:, 2:], atol=1e-9)


@every_model
def test_without_distortion_all_are_a_pinhole_or_a_fisheye(models):
    for model in set(models) - {"EQUIRECTANGULAR", "PINHOLE", "FISHEYE"}:
        points, k = some_points(model), np.zeros_like(spread(model))
        if model == "EUCM":
            k[:, 1] = 1
        plain = "FISHEYE" if "FISHEYE" in model else "PINHOLE"
        with jax.enable_x64(True):
            expected = float64_results(plain)[0]
            (place, _, seen), (direction, _, valid), gradients = weighted(
                model, points, expected, k
            )
        assert np.all(seen & valid)
        # An omega of 0 counts as 1e-4.
        np.testing.assert_allclose(place, expected, atol=1e-8, err_msg=model)
        np.testing.assert_allclose(direction, unit(points), atol=1e-8)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients)), model


@every_model
def test_gradients_are_differences(models):
    """Those of the inverse go through Newton's last step alone; the first point is on the axis."""
    for model in models:
        *_, gradients, differences = float64_results(model)
        for gradient, expected in zip(gradients, differences, strict=True):
            np.testing.assert_allclose(gradient, expected, atol=2e-7, rtol=3e-5, err_msg=model)


def test_points_and_places_beyond_the_fold_are_not_valid():
    """r (1 + k r^2) turns back at r = 1 / sqrt(-3 k), where it is 2 r / 3."""
    k = -0.3
    fold = 1 / np.sqrt(-3 * k)
    shares = np.array([0.0, 0.3, 0.9, 0.99, 1.01, 1.2, np.sqrt(3), 3.0, 30.0])
    turns = np.linspace(0, 2 * np.pi, 9)
    ways = np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    with jax.enable_x64(True):
        points = np.concatenate([fold * shares[:, None] * ways, np.ones((9, 1))], axis=-1)
        for model, distortion in (("SIMPLE_RADIAL", [k]), ("OPENCV", [k, 0, 0, 0])):
            _, seen = jax.jit(to_plane, static_argnums=0)(model, points, np.array(distortion))
            np.testing.assert_array_equal(seen, shares < 1)
            direction, valid = jax.jit(from_plane, static_argnums=0)(
                model, 2 / 3 * fold * shares[:, None] * ways, np.array(distortion)
            )
            np.testing.assert_array_equal(valid, shares < 1)
            np.testing.assert_array_equal(np.asarray(direction)[shares > 1], [[0, 0, 1]] * 5)
            across = np.linalg.norm(np.asarray(direction)[:, :2], axis=1)
            assert np.all(across < fold)


def test_who_sees_behind_the_camera():
    """And what is exactly behind has a place on a sphere alone."""
    points = np.array([[0.3, -1, -0.5], [0, 0, -1], [0, 1, 0], [0, 0, 1]])
    wide = [True, False, True, True]
    with jax.enable_x64(True):
        for model in ("PINHOLE", "SIMPLE_FISHEYE", "EQUIRECTANGULAR", "FOV", "OPENCV"):
            k = np.array(PARAMETERS[model])
            seen = np.asarray(jax.jit(to_plane, static_argnums=0)(model, points, k)[1])
            expected = wide if model == "SIMPLE_FISHEYE" else [False, False, False, True]
            np.testing.assert_array_equal(
                seen, [True] * 4 if model == "EQUIRECTANGULAR" else expected, err_msg=model
            )


def test_places_outside_of_the_sphere_are_not_valid():
    place = np.array([[3.1, 0], [3.2, 0], [0, 1.5], [0, 1.6], [0, -1.6], [-3.2, 1]])
    _, valid = jax.jit(from_plane, static_argnums=0)("EQUIRECTANGULAR", place, np.zeros(0))
    np.testing.assert_array_equal(valid, [True, False, True, False, False, False])
    _, valid = jax.jit(from_plane, static_argnums=0)("FISHEYE", place, np.zeros(0))
    np.testing.assert_array_equal(valid, [True, False, True, True, True, False])


POSE = np.array([[[0.0, -0.6, 0.8, 1.0], [0, 0.8, 0.6, 2], [-1, 0, 0, 3]]])
camera_rays, project = jax.jit(nerf.camera_rays), jax.jit(nerf.project)


def test_pixels_of_cameras_come_back():
    """From every pixel along its ray and back, in float32."""
    row, column = np.indices((9, 16)) + 0.5
    for model in ("FULL_OPENCV", "THIN_PRISM_FISHEYE", "EQUIRECTANGULAR"):
        focal = None if model == "EQUIRECTANGULAR" else (14.0, 12.0)
        cameras = make_cameras(
            POSE, focal, height=9, width=16, model=model, distortion=PARAMETERS[model]
        )
        rays = camera_rays(cameras)
        assert np.all(rays.valid)
        points = np.asarray(rays.origin + 3 * rays.direction).reshape(-1, 3)
        found = project(cameras, points)
        assert np.all(found.valid)
        place = np.asarray(found.place).reshape(9, 16, 2)
        np.testing.assert_allclose(place, np.stack([column, row], -1), atol=2e-3)


def test_rays_of_an_orthographic_camera_are_parallel():
    cameras = make_cameras(POSE, (10.0, 5.0), height=4, width=6, model="ORTHOGRAPHIC")
    rays = camera_rays(cameras)
    np.testing.assert_allclose(rays.direction, np.broadcast_to(-POSE[0, :, 2], (1, 4, 6, 3)))
    right, down = np.diff(rays.origin[0], axis=1), np.diff(rays.origin[0], axis=0)
    np.testing.assert_allclose(right, np.broadcast_to(POSE[0, :, 0] / 10, right.shape), atol=1e-6)
    np.testing.assert_allclose(down, np.broadcast_to(-POSE[0, :, 1] / 5, down.shape), atol=1e-6)
    np.testing.assert_allclose(rays.origin.mean((0, 1, 2)), POSE[0, :, 3], atol=1e-6)
    found = project(cameras, np.asarray(rays.origin + 2 * rays.direction).reshape(-1, 3))
    row, column = np.indices((4, 6)) + 0.5
    place = np.asarray(found.place).reshape(4, 6, 2)
    np.testing.assert_allclose(place, np.stack([column, row], -1), atol=1e-5)
    np.testing.assert_allclose(found.depth, 2, atol=1e-6)


def test_rays_that_are_not_valid_render_as_the_background():
    grid = HashGridConfig(2, 2, log2_table_size=6, base_resolution=2, finest_resolution=4)
    fields = [
        HashFieldConfig(grid, width=8, geometry_features=4, box=((-9.0,) * 3, (9.0,) * 3)),
        NeRFFieldConfig(depth=2, width=8, skip=0, position_octaves=1, direction_octaves=1),
    ]
    cameras = make_cameras(
        nerf.look_at([[4.0, 0, 0]]), 6.0, height=10, width=10, model="SIMPLE_RADIAL",
        distortion=[-0.3],
    )  # fmt: skip
    rays = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), camera_rays(cameras))
    valid = np.asarray(rays.valid)
    assert 40 < valid.sum() < 90
    assert not valid[[0, 9, 90, 99]].any()  # the corners
    background = jnp.array([0.2, 0.4, 0.6])
    for field in fields:  # in a box, and in none
        config = RadianceConfig(field, coarse_samples=4, fine_samples=0)
        params = nn.meta.unbox(jax.jit(config.make_init())(jax.random.key(0)))

        @jax.jit
        def render(params, rays, config=config):
            def total(params):
                rendering = render_rays(config, params, rays, None, background).rendering
                return rendering.colour.sum(), rendering

            return jax.grad(total, has_aux=True)(params)

        gradient, rendering = render(params, rays)
        colour = np.asarray(rendering.colour)
        np.testing.assert_allclose(colour[~valid], np.tile(background, (sum(~valid), 1)), atol=1e-6)
        assert not np.asarray(rendering.opacity)[~valid].any()
        assert np.asarray(rendering.opacity)[valid].min() > 0.01
        assert np.abs(colour[valid] - background).max(axis=1).min() > 1e-4
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))


def test_depth_of_one_view_is_that_of_another(data_folder):
    """A room: the depth of one frame, seen from another, is about 8 mm from the depth there."""
    scene = read_nerfstudio(data_folder / "nerfstudio_depth", every=0)
    views = scene.parts["train"]
    assert len(views) == 33
    assert views.depth_along == "axis"
    first, second = (
        next(i for i, name in enumerate(views.names) if name.endswith(f"{frame:05d}"))
        for frame in (50, 150)
    )
    lens, (height, width) = views.intrinsics, views.images.shape[1:3]

    def camera(i):
        return make_cameras(
            views.camera_to_world[[i]],
            lens.focal[[i]],
            lens.centre[[i]],
            height=height,
            width=width,
        )

    rays = jax.tree.map(np.asarray, camera_rays(camera(first)))
    ahead = -views.camera_to_world[first, :, 2]
    depth, to_axis = views.depth[first], rays.direction[0] @ ahead
    points = rays.origin[0] + (depth / to_axis)[..., None] * rays.direction[0]
    points = points[np.isfinite(depth)]
    seen = jax.tree.map(np.asarray, project(camera(second), points))
    x, y = np.floor(seen.place[0]).astype(int).T
    inside = (seen.depth[0] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    assert inside.mean() > 0.2
    difference = np.abs(seen.depth[0] - views.depth[second][y % height, x % width])[inside]
    assert 0.002 < np.nanmedian(difference) < 0.012
