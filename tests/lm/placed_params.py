"""Parameters of networks without a compiled `init`: drawn by numpy, laid over meshes by copying."""

import jax
import numpy as np
from flax import linen as nn

from jaxgen.parallel import Layout, plan_layout


def init_of(config):
    """The `init` of a configuration's network, as `init_sharded` and `plan_layout` take it."""
    contexts = np.zeros((1, config.order - 1), np.int32)
    return lambda key: config.make_model().init(key, contexts)["params"]


def initial_params(config, seed=0, scale=1.0):
    """The network's own start, as arrays of numpy: one program; `scale` takes it further away."""
    params = jax.jit(lambda key: nn.meta.unbox(init_of(config)(key)))(jax.random.key(seed))
    return jax.tree.map(lambda x: np.float32(scale) * np.asarray(x), params)


def drawn_params(config, seed=0, scale=1.0):
    """Normal numbers in every parameter, biases and padding too."""
    rng = np.random.default_rng(seed)
    shapes = nn.meta.unbox(jax.eval_shape(init_of(config), jax.random.key(0)))
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(np.float32), shapes)


def layout_on(mesh, config) -> Layout:
    """How the parameters of a configuration's network lie over a mesh."""
    return plan_layout(init_of(config), jax.random.key(0), mesh=mesh)
