"""Images of Gaussians against the direct sum in numpy: values, gradients, capacity, devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from splat_reference import harmonics_of, image_of, rotation_of

from jaxgen.errors import InputError
from jaxgen.nerf import SplatConfig, orbit_cameras, spherical_harmonics
from jaxgen.nerf.splat_projection import project_splats, rotations
from jaxgen.nerf.splat_tiles import make_tile_lists, tile_grid
from jaxgen.parallel import make_mesh, plan_layout

COUNT, HEIGHT, WIDTH = 60, 21, 27
CONFIG = SplatConfig(COUNT, tile=8, group=4, pairs=24)


def params_of(seed=0, spread=1.0):
    """Round and long Gaussians of all opacities, some behind the cameras."""
    rng = np.random.default_rng(seed)
    shapes = {"means": (3,), "log_scales": (3,), "quaternions": (4,), "opacity_logits": ()}
    shapes["harmonics"] = 16, 3
    params = {name: rng.normal(size=(COUNT, *shape)) for name, shape in shapes.items()}
    params["means"] = rng.uniform(-1, 1, (COUNT, 3)) * spread
    params["log_scales"] = params["log_scales"] / 2 - 1.8
    params["opacity_logits"] = params["opacity_logits"] * 2 + 0.5
    params["harmonics"] /= 2
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def cameras_of(count=2, radius=4.0):
    return orbit_cameras(count, radius=radius, elevation=20, focal=20, height=HEIGHT, width=WIDTH)


def expected_of(params, cameras, background=(1, 1, 1)):
    """Colour, opacity and depth of all cameras, float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    numbers = cameras.camera_to_world, cameras.focal, cameras.centre
    images = [
        image_of(
            params, *(np.asarray(x[i], np.float64) for x in numbers), HEIGHT, WIDTH, background
        )
        for i in range(len(cameras))
    ]
    return [np.stack(part) for part in zip(*images, strict=True)]


@functools.cache
def renderer(config, normals=False):
    return jax.jit(config.make_render(normals=normals))


FACTORS = [
    np.random.default_rng(1).normal(size=(2, HEIGHT, WIDTH, *rest)).astype(np.float32)
    for rest in ((3,), (), ())
]


def total(colour, opacity, depth):
    """A number that depends on all that is rendered."""
    return sum((x * f).sum() for x, f in zip((colour, opacity, depth / 9), FACTORS, strict=True))


@jax.jit
def value_and_gradients(params, cameras):
    def loss(params, cameras):
        found = CONFIG.make_render()(params, cameras)
        return total(found.colour, found.opacity, found.depth), found.colour

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, cameras)


@pytest.mark.parametrize(("radius", "spread"), [(4.0, 1.0), (1.2, 1.5)], ids=["outside", "within"])
def test_images_are_the_direct_sum(radius, spread):
    """From outside, and from among the Gaussians, some of which are beside or behind the camera."""
    params, cameras = params_of(spread=spread), cameras_of(radius=radius)
    found = renderer(CONFIG)(params, cameras)
    colour, opacity, depth = expected_of(params, cameras)
    assert not found.statistics.overflow.any()
    assert found.weights is None
    np.testing.assert_allclose(found.colour, colour, atol=1e-5)
    np.testing.assert_allclose(found.opacity, opacity, atol=1e-5)
    np.testing.assert_allclose(found.depth, depth, atol=1e-5 * depth.max())
    assert opacity.min() < 0.2
    assert opacity.max() > 0.98


def test_gradients_are_those_of_the_direct_sum():
    """Central differences of the sum in float64, for a few numbers of every array."""
    params, cameras = params_of(), cameras_of()
    rng, step = np.random.default_rng(1), 1e-6
    found = value_and_gradients(params, cameras)[1][0]
    for name, array in params.items():
        own = np.asarray(found[name]).reshape(-1)
        scale = float(np.abs(own).max())
        assert 0.1 < scale < np.inf
        for i in rng.choice(own.size, 4, replace=False):
            totals = []
            for sign in (1, -1):
                moved = np.asarray(array, np.float64).reshape(-1).copy()
                moved[i] += sign * step
                given = {**params, name: moved.reshape(array.shape)}
                totals.append(total(*expected_of(given, cameras)))
            slope = (totals[0] - totals[1]) / (2 * step)
            assert own[i] == pytest.approx(slope, abs=1e-5 * scale), (name, i)


