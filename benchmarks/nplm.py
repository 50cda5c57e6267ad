"""Training speed of the full-softmax network against PyTorch and against a plain matrix product.

    python -m benchmarks.nplm                      # |V| = 17,906, n = 5, m = 30, h = 100
    python -m benchmarks.nplm --direct --batches 512

Every contender is a process of its own that stays alive, and they take turns: one run of a few
steps each, round after round, so that whatever else the machine does falls on all of them. What is
compared are medians over the rounds, as ratios. Each contender is started twice: as a user starts
it, and with ``GLIBC_TUNABLES`` that keep freed memory and back it by huge pages, because most of
the time that is not arithmetic goes to page faults. "bare products" is no training: the output
layer's three matrix products over the same chunks of examples and nothing else, which bounds what
this shape allows (a thin layer is slower than a square product).

PyTorch (benchmarks/requirements.txt) may live in another environment: ``--torch-python``.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Callable

from benchmarks.contenders import (
    HUGE_PAGES,
    Contender,
    progress,
    say_goodbye,
    serve_function,
    write_report,
)

ALLOCATORS = {"default": {}, "huge pages": HUGE_PAGES}
LEARNING_RATE = 0.1


def main() -> None:
    """Runs the comparison, prints it and writes it."""
    arguments = parse_arguments()
    rows = []
    for batch in arguments.batches:
        rows += measure(arguments, batch)
    report = {"shape": shape_of(arguments), "rounds": arguments.rounds, "rows": rows}
    write_report(report, to_markdown(report), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=17906, help="|V|")
    parser.add_argument("--order", type=int, default=5, help="n")
    parser.add_argument("--features", type=int, default=30, help="m")
    parser.add_argument("--hidden", type=int, default=100, help="h")
    parser.add_argument("--direct", action="store_true", help="with direct connections W")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--steps", type=int, default=10, help="steps of one run")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each contender")
    parser.add_argument("--product", type=int, default=2048, help="size of the plain product")
    parser.add_argument(
        "--variants", nargs="+", default=["textbook", "compiled", "by_hand"], help="PyTorch forms"
    )
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix for .md and .json")
    return parser.parse_args()


def shape_of(arguments: argparse.Namespace) -> dict:
    names = ("vocabulary", "order", "features", "hidden", "direct")
    return {name: getattr(arguments, name) for name in names}


def flops_per_example(shape: dict) -> float:
    """Multiplications and additions of one training example: three products per layer."""
    inputs = (shape["order"] - 1) * shape["features"]
    top = shape["hidden"] + (inputs if shape["direct"] else 0)
    return 6.0 * (shape["vocabulary"] * top + inputs * shape["hidden"])


def measure(arguments: argparse.Namespace, batch: int) -> list[dict]:
    """The rows of one batch size."""
    shape = shape_of(arguments)
    contenders = {}
    for allocator, variables in ALLOCATORS.items():
        for side, python, forms in (
            ("jaxgen", sys.executable, ["train", "bare products", "product"]),
            ("torch", arguments.torch_python, [*arguments.variants, "product"]),
        ):
            for form in forms:
                task = {
                    "side": side,
                    "form": form,
                    "shape": shape,
                    "batch": batch,
                    "steps": arguments.steps,
                    "product": arguments.product,
                }
                contender = Contender.start(python, "benchmarks.nplm", task, variables)
                if contender is not None:
                    contenders[side, form, allocator] = contender
    seconds: dict[tuple, list[float]] = {name: [] for name in contenders}
    for round_ in range(arguments.rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender.run())
        progress(f"batch {batch}: round {round_ + 1} of {arguments.rounds}")
    peaks = {name: contender.stop() for name, contender in contenders.items()}
    product = max(
        2 * arguments.product**3 / statistics.median(times)
        for (_, form, _), times in seconds.items()
        if form == "product"
    )
    rows = []
    for (side, form, allocator), times in seconds.items():
        if form == "product":
            continue
        rate = batch * arguments.steps / statistics.median(times)
        rows.append(
            {
                "batch": batch,
                "side": side,
                "form": form,
                "allocator": allocator,
                "examples_per_second": rate,
                "share_of_product": rate * flops_per_example(shape) / product,
                "peak_megabytes": peaks[side, form, allocator],
                "product_gflops": product / 1e9,
            }
        )
    return rows


def to_markdown(report: dict) -> str:
    """The table that a person reads, ratios first."""
    lines = [
        "| batch | allocator | contender | examples/s | of the matrix product | peak MB "
        "| jaxgen is faster by |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = report["rows"]
    for row in rows:
        ours = next(
            r["examples_per_second"]
            for r in rows
            if r["form"] == "train"
            and (r["batch"], r["allocator"]) == (row["batch"], row["allocator"])
        )
        ratio = "" if row["side"] == "jaxgen" else f"{ours / row['examples_per_second']:.2f}"
        lines.append(
            f"| {row['batch']} | {row['allocator']} | {row['side']} {row['form']} "
            f"| {row['examples_per_second']:,.0f} | {row['share_of_product']:.0%} "
            f"| {row['peak_megabytes']:,.0f} | {ratio} |"
        )
    return "\n".join(lines)


def serve(task: dict) -> None:
    """The life of a contender: get ready, then one timed run per line of input."""
    arguments = task["shape"], task["batch"], task["steps"]
    if task["side"] == "torch":
        from benchmarks import nplm_torch

        if task["form"] == "product":
            serve_function(nplm_torch.make_product(task["product"]))
        else:
            serve_function(nplm_torch.make_run(task["form"], *arguments, LEARNING_RATE))
    elif task["form"] == "product":
        serve_function(make_product(task["product"]))
    elif task["form"] == "bare products":
        serve_function(make_bare_products(*arguments))
    else:
        serve_training(*arguments, LEARNING_RATE)
    say_goodbye()


def serve_training(shape: dict, batch: int, steps: int, rate: float) -> None:
    """jaxgen's own training step, as the experiments use it."""
    import jax
    import numpy as np

    from jaxgen.lm.nplm import NPLMConfig
    from jaxgen.parallel import keep_freed_memory, make_mesh, put_batch
    from jaxgen.training.optimizers import OptimizerConfig, make_optimizer
    from jaxgen.training.state import create_state
    from jaxgen.training.step import compile_step, make_train_step, scan_steps

    keep_freed_memory()  # as experiments do

    config = NPLMConfig(
        vocabulary_size=shape["vocabulary"],
        order=shape["order"],
        features=shape["features"],
        hidden=shape["hidden"],
        direct=shape["direct"],
    )
    model, mesh = config.make_model(), make_mesh()
    rng = np.random.default_rng(1)
    windows = rng.integers(config.vocabulary_size, size=(steps, batch, config.order))

    def loss_fn(params, batch, key):
        loss, _ = model.apply(
            {"params": params}, batch["windows"][:, :-1], batch["windows"][:, -1], method="loss"
        )
        return loss, {}

    with jax.set_mesh(mesh):
        tx = make_optimizer(OptimizerConfig("sgd", rate))
        init = lambda key: model.init(key, windows[0, :1, :-1])["params"]  # noqa: E731
        key = jax.random.key(0)
        state, _ = create_state(init, key, tx=tx)
        run = compile_step(scan_steps(make_train_step(loss_fn, tx)), state)
        batches = put_batch({"windows": windows.astype(np.int32)}, mesh, leading=1)

        def steps_of_one_run() -> None:
            nonlocal state
            state, _ = run(state, batches, key)
            jax.block_until_ready(state)

        serve_function(steps_of_one_run)


