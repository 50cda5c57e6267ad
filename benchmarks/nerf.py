"""Speed of radiance fields against PyTorch: hash encoding, training steps; cost of rendering.

    taskset -c 0 python -m benchmarks.nerf                     # on one core, everything but views
    taskset -c 0 python -m benchmarks.nerf --clock process     # where others use the core too
    python -m benchmarks.nerf --forms --model FOLDER/checkpoints   # views of a trained field alone

Forms:

* encode: features of 2^17 points of a hash grid, 8 levels of 4 features, 2^17 rows;
* encode, gradient: the same and the gradient of the table;
* hash step: two updates of the field over that grid by Adam: density at 64 even intervals of each
  ray without gradient, density and colour at 20 intervals placed by their weights, compositing,
  squared error, backward;
* network step: two updates of the original's two networks, at 32 even and 32 placed intervals.

The baselines are in `benchmarks/nerf_torch.py`, the same mathematics with the same weights and
inputs: "torch" with all corners looked up by one index, and autograd; "torch by hand" corner by
corner, with a gradient of its own. Samples are at the middles of their intervals. Before anything
is timed, features, gradients and losses must agree to 1e-4, relative to the largest number.
Contenders are processes that take turns (`benchmarks/contenders.py`); "product" is a square matrix
product of the same framework, the limit that the machine sets to the networks.

Then, of jaxgen alone: seconds against even samples of a ray, and, with ``--model``, seconds of a
view of a trained field with an occupancy grid.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks.contenders import (
    CLOCKS,
    HUGE_PAGES,
    Contender,
    measure_in_turns,
    progress,
    say_goodbye,
    serve_function,
    write_report,
)
from benchmarks.nerf_jaxgen import (
    make_jaxgen_run,
    measure_samples,
    measure_views,
    network_multiply_adds,
    write_inputs,
)

FORMS = ("encode", "encode, gradient", "hash step", "network step")
SIDES = ("jaxgen", "torch", "torch by hand")
TOLERANCE = 1e-4
UPDATES, LEARNING_RATE = 2, 1e-3


def main() -> None:
    """Runs the comparison, prints it and writes it."""
    arguments = parse_arguments()
    os.environ["JAX_PLATFORMS"] = "cpu"
    shape = {name: getattr(arguments, name) for name in ("points", "rays", "width", "product")}
    shape |= {"updates": UPDATES, "learning rate": LEARNING_RATE}
    # Processes of their own: a contender's peak memory would begin at that of its parent.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        with tempfile.TemporaryDirectory() as folder:
            rows = []
            if arguments.forms:
                other.submit(write_inputs, pathlib.Path(folder), shape).result()
                rows = measure(shape, folder, arguments)
            cost = other.submit(network_multiply_adds, shape).result()
        options = arguments.rounds, arguments.clock
        samples = other.submit(measure_samples, arguments.samples, *options).result()
        views = other.submit(measure_views, arguments.model, arguments.side, *options).result()
    report = {
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "multiply-adds of a network step": cost,
        "rows": rows,
        "samples": samples,
        "views": views,
    }
    write_report(report, to_markdown(report, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", nargs="*", default=FORMS, choices=FORMS)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--points", type=int, default=2**17, help="that are encoded")
    parser.add_argument("--rays", type=int, default=1024, help="of a hash step; a network's: half")
    parser.add_argument("--width", type=int, default=256, help="of the original network")
    parser.add_argument("--product", type=int, default=2048, help="rows of the matrix product")
    parser.add_argument("--samples", type=int, nargs="*", default=[32, 64, 128, 256])
    parser.add_argument("--model", type=pathlib.Path, help="checkpoints of a field with occupancy")
    parser.add_argument("--side", type=int, default=400, help="rows and columns of its views")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each contender")
    parser.add_argument("--clock", default="wall", choices=[*CLOCKS], help="see contenders.py")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--huge-pages", action="store_true", help="for the memory of all")
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix for .md and .json")
    return parser.parse_args()


def measure(
    shape: dict[str, Any], folder: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Seconds of the contenders, taken in turns."""
    contenders = {}
    for form, side in itertools.product([*arguments.forms, "product"], arguments.sides):
        if side == "torch by hand" and form in ("network step", "product"):
            continue
        task = {
            "side": side,
            "form": form,
            "shape": shape,
            "folder": folder,
            "clock": arguments.clock,
        }
        progress(f"starting {form}, {side}")
        python = sys.executable if side == "jaxgen" else arguments.torch_python
        variables = HUGE_PAGES if arguments.huge_pages else {}
        contender = Contender.start(python, "benchmarks.nerf", task, variables)
        if contender is not None:
            contenders[form, side] = contender
    return measure_in_turns(
        contenders,
        arguments.rounds,
        pathlib.Path(folder),
        TOLERANCE,
        unchecked=("product",),
    )


