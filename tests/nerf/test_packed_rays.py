"""Rays with samples where cells are occupied: packing, budgets, what it has to equal."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_params

from jaxgen.errors import InputError
from jaxgen.nerf import (
    HashFieldConfig,
    HashGridConfig,
    OccupancyConfig,
    RadianceConfig,
    Rays,
    occupied_cells,
    orbit_cameras,
    render_rays,
    update_grid,
)
from jaxgen.nerf.fields import FieldOutput
from jaxgen.nerf.occupancy import cell_is_occupied, measure_cells
from jaxgen.nerf.packed_rays import fill_slots, pack_bits, render_packed, sum_before
from jaxgen.nerf.ray_passes import BoundField, RaySpan
from jaxgen.nerf.ray_samples import ray_jitter
from jaxgen.nerf.renderer import render_rays_to_the_end

BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
RADIUS = 0.6
GRID = HashGridConfig(2, 2, log2_table_size=9, base_resolution=4, finest_resolution=16)
EVERYTHING = OccupancyConfig(8, 64, candidates=2**12, samples=2**12, least_weight=0.0)
FIELD = HashFieldConfig(GRID, width=16, geometry_features=8, box=BOX)
CONFIG = RadianceConfig(FIELD, 1.0, 7.0, occupancy=EVERYTHING, chunk=70)
SMALL = dataclasses.replace(CONFIG, occupancy=dataclasses.replace(EVERYTHING, samples=256))


def ball(x):
    return jnp.where((x**2).sum(-1) < RADIUS**2, 50.0, 0.0)


@functools.cache
def params_of():
    return random_params(CONFIG.make_init(), table=3.0)


fill = jax.jit(fill_slots, static_argnums=(1, 3))


def cameras_of(count=2):
    return orbit_cameras(count, radius=3, elevation=20.0, focal=8.0, height=5, width=7)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_slots_are_the_set_bits_in_order(share):
    bits = np.random.default_rng(0).uniform(size=(17, 96)) < share
    expected_ray, expected_step = np.nonzero(bits)
    count = len(expected_ray)
    steps = jax.jit(pack_bits)(jnp.asarray(bits))
    np.testing.assert_array_equal(steps.total, bits.sum(1))
    slots = fill(steps, 2000)
    np.testing.assert_array_equal(slots.filled, np.arange(2000) < count)
    np.testing.assert_array_equal(slots.ray[:count], expected_ray)
    np.testing.assert_array_equal(slots.step[:count], expected_step)
    assert np.all(slots.fits)


def test_a_budget_that_is_too_small_says_which_rays_do_not_fit():
    bits = np.ones((4, 32), bool)
    slots = fill(jax.jit(pack_bits)(jnp.asarray(bits)), 70)
    np.testing.assert_array_equal(slots.fits, [True, True, False, False])
    np.testing.assert_array_equal(slots.step[:64], np.tile(np.arange(32), 2))


def test_turns_of_a_few_steps_visit_every_step_once():
    bits = np.random.default_rng(1).uniform(size=(6, 64)) < 0.4
    steps, taken, seen = jax.jit(pack_bits)(jnp.asarray(bits)), np.zeros(6, np.int32), []
    for _ in range(30):
        slots = fill(steps, 9, taken, 4)
        ray, step = (np.asarray(x)[np.asarray(slots.filled)] for x in (slots.ray, slots.step))
        seen += list(zip(ray.tolist(), step.tolist(), strict=True))
        taken = taken + np.bincount(ray, minlength=6).astype(np.int32)
    assert sorted(seen) == list(zip(*map(np.ndarray.tolist, np.nonzero(bits)), strict=True))
    assert len(set(seen)) == len(seen)


def test_sums_before_start_at_every_ray():
    ray = jnp.array([0, 0, 0, 2, 2, 5])
    value = jnp.array([1e10, 1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(jax.jit(sum_before)(value, ray), [0, 1e10, 1e10, 0, 3, 0])


@functools.cache
def renderer():
    return jax.jit(
        lambda params, rays, cells: render_rays(CONFIG, params, rays, cells=cells, normals=True)
    )


def rays_through_the_box():
    """36 rays along z, from 3 above."""
    side = np.linspace(-0.9, 0.9, 6, dtype=np.float32)
    origin = np.stack([*np.meshgrid(side, side), np.full((6, 6), 3.0, np.float32)], -1)
    return Rays(origin.reshape(-1, 3), np.tile(np.array([0, 0, -1], np.float32), (36, 1)))


EVERY_CELL = np.ones((8, 8, 8), bool)


def test_packed_rays_equal_the_sum_over_all_steps():
    """By numpy; and a renderer that goes on to the end, round after round, gives the same."""
    rays, length = rays_through_the_box(), 2 * np.sqrt(3) / 64
    params = params_of()
    found = renderer()(params, rays, EVERY_CELL).rendering
    assert not np.any(found.left_out)
    t = 2 + (np.arange(64, dtype=np.float32) + 0.5) * length
    points = rays.origin[:, None] + t[:, None] * rays.direction[:, None]
    field = jax.jit(lambda p, x, d: CONFIG.make_field(p)(x, d))
    output = field(params, points, np.broadcast_to(rays.direction[:, None], points.shape))
    depth = np.asarray(output.density) * length
    passed = np.exp(-np.concatenate([np.zeros((36, 1)), np.cumsum(depth, 1)[:, :-1]], 1))
    weights = passed * (1 - np.exp(-depth))
    colour = (weights[..., None] * output.colour).sum(1) + 1 - weights.sum(1)[:, None]
    assert weights.sum(1).max() > 0.01
    np.testing.assert_allclose(found.colour, colour, atol=1e-5)
    np.testing.assert_allclose(found.opacity, weights.sum(1), atol=1e-5)
    np.testing.assert_allclose(found.depth, (weights * t).sum(1) / weights.sum(1), atol=1e-4)
    median = []
    for row in weights:
        k = int(np.argmax(np.cumsum(row) >= row.sum() / 2))
        median.append(2 + (k + (row.sum() / 2 - row[:k].sum()) / row[k]) * length)
    np.testing.assert_allclose(found.median, median, atol=1e-5)
    assert np.abs(np.subtract(median, found.depth)).max() > 0.02
    to_the_end = jax.jit(lambda p, rays: render_rays_to_the_end(SMALL, p, rays, normals=True))
    ended = to_the_end(params, rays)
    for part in ("colour", "opacity", "depth", "normals"):
        np.testing.assert_allclose(getattr(ended, part), getattr(found, part), atol=1e-4)


def test_empty_cells_cost_nothing():
    """Fewer cells are fewer samples; without any, there is the background."""
    params, rays = params_of(), rays_through_the_box()
    cells = np.zeros((8, 8, 8), bool)
    cells[2:6, 2:6, 2:6] = True
    all_of_it, some, none = (
        renderer()(params, rays, c) for c in (EVERY_CELL, cells, np.zeros((8, 8, 8), bool))
    )
    assert 0 < int(some.samples) < int(all_of_it.samples)
    assert int(none.samples) == 0
    np.testing.assert_array_equal(none.rendering.colour, 1.0)
    np.testing.assert_array_equal(none.rendering.opacity, 0.0)
    np.testing.assert_allclose(none.rendering.median, 4.0, rtol=1e-6)  # the far side of the box


def test_images_with_budgets_of_any_size_and_gradients():
    """A small budget marks what it leaves out, and changes nothing else."""
    params, cameras = params_of(), cameras_of()

    def loss(params, cameras):
        found = CONFIG.make_render()(params, cameras)
        return (found.colour**2).sum(), found

    both = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, reference), (to_params, to_cameras) = jax.jit(both)(params, cameras)
    assert not np.any(reference.left_out)
    cut = jax.jit(SMALL.make_render())(params, cameras)
    assert 0 < np.mean(cut.left_out) < 1
    kept = ~np.asarray(cut.left_out)
    np.testing.assert_allclose(cut.colour[kept], reference.colour[kept], atol=1e-5)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(to_params))
    assert np.all(np.isfinite(to_cameras.camera_to_world))
    assert np.any(to_cameras.camera_to_world)


def test_the_grid_finds_a_ball():
    """After a few updates the occupied cells are those that the ball meets."""
    config = OccupancyConfig(16, 64, every=1, all_cells=8)
    step = jax.jit(lambda grid, key: update_grid(config, grid, ball, BOX, key))
    grid = config.initial()
    for i in range(20):
        grid = step(grid, jax.random.key(i))
    found = np.asarray(jax.jit(lambda grid: occupied_cells(config, grid, BOX))(grid))
    corner = np.stack(np.meshgrid(*[np.linspace(-1, 1, 17)] * 3, indexing="ij"), -1)
    low, high = corner[:-1, :-1, :-1], corner[1:, 1:, 1:]
    nearest = np.linalg.norm(np.clip(0, low, high), axis=-1)
    farthest = np.linalg.norm(np.maximum(np.abs(low), np.abs(high)), axis=-1)
    assert found[farthest < RADIUS].all()
    assert not found[nearest > RADIUS].any()
    measured = np.asarray(jax.jit(lambda: measure_cells(config, ball, BOX, 1000))())
    assert measured[farthest < RADIUS].all()
    assert not measured[nearest > RADIUS].any()
    assert int(grid["updates"]) == 20
    rare = dataclasses.replace(config, every=4)
    kept = jax.jit(lambda grid: update_grid(rare, grid, ball, BOX, jax.random.key(0)))(
        {**grid, "updates": np.int32(5)}
    )
    np.testing.assert_array_equal(kept["density"], grid["density"])


def test_cells_of_points():
    cells = np.zeros((4, 4, 4), bool)
    cells[3, 0, 1] = True
    x = np.array(
        [[0.9, -0.9, -0.3], [0.4, -0.9, -0.3], [5.0, -5.0, -0.3], [0.9, -0.3, -0.9]], np.float32
    )
    found = jax.jit(lambda cells, x: cell_is_occupied(cells, x, BOX))(cells, x)
    np.testing.assert_array_equal(found, [True, False, True, False])


class Medium(BoundField):
    """A density without a network."""

    def __init__(self, density):
        self.density_of = density

    def density(self, x, context=None):
        return jnp.broadcast_to(self.density_of(x), x.shape[:-1])

    def __call__(self, x, direction, context):
        return FieldOutput(self.density(x), jnp.full_like(x, 0.25))


def test_densities_of_nothing_and_without_end():
    """A constant medium by its closed form; also where rays end as they begin or miss the box."""
    rays = rays_through_the_box()
    rays.origin[1, 0] = 5.0
    far = np.full(36, 9.0, np.float32)
    far[0] = 1.0

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def render(density, origin):
        from_there = Rays(origin, jnp.asarray(rays.direction))
        span = RaySpan(from_there, 1.0, far, BOX, "linear")
        found = render_packed(EVERYTHING, Medium(lambda x: density), span, BOX, jnp.ones(3))
        found = found.rendering
        total = found.colour[:, 0] + found.opacity + found.depth + found.median
        return total.sum(), (found, span.end)

    length = 2 * np.sqrt(3) / 64
    steps = int(np.floor(2 / length + 0.5)) * (np.arange(36) > 1)
    for density in (0.0, 1e-3, 3.0, 1e10):
        (_, (found, end)), slopes = render(jnp.float32(density), rays.origin)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((found, slopes)))
        opacity = -np.expm1(-density * steps * length)
        np.testing.assert_allclose(found.opacity, opacity, atol=1e-5)
        np.testing.assert_allclose(found.colour[:, 0], 1 - 0.75 * opacity, atol=1e-5)
        if density in (0.0, 1e10):
            expected = np.where(opacity > 0, 2 + length / 2, end)
            np.testing.assert_allclose(found.median, expected, rtol=1e-5)
        if density == 3.0:
            median = 2 + np.log(2 / (2 - opacity)) / density
            np.testing.assert_allclose(found.median[2:], median[2:], atol=density * length**2)


def test_the_mean_over_keys_is_the_integral():
    """Of a ball's density along chords, by steps of a sixth of its radius; 5 deviations."""
    config = dataclasses.replace(EVERYTHING, steps=32, candidates=1024, samples=512)
    rays, density, keys = rays_through_the_box(), 1.5, 400

    @jax.jit
    @jax.vmap
    def optical_depth(key):
        span = RaySpan(jax.tree.map(jnp.asarray, rays), 1.0, 7.0, BOX, "linear")
        jitter = ray_jitter(key, jnp.arange(36), 1)[:, 0]
        medium = Medium(lambda x: density * ((x**2).sum(-1) < RADIUS**2))
        found = render_packed(config, medium, span, BOX, jnp.ones(3), jitter=jitter)
        return -jnp.log1p(-found.rendering.opacity), found.rendering.left_out

    found, left_out = map(np.asarray, optical_depth(jax.random.split(jax.random.key(0), keys)))
    assert not left_out.any()
    apart = (rays.origin[:, :2] ** 2).sum(-1)
    exact = density * 2 * np.sqrt(np.maximum(RADIUS**2 - apart, 0))
    deviation = found.std(axis=0)
    assert deviation.max() > 0.02
    assert np.all(np.abs(found.mean(axis=0) - exact) <= 5 * deviation / np.sqrt(keys) + 1e-5)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: OccupancyConfig(steps=40), "steps is 40, expected a multiple of 32"),
        (lambda: OccupancyConfig(samples=0), "samples is 0, expected 1 or more"),
        (
            lambda: dataclasses.replace(CONFIG, two_networks=True),
            "two_networks, coarse_colour, proposals and occupancy are given together",
        ),
        (
            lambda: dataclasses.replace(CONFIG, field=dataclasses.replace(FIELD, contracted=True)),
            "occupancy is given with a field that has no box, expected one",
        ),
        (
            lambda: dataclasses.replace(CONFIG, occupancy=None).make_render(to_the_end=True),
            "to_the_end is True without occupancy, expected False",
        ),
    ],
    ids=range(5),
)
def test_what_samples_nothing(make, fault):
    with pytest.raises(InputError, match=fault):
        make()
