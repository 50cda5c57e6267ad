"""Speed of pipelines from texts to images against diffusers' in PyTorch.

    taskset -c 0 python -m benchmarks.text_to_image            # a quarter of the width, one core
    python -m benchmarks.text_to_image --width 320 --side 64 --steps 20 --dtype bfloat16   # a GPU

Forms:

* text: tokens and states of the prompts, 77 tokens each;
* step: the network once, on the doubled batch of guidance;
* image: prompts to pixels: text, guided DDIM, decoding.

Both sides open one folder of random weights that jaxgen writes: the parts of Stable Diffusion 1
with ``--width`` channels in place of 320 and everything else in proportion. The baseline is in
`benchmarks/text_to_image_torch.py`. Before anything is timed, states, predictions and pixels must
agree to 1e-3 (in bfloat16 to 0.1), relative to the largest number. In bfloat16 both sides cast
weights once. Contenders are processes that take turns (`benchmarks/contenders.py`); "product" is a
square matrix product of the same framework, the limit that the machine sets.
"""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import pathlib
import sys
import tempfile
from collections.abc import Callable
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
from benchmarks.nerf import compared

FORMS = ("text", "step", "image")
SIDES = ("jaxgen", "torch")
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}
PROMPTS = ("a small red circle at the top left", "a large blue square", "a green ring", "a house")
SCALE, TIME = 7.5, 500.0
"""Of guidance; of a step."""
PUBLISHED_WIDTH = 320
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    **{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    **{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
}


def main() -> None:
    """Runs the comparison, prints it and writes it."""
    arguments = parse_arguments()
    names = ("batch", "width", "side", "steps", "dtype", "product")
    shape = {name: getattr(arguments, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: a contender's peak memory would begin at that of its parent.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            cost = other.submit(write_inputs, pathlib.Path(folder), shape).result()
        rows = measure(shape, folder, arguments)
    report = {"shape": shape, "multiply-adds of a step": cost, "rows": rows}
    write_report(report, to_markdown(report, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--batch", type=int, default=1, help=f"prompts, at most {len(PROMPTS)}")
    parser.add_argument("--width", type=int, default=80, help="channels at the first level, 80 n")
    parser.add_argument("--side", type=int, default=32, help="rows and columns of the latents")
    parser.add_argument("--steps", type=int, default=4, help="of an image")
    parser.add_argument("--dtype", default="float32", choices=[*TOLERANCES])
    parser.add_argument("--product", type=int, default=2048, help="rows of the matrix product")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender")
    parser.add_argument("--clock", default="wall", choices=[*CLOCKS], help="see contenders.py")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--huge-pages", action="store_true", help="for the memory of all")
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix for .md and .json")
    return parser.parse_args()


def write_inputs(folder: pathlib.Path, shape: dict[str, Any]) -> int:
    """A pipeline with random weights, and noise; returns the multiply-adds of a step."""
    import jax

    from jaxgen.nn.counting import multiply_adds
    from jaxgen.pretrained import save_pipeline

    pipeline = make_pipeline(shape)
    save_pipeline(pipeline, folder / "pipeline")
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(shape["batch"], shape["side"], shape["side"], 4)).astype(np.float32)
    np.save(folder / "noise.npy", noise)
    config, params = pipeline.network
    text = np.zeros((1, pipeline.tokenizer.length, config.text_width), np.float32)
    example = noise[:1], np.zeros(1, np.float32)
    model = config.make_model()
    return (
        2
        * shape["batch"]
        * multiply_adds(
            lambda p: model.apply({"params": p}, *example, text_BNC=text),
            jax.eval_shape(lambda: params),
        )
    )


def make_pipeline(shape: dict[str, Any]):
    """Stable Diffusion 1 in another width, with random weights."""
    import jax
    from flax import linen as nn

    from jaxgen.compressors.bottlenecks.gaussian_bottleneck import KLConfig
    from jaxgen.compressors.compressor import CompressorConfig
    from jaxgen.compressors.frame_autoencoder import FrameAutoencoderConfig
    from jaxgen.data.tokenizers import train_tokenizer
    from jaxgen.encoders import CLIPTextConfig
    from jaxgen.encoders.encoded import encoder_init
    from jaxgen.pretrained import LoadedNetwork, TextToImagePipeline, from_diffusers_scheduler
    from jaxgen.pretrained.networks import abstract_params
    from jaxgen.unet import UNetConfig

    share = shape["width"] / PUBLISHED_WIDTH
    tokenizer = train_tokenizer(PROMPTS, 600, "bpe", length=77)
    width = int(768 * share)
    text = CLIPTextConfig(
        **{"width": width, "depth": 12, "heads": 12, "mlp_units": 4 * width, "projection": None},
        vocabulary=tokenizer.size,
    )
    network = UNetConfig.stable_diffusion("1", text_width=width)
    channels = tuple(int(size * share) for size in network.channels)
    network = dataclasses.replace(network, channels=channels, groups=16)
    sizes = tuple(int(size * share) for size in (128, 256, 512, 512))
    frames = FrameAutoencoderConfig(channels=sizes, groups=16)
    latents = CompressorConfig(frames, KLConfig(4), (8, 8, 3))
    key = jax.random.key(0)
    like = nn.meta.unbox(jax.eval_shape(latents.make_init(), key))
    statistics = {"mean": np.zeros(4, np.float32), "deviation": np.ones(4, np.float32)}
    return TextToImagePipeline(
        tokenizer,
        LoadedNetwork(text, randomly(nn.meta.unbox(jax.eval_shape(encoder_init(text), key)))),
        LoadedNetwork(network, randomly(abstract_params(network, (8, 8)))),
        LoadedNetwork(latents, {**randomly(like), "statistics": statistics}),
        from_diffusers_scheduler(SCHEDULER),
        (shape["side"], shape["side"]),
    )


def randomly(like: Any) -> Any:
    """Random numbers for every parameter, of a size that keeps activations as they are."""
    import jax

    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key == "scale":
            return np.ones(leaf.shape, np.float32)
        inputs = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 400
        return (inputs**-0.5 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, like)


def measure(
    shape: dict[str, Any], folder: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Seconds of the contenders, taken in turns."""
    contenders = {}
    for form, side in itertools.product([*arguments.forms, "product"], arguments.sides):
        task = {**shape, "side": side, "latents": shape["side"], "form": form, "folder": folder}
        progress(f"starting {form}, {side}")
        python = sys.executable if side == "jaxgen" else arguments.torch_python
        variables = HUGE_PAGES if arguments.huge_pages else {}
        task["clock"] = arguments.clock
        contender = Contender.start(python, "benchmarks.text_to_image", task, variables)
        if contender is not None:
            contenders[form, side] = contender
    return measure_in_turns(
        contenders,
        arguments.rounds,
        pathlib.Path(folder),
        TOLERANCES[arguments.dtype],
        unchecked=("product",),
    )


def serve(task: dict[str, Any]) -> None:
    """The life of a contender."""
    folder = pathlib.Path(task["folder"])
    noise = np.load(folder / "noise.npy")
    prompts = list(PROMPTS[: task["batch"]])
    if task["side"] == "jaxgen":
        run = make_jaxgen_run(task, prompts, noise)
    else:
        from benchmarks.text_to_image_torch import make_torch_pipeline_run

        run = make_torch_pipeline_run(task, prompts, noise, SCALE, TIME)
    np.save(folder / f"{task['form']}_{task['side']}.npy", run())
    serve_function(run, task["clock"])
    say_goodbye()


def make_jaxgen_run(
    task: dict[str, Any], prompts: list[str], noise: np.ndarray
) -> Callable[[], Any]:
    """A run of jaxgen."""
    import jax

    from jaxgen.parallel import keep_freed_memory
    from jaxgen.pretrained import load_pipeline

    keep_freed_memory()  # as experiments do
    if task["form"] == "product":
        left = jax.random.normal(jax.random.key(0), (task["product"],) * 2, task["dtype"])
        product = jax.jit(lambda x: x @ x)
        return lambda: np.asarray(product(left)[0, 0])
    pipeline = load_pipeline(f"{task['folder']}/pipeline", dtype=task["dtype"])
    parts = {name: computing_in(getattr(pipeline, name), task["dtype"]) for name in PARTS}
    pipeline = dataclasses.replace(pipeline, **parts)
    encode = lambda: pipeline.encode(prompts)  # noqa: E731
    if task["form"] == "text":
        return lambda: np.asarray(encode())
    key = jax.random.key(0)
    if task["form"] == "step":
        config, params = pipeline.network
        model, text = config.make_model(), np.concatenate([encode()] * 2)
        both, times = np.concatenate([noise] * 2), np.full(2 * len(noise), TIME, np.float32)
        apply = jax.jit(lambda p, *z: model.apply({"params": p}, *z, text_BNC=text))
        return lambda: np.asarray(apply(params, both, times))

    def run() -> np.ndarray:
        texts = encode(), pipeline.encode([""] * len(prompts))
        options = {"guidance_scale": SCALE, "steps": task["steps"]}
        latents = pipeline.sample_latents(*texts, key, noise, **options)
        return np.clip(np.asarray(pipeline.decode(latents)), -1, 1)

    return run


PARTS = ("encoder", "network", "autoencoder")


def computing_in(part: Any, dtype: str) -> Any:
    """A part of a pipeline with another compute dtype."""
    config = part.config
    if hasattr(config, "bottleneck"):
        config = dataclasses.replace(
            config, network=dataclasses.replace(config.network, dtype=dtype)
        )
    else:
        config = dataclasses.replace(config, dtype=dtype)
    return part._replace(config=config)


def to_markdown(report: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The table that a person reads."""
    a, rows = arguments, report["rows"]
    rate = max(2 * a.product**3 / min(r["all seconds"]) for r in rows if r["form"] == "product")
    pixels = 8 * a.side
    lines = [
        f"Stable Diffusion 1 with {a.width} channels in place of {PUBLISHED_WIDTH}, batch "
        f"{a.batch}, {pixels} x {pixels} pixels, {a.steps} steps, {a.dtype}, {a.rounds} rounds, "
        f"{a.clock} time; the best product reached {rate / 1e9:,.0f} Gflop/s.",
        "",
        "| what | side | seconds | of the best product | peak MB | jaxgen is faster by "
        "| in single rounds | differs by |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    ours = {row["form"]: row for row in rows if row["side"] == "jaxgen"}
    for row in rows:
        share = ""
        if row["form"] == "step":
            share = f"{2 * report['multiply-adds of a step'] / row['seconds'] / rate:.0%}"
        lines.append(
            f"| {row['form']} | {row['side']} | {row['seconds']:.3f} | {share} "
            f"| {row['peak megabytes']:,.0f} {compared(row, ours.get(row['form']))}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        main()
