"""Dense grids and tri-planes: places, linear interpolation, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.nerf import DenseGridConfig, TriPlaneConfig


def params_of(config):
    return nn.meta.unbox(jax.jit(config.make_model().init)(jax.random.key(0), jnp.zeros((1, 3))))


def test_a_dense_grid_interpolates_linear_functions_exactly():
    """A table of a x + b y + c z gives that function everywhere; outside, that of the border."""
    config = DenseGridConfig(5, 2)
    place = np.indices((5, 5, 5))[::-1].reshape(3, -1).T / 4  # the first axis is the fastest
    slopes = np.array([[1.0, 2.0], [-3.0, 0.5], [0.25, 4.0]])
    params = params_of(config)
    params["params"]["table"] = jnp.asarray(place @ slopes, jnp.float32)
    x = np.random.default_rng(0).uniform(-0.2, 1.2, size=(6, 50, 3)).astype(np.float32)
    found = jax.jit(config.make_model().apply)(params, x)
    np.testing.assert_allclose(found, np.clip(x, 0, 1) @ slopes, atol=1e-5)


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_planes_are_looked_up_along_their_axes(combine):
    """Against interpolation in numpy, plane by plane."""
    config = TriPlaneConfig(4, 3, combine)
    params = params_of(config)
    x = np.random.default_rng(1).uniform(size=(40, 3)).astype(np.float32)
    found = jax.jit(config.make_model().apply)(params, x)
    expected = []
    for i, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
        table = np.asarray(params["params"][f"plane_{i}"]).reshape(4, 4, 3)  # [b, a]
        place = x[:, [a, b]] * 3
        cell = np.minimum(np.floor(place), 2).astype(int)
        u, v = (place - cell).T[..., None]
        (i, j) = cell.T
        low = table[j, i] * (1 - u) + table[j, i + 1] * u
        high = table[j + 1, i] * (1 - u) + table[j + 1, i + 1] * u
        expected.append(low * (1 - v) + high * v)
    combined = np.sum(expected, axis=0) if combine == "sum" else np.prod(expected, axis=0)
    np.testing.assert_allclose(found, combined, atol=1e-5)


@pytest.mark.parametrize("config", [DenseGridConfig(4, 2), TriPlaneConfig(4, 2, "product")])
def test_gradients_reach_tables_and_points(config):
    params = params_of(config)
    x = jnp.full((3, 3), 0.4).at[1].set(1.0)

    def total(params, x):
        return jnp.sin(1e3 * config.make_model().apply(params, x)).sum()

    to_params, to_x = jax.jit(jax.grad(total, (0, 1)))(params, x)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(to_params))
    assert np.all(np.isfinite(to_x))
    assert np.any(to_x)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: DenseGridConfig(1), "resolution is 1, expected 2 or more"),
        (lambda: DenseGridConfig(4, 0), "features is 0, expected 1 or more"),
        (lambda: TriPlaneConfig(4, 1, "max"), "combine is 'max', expected 'sum' or 'product'"),
    ],
)
def test_what_is_no_grid(make, fault):
    with pytest.raises(InputError, match=fault):
        make()
