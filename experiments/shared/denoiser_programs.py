"""The programs of a denoiser of images or videos, ready to be compiled from shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.collectives import Program
from experiments.shared.denoiser_sampling import SamplingFlags, compile_sampling
from experiments.shared.training_runs import OptimizationFlags
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.level_lists import first_level
from jaxgen.parallel import Layout, batch_sharding
from jaxgen.training import compile_step, make_optimizer, make_train_step
from jaxgen.training.state import abstract_state
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch


def update_program(
    loss_fn: LossFn, layout: Layout, batch: Batch, flags: OptimizationFlags
) -> Program:
    """One update: loss, gradient, guard, AdamW with clipping, moving average.

    Args:
      loss_fn: the loss.
      layout: of the parameters.
      batch: abstract arrays.
      flags: of the optimizer and the average.
    """
    tx = make_optimizer(flags.optimizer())
    state = abstract_state(layout, tx, ema=True)
    step = make_train_step(loss_fn, tx, ema_decay=flags.ema_decay)
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
    sampler, levels = flags.method(config), flags.levels(config)
    run = compile_sampling(config, layout, clip=flags.clip)
    labels = {"condition": ((), jnp.int32)} if config.classes else {}
    batch = abstract_arrays(layout, batch_size, index=((), jnp.int32), **labels)
    guidance_weight = np.float32(flags.guidance) if flags.guidance else None
    table, noisiest = sampler.table(levels), first_level(levels)
    return run, (layout.abstract, sampler, table, noisiest, batch, _abstract_key(), guidance_weight)


def abstract_arrays(
    layout: Layout, size: int, **arrays: tuple[tuple[int, ...], Any]
) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch without numbers, over the devices of a layout.

    Args:
      layout: of the parameters.
      size: B, of all devices together.
      **arrays: by name, the shape of what belongs to an example, and the type.
    """
    sharding = batch_sharding(layout.mesh)
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in arrays.items()
    }


def _abstract_key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
