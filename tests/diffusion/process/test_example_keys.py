"""Randomness by example: the same whatever the batch, the order and the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.diffusion.process.example_keys import example_keys, normal, step_keys, uniform
from jaxgen.parallel import make_mesh

KEY = jax.random.key(5)


@pytest.mark.parametrize("draw", [normal, uniform])
def test_an_example_draws_the_same_in_every_batch(draw):
    whole = draw(example_keys(KEY, jnp.arange(12)), (3, 2))
    index = jnp.array([7, 2, 11])
    np.testing.assert_array_equal(draw(example_keys(KEY, index), (3, 2)), whole[index])
    alone = jax.random.fold_in(KEY, 7)
    one = jax.random.normal(alone, (3, 2)) if draw is normal else jax.random.uniform(alone, (3, 2))
    np.testing.assert_array_equal(whole[7], one)
    assert len({float(value) for value in whole.ravel()}) == whole.size


def test_every_step_draws_its_own_noise():
    keys_B = example_keys(KEY, jnp.arange(3))
    first, second = (normal(step_keys(keys_B, jnp.int32(i)), (4,)) for i in (0, 1))
    assert not np.intersect1d(first, second).size
    want = jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, 2), 1), (4,))
    np.testing.assert_array_equal(second[2], want)


def test_moments():
    keys_B = example_keys(KEY, jnp.arange(2000))
    e, u = normal(keys_B, (8,)), uniform(keys_B, (8,))
    assert abs(float(e.mean())) < 0.03
    assert abs(float(e.std()) - 1) < 0.03
    assert abs(float(u.mean()) - 0.5) < 0.01
    assert u.min() >= 0
    assert u.max() < 1
    # Neighbouring examples have nothing in common.
    assert abs(float((e[1:] * e[:-1]).mean())) < 0.03


def test_sharded_noise_is_that_of_one_device():
    index = jnp.arange(16)
    draw = jax.jit(lambda index: normal(example_keys(KEY, index), (5,)))
    mesh = make_mesh("data=4,model=2")
    spread = jax.device_put(index, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(draw(spread), draw(index))