def test_the_own_backward_pass_is_that_of_a_plain_sum():
    """All gradients, of every parameter and pose, of dense compositing differentiated by JAX."""

    def plain(params, camera):
        splats = project_splats(params, camera, CONFIG.near)
        order = jnp.argsort(jnp.where(splats.visible, splats.depth, jnp.inf))
        splats = jax.tree.map(lambda x: x[order], splats)
        row, column = jnp.mgrid[:HEIGHT, :WIDTH] + 0.5
        dx, dy = column[..., None] - splats.place[:, 0], row[..., None] - splats.place[:, 1]
        a, b, c = splats.conic.T
        raw = splats.opacity * jnp.exp(-(a * dx**2 + c * dy**2) / 2 - b * dx * dy)
        alpha = jnp.where((raw >= 1 / 255) & splats.visible, jnp.minimum(raw, 0.99), 0)
        after = jnp.cumprod(1 - alpha, axis=-1)
        before = jnp.concatenate([jnp.ones_like(after[..., :1]), after[..., :-1]], axis=-1)
        weights = jnp.where(after >= 1e-4, before * alpha, 0)
        opacity = weights.sum(axis=-1)
        colour = weights @ splats.colour + (1 - opacity)[..., None]
        return colour, opacity, weights @ splats.distance / jnp.maximum(opacity, 1e-6)

    def loss(params, cameras):
        return total(*jax.lax.map(lambda camera: plain(params, camera), cameras))

    given = params_of(), cameras_of()
    expected = jax.jit(jax.grad(loss, (0, 1)))(*given)
    found = value_and_gradients(*given)[1]
    for own, slope in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(own, slope, atol=1e-5 * float(jnp.abs(slope).max(initial=0)))


def test_sides_of_tiles_and_groups_do_not_matter():
    params, cameras = params_of(), cameras_of()
    expected = renderer(CONFIG)(params, cameras)
    other = dataclasses.replace(CONFIG, tile=5, group=64)
    found = renderer(other)(params, cameras)
    np.testing.assert_allclose(found.colour, expected.colour, atol=1e-6)
    np.testing.assert_array_equal(found.statistics.overflow, 0)


def test_pairs_beyond_the_capacity_are_counted_and_are_the_farthest():
    params, camera = params_of(), jax.tree.map(lambda x: x[0], cameras_of())
    splats = jax.jit(project_splats)(params, camera, CONFIG.near)
    grid = tile_grid(HEIGHT, WIDTH, 4)

    @functools.partial(jax.jit, static_argnums=0)
    def lists_of(capacity):
        return make_tile_lists(splats, grid, capacity)

    large, small, tiny = (lists_of(capacity) for capacity in (10_000, 200, 100))
    assert large.overflow == 0
    assert small.overflow + 200 == tiny.overflow + 100
    whole, part = (
        [lists.gaussian[s : s + n].tolist() for s, n in zip(lists.start, lists.count, strict=True)]
        for lists in (large, small)
    )
    assert all(mine == every[: len(mine)] for every, mine in zip(whole, part, strict=True))
    depth = np.asarray(splats.depth)
    lost = {i for every, mine in zip(whole, part, strict=True) for i in every[len(mine) :]}
    kept = {i for mine in part for i in mine}
    assert max(depth[list(kept - lost)]) <= min(depth[list(lost)]) + 1e-6
    assert all(np.all(np.diff(depth[every]) >= 0) for every in whole if every)
    overflow = renderer(dataclasses.replace(CONFIG, pairs=1))(params, cameras_of()).statistics
    assert np.all(np.asarray(overflow.overflow) > 0)
    with pytest.raises(InputError, match=r"tiles are 400000000 with 60 Gaussians, expected a prod"):
        make_tile_lists(splats, tile_grid(20_000, 20_000, 1), 10)


