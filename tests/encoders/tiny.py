"""Small encoders, their inputs, and parameters of which none is zero."""

import functools

import jax
import numpy as np
from flax import linen as nn

from jaxgen.encoders import (
    CausalTextConfig,
    CLIPConfig,
    CLIPImageConfig,
    CLIPTextConfig,
    CoCaConfig,
    CoCaImageConfig,
    CoCaTextConfig,
    T5Config,
)

B, L, V, SIDE, PATCH, P = 16, 6, 20, 8, 4, 8
SHARED = {"width": 16, "depth": 1, "heads": 2, "mlp_units": 32, "projection": P}
TEXT = CLIPTextConfig(**SHARED, vocabulary=V, length=8)
IMAGE = CLIPImageConfig(**SHARED, size=SIDE, patch=PATCH)
CLIP_CONFIG = CLIPConfig(TEXT, IMAGE)
COCA_CONFIG = CoCaConfig(
    CoCaTextConfig(**SHARED, vocabulary=V, length=8, image_depth=1),
    CoCaImageConfig(**SHARED, size=SIDE, patch=PATCH, queries=3, pooler_heads=2),
)
LANGUAGE_CONFIG = CausalTextConfig(vocabulary=V, length=8, width=16, depth=2, heads=2, mlp_units=32)
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


def clips(batch=B, frames=3):
    return images(batch * frames).reshape(batch, frames, SIDE, SIDE, 3)


def inputs(config, batch=B):
    """What a network of a configuration takes."""
    if isinstance(config, CoCaConfig) and config.image.frames:
        return clips(batch, config.image.frames), ids(batch)
    both = images(batch), ids(batch)
    taken = {CLIPConfig: both, CoCaConfig: both, CLIPImageConfig: both[:1]}
    return taken.get(type(config), both[1:])


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
