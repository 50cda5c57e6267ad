"""Fields: published sizes, ranges, boxes, gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_params

from jaxgen.errors import InputError
from jaxgen.nerf import HashFieldConfig, HashGridConfig, NeRFFieldConfig
from jaxgen.parallel import make_mesh, plan_layout

BOX = ((-1.0, -2.0, -1.0), (1.0, 2.0, 3.0))
TINY = {
    "nerf": NeRFFieldConfig(
        depth=3, width=16, skip=1, position_octaves=4, direction_octaves=2, colour_width=8, box=BOX
    ),
    "hash": HashFieldConfig(
        HashGridConfig(2, 2, log2_table_size=9, base_resolution=4, finest_resolution=32),
        width=16,
        geometry_features=8,
        box=BOX,
    ),
}
every_field = pytest.mark.parametrize("name", TINY)


def inputs(count=64, seed=0):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return rng.uniform(*BOX, size=(count, 3)).astype(np.float32), direction.astype(np.float32)


def init(config, key):
    return config.make_model().init(key, jnp.zeros((1, 3)), jnp.zeros((1, 3)))["params"]


def params_of(config, scale=1.0):
    return random_params(functools.partial(init, config), table=scale)


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, x, direction):
    return config.make_model().apply({"params": params}, x, direction)


@functools.partial(jax.jit, static_argnums=0)
def density_of(config, params, x):
    return config.make_model().apply({"params": params}, x, method="density")


def test_the_original_has_its_published_number_of_parameters():
    """595,844: 8 layers of 256 with the input joined to the fifth's output, then the branches."""
    shapes = jax.eval_shape(functools.partial(init, NeRFFieldConfig()), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    position, direction = 3 + 3 * 2 * 10, 3 + 3 * 2 * 4
    layers = [(position, 256)] + [(256, 256)] * 4 + [(position + 256, 256)] + [(256, 256)] * 2
    layers += [(256, 1), (256, 256), (256 + direction, 128), (128, 3)]
    assert count == sum((inputs + 1) * units for inputs, units in layers) == 595_844


def test_the_hash_field_has_the_mlps_of_instant_ngp():
    """32 to 64 to 16, and 16 + 16 to 64 to 64 to 3, without biases."""
    config = HashFieldConfig()
    shapes = jax.eval_shape(functools.partial(init, config), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    layers = 32 * 64 + 64 * 16 + 32 * 64 + 64 * 64 + 64 * 3
    assert count == config.grid.rows * 4 + layers


@every_field
def test_density_and_colour(name):
    config = TINY[name]
    x, direction = inputs()
    params = params_of(config)
    output = apply(config, params, x.reshape(8, 8, 3), direction.reshape(8, 8, 3))
    assert output.density.shape == (8, 8)
    assert output.colour.shape == (8, 8, 3)
    assert np.all(np.asarray(output.density) >= 0)
    assert np.std(output.density) > 1e-4
    assert np.all((np.asarray(output.colour) >= 0) & (np.asarray(output.colour) <= 1))
    alone = density_of(config, params, x)
    np.testing.assert_allclose(output.density.reshape(-1), alone, rtol=1e-5)
    turned = apply(config, params, x, direction[::-1])
    np.testing.assert_allclose(turned.density, alone, rtol=1e-5)
    assert np.abs(turned.colour - output.colour.reshape(-1, 3)).max() > 1e-3


@every_field
def test_there_is_no_density_outside_of_the_box(name):
    x = inputs()[0]
    outside = np.where(np.arange(3) == np.arange(64)[:, None] % 3, 1.5 * np.sign(x) * BOX[1], x)
    density = density_of(TINY[name], params_of(TINY[name]), outside.astype(np.float32))
    np.testing.assert_array_equal(density, 0)


@every_field
def test_gradients_are_finite_and_reach_every_parameter(name):
    config, (x, direction) = TINY[name], inputs()

    @jax.jit
    def gradients(params, x):
        def loss(params, x):
            output = config.make_model().apply({"params": params}, x, direction)
            return jnp.sin(output.density).sum() + (output.colour**2).sum()

        return jax.grad(loss, (0, 1))(params, x)

    for scale in (1.0, 1e3):
        to_params, to_x = gradients(params_of(config, scale), x)
        assert np.all(np.isfinite(to_x))
        for gradient in jax.tree.leaves(to_params):
            assert np.all(np.isfinite(gradient))
            assert scale > 1 or np.any(gradient)


@every_field
def test_parameters_are_cut_along_their_names(name):
    """Hidden widths over model and fsdp; encoded inputs, outputs and tables whole."""
    config = TINY[name]
    layout = plan_layout(
        functools.partial(init, config), jax.random.key(0), mesh=make_mesh("data=2,fsdp=2,model=2")
    )
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(sharding.spec)
        for path, sharding in jax.tree_util.tree_leaves_with_path(layout.shardings)
    }
    hidden = "layers_1/kernel" if name == "nerf" else "colour_hidden_1/kernel"
    first = "layers_0/kernel" if name == "nerf" else "density_hidden/kernel"
    assert specs[hidden] == ("fsdp", "model")
    assert specs[first] == (None, "model")


def test_both_activations_of_density():
    x, direction = inputs()
    params = params_of(TINY["nerf"])
    raw = {
        kind: apply(dataclasses.replace(TINY["nerf"], activation=kind), params, x, direction)
        for kind in ("relu", "softplus")
    }
    relu, soft = np.asarray(raw["relu"].density), np.asarray(raw["softplus"].density)
    positive = relu > 0
    assert positive.sum() > 0
    np.testing.assert_allclose(soft[positive], np.log1p(np.exp(relu[positive] - 1)), rtol=1e-4)
    assert np.all(soft > 0)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("nerf", {"depth": 0}, "depth is 0, expected 1 or more"),
        ("nerf", {"activation": "exp"}, "activation is 'exp', expected 'relu' or 'softplus'"),
        ("nerf", {"box": (BOX[1], BOX[0])}, "box is .*, expected .* the lower corner first"),
        ("hash", {"width": 0}, "width is 0, expected 1 or more"),
        ("hash", {"box": ((0, 0, 0), (1, 1, np.inf))}, "box is .*, expected .* the lower corner"),
    ],
    ids=range(5),
)
def test_what_is_no_field(name, change, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(TINY[name], **change)
