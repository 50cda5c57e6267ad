"""Tiny transformers of every family, input for them, and parameters without zeros."""

import functools
import math

import jax
import numpy as np
from flax import linen as nn

from jaxgen.spacetime import DiffiTConfig, DiTConfig, MDTConfig, UViTConfig

B, Y, X, C, CLASSES = 8, 4, 8, 3, 4

_SHARED = {
    "in_channels": C,
    "out_channels": 2 * C,
    "width": 16,
    "heads": 2,
    "mlp_ratio": 2.0,
    "num_classes": CLASSES,
}

TINY = {
    "dit": DiTConfig(depth=1, **_SHARED),
    "uvit": UViTConfig(depth=3, input_size=(Y, X), **_SHARED),
    "mdt": MDTConfig(depth=2, decoder_depth=1, input_size=(Y, X), **_SHARED),
    "diffit": DiffiTConfig(depth=1, input_size=(Y, X), **_SHARED),
}


def inputs(seed=0, size=(Y, X), batch=B):
    """Noisy images, times and labels, the null class among them."""
    rng = np.random.default_rng(seed)
    z_BYXC = rng.normal(size=(batch, *size, C)).astype(np.float32)
    time_B = rng.uniform(0, 1000, batch).astype(np.float32)
    return z_BYXC, time_B, (np.arange(batch) % (CLASSES + 1)).astype(np.int32)


def shapes(config, *given):
    """The abstract parameters, unboxed."""
    init = config.make_model().init
    return nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), *given)["params"])


def initial(config, *given, seed=0):
    """Initial parameters, unboxed."""
    return nn.meta.unbox(jax.jit(config.make_model().init)(jax.random.key(seed), *given))["params"]


def randomised(tree, seed=0):
    """Parameters with every number random, so that every path counts."""
    rng = np.random.default_rng(seed)

    def draw(x):
        size = max(math.prod(x.shape[:-1]), 4) ** -0.5
        return rng.normal(0, size, x.shape).astype(np.float32)

    return jax.tree.map(draw, tree)


@functools.cache
def params_of(config):
    """Random parameters of a tiny network."""
    return randomised(shapes(config, *inputs()))


@functools.partial(jax.jit, static_argnums=0, static_argnames=("train", "method"))
def apply(config, params, *given, **options):
    """What a network predicts."""
    return config.make_model().apply({"params": params}, *given, **options)


def paths(tree):
    """Path -> leaf, names joined by "/"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
