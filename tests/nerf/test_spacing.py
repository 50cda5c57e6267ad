"""How intervals are spread along rays, and space that is contracted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nerf import contract
from jaxgen.nerf.spacing import spaced_distances

NEAR, FAR = np.float32([0.05, 0.5, 2.0]), np.float32([100.0, 0.9, 6.0])

RULES = {
    "linear": lambda t: t,
    "inverse": lambda t: -1 / t,
    "piecewise": lambda t: np.where(t < 1, t / 2, 1 - 1 / (2 * t)),
}


@pytest.mark.parametrize("spacing", RULES)
def test_distances_are_even_in_their_rule(spacing):
    s = np.tile(np.linspace(0, 1, 9, dtype=np.float32), (3, 1))
    spaced = jax.jit(spaced_distances, static_argnums=0)
    t = np.asarray(spaced(spacing, jnp.asarray(NEAR), jnp.asarray(FAR), s), float)
    assert np.all(np.diff(t, axis=1) > 0)
    np.testing.assert_allclose(t[:, [0, -1]], np.stack([NEAR, FAR], 1), rtol=1e-4)
    ruled = RULES[spacing](t)
    np.testing.assert_allclose(
        np.diff(ruled, axis=1), np.diff(ruled, axis=1)[:, :1] * np.ones(8), atol=1e-4, rtol=1e-3
    )
    missed = np.asarray(spaced(spacing, jnp.asarray(NEAR), jnp.asarray(NEAR), s))
    np.testing.assert_allclose(missed, NEAR[:, None] * np.ones(9), rtol=1e-5)


def test_contraction_keeps_the_middle_and_holds_all_of_space():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32) * np.exp(rng.uniform(-2, 8, size=(200, 1)))
    x = x.astype(np.float32)
    found = np.asarray(jax.jit(contract)(x))
    size = np.abs(x).max(1)
    inside = size <= 1
    np.testing.assert_array_equal(found[inside], x[inside])
    expected = (2 - 1 / size) / size
    np.testing.assert_allclose(found[~inside], (expected[:, None] * x)[~inside], rtol=1e-5)
    assert np.abs(found).max() < 2
    border = np.float32([[1 - 1e-4, 0, 0], [1 + 1e-4, 0, 0]])
    np.testing.assert_allclose(jax.jit(contract)(border), border, atol=1e-7)
    gradient = jax.jit(jax.grad(lambda x: contract(x).sum()))(np.zeros((1, 3), np.float32))
    np.testing.assert_array_equal(gradient, np.ones((1, 3)))
