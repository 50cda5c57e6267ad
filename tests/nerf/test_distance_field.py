"""Signed distances: the start, NeuS's opacity, gradients, the eikonal loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.nerf import (
    DistanceFieldConfig,
    HashGridConfig,
    NeRFFieldConfig,
    RadianceConfig,
    Rays,
    SampleContext,
    eikonal_loss,
    render_rays,
    render_weights,
)
from jaxgen.nerf.distance_field import PLACING, difference, finest_cell
from jaxgen.nerf.distance_opacity import anneal_slope, interval_density
from jaxgen.parallel import make_mesh, plan_layout
from jaxgen.training.saved_configs import config_from_json, config_to_json

BOX = ((-2.0, -1.0, -1.5), (2.0, 1.0, 2.5))
MIDDLE = np.array([0, 0, 0.5])
GRID = HashGridConfig(2, 2, log2_table_size=10, base_resolution=4, finest_resolution=32)
GRIDDED = DistanceFieldConfig(
    GRID, depth=1, width=64, skip=-1, geometry_features=6, colour_layers=1, box=BOX
)
TINY = {
    "network": dataclasses.replace(
        GRIDDED, grid=None, depth=3, width=16, skip=1, octaves=3, code_size=2
    ),
    "grid": dataclasses.replace(GRIDDED, width=16),
}
every_field = pytest.mark.parametrize("name", TINY)


def points(count=64, seed=0):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return rng.uniform(*BOX, size=(count, 3)).astype(np.float32), direction.astype(np.float32)


@functools.cache
def params_of(config):
    """At the start."""
    init = jax.jit(lambda key: config.make_model().init(key, jnp.zeros((1, 3)), jnp.ones((1, 3))))
    return nn.meta.unbox(init(jax.random.key(0)))["params"]


def perturbed(config):
    """With all features, or waves, in use."""
    leaves, tree = jax.tree.flatten(params_of(config))
    rng = np.random.default_rng(0)
    moved = [leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, moved)


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, x, direction, context):
    return config.make_model().apply({"params": params}, x, direction, context)


@functools.partial(jax.jit, static_argnums=(0, 1))
def call(config, method, params, x, context):
    return config.make_model().apply({"params": params}, x, context, method=method)


density_of, weights_of = jax.jit(interval_density), jax.jit(render_weights)


def with_sharpness(config, params, sharpness):
    value = np.log(sharpness * config.cube[1]) / config.sharpness_rate
    return params | {"variance": jnp.asarray(value, jnp.float32)}


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [(GRIDDED, 0.02), (DistanceFieldConfig(box=BOX, colour_layers=1, geometry_features=4), 0.2)],
    ids=["grid", "network as published"],
)
def test_the_start_is_a_sphere(config, tolerance):
    """Of half the radius of the cube, whose side is 4, in units of the world."""
    (x, direction), params = points(500), params_of(config)
    output = apply(config, params, x, direction, SampleContext())
    distance = np.asarray(call(config, "distance", params, x, SampleContext()))
    exact = np.linalg.norm(x - MIDDLE, axis=1) - 1
    assert np.abs(distance - exact).mean() < tolerance
    far = np.abs(exact) > 2 * tolerance
    assert 0.02 < (exact[far] < 0).mean() < 0.5
    np.testing.assert_array_equal(distance[far] < 0, exact[far] < 0)
    length = np.linalg.norm(output.gradient, axis=1)
    assert np.abs(length - 1).mean() < tolerance
    outwards = (x - MIDDLE) / (exact[:, None] + 1)
    assert (output.gradient * outwards).sum(axis=1).mean() > 1 - 2 * tolerance


def test_opacity_is_that_of_neus():
    """Against the formula in float64: random intervals, samples anywhere in them."""
    rng = np.random.default_rng(0)
    distance, slope = rng.uniform(-1, 1, 400), rng.uniform(-1, 0, 400)
    length, share = rng.uniform(0.01, 0.5, 400), rng.uniform(size=400)
    for sharpness in (1.0, 20.0, 200.0):

        def logistic(value, sharpness=sharpness):
            return 1 / (1 + np.exp(-value * sharpness))

        for given in (None, share * length):
            offset = length / 2 if given is None else given
            begin = logistic(distance - slope * offset)
            end = logistic(distance + slope * (length - offset))
            alpha = np.clip((begin - end + 1e-5) / (begin + 1e-5), 0, 1)
            given = (
                None if offset is not length * share and np.all(offset == length / 2) else offset
            )
            density = density_of(distance, slope, length, given, sharpness)
            edges = np.stack([np.zeros(400), length], axis=1)
            weights = weights_of(density[:, None], edges)
            np.testing.assert_allclose(weights[:, 0], alpha, rtol=1e-4, atol=2e-6)


def test_weights_of_a_plane_have_their_peak_at_it_and_its_depth_is_rendered():
    """Seen frontally and at 60 degrees: ``S(s f_i) - S(s f_{i + 1})``, wherever samples are."""
    edges, plane = np.linspace(0, 2, 401), 1.2025  # in the middle of an interval
    middle, length = (edges[:-1] + edges[1:]) / 2, np.full(400, 0.005)
    at = edges[:-1] + length * np.random.default_rng(0).uniform(size=400)
    for cosine in (-1.0, -0.5):
        errors = []
        for sharpness in (10.0, 50.0, 500.0, 1e5):
            distance, slope = -cosine * (plane - at), np.full(400, cosine)
            found = density_of(distance, slope, length, at - edges[:-1], sharpness)
            weights = np.asarray(weights_of(found, jnp.asarray(edges)))
            passed = 0.5 + 0.5 * np.tanh(sharpness * -cosine * (plane - edges) / 2)
            np.testing.assert_allclose(weights, -np.diff(passed) / passed[0], atol=4e-3)
            peak = np.argmax(weights)
            assert abs(middle[peak] - plane) < 1e-6
            errors.append(abs((weights * middle).sum() / weights.sum() - plane))
        assert errors[0] > errors[1] > errors[2]
        assert max(errors[2:]) < 2e-3


@every_field
def test_density_along_rays_and_without(name):
    """With a length that of NeuS by the field's own distance and gradient, else ``s S(-s f)``."""
    config, (x, direction) = TINY[name], points()
    params = with_sharpness(config, perturbed(config), 30.0)
    length, alone = jnp.full(64, 0.1), SampleContext()
    distance = call(config, "distance", params, x, alone)
    context = SampleContext(length=length, offset=length / 3)
    output = apply(config, params, x, direction, context)
    slope = np.minimum((output.gradient * direction).sum(-1), 0)
    expected = density_of(distance, slope, length, context.offset, 30.0)
    np.testing.assert_allclose(output.density, expected, rtol=1e-3, atol=1e-5)
    expected = 30 / (1 + np.exp(30 * np.asarray(distance, np.float64)))
    for density in (
        apply(config, params, x, direction, alone).density,
        call(config, "density", params, x, alone),
    ):
        np.testing.assert_allclose(density, expected, rtol=1e-3, atol=1e-6)
    bounded = call(config, "density", params, x, SampleContext(length=4 * length))
    sharpness = PLACING / 0.4
    expected = sharpness / (1 + np.exp(sharpness * np.asarray(distance, np.float64)))
    np.testing.assert_allclose(bounded, expected, rtol=1e-3)
    outside = np.array(x)
    outside[:, 1] = 1.01
    np.testing.assert_array_equal(apply(config, params, outside, direction, context).density, 0)


