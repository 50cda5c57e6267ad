"""The renderer: chunks, keys, backgrounds, meshes, normals, gradients of poses."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_params

from jaxgen.errors import InputError
from jaxgen.nerf import (
    HashFieldConfig,
    HashGridConfig,
    NeRFFieldConfig,
    OccupancyConfig,
    ProposalConfig,
    RadianceConfig,
    SplatConfig,
    camera_rays,
    orbit_cameras,
    render_rays,
)
from jaxgen.nerf.ray_passes import BoundField
from jaxgen.parallel import make_mesh, plan_layout

NETWORK = NeRFFieldConfig(
    depth=2, width=16, skip=0, position_octaves=2, direction_octaves=1, colour_width=8
)
GRID = HashGridConfig(2, 2, log2_table_size=9, base_resolution=4, finest_resolution=16)
HASH = HashFieldConfig(GRID, width=16, geometry_features=8)
CONES = dataclasses.replace(NETWORK, integrated=True)
SPACE = dataclasses.replace(
    CONES, basis="icosahedron", contracted=True, box=((-1.0,) * 3, (1.0,) * 3)
)

CONFIGS = {
    "one field": RadianceConfig(HASH, coarse_samples=8, fine_samples=6, chunk=16),
    "two networks": RadianceConfig(
        NETWORK, coarse_samples=8, fine_samples=6, two_networks=True, chunk=16
    ),
    "even": RadianceConfig(NETWORK, coarse_samples=8, fine_samples=0),  # all rays at once
    "proposals": RadianceConfig(
        dataclasses.replace(HASH, contracted=True),
        fine_samples=6,
        spacing="piecewise",
        proposals=(ProposalConfig(HASH, 8), ProposalConfig(HASH, 7)),
        chunk=16,
    ),
    "mipnerf": RadianceConfig(
        CONES, coarse_samples=8, fine_samples=6, coarse_colour=True, padding=0.01, chunk=16
    ),
    "mipnerf360": RadianceConfig(
        SPACE,
        near=0.1,
        far=100.0,
        fine_samples=6,
        spacing="inverse",
        proposals=(ProposalConfig(SPACE, 8), ProposalConfig(SPACE, 7)),
        chunk=16,
    ),
}
SAMPLES = {"two networks": 14, "even": 8}
EARLIER = {"two networks": 1, "proposals": 2, "mipnerf": 1, "mipnerf360": 2}
every_config = pytest.mark.parametrize("name", CONFIGS)


OCCUPIED = RadianceConfig(
    HASH, occupancy=OccupancyConfig(8, 64, candidates=2**10, samples=2**9), chunk=16
)


def cameras_of(count=2, elevation=20.0):
    return orbit_cameras(count, radius=4, elevation=elevation, focal=8.0, height=5, width=7)


def rays_of(cameras, footprints=False):
    """Of all pixels in one row."""
    rays = camera_rays(cameras, footprints=footprints)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rays)


@functools.cache
def params_of(config):
    return random_params(config.make_init())


@functools.cache
def renderer(config, normals=False):
    return jax.jit(config.make_render(normals=normals))


@functools.cache
def seen_with_gradient(name):
    """The rays of all pixels, and the gradient of a loss of all that is rendered."""
    config = CONFIGS[name]

    def loss(params, rays, key):
        found = render_rays(config, params, rays, key)
        total = (found.rendering.colour**2).sum()
        for earlier in found.earlier:
            own = earlier.weights if earlier.colour is None else earlier.colour
            total += (own**2).sum()
        return total, found

    rays = rays_of(cameras_of(), config.footprints)
    given = params_of(config), rays, jax.random.key(3)
    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(*given)
    return found, gradient


@every_config
def test_images_are_the_rays_of_all_pixels(name):
    """70 rays, in chunks of 16 with the last one filled up, with each ray's own jitter.

    So the size of chunks does not matter; another key gives other samples.
    """
    config, cameras, key = CONFIGS[name], cameras_of(), jax.random.key(3)
    params = params_of(config)
    found = renderer(config)(params, cameras, key=key)
    other = renderer(config)(params, cameras, key=jax.random.key(2))
    assert np.abs(other.colour - found.colour).max() > 1e-4
    seen, _ = seen_with_gradient(name)
    expected = seen.rendering
    assert found.weights.shape == (2, 5, 7, SAMPLES.get(name, config.fine_samples))
    assert found.normals is None
    for part in ("colour", "opacity", "depth", "weights"):
        image, row = (np.asarray(getattr(x, part)) for x in (found, expected))
        np.testing.assert_allclose(image.reshape(row.shape), row, rtol=1e-5, atol=1e-5)
    assert len(seen.earlier) == EARLIER.get(name, 0)
    assert all((x.colour is None) == bool(config.proposals) for x in seen.earlier)
    for part in (seen.final, *seen.earlier):
        assert part.edges.shape[-1] == part.weights.shape[-1] + 1
        assert np.all(np.diff(part.edges, axis=-1) >= 0)
        np.testing.assert_array_equal(part.edges[:, [0, -1]], np.tile([0, 1], (70, 1)))
    opacity = np.asarray(found.opacity)
    assert 0.01 < opacity.max() <= 1 + 1e-6
    np.testing.assert_allclose(found.weights.sum(-1), opacity, atol=1e-6)
    depth = np.asarray(found.depth)[opacity > 0]
    assert np.all((depth > config.near - 1e-3) & (depth < config.far + 1e-3))


def test_proposals_place_evenly_where_they_are_annealed_to_nothing():
    config = CONFIGS["proposals"]
    given = params_of(config), rays_of(cameras_of())
    place = jax.jit(lambda *given, anneal: render_rays(config, *given, anneal=anneal).final.edges)
    even = np.tile(np.linspace(0, 1, 7), (70, 1))
    np.testing.assert_allclose(place(*given, anneal=jnp.zeros(70)), even, atol=1e-6)
    assert np.abs(place(*given, anneal=jnp.ones(70)) - even).max() > 0.01


def test_the_background_fills_what_the_field_leaves():
    """Colour is linear in the background, with the share that is not opaque."""
    config = CONFIGS["even"]
    given = params_of(config), cameras_of()
    white, black, own = (
        renderer(config)(*given, background=jnp.full(3, value)) for value in (1.0, 0.0, 0.25)
    )
    remainder = (1 - np.asarray(white.opacity))[..., None]
    np.testing.assert_allclose(white.colour - black.colour, remainder + np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(own.colour - black.colour, 0.25 * remainder + np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(renderer(config)(*given).colour, white.colour, atol=1e-6)
    rays = rays_of(given[1])
    each = np.random.default_rng(0).uniform(size=(70, 3)).astype(np.float32)
    of_rays = jax.jit(functools.partial(render_rays, config))
    found = of_rays(given[0], rays, background=each).rendering
    expected = black.colour.reshape(-1, 3) + remainder.reshape(-1, 1) * each
    np.testing.assert_allclose(found.colour, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["one field", "occupancy", "to the end", "splats"])
def test_one_program_for_all_cameras_keys_backgrounds_and_bounds(name):
    config = {"one field": CONFIGS["one field"], "splats": SplatConfig(30)}.get(name, OCCUPIED)
    options = {"to_the_end": True} if name == "to the end" else {}
    traced = 0

    @jax.jit
    def render(params, cameras, **given):
        nonlocal traced
        traced += 1
        return config.make_render(**options)(params, cameras, **given)

    given = {}
    for seed, elevation in enumerate([0.0, 30.0, -50.0]):
        cameras = cameras_of(4, elevation)
        given["key"] = jax.random.key(seed)
        for index in range(4):
            given["background"] = jnp.full(3, index / 4)
            if name != "splats":
                given["bounds"] = jnp.array([1.0 + seed, 6.0 + index])
            if config is OCCUPIED:
                given["cells"] = np.random.default_rng(index).uniform(size=(8, 8, 8)) < 0.5
            camera = cameras.take(np.array([index]))
            found = render(params_of(config), camera, **given)
            assert np.any(found.opacity)
    assert traced == render._cache_size() == 1
    if name != "splats":
        given["bounds"] = jnp.array([9.0, 10.0])  # behind the box
        np.testing.assert_array_equal(render(params_of(config), camera, **given).opacity, 0)


def test_memory_does_not_grow_with_the_picture():
    """From 16 to 256 chunks by the rays and what is rendered alone, of the gradient too.

    All 8 samples of a ray, kept for the gradient, would be thousands of bytes of a pixel.
    """
    config = dataclasses.replace(CONFIGS["even"], chunk=256)
    params, render = params_of(config), config.make_render()

    def colour(params, cameras):
        return render(params, cameras).colour

    def gradient(params, cameras):
        return jax.grad(lambda *given: colour(*given).sum(), (0, 1))(params, cameras)

    def memory(function, side):
        cameras = orbit_cameras(1, radius=4, elevation=20.0, focal=side, height=side, width=side)
        compiled = jax.jit(function).lower(params, cameras).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for function, numbers in ((colour, 8), (gradient, 64)):
        growth = memory(function, 256) - memory(function, 64)
        assert growth / (256**2 - 64**2) < 4 * numbers


def test_sharded_rendering_is_the_unsharded_one():
    """Images and gradients over eight devices, of 70 rays in chunks of 16."""
    config, cameras = CONFIGS["proposals"], cameras_of()
    config = dataclasses.replace(config, proposals=config.proposals[:1])
    params = params_of(config)

    def loss(params, cameras):
        rendering = config.make_render()(params, cameras, key=jax.random.key(0))
        return (rendering.colour**2).sum() + rendering.depth.mean(), rendering.colour

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, expected), gradients = both(params, cameras)
    mesh = make_mesh("data=2,fsdp=2,model=2")
    with jax.set_mesh(mesh):
        layout = plan_layout(config.make_init(), jax.random.key(0), mesh=mesh)
        lowered = both.lower(given := jax.device_put(params, layout.shardings), cameras)
        (_, found), sharded = lowered.compile()(given, cameras)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), sharded, gradients
    )
    assert re.search(r'\{"data", "fsdp"\}', lowered.as_text())


def test_normals_point_against_the_gradient_of_density():
    """Finite differences of the density along the ray's points, summed with the weights."""
    config = dataclasses.replace(CONFIGS["even"], near=1.0, far=4.0)
    params, cameras = params_of(config), cameras_of(1)
    found = renderer(config, normals=True)(params, cameras)
    density = jax.jit(config.make_density(params))
    rays = jax.tree.map(np.asarray, camera_rays(cameras))
    distances = 1 + 3 * (np.arange(8) + 0.5) / 8
    points = rays.origin[..., None, :] + distances[:, None] * rays.direction[..., None, :]
    step = 5e-3
    slope = np.stack(
        [
            np.subtract(*(density(points + s * step * np.eye(3)[axis]) for s in (1, -1)))
            for axis in range(3)
        ],
        axis=-1,
    )
    unit = -slope / np.linalg.norm(slope, axis=-1, keepdims=True)
    expected = (np.asarray(found.weights)[..., None] * unit).sum(axis=-2)
    np.testing.assert_allclose(found.normals, expected, atol=2e-2)
    assert np.abs(expected).max() > 0.05


