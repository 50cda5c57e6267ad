"""A small run with everything in it, for tests in this process and, as a program, in others.

python small_run.py FOLDER [--kill-at STEP]
python small_run.py FOLDER --processes --terminate-at STEP
"""

import argparse
import dataclasses
import functools
import os
import signal
import time

import jax
import numpy as np
from mlp import MLPConfig, init_fn, make_batch, make_loss

from jaxgen.parallel import current_mesh, gather_fsdp, make_mesh
from jaxgen.parallel.batches import put_batch
from jaxgen.parallel.distributed import start
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.loop import LoopConfig, fit
from jaxgen.training.metrics import MetricsLog
from jaxgen.training.optimizers import OptimizerConfig, make_optimizer
from jaxgen.training.saved_trees import Padding
from jaxgen.training.state import averaged_params, create_state, state_axes
from jaxgen.training.step import compile_step, make_train_step, scan_steps

MODEL = MLPConfig(hidden=16, blocks=2, dropout=0.2)
SEVERAL = "data=2,fsdp=2,model=2"
"""The mesh of several processes."""
LOOP = LoopConfig(
    steps=36,
    log_every=4,
    evaluate_every=10,
    checkpoint_every=6,
    metric="validation/loss",
    max_skipped_in_a_row=3,
)


def data(step):
    """Batch `step`; the 9th has a NaN, so that a skipped step is part of every run."""
    batch = make_batch(step)
    if step == 9:
        batch["x"][0, 0] = np.nan
    return batch


TX = make_optimizer(OptimizerConfig("adamw", 0.01, weight_decay=0.1, clip_norm=1.0))

init_of = functools.cache(init_fn)


def new_state(model):
    """The state at step 0 and its layout, in the current mesh."""
    return create_state(init_of(model), jax.random.key(0), tx=TX, ema=True)


@functools.cache
def programs(model, mesh, scanned):
    """The step and the loss of evaluations, compiled once for all runs in a mesh."""
    state, layout = new_state(model)
    loss_fn = make_loss(model)

    def gathered_loss(params, batch, key):
        return loss_fn(gather_fsdp(params, layout), batch, key)

    step = make_train_step(gathered_loss, TX, ema_decay=0.9)
    step = compile_step(scan_steps(step) if scanned else step, state)
    return step, jax.jit(make_loss(dataclasses.replace(model, dropout=0)))


def train(folder, config=LOOP, data=data, model=MODEL, **kwargs):
    """Runs `fit` in the current mesh; the same for every test, so that runs can be compared."""
    state, layout = new_state(model)
    step, loss_of = programs(model, current_mesh(), config.steps_per_call > 1)
    held_out = put_batch(make_batch(10**6, 64), current_mesh())

    def evaluate(state):
        return {"validation/loss": loss_of(averaged_params(state), held_out, jax.random.key(0))[0]}

    folder = os.fspath(folder)
    with Checkpoints(
        f"{folder}/checkpoints", config=model, may_differ=["blocks"], metric="validation/loss"
    ) as saved:
        return fit(
            step,
            state,
            data,
            jax.random.key(1),
            config,
            evaluate=evaluate,
            checkpoints=saved,
            log=MetricsLog(folder),
            padding=Padding(state_axes(layout, TX, ema=True), {"vocab": model.classes}),
            **kwargs,
        )


def deadly(last_step, number):
    """The data, with a signal to this process in between."""

    def with_signal(step):
        if step == last_step:
            os.kill(os.getpid(), number)
        return data(step)

    return with_signal


def stopped_between_records(folder):
    """A long run without records, which only the preemption service can stop at one step."""
    told = deadly(5 if jax.process_index() == 1 else -1, signal.SIGTERM)

    def slow(step):
        time.sleep(0.05)
        return told(step)

    config = LoopConfig(steps=500, log_every=500, metric="validation/loss")
    try:
        train(folder, config, data=slow)
    except SystemExit as stopped:
        saved = max(int(step) for step in os.listdir(f"{folder}/checkpoints"))
        print("between records", stopped.code, "saved", saved)


def stopped_and_gone_on(folder, terminate_at):
    """Of several processes: a run that nothing disturbs, and one that a signal to one stops."""
    stopped_between_records(f"{folder}/rare")
    results = [train(f"{folder}/undisturbed")]
    with_signal = deadly(terminate_at if jax.process_index() == 1 else -1, signal.SIGTERM)
    try:
        train(f"{folder}/stopped", data=with_signal)
    except SystemExit as stopped:
        saved = max(int(step) for step in os.listdir(f"{folder}/stopped/checkpoints"))
        print("stopped", stopped.code, "saved", saved)
    results.append(train(f"{folder}/stopped"))
    for result in results:
        print("finished", result.reason, int(result.state.step), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--terminate-at", type=int, default=-1)
    arguments = parser.parse_args()
    if arguments.processes:
        start()
        with jax.set_mesh(make_mesh(SEVERAL)):
            stopped_and_gone_on(arguments.folder, arguments.terminate_at)
        return
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        train(arguments.folder, data=deadly(arguments.kill_at, signal.SIGKILL))


if __name__ == "__main__":
    main()
