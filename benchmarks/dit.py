"""Speed of the diffusion transformer: five training steps, and 50 steps of guided DDIM sampling.

    python -m benchmarks.dit                           # DiT-S/2 on 32 x 32 x 4, float32, CPU
    python -m benchmarks.dit --steps 10 25 50 100      # is the cost of a step constant?
    python -m benchmarks.dit --network DiT-XL/2 --dtype bfloat16 --batch 64 --product 16384 \\
        --sides jaxgen torch torch.compile --peak-tflops 989   # utilisation of a GPU (H100, H200)
    ... --depth 4                                      # the same in a sixth of the time to compile

The baseline is diffusers' DiT in PyTorch (`benchmarks/dit_torch.py`) with the same weights, labels
and noise; before anything is timed the two samples are compared. Both run on a GPU where there is
one. In bfloat16 weights are cast once for sampling, and kept in float32 in training (torch:
autocast). Contenders are processes that take turns (`benchmarks/contenders.py`); "product" is a
square matrix product of the same framework, the limit that the machine sets. Multiply-adds are
those of the network (`jaxgen.nn.counting`), a training step counted as three forward passes;
utilisation is twice their number over time and peak.
"""

import argparse
import dataclasses
import json
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks.contenders import (
    HUGE_PAGES,
    Contender,
    progress,
    say_goodbye,
    serve_function,
    write_report,
)

ALLOCATORS = {"default": {}, "huge pages": HUGE_PAGES}
SIDES = ("jaxgen", "torch", "torch.compile")
SIDE, CHANNELS, CLASSES = 32, 4, 1000
AS_IN_DIFFUSERS = {"frequency_shift": 1.0, "mlp_norm_epsilon": 1e-5}
GUIDANCE, LEARNING_RATE = 4.0, 1e-4
UPDATES = 5
"""Of a training run: one alone would be timed while memory and clock are still those of others."""


def main() -> None:
    """Runs the comparison, prints it and writes it."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: a contender's peak memory would begin at that of its parent.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            shape = other.submit(write_inputs, pathlib.Path(folder), arguments).result()
        report = measure(arguments, shape, folder)
        if {"jaxgen", "torch"} <= set(arguments.sides):
            report["difference of the samples"] = difference(pathlib.Path(folder))
    write_report(report, to_markdown(report, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="DiT-S/2", help="a published DiT")
    parser.add_argument("--depth", type=int, help="blocks, where not the published number")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=8, help="images (guidance doubles them)")
    parser.add_argument("--steps", type=int, nargs="+", default=[50], help="sampling steps")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender")
    parser.add_argument("--sides", nargs="+", default=["jaxgen", "torch"], choices=SIDES)
    parser.add_argument("--allocators", nargs="+", default=["default"], choices=[*ALLOCATORS])
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--remat", action="store_true", help="rematerialise blocks in training")
    parser.add_argument("--product", type=int, default=2048, help="rows of the matrix product")
    parser.add_argument("--peak-tflops", type=float, help="of the device; else the product's rate")
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix for .md and .json")
    return parser.parse_args()


def write_inputs(folder: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """Weights, labels and noise for both sides; returns the network's shape and its cost."""
    import jax

    from jaxgen.interop.dit_weights import dit_tensors
    from jaxgen.interop.safetensors import write_safetensors
    from jaxgen.nn.counting import multiply_adds
    from jaxgen.spacetime.dit import DiTConfig

    config = DiTConfig.named(arguments.network, **AS_IN_DIFFUSERS)
    config = dataclasses.replace(config, depth=arguments.depth or config.depth)
    example = example_input(1)
    params = random_params(config, example)
    write_safetensors(
        folder / "weights.safetensors", dit_tensors(params, "diffusers", config.patch)
    )
    rng = np.random.default_rng(0)
    size = (arguments.batch, SIDE, SIDE, CHANNELS)
    np.savez(
        folder / "inputs.npz",
        noise=rng.normal(size=size).astype(np.float32),
        latents=rng.normal(size=size).astype(np.float32),
        labels=rng.integers(CLASSES, size=arguments.batch).astype(np.int32),
    )
    model = config.make_model()
    cost = multiply_adds(
        lambda p: model.apply({"params": p}, *example), jax.eval_shape(lambda: params)
    )
    shape = {name: getattr(config, name) for name in ("depth", "width", "heads", "patch")}
    return shape | {"side": SIDE, "classes": CLASSES, "multiply-adds": cost}


def example_input(batch: int) -> tuple:
    """Latents, times and labels of the right shapes."""
    latents = np.zeros((batch, SIDE, SIDE, CHANNELS), np.float32)
    return latents, np.zeros(batch, np.float32), np.zeros(batch, np.int32)


