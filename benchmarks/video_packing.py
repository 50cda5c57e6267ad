"""Packed training of a video transformer against padding: examples per second, attention included.

    python -m benchmarks.video_packing                        # sides of 4 to 16 tokens
    python -m benchmarks.video_packing --sides 8 32 --width 384 --depth 12 --heads 6
    ... --contenders packed buckets --rounds 9

The stream is mixed: half images, half clips of 2 to ``--frames`` frames, both sides drawn evenly
from ``--sides`` tokens. Three ways to train on it, with the same network, loss and optimizer, and
batches of as many tokens, those of one pack (twice the longest example):

* packed: `jaxgen.data.pack_epochs`;
* buckets: each example is padded to the next power of two, the largest cut to the longest example;
* longest: each is padded to the longest.

A padded row is a pack of one example: attention skips blocks between it and its padding as it does
blocks between two examples of a pack. Every form of batch is a program of its own: packs have one,
buckets several. Programs take turns, one update of each, round after round, with another batch of
the stream each round. Seconds of a stream are the sum over its batches of the median seconds of
their form; what is compared are ratios. Reading is not counted: patches are random bytes, made
before the clock starts.
"""

import argparse
import pathlib
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contenders import progress, write_report
from jaxgen.data.length_buckets import PaddedBatch, bucket_batches, powers_of_two
from jaxgen.data.pack_epochs import EpochPacks
from jaxgen.data.packing import PackedExample, pack_arrays
from jaxgen.nn.positions import grid_places

CONTENDERS = ("packed", "buckets", "longest")
PATCH, CHANNELS, CLASSES = (1, 2, 2), 4, 10
LEARNING_RATE = 1e-4
Grid = tuple[int, int, int]
Update = Callable[[dict[str, np.ndarray]], float]


class Form(NamedTuple):
    """The form of a batch: what a program is compiled for.

    Attributes:
      rows: sequences.
      length: tokens of each.
      examples: of each, at most.
    """

    rows: int
    length: int
    examples: int


class Batches(NamedTuple):
    """What a contender trains on.

    Attributes:
      forms: the form of every batch of the stream.
      examples: of every batch, the examples of each row.
    """

    forms: list[Form]
    examples: list[list[list[int]]]


def main() -> None:
    """Runs the comparison, prints it and writes it."""
    arguments = parse_arguments()
    grids = mixed_stream(arguments)
    lengths = np.array([np.prod(grid) for grid in grids])
    batches = {name: plan_contender(name, lengths, arguments) for name in arguments.contenders}
    seconds = measure(batches, grids, arguments)
    rows = [to_row(name, batches[name], seconds[name], lengths) for name in batches]
    report = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "rows": rows}
    write_report(report, to_markdown(rows, lengths, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=10_000, help="of the stream")
    parser.add_argument("--sides", type=int, nargs=2, default=[4, 16], help="tokens, from and to")
    parser.add_argument("--frames", type=int, default=9, help="of the longest clips")
    parser.add_argument("--most", type=int, default=32, help="examples of a pack")
    parser.add_argument("--open", type=int, default=8, help="open sequences")
    parser.add_argument("--window", type=int, default=1, help="examples that are sorted by length")
    parser.add_argument("--width", type=int, default=128, help="of the network")
    parser.add_argument("--depth", type=int, default=6, help="blocks")
    parser.add_argument("--heads", type=int, default=4, help="of attention")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5, help="updates of each form of batch")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix for .md and .json")
    return parser.parse_args()


def mixed_stream(arguments: argparse.Namespace) -> list[Grid]:
    """Frames, rows and columns of every example, in tokens."""
    generator = np.random.default_rng(0)
    count, (least, most) = arguments.examples, arguments.sides
    frames = generator.integers(2, arguments.frames + 1, count)
    frames = np.where(generator.random(count) < 0.5, 1, frames)
    sides = generator.integers(least, most + 1, (count, 2))
    return list(zip(frames.tolist(), *sides.T.tolist(), strict=True))


def plan_contender(name: str, lengths: np.ndarray, arguments: argparse.Namespace) -> Batches:
    """All batches of the stream, as one contender forms them."""
    tokens = 2 * int(lengths.max())
    if name == "packed":
        plan = EpochPacks(
            lengths,
            tokens,
            arguments.most,
            max_open=arguments.open,
            window=arguments.window,
            shuffle=False,
        )
        packs = plan.epoch(0)
        return Batches([Form(1, tokens, arguments.most)] * len(packs), [[pack] for pack in packs])
    buckets = powers_of_two(lengths) if name == "buckets" else np.array([lengths.max()])
    batches = bucket_batches(lengths, buckets, tokens)
    return Batches(
        [Form(batch.rows, batch.length, 1) for batch in batches],
        [padded_rows(batch) for batch in batches],
    )


def padded_rows(batch: PaddedBatch) -> list[list[int]]:
    """Each example in a row of its own, then rows without any."""
    return [[e] for e in batch.examples] + [[]] * (batch.rows - len(batch.examples))


