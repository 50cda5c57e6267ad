"""Which parameters of which network decay where nothing else is asked for."""

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta

from experiments.images.support.image_networks import NetworkFlags, make_config
from jaxgen.evaluation.classifier import ClassifierConfig
from jaxgen.lm.nplm import NPLMConfig, is_weight
from jaxgen.training import OptimizerConfig, make_optimizer

NETWORKS = ("dit", "uvit", "mdt", "diffit", "unet")


def shapes_of(network):
    key = jax.random.key(0)
    if network in NETWORKS:
        flags = NetworkFlags(network=network, width=64, depth=3)
        init = make_config(flags, (8, 8, 1), tuple("0123456789"), "v").make_init()
    elif network == "classifier":
        model = ClassifierConfig(num_classes=2).make_model()
        init = lambda key: model.init(key, jnp.zeros((1, 8, 8, 1)))["params"]  # noqa: E731
    else:
        model = NPLMConfig(vocabulary_size=7, features=2, hidden=3, direct=True).make_model()
        init = lambda key: model.init(key, jnp.zeros((1, 4), jnp.int32))["params"]  # noqa: E731
    return meta.unbox(jax.eval_shape(init, key))


@pytest.mark.parametrize("network", [*NETWORKS, "classifier", "nplm"])
def test_weights_decay_and_never_biases(network):
    # Nothing but names and ranks matters, so all lengths may be 1.
    params = jax.tree.map(lambda x: jnp.ones((1,) * x.ndim), shapes_of(network))
    tx = make_optimizer(OptimizerConfig("adamw", 1.0, weight_decay=0.5))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    decays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(jnp.abs(update).max()) > 0
        for path, update in jax.tree_util.tree_leaves_with_path(updates)
    }
    for path, found in decays.items():
        last = path.split("/")[-1]
        if network == "nplm":
            assert found == is_weight(path), path
        else:
            assert found == (last in ("kernel", "table") and "relative" not in path), path
    assert set(decays.values()) == {True, False}