def test_the_slope_is_annealed():
    slope = jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    np.testing.assert_allclose(anneal_slope(slope, None, 0.5), [-1, -0.5, 0, 0, 0])
    np.testing.assert_allclose(anneal_slope(slope, jnp.array(0.0), 0.5), slope / 2 - 0.5)
    half = (np.array([-1, -0.5, 0, 0, 0]) + np.asarray(slope) / 2 - 0.5) / 2
    np.testing.assert_allclose(anneal_slope(slope, jnp.array(0.25), 0.5), half)
    np.testing.assert_allclose(anneal_slope(slope, jnp.array(0.9), 0.5), [-1, -0.5, 0, 0, 0])


@every_field
def test_gradients_are_finite_and_reach_every_parameter(name):
    """Through the distance's own gradient too; at the extremes of s, also in empty intervals."""
    config, (x, direction) = TINY[name], points()
    length = np.where(np.arange(64) % 2, 0.05, 0).astype(np.float32)
    code = np.ones((64, config.code_size), np.float32) if config.code_size else None
    context = SampleContext(length=length, offset=length / 3, code=code)

    @jax.jit
    def gradients(params, x):
        def loss(params, x, length):
            given = dataclasses.replace(context, length=length)
            output = config.make_model().apply({"params": params}, x, direction, given)
            edges = jnp.stack([jnp.zeros(64), length], axis=1)
            weights = render_weights(output.density[:, None], edges)
            return (weights * output.colour).sum() + eikonal_loss(output.gradient)

        return jax.grad(loss, (0, 1, 2))(params, x, jnp.asarray(length))

    start = params_of(config)
    for sharpness in (1e-5, 20.0, 1e6):
        for params in (start, perturbed(config)):
            found = gradients(with_sharpness(config, params, sharpness), x)
            for leaf in jax.tree.leaves(found):
                assert np.all(np.isfinite(leaf))
    for leaf in jax.tree.leaves(gradients(with_sharpness(config, perturbed(config), 20.0), x)[0]):
        assert np.any(leaf)


