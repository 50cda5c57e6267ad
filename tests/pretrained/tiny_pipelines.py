"""A tiny pipeline with random parameters."""

import functools

import jax
import numpy as np
from flax import linen as nn
from random_weights import randomly

from jaxgen.compressors.bottlenecks.gaussian_bottleneck import KLConfig
from jaxgen.compressors.compressor import CompressorConfig
from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.data.tokenizers import train_tokenizer
from jaxgen.encoders import CLIPTextConfig
from jaxgen.pretrained import LoadedNetwork, TextToImagePipeline, from_diffusers_scheduler
from jaxgen.pretrained.encoder_folders import abstract_encoder_params
from jaxgen.pretrained.networks import abstract_params
from jaxgen.unet import UNetConfig

LENGTH, WIDTH = 12, 8
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    **{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    **{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
}
KEY = jax.random.key(0)


def small(tree, seed=0):
    """Random numbers that keep activations small."""
    return jax.tree.map(lambda x: 0.3 * x, randomly(tree, seed))


@functools.cache
def tokenizer():
    return train_tokenizer(["a red cube", "a blue ball", "no"], 520, "bpe", length=LENGTH)


@functools.cache
def parts(in_channels=4):
    text = CLIPTextConfig(
        width=WIDTH,
        depth=1,
        heads=2,
        mlp_units=8,
        projection=None,
        vocabulary=tokenizer().size,
        length=LENGTH,
    )
    unet = UNetConfig(
        **{
            "in_channels": in_channels,
            "out_channels": 4,
            "channels": (4, 4),
            "blocks": 1,
            "groups": 2,
        },
        **{"attention_levels": (1,), "heads": 2, "head_size": None, "text_width": WIDTH},
        **{"downsampling": ("conv",), "upsampling": ("conv",), "adaptive_norm": False},
        **{"up_attention_levels": (1,), "middle_divisor": 1.0, "null_class": False},
    )
    frames = FrameAutoencoderConfig(channels=(4, 4), groups=2, blocks=1)
    autoencoder = CompressorConfig(frames, KLConfig(4), (2, 2, 3))
    decoder = small(nn.meta.unbox(jax.eval_shape(autoencoder.make_init(), KEY)))
    statistics = {"mean": np.zeros(4, np.float32), "deviation": np.full(4, 5.49, np.float32)}
    return {
        "tokenizer": tokenizer(),
        "encoder": LoadedNetwork(text, small(abstract_encoder_params(text))),
        "network": LoadedNetwork(unet, small(abstract_params(unet, (2, 2)))),
        "autoencoder": LoadedNetwork(autoencoder, {**decoder, "statistics": statistics}),
        "scheduler": from_diffusers_scheduler(SCHEDULER),
        "latent_sides": (4, 4),
    }


@functools.cache
def pipeline(in_channels=4):
    return TextToImagePipeline(**parts(in_channels))
