"""The programs of a denoiser of images, ready to be compiled from shapes alone.

What they communicate on a mesh is listed by `experiments.images.communication`, and held by tests.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.images.support.image_networks import Shape, make_loss
from experiments.images.support.image_training import TrainingFlags
from experiments.shared.collectives import Program
from experiments.shared.denoiser_sampling import (
    SAMPLERS,
    SamplingFlags,
    compile_sampling,
    first_level,
)
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.weightings import SNRPlus
from jaxgen.errors import InputError
from jaxgen.parallel import Layout, batch_sharding
from jaxgen.spacetime import DiffiTConfig, DiTConfig, MDTConfig, UViTConfig
from jaxgen.training import compile_step, make_optimizer, make_train_step
from jaxgen.training.state import abstract_state

FAMILIES: dict[str, Any] = {
    "DiT": DiTConfig,
    "U-ViT": UViTConfig,
    "MDT": MDTConfig,
    "DiffiT": DiffiTConfig,
}


def published_model(name: str, shape: Shape, classes: int, **changes: Any) -> DenoiserConfig:
    """A published transformer as a denoiser that predicts v.

    Args:
      name: "DiT-S/2", "U-ViT-S/2" and so on.
      shape: of the images (or latents).
      classes: how many there are besides the null class.
      **changes: fields of the network's configuration that differ, say ``remat=True``.

    Raises:
      InputError: for an unknown name, or images that the network does not take.
    """
    found = [config for family, config in FAMILIES.items() if name.startswith(f"{family}-")]
    if not found:
        raise InputError(
            f"model {name!r} is unknown, expected a published {', '.join(FAMILIES)}, say DiT-S/2"
        )
    family = found[0]
    if family is not DiTConfig:
        changes["input_size"] = shape[:2]
    channels = {"in_channels": shape[2], "out_channels": shape[2]}
    network = family.named(name, num_classes=classes, **channels, **changes)
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
    tx = make_optimizer(flags.optimizer())
    state = abstract_state(layout, tx, ema=True)
    loss_fn = make_loss(config, SNRPlus(), layout)
    step = make_train_step(loss_fn, tx, ema_decay=flags.ema_decay)
    batch = _abstract_batch(config, layout, batch_size, image=config.image_shape)
    return compile_step(step, state), (state, batch, _abstract_key())


def sampling_program(
    config: DenoiserConfig, layout: Layout, batch_size: int, flags: SamplingFlags
) -> Program:
    """A batch of guided samples, from noise to data.

    Args:
      config: the model.
      layout: of its parameters.
      batch_size: samples of all devices together.
      flags: sampler, steps, guidance and so on.

    Raises:
      InputError: for guidance that the model does not allow.
    """
    config.check_guidance(flags.guidance)
    sampler, levels = SAMPLERS[flags.sampler], flags.levels(config)
    run = compile_sampling(config, layout, clip=flags.clip)
    batch = _abstract_batch(config, layout, batch_size, index=())
    guidance_weight = np.float32(flags.guidance) if flags.guidance else None
    table, noisiest = sampler.table(levels), first_level(levels)
    return run, (layout.abstract, sampler, table, noisiest, batch, _abstract_key(), guidance_weight)


def _abstract_batch(
    config: DenoiserConfig, layout: Layout, size: int, **shapes: tuple[int, ...]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Arrays [B, ...] of these shapes, integers where an example has one number; labels too."""
    if config.classes:
        shapes["label"] = ()
    sharding = batch_sharding(layout.mesh)
    return {
        name: jax.ShapeDtypeStruct(
            (size, *shape), jnp.float32 if shape else jnp.int32, sharding=sharding
        )
        for name, shape in shapes.items()
    }


def _abstract_key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
