"""Speed of the networks of videos against PyTorch, and their cost against the length of a video.

    python -m benchmarks.video                                  # everything, float32, on the CPU
    python -m benchmarks.video --networks joint --durations     # one network, no durations
    python -m benchmarks.video --networks --durations 4 8 16    # durations alone
    taskset -c 0 python -m benchmarks.video                     # on one core

PyTorch's threads wait for each other in loops: beside another busy process it is many times slower
than alone, and only figures of idle cores, or of one core, compare the two.

Networks:

* joint: the diffusion transformer on all tokens of 8 frames of 16 x 16 latents;
* factorised: the same with blocks in space and in time by turns (``interleaved``);
* images: the same on as many tokens of images of 32 x 32 latents, that is DiT, for comparison;
* compressor: `CausalAutoencoderConfig.patch_first` on 17 frames of 64 x 64 pixels.

Of the transformers "sample" is four evaluations, as steps of Euler's method; of the compressor,
"reconstruct" is four passes of encoder and decoder. "train" is four updates by AdamW, forward and
backward, on a squared error. The baseline is `benchmarks/video_torch.py`, the same mathematics
written for PyTorch, with the same weights and inputs. Before anything is timed, samples,
reconstructions and the losses of the first four updates must agree to 1e-4, relative to the largest
number. Contenders are processes that take turns (`benchmarks/contenders.py`), all of a network at a
time.

Against durations: seconds and working memory (temporary memory of the compiled program) of jaxgen
alone, of one evaluation and of one update, one video of so many frames.
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
    HUGE_PAGES,
    Contender,
    measure_in_turns,
    progress,
    say_goodbye,
    serve_function,
    write_report,
)
from benchmarks.video_jaxgen import make_jaxgen_run, measure_durations, write_inputs

NETWORKS = ("joint", "factorised", "images", "compressor")
PATTERNS = {"joint": "joint", "factorised": "interleaved", "images": "joint"}
SIDES = ("jaxgen", "torch", "torch.compile")
CHANNELS = 4
TIMES = (800.0, 600.0, 400.0, 200.0)
"""Of the evaluations of a sample."""
UPDATES, LEARNING_RATE = 4, 1e-4
TOLERANCE = 1e-4


def main() -> None:
    """Runs the comparison, prints it and writes it."""
    arguments = parse_arguments()
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Processes of their own: a contender's peak memory would begin at that of its parent.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        rows = []
        for network in arguments.networks:
            with tempfile.TemporaryDirectory() as folder:
                shape = shape_of(network, arguments)
                other.submit(write_inputs, pathlib.Path(folder), shape).result()
                rows += measure(network, shape, folder, arguments)
        shapes = {name: shape_of(name, arguments) for name in ("joint", "factorised")}
        durations = other.submit(
            measure_durations, shapes, arguments.durations, arguments.rounds
        ).result()
    report = {
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "rows": rows,
        "durations": durations,
    }
    write_report(report, to_markdown(rows, durations, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--batch", type=int, default=2, help="videos of a transformer")
    parser.add_argument("--frames", type=int, default=8, help="of them")
    parser.add_argument("--side", type=int, default=16, help="rows and columns of latents")
    parser.add_argument("--width", type=int, default=384, help="of the transformers")
    parser.add_argument("--depth", type=int, default=4, help="blocks")
    parser.add_argument("--heads", type=int, default=6, help="of attention")
    parser.add_argument("--compressor-width", type=int, default=192)
    parser.add_argument("--compressor-frames", type=int, default=17, help="1 + 4 k")
    parser.add_argument("--compressor-side", type=int, default=64, help="pixels")
    parser.add_argument("--durations", type=int, nargs="*", default=[4, 8, 16, 32], help="frames")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each contender")
    parser.add_argument("--sides", nargs="+", default=["jaxgen", "torch"], choices=SIDES)
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--huge-pages", action="store_true", help="for the memory of all")
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix for .md and .json")
    return parser.parse_args()


def shape_of(network: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What both sides make a network and its inputs from."""
    if network == "compressor":
        return {
            "kind": "compressor",
            "batch": 1,
            "frames": arguments.compressor_frames,
            "side": arguments.compressor_side,
            "channels": 3,
            "width": arguments.compressor_width,
            "blocks": 3,
            "latent_channels": 16,
            "patch": (4, 8, 8),
        }
    shape = {
        "kind": "transformer",
        "pattern": PATTERNS[network],
        "channels": CHANNELS,
        **{name: getattr(arguments, name) for name in ("batch", "frames", "side")},
        **{name: getattr(arguments, name) for name in ("width", "depth", "heads")},
    }
    if network == "images":
        images = max(1, arguments.batch * arguments.frames // 4)
        shape |= {"batch": images, "frames": 1, "side": 2 * arguments.side}
    return shape


def measure(
    network: str, shape: dict[str, Any], folder: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Seconds of the contenders of a network, taken in turns."""
    forward = "reconstruct" if network == "compressor" else "sample"
    contenders = {}
    for form, side in itertools.product((forward, "train"), arguments.sides):
        task = {
            "side": side,
            "form": form,
            "shape": shape,
            "folder": folder,
            "times": TIMES,
            "updates": UPDATES,
            "learning rate": LEARNING_RATE,
        }
        progress(f"{network}: starting {form}, {side}")
        python = sys.executable if side == "jaxgen" else arguments.torch_python
        variables = HUGE_PAGES if arguments.huge_pages else {}
        contender = Contender.start(python, "benchmarks.video", task, variables)
        if contender is not None:
            contenders[form, side] = contender
    records = measure_in_turns(
        contenders,
        arguments.rounds,
        pathlib.Path(folder),
        TOLERANCE,
        label=f"{network}: ",
    )
    return [{"network": network, **record} for record in records]


def serve(task: dict[str, Any]) -> None:
    """The life of a contender."""
    folder = pathlib.Path(task["folder"])
    weights, arrays = (dict(np.load(folder / f"{name}.npz")) for name in ("weights", "inputs"))
    if task["side"] == "jaxgen":
        run = make_jaxgen_run(task, weights, arrays)
    else:
        from benchmarks.video_torch import make_run

        run = make_run(task, weights, arrays)
    np.save(folder / f"{task['form']}_{task['side']}.npy", run())
    serve_function(run)
    say_goodbye()


def to_markdown(
    rows: list[dict[str, Any]], durations: list[dict[str, Any]], arguments: argparse.Namespace
) -> str:
    """The tables that a person reads."""
    a = arguments
    lines = [
        f"Transformers of width {a.width} with {a.depth} blocks and {a.heads} heads on "
        f"{a.batch} x {a.frames} x {a.side} x {a.side} latents; compressor of width "
        f"{a.compressor_width} on {a.compressor_frames} x {a.compressor_side} x "
        f"{a.compressor_side} pixels; float32, {a.rounds} rounds.",
        "",
        "| network | what | side | seconds | peak MB | jaxgen is faster by | in single rounds "
        "| differs by |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    ours = {(r["network"], r["form"]): r for r in rows if r["side"] == "jaxgen"}
    for row in rows:
        lines.append(
            f"| {row['network']} | {row['form']} | {row['side']} | {row['seconds']:.3f} "
            f"| {row['peak megabytes']:,.0f} "
            + compared(row, ours.get((row["network"], row["form"])))
        )
    if durations:
        lines += ["", *duration_lines(durations)]
    return "\n".join(lines)


def compared(row: dict[str, Any], ours: dict[str, Any] | None) -> str:
    """The last cells of a row: the ratio of medians, the ratios of rounds, the difference."""
    if ours is None or row["side"] == "jaxgen":
        return "| | | |"
    pairs = zip(row["all seconds"], ours["all seconds"], strict=True)
    ratios = sorted(theirs / own for theirs, own in pairs)
    return (
        f"| {row['seconds'] / ours['seconds']:.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} "
        f"| {row['difference']:.1e} |"
    )


def duration_lines(durations: list[dict[str, Any]]) -> list[str]:
    """Cost against frames."""
    lines = [
        "| network | frames | tokens | forward, seconds | working MB | update, seconds "
        "| working MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for forward, train in zip(durations[::2], durations[1::2], strict=True):
        cells = "".join(
            f"| {row['seconds']:.3f} | {row['working bytes'] / 2**20:,.0f} "
            for row in (forward, train)
        )
        named = f"| {forward['network']} | {forward['frames']} | {forward['tokens']:,} "
        lines.append(f"{named}{cells}|")
    return lines


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        main()