def measure(
    batches: dict[str, Batches], grids: list[Grid], arguments: argparse.Namespace
) -> dict[str, dict[Form, list[float]]]:
    """Seconds of updates, of every contender and form of its batches, taken in turns."""
    update = make_update(arguments)
    turns = [(name, form) for name in batches for form in sorted(set(batches[name].forms))]
    arrays = {turn: first_batches(batches[turn[0]], turn[1], grids, arguments) for turn in turns}
    for number, turn in enumerate(turns):
        progress(f"compiling {number + 1} of {len(turns)}: {turn[0]}, {turn[1].length} tokens")
        update(arrays[turn][0])
    seconds: dict[str, dict[Form, list[float]]] = {name: {} for name in batches}
    for round_ in range(arguments.rounds):
        for name, form in turns:
            own = arrays[name, form]
            taken = update(own[round_ % len(own)])
            seconds[name].setdefault(form, []).append(taken)
        progress(f"round {round_ + 1} of {arguments.rounds}")
    return seconds


def first_batches(
    batches: Batches, form: Form, grids: list[Grid], arguments: argparse.Namespace
) -> list[dict[str, np.ndarray]]:
    """The arrays of the first batches of a form, one for each round where there are so many."""
    own = [e for f, e in zip(batches.forms, batches.examples, strict=True) if f == form]
    return [
        pack_arrays([[to_example(i, grids[i]) for i in row] for row in rows], *form[1:])
        for rows in own[: arguments.rounds]
    ]


def to_example(index: int, grid: Grid) -> PackedExample:
    """An example of random bytes."""
    places = grid_places(grid)
    features = int(np.prod(PATCH)) * CHANNELS
    generator = np.random.default_rng(index)
    tokens = generator.integers(0, 256, (len(places), features), np.uint8)
    return PackedExample(index, tokens, places, index % CLASSES)


def make_update(arguments: argparse.Namespace) -> Update:
    """``batch -> seconds`` of an update by AdamW, whatever the form of the batch."""
    import jax

    from experiments.video.support.update_seconds import timed_updates
    from experiments.video.support.video_training import make_video_loss
    from jaxgen.diffusion.model import DenoiserConfig
    from jaxgen.parallel import keep_freed_memory, make_mesh
    from jaxgen.spacetime import VideoDiTConfig
    from jaxgen.training import OptimizerConfig, compile_step, create_state, make_optimizer
    from jaxgen.training.step import make_train_step

    keep_freed_memory()
    network = VideoDiTConfig(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        patch=PATCH,
        width=arguments.width,
        depth=arguments.depth,
        heads=arguments.heads,
        num_classes=CLASSES,
        dtype=arguments.dtype,
        positions="rotary",
    )
    names = tuple(str(i) for i in range(CLASSES))
    config = DenoiserConfig(network, (1, PATCH[1], PATCH[2], CHANNELS), names)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        tx = make_optimizer(OptimizerConfig("adamw", LEARNING_RATE))
        state, layout = create_state(config.make_init(), jax.random.key(0), tx=tx)
        step = compile_step(make_train_step(make_video_loss(config, layout), tx), state)

    update = timed_updates(step, state)

    def run(arrays: dict[str, np.ndarray]) -> float:
        with jax.set_mesh(mesh):
            return update(arrays)

    return run


def to_row(
    name: str, batches: Batches, seconds: dict[Form, list[float]], lengths: np.ndarray
) -> dict[str, Any]:
    """What a contender costs for the whole stream."""
    counts = Counter(batches.forms)
    typical = {form: statistics.median(times) for form, times in seconds.items()}
    tokens = sum(count * form.rows * form.length for form, count in counts.items())
    return {
        "contender": name,
        "programs": len(counts),
        "updates": len(batches.forms),
        "tokens over those of examples": tokens / int(lengths.sum()),
        "examples per second": len(lengths)
        / sum(count * typical[form] for form, count in counts.items()),
        "forms": [
            {**form._asdict(), "updates": counts[form], "all seconds": seconds[form]}
            for form in sorted(counts)
        ],
    }


def to_markdown(
    rows: list[dict[str, Any]], lengths: np.ndarray, arguments: argparse.Namespace
) -> str:
    """The table that a person reads."""
    packed = [r["examples per second"] for r in rows if r["contender"] == "packed"]
    lines = [
        f"{len(lengths):,} examples of {lengths.min()} to {lengths.max()} tokens, updates of about "
        f"{2 * lengths.max():,}; width {arguments.width}, depth {arguments.depth}, "
        f"{arguments.dtype}, {arguments.rounds} rounds.",
        "",
        "| contender | programs | tokens over those of examples | examples/s "
        "| packed is faster by |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        ours = packed and row["contender"] != "packed"
        ratio = f"{packed[0] / row['examples per second']:.2f}" if ours else ""
        lines.append(
            f"| {row['contender']} | {row['programs']} "
            f"| {row['tokens over those of examples']:.3f} "
            f"| {row['examples per second']:.2f} | {ratio} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
