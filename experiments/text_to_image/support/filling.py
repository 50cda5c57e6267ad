"""Text-to-image models that fill in what is missing (Nichol et al. 2022, GLIDE, section 2.4).

Of a picture x with a mask m, 1 where it is known, the network gets [z, m x, m]: 2 C + 1 channels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.diffusion.conditioning.image_to_image import Inpaint
from jaxgen.diffusion.conditioning.masks import known_channels
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.errors import InputError
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree


def filling_config(base: TextToImageConfig) -> TextToImageConfig:
    """The model with C + 1 more channels in its network's input.

    Raises:
      InputError: for a model that takes something beside z already.
    """
    denoiser = base.denoiser
    if denoiser.condition_channels:
        raise InputError(
            f"the model takes {denoiser.condition_channels} channels beside z, expected none"
        )
    added = denoiser.image_shape[-1] + 1
    network = dataclasses.replace(
        denoiser.network, in_channels=denoiser.network.in_channels + added
    )
    wider = dataclasses.replace(denoiser, network=network, beside_channels=added)
    return dataclasses.replace(base, denoiser=wider)


def filling_loss(of_batch: LossFn) -> LossFn:
    """The loss of batches with a random hole in each picture.

    Args:
      of_batch: the loss of batches with ``"beside"``.
    """

    def loss_fn(params: Tree, batch: Batch, key: Array) -> Any:
        hole_key, key = jax.random.split(key)
        x = batch["image"]
        known = Inpaint()(x, example_keys(hole_key, jnp.arange(len(x)))).known_BYX1
        return of_batch(params, {**batch, "beside": known_channels(x, known)}, key)

    return loss_fn