def make_bare_products(shape: dict, batch: int, steps: int) -> Callable[[], object]:
    """y = h K and the gradients y K^T and h^T y of the output layer, softmax and all else left out.

    The products of the layers before it, under a hundredth of the arithmetic, are left out too.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen.parallel.softmax.sharded_logits import CPU_CHUNK

    top = shape["hidden"] + shape["direct"] * (shape["order"] - 1) * shape["features"]
    chunk = math.gcd(batch, CPU_CHUNK)
    hidden_NBD = jax.random.normal(jax.random.key(0), (steps * batch // chunk, chunk, top))
    kernel_DV = jax.random.normal(jax.random.key(1), (top, shape["vocabulary"])) * 1e-3

    @jax.jit
    def products(hidden_NBD, kernel_DV):
        def one_chunk(d_kernel_DV, h_BD):
            y_BV = h_BD @ kernel_DV
            return d_kernel_DV + h_BD.T @ y_BV, y_BV @ kernel_DV.T

        return jax.lax.scan(one_chunk, jnp.zeros_like(kernel_DV), hidden_NBD)

    return lambda: jax.block_until_ready(products(hidden_NBD, kernel_DV))


def make_product(size: int) -> Callable[[], object]:
    """One [size, size] matrix product in JAX."""
    import jax

    left = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    return lambda: jax.block_until_ready(product(left))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        main()
