"""Training some parameters: the others stay, bit by bit, and have no optimizer state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh
from jaxgen.parallel.sharding import plan_layout
from jaxgen.training import OptimizerConfig, make_optimizer, train_only, trainable
from jaxgen.training.state import abstract_state

PARAMS = {
    "blocks_0": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)},
    "final": {"kernel": jnp.full((4, 2), 0.5), "bias": jnp.zeros(2)},
}
CONFIG = OptimizerConfig("adamw", 0.1, weight_decay=0.1, clip_norm=1.0)


def test_what_a_pattern_names():
    found = trainable(PARAMS, r"final|blocks_0/bias")
    assert found["final"] == {"kernel": True, "bias": True}
    assert found["blocks_0"] == {"kernel": False, "bias": True}
    for pattern, message in (("last", "found in no parameter's path"), ("(", "expected a regular")):
        with pytest.raises(InputError, match=message):
            trainable(PARAMS, pattern)


def test_as_if_the_others_were_not_there():
    """Two steps on the last layer equal those of an optimizer that never saw the first."""
    gradients = jax.tree.map(lambda x: x + 3.0, PARAMS)
    tx, alone = train_only(make_optimizer(CONFIG), "^final/"), make_optimizer(CONFIG)
    params, state = PARAMS, tx.init(PARAMS)
    part, part_state = {"final": PARAMS["final"]}, alone.init({"final": PARAMS["final"]})
    for _ in range(2):
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        updates, part_state = alone.update({"final": gradients["final"]}, part_state, part)
        part = optax.apply_updates(part, updates)
    jax.tree.map(np.testing.assert_array_equal, params["final"], part["final"])
    jax.tree.map(np.testing.assert_array_equal, params["blocks_0"], PARAMS["blocks_0"])
    assert np.abs(params["final"]["kernel"] - 0.5).max() > 0.1


def test_no_state_for_frozen_parameters():
    """Also as it is planned for a mesh: moments of 10 numbers in place of 26."""
    layout = plan_layout(lambda key: PARAMS, jax.random.key(0), mesh=make_mesh("data=-1"))

    def moments(tx):
        state = abstract_state(layout, tx).opt_state
        return sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)

    whole = make_optimizer(CONFIG)
    assert moments(whole) == 2 * 26
    assert moments(train_only(whole, "^final/")) == 2 * 10