def random_params(config, example: tuple) -> dict:
    """Small random numbers for every parameter: none is zero, as some are where training starts."""
    import jax

    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: 0.02 * rng.standard_normal(leaf.shape, np.float32), shapes(config, example)
    )


def shapes(config, example: tuple) -> dict:
    """The parameters' shapes and types."""
    import jax
    from flax import linen as nn

    init = config.make_model().init
    return nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), *example))["params"]


def measure(arguments: argparse.Namespace, shape: dict, folder: str) -> dict:
    """Seconds of every contender, taken in turns."""
    forms = [*(f"sample {n}" for n in arguments.steps), "train", "product"]
    contenders = {}
    for side in arguments.sides:
        python = sys.executable if side == "jaxgen" else arguments.torch_python
        for allocator in arguments.allocators:
            for form in forms:
                task = {
                    "side": side,
                    "form": form,
                    "shape": shape,
                    "folder": folder,
                    "network": arguments.network,
                    "dtype": arguments.dtype,
                    "remat": arguments.remat,
                    "product": arguments.product,
                }
                contender = Contender.start(python, "benchmarks.dit", task, ALLOCATORS[allocator])
                if contender is not None:
                    contenders[form, allocator, side] = contender
    seconds: dict[tuple, list[float]] = {name: [] for name in contenders}
    for round_ in range(arguments.rounds):
        for name in sorted(contenders):
            seconds[name].append(contenders[name].run())
        progress(f"round {round_ + 1} of {arguments.rounds}")
    rows = [
        {
            "form": form,
            "allocator": allocator,
            "side": side,
            "seconds": statistics.median(seconds[form, allocator, side]),
            "all seconds": seconds[form, allocator, side],
            "peak megabytes": contenders[form, allocator, side].stop(),
        }
        for form, allocator, side in sorted(contenders)
    ]
    return {"network": arguments.network, "batch": arguments.batch, "shape": shape, "rows": rows}


