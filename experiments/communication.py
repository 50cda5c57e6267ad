"""What the programs of a model communicate: a table for each, on any mesh.

Compiles the training step, and the evaluation and generation or the sampling, on the mesh that
`--mesh` describes, and lists every collective with its kind, mesh axis, operands and bytes per
call. Nothing is trained: programs are compiled from shapes alone.

    python -m experiments.communication --devices 8 --mesh data=2,model=4
    python -m experiments.communication --devices 8 --mesh data=2,fsdp=2,model=2 \\
        --model DiT-S/2 --batch-size 64
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from experiments.images.support.image_networks import make_init as make_image_init
from experiments.images.support.image_programs import (
    Program,
    published_model,
    sampling_program,
    training_program,
)
from experiments.images.support.image_sampling import SamplerName, SamplingFlags
from experiments.lm.support.language_modelling import make_init, make_loss
from experiments.lm.support.recipes import NetworkFlags
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, report, run
from jaxgen.errors import InputError
from jaxgen.files import replacing
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.parallel import (
    Layout,
    batch_sharding,
    communication,
    current_mesh,
    num_batch_shards,
    plan_layout,
)
from jaxgen.training.optimizers import OptimizerConfig, make_optimizer
from jaxgen.training.state import abstract_state
from jaxgen.training.step import make_train_step


@dataclass(frozen=True, kw_only=True)
class CommunicationConfig(ExperimentConfig):
    """What to compile.

    Attributes:
      launch: where to run and on what.
      model: "nplm", or a published diffusion transformer ("DiT-S/2", "U-ViT-S/2", "MDT-S/2", ..)
        with 1000 classes.
      batch_size: examples of one call, over all devices.
      network: the network, of nplm.
      vocabulary_size: |V|, of nplm.
      image_size: height and width of images, of a diffusion transformer; they have 4 channels.
      remat: whether a diffusion transformer computes activations again in the backward pass.
      sampler: how a diffusion transformer is sampled, with guidance.
      steps: steps of the sampler.
    """

    launch: LaunchConfig = LaunchConfig(
        workdir="runs/communication", mesh="data=2,model=4", devices=8
    )
    model: str = "nplm"
    batch_size: int = 512
    network: NetworkFlags = NetworkFlags()
    vocabulary_size: int = 17_906
    image_size: int = 32
    remat: bool = False
    sampler: SamplerName = "ddim"
    steps: int = 50


def main(config: CommunicationConfig) -> dict[str, int]:
    """Prints and writes the tables; the figures are bytes per device and call, by mesh axes."""
    shards = num_batch_shards(current_mesh())
    if config.batch_size < 1 or config.batch_size % shards:
        raise InputError(
            f"batch_size is {config.batch_size}, expected a multiple of {shards}, the number of "
            "devices that share a batch"
        )
    language = config.model == "nplm"
    programs = language_programs(config) if language else image_programs(config)
    folder = open_workdir(config)
    figures, sections = {}, []
    for name, (program, arguments) in programs.items():
        listed = communication(program, *arguments)
        sections.append(f"### {name}\n\n{listed.table()}\n")
        report(sections[-1] if language else f"### {name}\n\n{listed.summary()}\n")
        by_axes = {axis: listed.along(axis).bytes for axis in ("data", "model")}
        figures |= {
            f"{name}/{axes}": size
            for axes, size in (by_axes if language else listed.bytes_by_axes()).items()
        }
    with replacing(folder / "communication.md") as handle:
        handle.write("\n".join(sections).encode())
    return figures


def image_programs(config: CommunicationConfig) -> dict[str, Program]:
    """The programs of a diffusion transformer."""
    size, flags = config.image_size, SamplingFlags(sampler=config.sampler, steps=config.steps)
    model = published_model(config.model, (size, size, 4), 1000, remat=config.remat)
    layout = plan_layout(make_image_init(model), jax.random.key(0), mesh=current_mesh())
    return {
        "training step": training_program(model, layout, config.batch_size),
        f"guided samples, {config.sampler}, {config.steps} steps": sampling_program(
            model, layout, config.batch_size, flags
        ),
    }


def language_programs(config: CommunicationConfig) -> dict[str, Program]:
    """The programs of the neural probabilistic language model."""
    model_config = config.network.config(config.vocabulary_size)
    layout = plan_layout(make_init(model_config), jax.random.key(0), mesh=current_mesh())
    batch = abstract_batch(model_config, config.batch_size)
    return {
        "training step": training_step(model_config, layout, batch),
        "log-probabilities of targets": query(model_config, layout, batch, "log_probabilities"),
        "top 10": query(model_config, layout, batch, "top_k", 10),
        "sample, top-k 40, top-p 0.9": query(model_config, layout, batch, "sample", 1.0, 40, 0.9),
    }


def abstract_batch(config: NPLMConfig, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of ``{"contexts": [B, n-1], "targets": [B]}``."""
    sharding = batch_sharding(current_mesh())
    shapes = {"contexts": (batch_size, config.order - 1), "targets": (batch_size,)}
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
        for name, shape in shapes.items()
    }


def training_step(config: NPLMConfig, layout: Layout, batch: Any) -> Program:
    """Loss, gradient and Adagrad update."""
    tx = make_optimizer(OptimizerConfig("adagrad", learning_rate=0.05))
    state, key = abstract_state(layout, tx), jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(make_train_step(make_loss(config, layout), tx), donate_argnums=0), (
        state,
        batch,
        key,
    )


def query(config: NPLMConfig, layout: Layout, batch: Any, method: str, *options: Any) -> Program:
    """One of the network's methods on a batch of contexts."""
    model = config.make_model()

    def call(params: Any, batch: Any) -> Any:
        extra = {"log_probabilities": (batch["targets"],), "sample": (jax.random.key(0),)}
        arguments = (batch["contexts"], *extra.get(method, ()), *options)
        return model.apply({"params": params}, *arguments, method=method)

    return jax.jit(call), (layout.abstract, batch)


if __name__ == "__main__":
    run(main, CommunicationConfig)
