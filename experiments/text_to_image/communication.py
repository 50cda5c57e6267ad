"""What a training step of a latent text-to-image network communicates: a table, on any mesh.

Compiles the training step of Stable Diffusion's U-Net, which reads states of texts that an encoder
gave once, on the mesh that `--mesh` describes, and lists every collective with its kind, mesh axis,
operands and bytes per call. Nothing is trained: the program is compiled from shapes alone. The
table is in ``communication.md``.

    python -m experiments.text_to_image.communication --devices 8 --mesh data=2,fsdp=2,model=2 \\
        --model stable-diffusion-1 --batch-size 64
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from experiments.shared.collectives import Program, report_collectives
from experiments.shared.denoiser_programs import abstract_arrays, update_program
from experiments.shared.launch import ExperimentConfig, LaunchConfig, run
from experiments.text_to_image.support.text_training import TextTrainingFlags, text_to_image_loss
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.weightings import SNRPlus
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.parallel import check_batch_size, current_mesh, plan_layout
from jaxgen.training.saved_names import register_config
from jaxgen.unet import UNetConfig

Name = Literal["stable-diffusion-1", "stable-diffusion-2", "stable-diffusion-xl"]

CHANNELS, TOKENS = 4, 77
"""Of latents; of a text that CLIP reads."""


@register_config("text_to_image.communication")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """What to compile.

    Attributes:
      launch: where to run and on what.
      model: whose U-Net.
      batch_size: examples of one call, over all devices.
      image_size: height and width of the latents.
      remat: whether activations are recomputed in the backward pass.
    """

    launch: LaunchConfig = LaunchConfig(
        workdir="runs/text_communication", mesh="data=2,fsdp=2,model=2", devices=8
    )
    model: Name = "stable-diffusion-1"
    batch_size: int = 64
    image_size: int = 64
    remat: bool = False


def main(config: Config) -> dict[str, int]:
    """Prints and writes the table; the figures are bytes per device and call, by mesh axes."""
    check_batch_size(config.batch_size, current_mesh())
    return report_collectives(config, text_programs(config), whole=False)


def text_programs(config: Config) -> dict[str, Program]:
    """The programs of a network that reads texts: an update, as in training."""
    version, side = config.model.removeprefix("stable-diffusion-"), config.image_size
    network = UNetConfig.stable_diffusion(version, remat=config.remat)
    denoiser = DenoiserConfig(network, (side, side, CHANNELS), ())
    model = TextToImageConfig(denoiser, encoder=None, masked=False)
    layout = plan_layout(model.make_init(), jax.random.key(0), mesh=current_mesh())
    batch = abstract_arrays(
        layout,
        config.batch_size,
        image=(model.image_shape, jnp.float32),
        text_states=((TOKENS, network.text_width), jnp.float32),
        text_mask=((TOKENS,), jnp.bool_),
        text_pooled=((network.pooled_width,), jnp.float32),
    )
    loss_fn = text_to_image_loss(model, SNRPlus(), layout)
    return {"training step": update_program(loss_fn, layout, batch, TextTrainingFlags())}


if __name__ == "__main__":
    run(main, Config)