def test_images_and_gradients_over_devices_are_those_of_one():
    params, cameras = params_of(), cameras_of()
    (_, expected), gradients = value_and_gradients(params, cameras)
    mesh = make_mesh("data=2,fsdp=2,model=2")
    with jax.set_mesh(mesh):
        layout = plan_layout(CONFIG.make_init(), jax.random.key(0), mesh=mesh)
        given = jax.device_put(params, layout.shardings), cameras
        (_, found), sharded = value_and_gradients(*given)
        assert "psum" in str(value_and_gradients.trace(*given).jaxpr)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for own, one in zip(*map(jax.tree.leaves, (sharded, gradients)), strict=True):
        np.testing.assert_allclose(own, one, atol=1e-5 * float(jnp.abs(one).max(initial=0)))


def test_a_normal_is_the_shortest_axis_towards_the_camera():
    params, cameras = params_of(), cameras_of(1)
    params = {**params, "opacity_logits": jnp.full(COUNT, -9.0).at[0].set(4)}
    params["means"] = params["means"].at[0].set(0)
    params["log_scales"] = params["log_scales"].at[0].set(jnp.log(jnp.array([0.5, 0.01, 0.5])))
    found = renderer(CONFIG, True)(params, cameras)
    axis = rotation_of(np.asarray(params["quaternions"][0]))[:, 1]
    axis *= np.sign(axis @ np.asarray(cameras.camera_to_world)[0, :, 3])
    opacity = np.asarray(found.opacity)[0, ..., None]
    assert opacity.max() > 0.5
    np.testing.assert_allclose(found.normals[0], opacity * axis, atol=1e-5)
    np.testing.assert_allclose(found.depth[0][opacity[..., 0] > 0], 4, rtol=1e-5)


def test_harmonics_and_rotations_are_the_published_ones():
    rng = np.random.default_rng(0)
    for direction in rng.normal(size=(4, 3)):
        unit = direction / np.linalg.norm(direction)
        found = spherical_harmonics(jnp.asarray(unit, jnp.float32))
        np.testing.assert_allclose(found, harmonics_of(unit), atol=1e-6)
    quaternion = rng.normal(size=4).astype(np.float32)
    np.testing.assert_allclose(
        rotations(jnp.asarray(quaternion)), rotation_of(quaternion), atol=1e-6
    )


def test_extreme_gaussians_have_finite_gradients():
    """Tiny, huge, opaque, transparent, at the camera, in every pixel."""
    params, cameras = params_of(), cameras_of()
    params["log_scales"] = params["log_scales"].at[:20].set(-30).at[20:30].set(4)
    params["opacity_logits"] = params["opacity_logits"].at[::2].set(40).at[1::2].set(-40)
    params["means"] = params["means"].at[30:32].set(cameras.camera_to_world[:, :, 3])
    params["quaternions"] = params["quaternions"].at[40].set(0)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(value_and_gradients(params, cameras)))


def test_what_is_no_scene_of_gaussians():
    for change, fault in (
        ({"gaussians": 0}, "gaussians is 0, expected 1 or more"),
        ({"degree": 4}, "degree is 4, expected 0, 1, 2 or 3"),
        ({"initial_opacity": 1.0}, "initial_opacity is 1.0, expected a number between 0 and 1"),
        ({"near": 0.0}, "near is 0.0, expected a finite number > 0"),
        ({"background": (0.0, 0.0, 2.0)}, "background is 2.0, expected 0 <= background <= 1"),
        ({"background": (0.0, 0.0)}, r"background is \(0.0, 0.0\), expected 3 numbers"),
    ):
        with pytest.raises(InputError, match=fault):
            SplatConfig(**change)
    with pytest.raises(InputError, match=r"points have \[5, 3\], expected \[60, 3\]"):
        CONFIG.params_of_points(jnp.zeros((5, 3)), jnp.zeros((5, 3)))
