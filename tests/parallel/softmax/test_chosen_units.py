"""Logits of chosen units, against plain numpy in float64 on every mesh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import InputError
from jaxgen.parallel import communication, make_mesh
from jaxgen.parallel.softmax import output_units
from jaxgen.parallel.softmax.chosen_units import chosen_logits, chosen_rows
from jaxgen.parallel.softmax.output_units import Units

MESHES = ["data=8", "model=8", "data=2,model=4", "data=2,fsdp=2,model=2"]
B, V, WIDTHS = 16, 24, (5, 3)
ON_MESHES = pytest.mark.parametrize("mesh", [None, *MESHES])


def on_mesh(description):
    return jax.set_mesh(
        make_mesh(description or "data=1", None if description else jax.devices()[:1])
    )


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def problem():
    hidden = tuple(normal(i, B, width) for i, width in enumerate(WIDTHS))
    kernels = tuple(normal(9 + i, V, width) for i, width in enumerate(WIDTHS))
    return hidden, kernels, normal(5, V)


def chosen_ids(shared):
    """Some chosen twice, and the first and last unit of every block among them."""
    ids = np.random.default_rng(1).integers(0, V, (B, 7))
    ids[:, 1] = ids[:, 0]
    ids[0] = [0, 23, 2, 3, 5, 6, 11]
    return (ids[0] if shared else ids).astype(np.int32)


@pytest.mark.parametrize(
    "mesh", [None, *MESHES[1:], pytest.param("data=8", marks=pytest.mark.slow)]
)
def test_logits_and_gradients_match_numpy(mesh):
    """Units along either axis; ids of all examples alike, and of each."""
    problems = list(itertools.product((0, 1), (True, False)))
    hidden, kernels, bias = problem()
    turned = {0: kernels, 1: tuple(k.T for k in kernels)}
    cotangent_BK = normal(3, B, 7)

    def gradients(hidden, turned, bias):
        def weighted(hidden, kernels, bias, unit_axis, shared):
            ids = chosen_ids(shared)
            y_BK = chosen_logits(hidden, kernels, bias, ids, unit_axis=unit_axis)
            return jnp.sum(y_BK * cotangent_BK), y_BK

        gradient = jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)
        return [gradient(hidden, turned[axis], bias, axis, shared) for axis, shared in problems]

    with on_mesh(mesh):
        found = jax.jit(gradients)(hidden, turned, bias)
    for (unit_axis, shared), gradients_and_logits in zip(problems, found, strict=True):
        check_against_numpy(unit_axis, shared, cotangent_BK, *gradients_and_logits)


def check_against_numpy(unit_axis, shared, cotangent_BK, gradients, y_BK):
    (d_hidden, d_kernels, d_bias), (hidden, kernels, bias) = gradients, problem()
    ids = chosen_ids(shared)
    ids_BK = np.broadcast_to(ids, (B, 7))
    full_BV = bias + sum(h.astype(np.float64) @ k.T for h, k in zip(hidden, kernels, strict=True))
    np.testing.assert_allclose(y_BK, np.take_along_axis(full_BV, ids_BK, 1), rtol=2e-5, atol=2e-6)
    d_BV = np.zeros((B, V))
    np.add.at(d_BV, (np.arange(B)[:, None], ids_BK), cotangent_BK)
    np.testing.assert_allclose(d_bias, d_BV.sum(0), rtol=2e-5, atol=2e-6)
    for found, h, found_kernel, k in zip(d_hidden, hidden, d_kernels, kernels, strict=True):
        np.testing.assert_allclose(found, d_BV @ k, rtol=2e-5, atol=5e-6)
        expected = d_BV.T @ h
        np.testing.assert_allclose(
            found_kernel, expected.T if unit_axis else expected, rtol=2e-5, atol=5e-6
        )


def test_examples_that_do_not_divide_over_the_mesh():
    hidden, kernels, bias = problem()
    ids = chosen_ids(shared=False)
    expected = jax.jit(chosen_logits)(hidden, kernels, bias, ids)
    with on_mesh("data=2,model=4"):
        found = jax.jit(chosen_logits)([h[:5] for h in hidden], kernels, bias, ids[:5])
    np.testing.assert_allclose(found, expected[:5], rtol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_only_logits_and_hidden_gradients_travel_along_model(shared):
    """The bytes along `model` are those of [B, K] logits and the d h_i, whatever V is."""
    mesh = make_mesh("data=2,model=4")

    def bytes_along_model(units):
        place = lambda spec, *shape: jax.ShapeDtypeStruct(  # noqa: E731
            shape, jnp.float32, sharding=NamedSharding(mesh, P(spec))
        )
        loss = lambda *args: jnp.sum(jnp.tanh(chosen_logits(*args, chosen_ids(shared))))  # noqa: E731
        with jax.set_mesh(mesh):
            found = communication(
                jax.jit(jax.grad(loss, argnums=(0, 1, 2))),
                tuple(place(("data", "fsdp"), B, width) for width in WIDTHS),
                tuple(place("model", units, width) for width in WIDTHS),
                place("model", units),
            )
        return found.along("model").bytes

    local = B // 2
    expected = 4 * local * (7 + sum(WIDTHS))
    assert bytes_along_model(24) == bytes_along_model(2400) == expected


def test_shapes_that_do_not_fit_are_refused():
    hidden, kernels, bias = problem()
    with pytest.raises(InputError, match=r"1 hidden layers for 2 output kernels"):
        chosen_logits(hidden[:1], kernels, bias, chosen_ids(True))
    with pytest.raises(InputError, match=r"kernel 0 has shape \(24, 5\), expected \(5, 24\)"):
        chosen_logits(hidden, kernels, bias, chosen_ids(True), unit_axis=1)
    with pytest.raises(InputError, match=r"ids have shape \(5, 7\), expected .* B = 16"):
        chosen_logits(hidden, kernels, bias, chosen_ids(False)[:5])
    cut = tuple(k[:22] for k in kernels)
    with on_mesh("data=2,model=4"), pytest.raises(InputError, match=r"\(22,\) .* 4 equal blocks"):
        chosen_logits(hidden, cut, bias[:22], chosen_ids(True) % 22)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"top_k": 5, "top_p": 0.8, "temperature": 0.7},
    ],
    ids=str,
)
def test_sampling_from_logits_draws_what_sampling_from_units_draws(settings):
    hidden, kernels, bias = problem()
    units = Units(tuple(jnp.asarray(k.T) for k in kernels), jnp.asarray(bias), V)
    key = jax.random.key(4)

    @jax.jit
    def draw_three_times(hidden, kernels, bias):
        units = Units(kernels, bias, V)
        log_p_BV = jax.nn.log_softmax(output_units.logits(hidden, units))
        return (
            output_units.sample_units(hidden, units, key, **settings),
            output_units.sample_logits(output_units.logits(hidden, units), key, **settings),
            output_units.sample_logits(log_p_BV, key, **settings),
        )

    expected, found, shifted = draw_three_times(hidden, *units[:2])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(shifted, expected)
    assert len(set(np.asarray(expected).tolist())) > 3
    with on_mesh("data=2,model=4"):
        for sharded in draw_three_times(hidden, *units[:2]):
            np.testing.assert_array_equal(sharded, expected)


@ON_MESHES
def test_rows_of_a_table_and_their_gradient(mesh):
    """Rows of a sharded table are those of the table, and what flows back adds up by row."""
    table, ids = normal(0, 24, 5), np.random.default_rng(1).integers(0, 24, (16, 3))
    cotangent = normal(2, 16, 3, 5)
    expected = np.zeros((24, 5))
    np.add.at(expected, ids, cotangent)

    def function(table, ids):
        rows, pull_back = jax.vjp(lambda table: chosen_rows(table, ids), table)
        return rows, pull_back(jnp.asarray(cotangent))[0]

    with on_mesh(mesh):
        rows, gradient = jax.jit(function)(jnp.asarray(table), jnp.asarray(ids))
    assert np.array_equal(rows, table[ids])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_tables_that_do_not_divide_are_refused():
    with on_mesh("data=2,model=4"), pytest.raises(InputError, match=r"\(26, 5\) cannot be cut"):
        chosen_rows(normal(0, 26, 5), jnp.zeros((8, 3), jnp.int32))