def test_the_gradient_of_a_network_is_that_of_its_distance():
    config, (x, direction) = TINY["network"], points()
    params = perturbed(config)
    distance = functools.partial(call, config, "distance", params, context=SampleContext())
    found = apply(config, params, x, direction, SampleContext()).gradient
    h = 1e-3
    expected = [
        (distance(x + h * axis) - distance(x - h * axis)) / (2 * h)
        for axis in np.eye(3, dtype=np.float32)
    ]
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), atol=2e-3)


def test_differences_converge():
    """Exact on linear functions; of second order with 6 taps, and of first with 4."""
    x, _ = points()
    normal = np.array([0.3, -0.5, 0.8], np.float32)
    for taps, order in ((6, 2), (4, 1)):
        linear = difference(lambda x: x @ normal, x, 0.1, taps)
        np.testing.assert_allclose(linear, np.broadcast_to(normal, x.shape), atol=2e-5)
        exact = np.stack([np.cos(x[:, 0]), x[:, 2], x[:, 1]], axis=1)
        found = (
            difference(lambda x: jnp.sin(x[..., 0]) + x[..., 1] * x[..., 2], x, h, taps)
            for h in (0.4, 0.2)
        )
        coarse, fine = (np.abs(gradient - exact).max() for gradient in found)
        assert coarse < 0.3
        assert 0.8 * 2**order < coarse / fine < 1.2 * 2**order


def test_the_step_follows_the_finest_level_in_use():
    """A cell of the first levels until they are faded in, then down to one of the finest."""
    four = dataclasses.replace(GRIDDED, grid=dataclasses.replace(GRID, levels=4))
    config = dataclasses.replace(four, coarse_to_fine=0.5, first_levels=2)
    cells = [4 / level.scale for level in four.grid.level_table]
    step = {p: float(finest_cell(config, jnp.asarray(p))) for p in (0.0, 0.25, 0.375, 0.5, 1.0)}
    np.testing.assert_allclose(
        list(step.values()),
        [cells[1], cells[2], (cells[2] * cells[3]) ** 0.5, *cells[3:] * 2],
        1e-5,
    )
    np.testing.assert_allclose(finest_cell(config, None), cells[3], rtol=1e-5)
    np.testing.assert_allclose(finest_cell(four, jnp.asarray(0.1)), cells[3], rtol=1e-5)
    config = dataclasses.replace(TINY["grid"], coarse_to_fine=0.5, first_levels=1)
    params, (x, direction) = perturbed(config), points()
    for progress in (0.0, 0.3, None):
        context = SampleContext(progress=None if progress is None else jnp.asarray(progress))
        found = apply(config, params, x, direction, context).gradient
        expected = difference(
            lambda x, context=context: call(config, "distance", params, x, context),
            x,
            float(finest_cell(config, context.progress)),
            config.taps,
        )
        np.testing.assert_allclose(found, expected, atol=1e-3)


@every_field
def test_levels_that_are_not_in_use_do_not_count(name):
    """With one level, or octave, of all: a field whose other features are anything."""
    config = dataclasses.replace(TINY[name], coarse_to_fine=0.5, first_levels=1)
    params, (x, _) = perturbed(config), points()
    other = jax.tree.map(jnp.copy, params)
    if name == "grid":
        table = GRID.level_table
        other["grid"]["table"] = other["grid"]["table"].at[table[1].start :].add(1)
    else:
        other["layers_0"]["kernel"] = other["layers_0"]["kernel"].at[9:].add(1)
        other["layers_2"]["kernel"] = other["layers_2"]["kernel"].at[9:21].add(1)
    for progress, same in ((0.0, True), (0.4, False)):
        context = SampleContext(progress=jnp.asarray(progress))
        first, second = (call(config, "distance", p, x, context) for p in (params, other))
        assert np.allclose(first, second, atol=1e-5) == same


