"""Small causal autoencoders that several tests look at, with random parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig

SMALL = {
    "latent_channels": 3,
    "encoder_channels": 6,
    "width": 8,
    "multipliers": (1, 2),
    "temporal_down": (True,),
    "blocks": 1,
    "decoder_blocks": 1,
}
CASES = {
    "wan": CausalAutoencoderConfig(**SMALL),
    "first_frame": CausalAutoencoderConfig(
        **{**SMALL, "padding": "first_frame", "middle_attention": False, "middle_blocks": 0}
    ),
    "patch_first": CausalAutoencoderConfig.patch_first(
        width=8, latent_channels=3, blocks=1, decoder_blocks=1, patch=(2, 4, 2)
    ),
    "patch_zeros": CausalAutoencoderConfig(**{**SMALL, "patch": (2, 1, 2), "joint_kernels": True}),
}


def randomised(config, seed=0):
    """Parameters of which none is zero, at sizes that keep the signal alive."""
    r, y, x = config.strides
    data = jnp.zeros((1, 1 + r, y, x, config.channels))
    shapes = jax.eval_shape(config.make_model().init, jax.random.key(0), data)["params"]
    rng = np.random.default_rng(seed)

    def value(leaf):
        fan_in = max(1, np.prod(leaf.shape[:-1]))
        shift = 0.5 if len(leaf.shape) == 1 else 0.0
        return (rng.normal(size=leaf.shape) / fan_in**0.5 + shift).astype(np.float32)

    return jax.tree.map(value, nn.meta.unbox(shapes))


@functools.cache
def programs(name):
    """A network's parameters, ``encode`` and ``decode`` to arrays of numpy."""
    model = CASES[name].make_model()

    def program(way):
        jitted = jax.jit(lambda params, x: model.apply({"params": params}, x, method=way))
        return lambda params, x: np.array(jitted(params, x))

    return randomised(CASES[name]), program("encode"), program("decode")


def clip(config, latents=3, batch=2, seed=1):
    r, y, x = config.strides
    shape = batch, 1 + r * (latents - 1), 3 * y, 2 * x, config.channels
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
