"""Autoencoders of images from diffusers' folders, and back: ``AutoencoderKL``."""

import dataclasses
import pathlib

import jax
from flax import linen as nn

from jaxgen.compressors.bottlenecks.gaussian_bottleneck import KLConfig
from jaxgen.compressors.compressor import BOTTLENECK, NETWORK, STATISTICS, CompressorConfig
from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
from jaxgen.interop.autoencoder_config import IMAGES, autoencoder_options, latent_statistics
from jaxgen.interop.autoencoder_weights import autoencoder_params, write_autoencoder
from jaxgen.interop.safetensors import Path
from jaxgen.interop.weight_folders import open_network
from jaxgen.pretrained.networks import LoadedNetwork
from jaxgen.typing import Tree


def load_autoencoder(
    path: Path, *, variant: str | None = None, dtype: str | None = "float32"
) -> LoadedNetwork:
    """The autoencoder of a latent model from its folder, or from a pipeline with ``vae/`` in it.

    Args:
      path: the folder; ``config.json`` must lie beside the weights.
      variant: which weights of the folder ("fp16"); None: those without a name.
      dtype: of the parameters; None: as they are stored.

    Returns:
      A `jaxgen.compressors.compressor.CompressorConfig` and its parameters, the scale of latents
      among them as statistics.

    Raises:
      FileNotFoundError: for a path that does not exist.
      InputError: for weights or a configuration of another model; the message names the file.
    """
    tensors = open_network(path, ["vae"], variant, classes=[IMAGES])
    network = FrameAutoencoderConfig(**autoencoder_options(tensors))
    shape = network.factor, network.factor, network.in_channels
    config = CompressorConfig(network, KLConfig(network.latent_channels), shape)
    like = nn.meta.unbox(jax.eval_shape(config.make_init(), jax.random.key(0)))
    return LoadedNetwork(
        config,
        {
            NETWORK: autoencoder_params(tensors, like[NETWORK], dtype),
            BOTTLENECK: {},
            STATISTICS: latent_statistics(tensors),
        },
    )


def save_autoencoder(
    folder: Path, config: CompressorConfig, params: Tree, *, dtype: str | None = None
) -> list[pathlib.Path]:
    """Writes a folder that `load_autoencoder` and ``AutoencoderKL.from_pretrained`` open.

    Args:
      folder: made if it does not exist.
      config: with a `jaxgen.compressors.frame_autoencoder.FrameAutoencoderConfig`.
      params: its parameters, with statistics or without.
      dtype: of the tensors; None: that of the parameters.

    Returns:
      The files written.

    Raises:
      InputError: for a network that diffusers has not, naming the field.
    """
    options = dataclasses.asdict(config.network)
    return write_autoencoder(folder, params[NETWORK], options, params.get(STATISTICS), dtype)
