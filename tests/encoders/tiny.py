"""Small encoders, their inputs, and parameters of which none is zero."""

import functools

import jax
import numpy as np
from flax import linen as nn

from jaxgen.encoders import CLIPConfig, CLIPImageConfig, CLIPTextConfig, T5Config

B, L, V, SIDE, PATCH, P = 16, 6, 20, 8, 4, 8
SHARED = {"width": 16, "depth": 1, "heads": 2, "mlp_units": 32, "projection": P}
TEXT = CLIPTextConfig(**SHARED, vocabulary=V, length=8)
IMAGE = CLIPImageConfig(**SHARED, size=SIDE, patch=PATCH)
CLIP_CONFIG = CLIPConfig(TEXT, IMAGE)
T5_CONFIG = T5Config(vocabulary=V, width=16, mlp_units=24, depth=2, heads=2, head_size=4)


def ids(batch=B, seed=0):
    """Texts of different lengths that end with the largest id and go on with zeros."""
    rng = np.random.default_rng(seed)
    ids_BL = rng.integers(1, V - 1, (batch, L)).astype(np.int32)
    end_B = rng.integers(1, L, batch)
    ids_BL[np.arange(batch), end_B] = V - 1
    return np.where(np.arange(L) > end_B[:, None], 0, ids_BL).astype(np.int32)


def images(batch=B, seed=1):
    shape = (batch, SIDE, SIDE, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def inputs(config, batch=B):
    """What a network of a configuration takes."""
    taken = {CLIPConfig: (images(batch), ids(batch)), CLIPImageConfig: (images(batch),)}
    return taken.get(type(config), (ids(batch),))


@functools.cache
def params_of(config):
    """Random parameters of moderate size, none of them zero; drawn without compiling anything."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(config.make_model().init, key, *inputs(config, 1))["params"]
    rng = np.random.default_rng(2)

    def draw(path, leaf):
        values = 0.25 * rng.normal(size=leaf.shape).astype(np.float32)
        return 1 + values if "scale" in jax.tree_util.keystr(path) else values

    return jax.tree_util.tree_map_with_path(draw, nn.meta.unbox(shapes))