def difference(folder: pathlib.Path) -> float:
    """The largest difference of the two sides' first samples, relative to the largest number."""
    ours, theirs = (np.load(folder / f"sample_{side}.npy") for side in ("jaxgen", "torch"))
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def to_markdown(report: dict, arguments: argparse.Namespace) -> str:
    """The table that a person reads."""
    rows = report["rows"]
    product = max(2 * arguments.product**3 / r["seconds"] for r in rows if r["form"] == "product")
    peak = arguments.peak_tflops * 1e12 if arguments.peak_tflops else product
    limit = "of the device's peak" if arguments.peak_tflops else "of the best matrix product"
    lines = [
        f"{report['network']} with {report['shape']['depth']} blocks, {arguments.dtype}, "
        f"batch {report['batch']}, {SIDE} x {SIDE} x {CHANNELS}, {arguments.rounds} rounds; "
        f"the best product reached {product / 1e9:,.0f} Gflop/s.",
        "",
        f"| what | allocator | side | seconds | {limit} | peak MB | jaxgen is faster by |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row["form"] == "product":
            continue
        ours = [
            r["seconds"]
            for r in rows
            if (r["form"], r["allocator"], r["side"]) == (row["form"], row["allocator"], "jaxgen")
        ]
        ratio = f"{row['seconds'] / ours[0]:.2f}" if ours and row["side"] != "jaxgen" else ""
        share = 2 * passes(row["form"]) * report["batch"] * report["shape"]["multiply-adds"]
        share /= row["seconds"] * peak
        lines.append(
            f"| {row['form']} | {row['allocator']} | {row['side']} | {row['seconds']:.3f} "
            f"| {share:.0%} | {row['peak megabytes']:,.0f} | {ratio} |"
        )
    if "difference of the samples" in report:
        lines += ["", f"The samples differ by {report['difference of the samples']:.1e}, relative."]
    return "\n".join(lines)


def passes(form: str) -> int:
    """Forward passes for each image that a run is worth."""
    return 3 * UPDATES if form == "train" else 2 * int(form.split()[1])


def serve(task: dict) -> None:
    """The life of a contender."""
    folder = pathlib.Path(task["folder"])
    arrays = dict(np.load(folder / "inputs.npz"))
    make = make_jaxgen_run if task["side"] == "jaxgen" else make_torch_run
    run = make(task, arrays)
    if task["form"].startswith("sample"):
        np.save(folder / f"sample_{task['side']}.npy", run())
    serve_function(run)
    say_goodbye()


def make_torch_run(task: dict, arrays: dict) -> Callable[[], object]:
    """A run of PyTorch."""
    from benchmarks import dit_torch

    if task["form"] == "product":
        return dit_torch.make_product(task["product"], task["dtype"])
    network = dit_torch.make_network(task["shape"], f"{task['folder']}/weights.safetensors")
    compiled = task["side"] == "torch.compile"
    if task["form"] == "train":
        return dit_torch.make_training(
            network, arrays, UPDATES, LEARNING_RATE, task["dtype"], compiled
        )
    steps = int(task["form"].split()[1])
    return dit_torch.make_sampling(network, arrays, steps, GUIDANCE, task["dtype"], compiled)


def make_jaxgen_run(task: dict, arrays: dict) -> Callable[[], object]:
    """A run of jaxgen."""
    import jax

    from jaxgen.interop.dit_weights import dit_params
    from jaxgen.interop.safetensors import read_safetensors
    from jaxgen.parallel import keep_freed_memory
    from jaxgen.spacetime.dit import DiTConfig

    keep_freed_memory()  # as experiments do
    if task["form"] == "product":
        left = jax.random.normal(jax.random.key(0), (task["product"],) * 2, task["dtype"])
        product = jax.jit(lambda x: x @ x)
        return lambda: jax.block_until_ready(product(left))
    config = DiTConfig.named(
        task["network"],
        depth=task["shape"]["depth"],
        dtype=task["dtype"],
        remat=task["remat"],
        **AS_IN_DIFFUSERS,
    )
    model = config.make_model()
    tensors = read_safetensors(pathlib.Path(task["folder"]) / "weights.safetensors")
    like = shapes(config, example_input(1))
    params = jax.device_put(dit_params(tensors, like, config.patch))
    if task["form"] == "train":
        return make_training(model, params, arrays)
    params = jax.tree.map(lambda x: x.astype(task["dtype"]), params)
    return make_sampling(model, params, arrays, int(task["form"].split()[1]))


def make_sampling(model, params: dict, arrays: dict, steps: int) -> Callable[[], np.ndarray]:
    """``run() -> latents``: guided DDIM on one doubled batch, as an experiment does it."""
    import jax

    from jaxgen.diffusion import DiscreteSchedule
    from jaxgen.diffusion.conditioning.guidance import guide_network
    from jaxgen.diffusion.denoiser import step_index
    from jaxgen.diffusion.process.step_levels import make_steps
    from jaxgen.diffusion.samplers import DDIM
    from jaxgen.diffusion.samplers.sampling import sample

    schedule = DiscreteSchedule("linear")
    sampler = DDIM()
    table = sampler.table(make_steps(schedule, steps, "leading", final="clean"))

    @jax.jit
    def run(params, noise, labels, table, scale):
        denoiser = guide_network(
            lambda z, time, label: model.apply({"params": params}, z, time, label),
            labels,
            CLASSES,
            scale - 1,
            target="e",
            time_input=step_index(schedule),
            learned_variance=True,
        )
        return sample(sampler, denoiser, noise, table, jax.random.key(0))

    return lambda: np.asarray(run(params, arrays["noise"], arrays["labels"], table, GUIDANCE))


def make_training(model, params: dict, arrays: dict) -> Callable[[], float]:
    """``run()``: updates by AdamW on the squared error of the noise."""
    import jax

    from jaxgen.diffusion import DiscreteSchedule
    from jaxgen.diffusion.denoiser import step_index
    from jaxgen.diffusion.objectives.losses import diffusion_loss
    from jaxgen.diffusion.objectives.time_distributions import Steps
    from jaxgen.diffusion.objectives.weightings import SNR
    from jaxgen.parallel import make_mesh, put_batch
    from jaxgen.training import OptimizerConfig, compile_step, create_state, make_optimizer
    from jaxgen.training.step import make_train_step

    schedule = DiscreteSchedule("linear")

    def loss_fn(params, batch, key):
        def network(z, time):
            return model.apply({"params": params}, z, time, batch["labels"])[..., :CHANNELS]

        loss_B, _ = diffusion_loss(
            network,
            batch["latents"],
            key,
            schedule=schedule,
            target="e",
            weighting=SNR(),
            times=Steps(schedule.steps),
            time_input=step_index(schedule),
        )
        return loss_B.mean(), {}

    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        tx = make_optimizer(OptimizerConfig("adamw", LEARNING_RATE))
        state, _ = create_state(lambda given: given, params, tx=tx)
        step = compile_step(make_train_step(loss_fn, tx), state)
        batch = put_batch({name: arrays[name] for name in ("latents", "labels")}, mesh)

    def run() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            for _ in range(UPDATES):
                state, metrics = step(state, batch, jax.random.key(0))
        return float(metrics["loss"])

    return run


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        main()
