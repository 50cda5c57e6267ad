"""The programs of a denoiser of images, ready to be compiled from shapes alone.

What they communicate on a mesh is listed by `experiments.images.communication`, and held by tests.
"""

from typing import Any

import jax.numpy as jnp

from experiments.images.support.image_networks import Shape, make_loss
from experiments.images.support.image_training import TrainingFlags
from experiments.shared.collectives import Program
from experiments.shared.denoiser_programs import abstract_arrays, update_program
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.weightings import SNRPlus
from jaxgen.errors import InputError
from jaxgen.parallel import Layout
from jaxgen.spacetime import DiffiTConfig, DiTConfig, MDTConfig, UViTConfig
from jaxgen.unet import UNetConfig
from jaxgen.unet.published_sizes import ADM

FAMILIES: dict[str, Any] = {
    "DiT": DiTConfig,
    "U-ViT": UViTConfig,
    "MDT": MDTConfig,
    "DiffiT": DiffiTConfig,
}
U_NETS = {f"ADM-{side}": side for side in ADM}


def published_model(name: str, shape: Shape, classes: int, **changes: Any) -> DenoiserConfig:
    """A published network as a denoiser that predicts v.

    Args:
      name: "DiT-S/2", "U-ViT-S/2" and so on; "ADM-64", -128, -256: the U-Nets of Dhariwal & Nichol
        2021, without their learnt variances.
      shape: of the images (or latents).
      classes: how many there are besides the null class.
      **changes: fields of the network's configuration that differ, say ``remat=True``.

    Raises:
      InputError: for an unknown name, or images that the network does not take.
    """
    changes |= {"in_channels": shape[2], "out_channels": shape[2], "num_classes": classes}
    found = [config for family, config in FAMILIES.items() if name.startswith(f"{family}-")]
    if name in U_NETS:
        network = UNetConfig.adm(U_NETS[name], null_class=True, **changes)
    elif found:
        size = {} if found[0] is DiTConfig else {"input_size": shape[:2]}
        network = found[0].named(name, **size, **changes)
    else:
        raise InputError(
            f"model {name!r} is unknown, expected a published {', '.join(FAMILIES)}, say DiT-S/2, "
            f"or one of {', '.join(U_NETS)}"
        )
    return DenoiserConfig(network, shape, tuple(map(str, range(classes))))


def training_program(
    config: DenoiserConfig,
    layout: Layout,
    batch_size: int,
    flags: TrainingFlags = TrainingFlags(),
) -> Program:
    """One update: loss, gradient, guard, AdamW with clipping, moving average.

    Args:
      config: the model.
      layout: of its parameters.
      batch_size: examples of all devices together.
      flags: of the optimizer and the average.
    """
    labels = {"label": ((), jnp.int32)} if config.classes else {}
    batch = abstract_arrays(layout, batch_size, image=(config.image_shape, jnp.float32), **labels)
    return update_program(make_loss(config, SNRPlus(), layout), layout, batch, flags)