def test_the_eikonal_loss():
    """0 of a true distance; the mean over the samples that count; finite at no gradient."""
    x, _ = points()
    gradient = jnp.asarray((x - MIDDLE) / np.linalg.norm(x - MIDDLE, axis=1, keepdims=True))
    np.testing.assert_allclose(eikonal_loss(gradient), 0, atol=1e-10)
    rays = jnp.stack([gradient * 3, gradient * 0])
    np.testing.assert_allclose(eikonal_loss(rays), [4, 1], rtol=1e-4)
    mask = np.arange(64) < np.array([[32], [0]])
    mixed = rays.at[0, 32:].set(7)
    np.testing.assert_allclose(eikonal_loss(mixed, mask), [4, 0], rtol=1e-5)
    total = lambda g: eikonal_loss(g, mask).sum() + eikonal_loss(g).sum()  # noqa: E731
    slope = jax.jit(jax.grad(total))(mixed)
    assert np.all(np.isfinite(slope))


def test_rendered_normals_depth_and_distance():
    """Of the sphere of the start, with s large: rays that meet it, and rays that pass it."""
    config = RadianceConfig(GRIDDED, near=1.0, far=7.0, coarse_samples=48, fine_samples=24)
    params = {"fine": with_sharpness(GRIDDED, params_of(GRIDDED), 300.0)}
    side = np.linspace(-1.4, 1.4, 15, dtype=np.float32)
    origin = np.stack([side, np.full(15, -4.0), np.full(15, 0.5)], axis=1).astype(np.float32)
    rays = Rays(jnp.asarray(origin), jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0]), (15, 3)))
    render = jax.jit(functools.partial(render_rays, config, normals=True))
    found = render(params, rays, jax.random.key(0))
    meets = np.abs(side) < 0.9
    np.testing.assert_allclose(found.rendering.opacity[meets], 1, atol=0.02)
    assert np.all(np.asarray(found.rendering.opacity)[np.abs(side) > 1.05] < 0.02)
    half = np.sqrt(1 - side[meets] ** 2)
    np.testing.assert_allclose(found.rendering.depth[meets], 4 - half, atol=0.03)
    exact = np.stack([side[meets], -half, 0 * half], axis=1)
    cosine = (np.asarray(found.rendering.normals)[meets] * exact).sum(axis=1)
    assert cosine.min() > 0.98
    assert found.gradient.shape == (15, 24, 3)
    distance = jax.jit(config.make_distance(params))
    np.testing.assert_allclose(distance(origin), np.linalg.norm(origin - MIDDLE, axis=1) - 1, 0.05)
    assert RadianceConfig(NeRFFieldConfig()).make_distance({}) is None


def test_a_mesh_of_devices_changes_nothing():
    """Rays and the gradients of their loss, through that of the distance, over eight devices."""
    config = RadianceConfig(TINY["network"], near=1.0, far=7.0, coarse_samples=8, fine_samples=6)
    side = np.linspace(-1.2, 1.2, 16, dtype=np.float32)
    origin = np.stack([side, np.full(16, -4.0), np.full(16, 0.5)], axis=1).astype(np.float32)
    rays = Rays(jnp.asarray(origin), jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0]), (16, 3)))

    @jax.jit
    @jax.value_and_grad
    def loss(params, rays):
        found = render_rays(config, params, rays)
        return (found.rendering.colour**2).mean() + 0.1 * eikonal_loss(found.gradient).mean()

    params = {"fine": perturbed(TINY["network"])}
    value, expected = loss(params, rays)
    mesh = make_mesh("data=2,fsdp=2,model=2")
    with jax.set_mesh(mesh):
        layout = plan_layout(config.make_init(), jax.random.key(0), mesh=mesh)
        kernel = layout.shardings["fine"]["layers_1"]["kernel"]
        assert tuple(kernel.spec) == ("fsdp", "model")
        found, sharded = loss(jax.device_put(params, layout.shardings), rays)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, sharded, expected)


def test_it_is_saved_by_name():
    saved = config_to_json(GRIDDED)
    assert saved["class"] == "distance-field"
    assert config_from_json(saved) == GRIDDED


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"depth": 0}, "depth is 0, expected 1 or more"),
        ({"skip": 0}, "skip is 0, expected -1 to -1"),
        ({"taps": 5}, "taps is 5, expected 4 or 6"),
        ({"radius": 0.0}, "radius is 0.0, expected a finite number > 0"),
        ({"anneal": -0.1}, "anneal is -0.1, expected a finite number >= 0"),
        ({"box": (BOX[1], BOX[0])}, "box is .*, expected .* the lower corner first"),
    ],
    ids=range(6),
)
def test_what_is_no_field(change, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(GRIDDED, **change)
