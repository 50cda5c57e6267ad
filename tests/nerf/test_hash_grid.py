"""Hash grids against integers and loops of plain Python."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.nerf import HashGridConfig
from jaxgen.nerf.hash_grid import weighted_rows
from jaxgen.parallel import make_mesh, plan_layout

SMALL = HashGridConfig(
    levels=3, features=2, log2_table_size=9, base_resolution=4, finest_resolution=64
)


def plain_grid(config, table, x):
    """Corner by corner, in unbounded integers and float64."""
    growth = (config.finest_resolution / config.base_resolution) ** (1 / (config.levels - 1))
    start, found = 0, []
    for level in range(config.levels):
        scale = config.base_resolution * growth**level - 1
        places = math.ceil(scale - 1e-4) + 1
        dense = places**3 <= 2**config.log2_table_size
        rows = math.ceil(places**3 / 8) * 8 if dense else 2**config.log2_table_size
        total = np.zeros(config.features)
        place = [float(part) * scale + 0.5 for part in x]
        for corner in np.ndindex(2, 2, 2):
            at = [math.floor(p) + c for p, c in zip(place, corner, strict=True)]
            if dense:
                index = at[0] + at[1] * places + at[2] * places**2
            else:
                i, j, k = (
                    a * p % 2**32 for a, p in zip(at, (1, 2654435761, 805459861), strict=True)
                )
                index = i ^ j ^ k
            shares = [p - math.floor(p) for p in place]
            weight = math.prod(s if c else 1 - s for s, c in zip(shares, corner, strict=True))
            total += weight * table[start + index % rows]
        found.append(total)
        start += rows
    assert start == len(table)
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def apply(config, table, x):
    return config.make_model().apply({"params": {"table": table}}, x)


def random_table(config, seed=0):
    shape = config.rows, config.features
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_features_are_those_of_loops():
    """Dense and hashed levels, borders included; of a grid like that of the paper as well."""
    wide = HashGridConfig(levels=4, features=4, log2_table_size=14, finest_resolution=2048)
    rng = np.random.default_rng(1)
    for config in (SMALL, wide):
        x = rng.uniform(size=(40, 3)).astype(np.float32)
        x[:3], x[3] = np.eye(3), 1
        table = random_table(config)
        found = apply(config, table, x.reshape(8, 5, 3))
        expected = [plain_grid(config, table, point) for point in x]
        assert found.shape == (8, 5, config.width)
        # A place of the finest level is exact to 2048 times the spacing of float32.
        np.testing.assert_allclose(found.reshape(40, -1), expected, atol=2e-3)
        assert {level.hashed for level in config.level_table} == {False, True}


def test_levels_of_the_paper():
    """16 levels, 16 to 2048, 2^19 rows: levels of more than 80 places (80^3 < 2^19) are hashed."""
    config = HashGridConfig(16, 2, log2_table_size=19, finest_resolution=2048)
    places = [level.places for level in config.level_table]
    assert places[0] == 16
    assert places[-1] == 2048
    assert [level.hashed for level in config.level_table] == [n > 80 for n in places]
    dense = sum(-(-(n**3) // 8) * 8 for n in places if n <= 80)
    assert config.rows == dense + 2**19 * sum(n > 80 for n in places)


def test_constants_are_kept_and_points_outside_are_moved_to_the_border():
    table = np.ones((SMALL.rows, 2), np.float32)
    x = np.random.default_rng(0).uniform(-1, 2, size=(50, 3)).astype(np.float32)
    np.testing.assert_allclose(apply(SMALL, table, x), 1, rtol=1e-5)
    table = random_table(SMALL)
    np.testing.assert_array_equal(apply(SMALL, table, x), apply(SMALL, table, np.clip(x, 0, 1)))


def test_gradients_of_the_table_and_of_positions():
    table, rng = random_table(SMALL), np.random.default_rng(2)
    x = rng.uniform(0.1, 0.9, size=(30, 3)).astype(np.float32)
    target = rng.normal(size=(30, SMALL.width)).astype(np.float32)

    @jax.jit
    def gradients(table, x):
        return jax.grad(lambda *given: (apply(SMALL, *given) * target).sum(), (0, 1))(table, x)

    to_table, to_x = map(np.asarray, gradients(table, x))
    # Linear in the table: the product with any other table is the sum of its features.
    for seed in (3, 4):
        other = random_table(SMALL, seed)
        expected = (apply(SMALL, other, x) * target).sum()
        assert np.vdot(to_table, other) == pytest.approx(float(expected), rel=1e-4)
    step = 1e-3
    for axis in range(3):
        move = step * np.eye(3)[axis]
        ends = [[plain_grid(SMALL, table, p + s * move) for p in x] for s in (1, -1)]
        slope = ((np.subtract(*ends) / (2 * step)) * target).sum(axis=1)
        # Features have kinks where a cell ends: most points are not within a step of one.
        assert np.median(np.abs(to_x[:, axis] - slope)) < 1e-2


def test_the_gradient_by_hand_is_that_of_autodiff():
    """Of rows and weights, first and second derivatives, with rows that occur many times."""
    rng = np.random.default_rng(0)
    table, rows = rng.normal(size=(20, 3)), rng.integers(0, 20, size=(2, 8, 30))
    weights = rng.uniform(size=(2, 8, 30))
    table, weights = table.astype(np.float32), weights.astype(np.float32)

    def plain(table, rows, weights):
        return jnp.einsum("lknf,lkn->nlf", table[rows], weights)

    def twice(function, table, weights):
        def loss(table, weights):
            return jnp.sin(function(table, rows, weights)).sum()

        def norm(table, weights):
            slopes = jax.grad(loss, (0, 1))(table, weights)
            return sum((slope**2).sum() for slope in slopes)

        return jax.grad(loss, (0, 1))(table, weights), jax.grad(norm, (0, 1))(table, weights)

    found, expected = (
        jax.jit(twice, static_argnums=0)(function, table, weights)
        for function in (weighted_rows, plain)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected
    )


def test_the_table_starts_small_and_is_replicated():
    def init(key):
        return SMALL.make_model().init(key, jnp.zeros((1, 3)))["params"]

    table = np.asarray(nn.meta.unbox(jax.jit(init)(jax.random.key(0)))["table"])
    assert table.shape == (SMALL.rows, 2)
    assert 0.99e-4 < np.abs(table).max() <= 1e-4
    assert table.std() == pytest.approx(1e-4 / math.sqrt(3), rel=0.05)
    layout = plan_layout(init, jax.random.key(0), mesh=make_mesh("data=2,fsdp=2,model=2"))
    assert layout.axes["table"] == ("hash", None)
    assert layout.shardings["table"].is_fully_replicated


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"levels": 0}, "levels is 0, expected 1 or more"),
        ({"log2_table_size": 29}, "log2_table_size is 29, expected 3 to 28"),
        ({"finest_resolution": 3}, "finest_resolution is 3, expected at least base_resolution=4"),
    ],
    ids=range(3),
)
def test_what_is_no_grid(change, fault):
    with pytest.raises(InputError, match=fault):
        dataclasses.replace(SMALL, **change)
