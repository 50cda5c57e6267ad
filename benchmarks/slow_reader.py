"""What a slow reader costs a training step, with batches made ahead and without.

    python -m benchmarks.slow_reader

A reader that waits 10 ms for each batch, as one of files or of a network does, in front of a step
of so many matrix products. Prints the milliseconds of a step: without the wait, with it, and with
it and `jaxgen.training.fit`'s ``prefetch``; the three take turns, and medians are shown.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.training import (
    LoopConfig,
    OptimizerConfig,
    TrainState,
    compile_step,
    create_state,
    fit,
    make_optimizer,
    make_train_step,
)
from jaxgen.training.step import Metrics
from jaxgen.typing import Batch

ROWS, WIDTH = 256, 512
FORMS = {"no wait": (False, 0), "wait": (True, 0), "wait, prefetch=2": (True, 2)}


def make_run(products: int, steps: int, read_seconds: float) -> Callable[[bool, int], float]:
    """``(whether to wait, batches ahead) -> seconds a step``, compiled once."""
    tx = make_optimizer(OptimizerConfig("sgd", 1e-3))

    def loss_fn(params, batch, key):
        x = batch["x"]
        for _ in range(products):
            x = jnp.tanh(x @ params["kernel"])
        return jnp.square(x).mean(), {}

    def init():
        return {"kernel": jnp.eye(WIDTH)}

    state, _ = create_state(init, tx=tx)
    step = compile_step(make_train_step(loss_fn, tx), state)
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)

    def run(wait: bool, ahead: int) -> float:
        def data(index: int) -> Batch:
            if wait:
                time.sleep(read_seconds)
            return {"x": x}

        started: list[float] = []

        def timed(*arguments: Any) -> tuple[TrainState, Metrics]:
            results = step(*arguments)
            if not started:  # the first step, which compiles, does not count
                jax.block_until_ready(results)
                started.append(time.perf_counter())
            return results

        fresh, _ = create_state(init, tx=tx)
        config = LoopConfig(steps=steps + 1, log_every=steps + 1)
        fit(timed, fresh, data, jax.random.key(0), config, prefetch=ahead)
        return (time.perf_counter() - started[0]) / steps

    return run


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--read-ms", type=float, default=10.0, help="what a batch takes to read")
    parser.add_argument("--products", type=int, default=8, help="matrix products of a step")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each form")
    arguments = parser.parse_args()
    run = make_run(arguments.products, arguments.steps, arguments.read_ms / 1e3)
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(arguments.rounds):
        for name, form in FORMS.items():
            seconds[name].append(run(*form))
    print(f"| reader of {arguments.read_ms:g} ms a batch | ms a step |\n|---|---:|")
    for name, found in seconds.items():
        print(f"| {name} | {1e3 * statistics.median(found):.1f} |")


if __name__ == "__main__":
    main()
