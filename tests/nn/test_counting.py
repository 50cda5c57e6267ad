"""Multiply-adds read from the jaxpr, against what one counts by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from jaxgen.errors import InputError
from jaxgen.nn import Dense, multiply_adds, parameter_count
from jaxgen.parallel import make_mesh

A = jax.ShapeDtypeStruct((3, 4), jnp.float32)
W = jax.ShapeDtypeStruct((4, 4), jnp.float32)
PRODUCT = 3 * 4 * 4


def repeated(x, w, times=5):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=times)[0]


@jax.custom_jvp
def with_a_rule(x, w):
    return x @ w


with_a_rule.defjvp(lambda given, tangents: (given[0] @ given[1], tangents[0] @ given[1]))


@pytest.mark.parametrize(
    ("fn", "count"),
    [
        (lambda x, w: x @ w, PRODUCT),
        (lambda x, w: jnp.exp(x + 1) * 3, 0),
        (lambda x, w: jnp.einsum("ab,cb->ca", x, w) @ x, PRODUCT + 4 * 3 * 4),
        (lambda x, w: jnp.einsum("ab,ab->a", x, x), 3 * 4),
        (repeated, 5 * PRODUCT),
        (lambda x, w: repeated(repeated(x, w), w, 2), 7 * PRODUCT),
        (lambda x, w: jax.lax.fori_loop(0, 4, lambda _, x: x @ w, x), 4 * PRODUCT),
        (jax.jit(lambda x, w: x @ w), PRODUCT),
        (jax.checkpoint(lambda x, w: jnp.sin(x @ w) @ w), 2 * PRODUCT),
        (with_a_rule, PRODUCT),
        (lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w), 2 * PRODUCT),
        (jax.grad(lambda x, w: jnp.sum((x @ w) ** 2), (0, 1)), 3 * PRODUCT),
        (jax.vmap(lambda x, w: x @ w, (None, 1)), 4 * 3 * 4),
    ],
)
def test_products_are_counted_wherever_they_stand(fn, count):
    assert multiply_adds(fn, A, W) == count


def test_convolutions_count_window_and_channels():
    x = jax.ShapeDtypeStruct((2, 8, 6, 4), jnp.float32)

    def convolve(groups, x):
        layer = nn.Conv(12, (3, 5), strides=2, feature_group_count=groups)
        return layer.init_with_output(jax.random.key(0), x)[0]

    # Per output number: 3 x 5 places times the input channels of its group.
    outputs = 2 * 4 * 3 * 12
    assert multiply_adds(functools.partial(convolve, 1), x) == outputs * 15 * 4
    assert multiply_adds(functools.partial(convolve, 2), x) == outputs * 15 * 2


def test_a_shard_map_counts_all_devices():
    mesh = make_mesh("data=2,model=4")
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)

    def multiply(x, w):
        specs = {"in_specs": (P("data"), P(None, "model")), "out_specs": P("data", "model")}
        return jax.shard_map(lambda x, w: x @ w, mesh=mesh, **specs)(x, w)

    assert multiply_adds(multiply, x, W) == 8 * 4 * 4


def test_a_loop_of_unknown_length_is_refused():
    def halve(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: x @ w, x)

    with pytest.raises(InputError, match="inside of 'while' cannot be counted"):
        multiply_adds(halve, A, W)


def test_parameters_are_counted_boxed_or_not():
    module = Dense((5,), ("embed", "mlp"))
    boxed = jax.eval_shape(module.init, jax.random.key(0), A)
    assert parameter_count(boxed) == parameter_count(nn.meta.unbox(boxed)) == 4 * 5 + 5