def test_normals_of_grids_are_differences_over_some_cells():
    """Of the logarithm of 1 + density of a plane's slope they are exact; and they are unit."""
    field = HASH
    assert field.normal_step == pytest.approx(3 * 8 / 16)
    bound = BoundField(field, params_of(CONFIGS["one field"])["fine"])
    bound.density = lambda x, context=None: jnp.expm1(1 + 0.1 * (2 * x[..., 0] - x[..., 2]))
    x = np.random.default_rng(0).uniform(-1, 1, size=(5, 3)).astype(np.float32)
    found = jax.jit(bound.normals)(x)
    np.testing.assert_allclose(found, np.tile([-2, 0, 1], (5, 1)) / np.sqrt(5), atol=1e-5)


def test_gradients_with_respect_to_poses_are_finite_differences():
    """Of rotation and position, with the distances held: no box, even intervals."""
    config, cameras = CONFIGS["even"], cameras_of()
    params = params_of(config)
    target = np.random.default_rng(0).uniform(size=(2, 5, 7, 3)).astype(np.float32)

    @jax.jit
    def loss(pose):
        moved = dataclasses.replace(cameras, camera_to_world=pose)
        return ((config.make_render()(params, moved).colour - target) ** 2).sum()

    pose = np.asarray(cameras.camera_to_world)
    gradient = np.asarray(jax.jit(jax.grad(loss))(pose))
    assert np.linalg.norm(gradient) > 1e-2
    step = 2e-3
    for index in np.ndindex(2, 3, 4):
        move = np.zeros_like(pose)
        move[index] = step
        slope = (float(loss(pose + move)) - float(loss(pose - move))) / (2 * step)
        assert gradient[index] == pytest.approx(slope, abs=0.02 * float(np.abs(gradient).max()))