def serve(task: dict[str, Any]) -> None:
    """The life of a contender."""
    folder = pathlib.Path(task["folder"])
    weights, arrays = (dict(np.load(folder / f"{name}.npz")) for name in ("weights", "inputs"))
    if task["side"] == "jaxgen":
        run = make_jaxgen_run(task, weights, arrays)
    else:
        from benchmarks.nerf_torch import make_run

        run = make_run(task, weights, arrays)
    np.save(folder / f"{task['form']}_{task['side']}.npy", run())
    serve_function(run, task["clock"])
    say_goodbye()


def to_markdown(report: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The tables that a person reads."""
    a, rows = arguments, report["rows"]
    lines = []
    if rows:
        products = [
            2 * a.product**3 / min(r["all seconds"]) for r in rows if r["form"] == "product"
        ]
        rate = max(products)
        lines = [
            f"{a.points:,} points; hash steps of {a.rays} rays; networks of width {a.width}, steps "
            f"of {a.rays // 2} rays; float32, {a.rounds} rounds, {a.clock} time; the best product "
            f"reached {rate / 1e9:,.0f} Gflop/s.",
            "",
            "| what | side | seconds | of the best product | peak MB | jaxgen is faster by "
            "| in single rounds | differs by |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
        ]
        ours = {row["form"]: row for row in rows if row["side"] == "jaxgen"}
        for row in rows:
            share = ""
            if row["form"] == "network step":
                flops = 2 * UPDATES * report["multiply-adds of a network step"]
                share = f"{flops / row['seconds'] / rate:.0%}"
            lines.append(
                f"| {row['form']} | {row['side']} | {row['seconds']:.3f} | {share} "
                f"| {row['peak megabytes']:,.0f} {compared(row, ours.get(row['form']))}"
            )
    if report["samples"]:
        lines += [
            "",
            "| even samples | seconds | microseconds a ray and sample |",
            "|---:|---:|---:|",
        ]
        lines += [
            f"| {r['samples']} | {r['seconds']:.3f} | {r['seconds'] / r['points'] * 1e6:.3f} |"
            for r in report["samples"]
        ]
    if report["views"]:
        lines += ["", "| view | seconds | fastest | rays left out | differs by |"]
        lines += ["|---|---:|---:|---:|---:|"]
        lines += [
            f"| {r['what']} | {r['seconds']:.2f} | {min(r['all seconds']):.2f} "
            f"| {r['left out']:.2%} | {r['difference']:.1e} |"
            for r in report["views"]
        ]
    return "\n".join(lines)


def compared(row: dict[str, Any], ours: dict[str, Any] | None) -> str:
    """The last cells of a row: the ratio of medians, the ratios of rounds, the difference."""
    if ours is None or row["side"] == "jaxgen":
        return "| | | |"
    pairs = zip(row["all seconds"], ours["all seconds"], strict=True)
    ratios = sorted(theirs / own for theirs, own in pairs)
    difference = "" if row["difference"] is None else f"{row['difference']:.1e}"
    return (
        f"| {row['seconds'] / ours['seconds']:.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} "
        f"| {difference} |"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        main()
