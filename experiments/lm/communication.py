"""What the programs of the language model communicate: a table for each, on any mesh.

Compiles the training step, evaluation and generation on the mesh that `--mesh` describes, and lists
every collective with its kind, mesh axis, operands and bytes per call. Nothing is trained: programs
are compiled from shapes alone. Tables are in ``communication.md``.

    python -m experiments.lm.communication --devices 8 --mesh data=2,model=4
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from experiments.lm.support.language_modelling import make_nplm_init, make_nplm_loss
from experiments.lm.support.recipes import WordNetworkFlags
from experiments.shared.collectives import Program, list_collectives, write_collectives
from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir, run
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.parallel import (
    Layout,
    batch_sharding,
    check_batch_size,
    current_mesh,
    plan_layout,
)
from jaxgen.training.optimizers import OptimizerConfig, make_optimizer
from jaxgen.training.saved_names import register_config
from jaxgen.training.state import abstract_state
from jaxgen.training.step import make_train_step


@register_config("lm.communication")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """What to compile.

    Attributes:
      launch: where to run and on what.
      batch_size: examples of one call, over all devices.
      network: the network.
      vocabulary_size: |V|.
    """

    launch: LaunchConfig = LaunchConfig(
        workdir="runs/lm_communication", mesh="data=2,model=4", devices=8
    )
    batch_size: int = 512
    network: WordNetworkFlags = WordNetworkFlags()
    vocabulary_size: int = 17_906


def main(config: Config) -> dict[str, int]:
    """Prints and writes the tables; the figures are bytes per device and call, by mesh axis."""
    check_batch_size(config.batch_size, current_mesh())
    listed = list_collectives(language_programs(config))
    write_collectives(open_workdir(config), listed, whole=True)
    return {
        f"{name}/{axis}": found.along(axis).bytes
        for name, found in listed.items()
        for axis in ("data", "model")
    }


def language_programs(config: Config) -> dict[str, Program]:
    """The programs of the neural probabilistic language model."""
    model_config = config.network.config(config.vocabulary_size)
    layout = plan_layout(make_nplm_init(model_config), jax.random.key(0), mesh=current_mesh())
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
    return jax.jit(make_train_step(make_nplm_loss(config, layout), tx), donate_argnums=0), (
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
    run(main, Config)
