"""Training: state, step, loop, optimizer recipes, metrics, checkpoints.

A run in short, on one device or on a mesh set by ``jax.set_mesh``::

    tx = make_optimizer(OptimizerConfig("adamw", 1e-3, weight_decay=0.1, clip_norm=1.0))
    state, layout = create_state(init_fn, key, tx=tx)
    step = compile_step(make_train_step(loss_fn, tx), state)
    with Checkpoints(folder, config=model_config) as checkpoints:
        result = fit(step, state, data, key, LoopConfig(steps=10_000), checkpoints=checkpoints)

    model = load_model(folder)
    logits = model.config.make_model().apply({"params": model.params}, inputs)
"""

from jaxgen.training.checkpoint import (
    Checkpoints,
    LoadedModel,
    load_config,
    load_model,
    load_params,
    load_variables,
)
from jaxgen.training.frozen_params import train_only, trainable
from jaxgen.training.local_steps import make_local_steps
from jaxgen.training.loop import FitResult, LoopConfig, NonFiniteError, fit
from jaxgen.training.metrics import (
    MetricsLog,
    RunningAverage,
    read_records,
    write_csv,
    write_figures,
)
from jaxgen.training.optimizers import OptimizerConfig, make_optimizer, make_schedule
from jaxgen.training.saved_configs import config_from_json, config_to_json
from jaxgen.training.saved_names import register_config
from jaxgen.training.saved_trees import Padding
from jaxgen.training.state import (
    TrainState,
    abstract_state,
    averaged_params,
    create_state,
    state_axes,
    state_from_params,
)
from jaxgen.training.step import compile_step, make_train_step, mean_gradient, scan_steps

__all__ = [
    "Checkpoints",
    "FitResult",
    "LoadedModel",
    "LoopConfig",
    "MetricsLog",
    "NonFiniteError",
    "OptimizerConfig",
    "Padding",
    "RunningAverage",
    "TrainState",
    "abstract_state",
    "averaged_params",
    "compile_step",
    "config_from_json",
    "config_to_json",
    "create_state",
    "fit",
    "load_config",
    "load_model",
    "load_params",
    "load_variables",
    "make_local_steps",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "mean_gradient",
    "read_records",
    "register_config",
    "scan_steps",
    "state_axes",
    "state_from_params",
    "train_only",
    "trainable",
    "write_csv",
    "write_figures",
]
