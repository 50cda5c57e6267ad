"""The training step of a published latent text-to-image network, ready to be compiled."""

import jax
import jax.numpy as jnp

from experiments.shared.collectives import Program
from experiments.shared.denoiser_programs import abstract_arrays, update_program
from experiments.text_to_image.support.text_training import TextTrainingFlags, text_to_image_loss
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.weightings import SNRPlus
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.parallel import current_mesh, plan_layout
from jaxgen.unet import UNetConfig

CHANNELS, TOKENS = 4, 77
"""Of latents; of a text that CLIP reads."""


def latent_model(version: str, side: int, *, remat: bool = False) -> TextToImageConfig:
    """Stable Diffusion's U-Net, which reads states of texts that an encoder gave once.

    Args:
      version: "1", "2" or "xl".
      side: height and width of the latents.
      remat: whether activations are recomputed in the backward pass.

    Raises:
      InputError: for any other version.
    """
    network = UNetConfig.stable_diffusion(version, remat=remat)
    denoiser = DenoiserConfig(network, (side, side, CHANNELS), ())
    return TextToImageConfig(denoiser, encoder=None, masked=False)


def latent_training_program(model: TextToImageConfig, batch_size: int) -> Program:
    """One update on the current mesh: loss, gradient, guard, AdamW, moving average.

    Args:
      model: the network; its encoder is not among the parameters.
      batch_size: examples of all devices together.
    """
    layout = plan_layout(model.make_init(), jax.random.key(0), mesh=current_mesh())
    network = model.network
    batch = abstract_arrays(
        layout,
        batch_size,
        image=(model.image_shape, jnp.float32),
        text_states=((TOKENS, network.text_width), jnp.float32),
        text_mask=((TOKENS,), jnp.bool_),
        text_pooled=((network.pooled_width,), jnp.float32),
    )
    loss_fn = text_to_image_loss(model, SNRPlus(), layout)
    return update_program(loss_fn, layout, batch, TextTrainingFlags())