def test_rays_that_miss_the_box_see_the_background():
    config = dataclasses.replace(
        CONFIGS["one field"], field=dataclasses.replace(HASH, box=((4.5, 0, 0), (5, 1, 1)))
    )
    cameras = cameras_of()  # between 2 and 6 of cameras that look away from it, or past it

    @jax.jit
    def value_and_gradients(params, cameras):
        def loss(params, cameras):
            rendering = render_rays(config, params, rays_of(cameras)).rendering
            return rendering.colour.sum() + rendering.depth.sum(), rendering

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, cameras)

    (_, found), gradients = value_and_gradients(params_of(config), cameras)
    missed = np.asarray(found.opacity) == 0
    assert missed.sum() > 30
    np.testing.assert_allclose(np.asarray(found.colour)[missed], 1)
    np.testing.assert_allclose(np.asarray(found.depth)[missed], 0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))


@every_config
def test_the_gradient_reaches_every_network(name):
    for leaf in jax.tree.leaves(seen_with_gradient(name)[1]):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"near": 6.0}, "near is 6.0 with far=6.0, expected 0 <= near < far"),
        ({"coarse_samples": 0}, "coarse_samples is 0, expected 1 or more"),
        ({"chunk": 0}, "chunk is 0, expected 1 or more"),
        ({"fine_samples": 0, "two_networks": True}, "fine_samples is 0 with two_networks"),
        ({"padding": -1.0}, "padding is -1.0, expected a finite number >= 0"),
        ({"near": 0.0, "spacing": "inverse"}, "near is 0.0 with spacing 'inverse', expected near"),
        (
            {"fine_samples": 0, "proposals": (ProposalConfig(HASH, 8),)},
            "proposals are given with two_networks or without fine_samples, expected one field",
        ),
        ({"background": (0.0, 0.0, 2.0)}, r"background is \(.*\), expected 3 numbers in"),
    ],
    ids=range(8),
)
def test_what_is_no_radiance_field(change, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(RadianceConfig(), **change)
