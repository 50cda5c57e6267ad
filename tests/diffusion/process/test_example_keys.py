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
    index, by_jax = np.array([7, 2, 11]), getattr(jax.random, draw.__name__)

    @jax.jit
    def run():
        whole, part = (draw(example_keys(KEY, of), (3, 2)) for of in (jnp.arange(12), index))
        return whole, part, by_jax(jax.random.fold_in(KEY, 7), (3, 2))

    whole, part, one = map(np.asarray, run())
    np.testing.assert_array_equal(part, whole[index])
    np.testing.assert_array_equal(whole[7], one)
    assert len(set(whole.ravel().tolist())) == whole.size


def test_every_step_draws_its_own_noise():
    @jax.jit
    def run(i):
        own = jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, 2), i), (4,))
        return normal(step_keys(example_keys(KEY, jnp.arange(3)), i), (4,)), own

    first, (second, want) = run(0)[0], run(1)
    assert not np.intersect1d(first, second).size
    np.testing.assert_array_equal(second[2], want)


def test_moments():
    @jax.jit
    def run():
        keys_B = example_keys(KEY, jnp.arange(2000))
        return normal(keys_B, (8,)), uniform(keys_B, (8,))

    e, u = map(np.asarray, run())
    assert abs(float(e.mean())) < 0.03
    assert abs(float(e.std()) - 1) < 0.03
    assert abs(float(u.mean()) - 0.5) < 0.01
    assert u.min() >= 0
    assert u.max() < 1
    # Neighbouring examples have nothing in common.
    assert abs(float((e[1:] * e[:-1]).mean())) < 0.03


def test_sharded_noise_is_that_of_one_device():
    index = np.arange(16)
    draw = jax.jit(lambda index: normal(example_keys(KEY, index), (5,)))
    mesh = make_mesh("data=4,model=2")
    spread = jax.device_put(index, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(draw(spread), draw(index))
