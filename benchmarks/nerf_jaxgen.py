"""jaxgen's side of benchmarks/nerf.py: inputs and weights for both sides, runs, cost of rendering.

Run by benchmarks/nerf.py; not a script of its own. JAX is imported where it is needed: the process
that starts the others has no use for it.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.contenders import CLOCKS, progress

Run = Callable[[], np.ndarray]

RAYS_OF_SAMPLES = 1024
"""At which cost against samples is measured."""


def field_config(form: str, shape: dict[str, Any]) -> Any:
    """The radiance field of a form."""
    from jaxgen.nerf import NeRFFieldConfig, RadianceConfig

    if form == "network step":
        network = NeRFFieldConfig(width=shape["width"], colour_width=shape["width"] // 2)
        return RadianceConfig(network, coarse_samples=32, fine_samples=32, two_networks=True)
    return RadianceConfig()


def write_inputs(folder: pathlib.Path, shape: dict[str, Any]) -> None:
    """Weights and inputs for both sides."""
    import jax
    from flax import linen as nn
    from flax import traverse_util

    generator = np.random.default_rng(0)
    origins = generator.normal(size=(shape["rays"], 3))
    origins *= 4 / np.linalg.norm(origins, axis=-1, keepdims=True)
    directions = generator.uniform(-1, 1, (shape["rays"], 3)) - origins
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    grid = field_config("encode", shape).field.grid
    arrays = {
        "points": generator.uniform(size=(shape["points"], 3)),
        "target": generator.normal(size=(shape["points"], grid.width)),
        "origin": origins,
        "direction": directions,
        "colour": generator.uniform(size=(shape["rays"], 3)),
    }
    np.savez(folder / "inputs.npz", **{k: v.astype(np.float32) for k, v in arrays.items()})
    weights = {}
    for form in ("hash step", "network step"):
        init = field_config(form, shape).make_init()
        params = nn.meta.unbox(jax.jit(init)(jax.random.key(0)))
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
            # Features that matter, so that what they are multiplied by has gradients.
            given = leaf if path.split("/")[-1] != "table" else 1e3 * leaf
            weights[f"{form}/{path}"] = np.asarray(given)
    np.savez(folder / "weights.npz", **weights)


def network_multiply_adds(shape: dict[str, Any]) -> int:
    """Of a training step of the original networks, backward counted as two forward passes."""
    import jax
    import jax.numpy as jnp

    from jaxgen.nn.counting import multiply_adds

    config = field_config("network step", shape)
    model, point = config.field.make_model(), jnp.zeros((1, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), point, point)
    one = multiply_adds(lambda p: model.apply(p, point, point), params)
    points = 2 * config.coarse_samples + config.fine_samples
    return 3 * one * points * (shape["rays"] // 2)


def make_jaxgen_run(
    task: dict[str, Any], weights: dict[str, np.ndarray], arrays: dict[str, np.ndarray]
) -> Run:
    """A run of jaxgen, whose result is what is compared."""
    import jax
    from flax import traverse_util

    from jaxgen.parallel import keep_freed_memory

    keep_freed_memory()  # as experiments do
    form, shape = task["form"], task["shape"]
    if form == "product":
        left = jax.random.normal(jax.random.key(0), (shape["product"],) * 2)
        product = jax.jit(lambda x: x @ x)
        return lambda: np.asarray(product(left))
    config = field_config(form, shape)
    if form.startswith("encode"):
        return make_encoding(form, config.field.grid, weights["hash step/fine/grid/table"], arrays)
    own = {k.removeprefix(f"{form}/"): v for k, v in weights.items() if k.startswith(form)}
    params = jax.device_put(traverse_util.unflatten_dict(own, sep="/"))
    return make_training(config, params, arrays, task)


def make_encoding(form: str, grid: Any, table: np.ndarray, arrays: dict[str, np.ndarray]) -> Run:
    """``run() -> features``, or the gradient of the table."""
    import jax

    model = grid.make_model()

    def encode(table: Any, x: Any) -> Any:
        return model.apply({"params": {"table": table}}, x)

    def loss(table: Any, x: Any, target: Any) -> Any:
        return (encode(table, x) * target).sum()

    given = jax.device_put((table, arrays["points"], arrays["target"]))
    if form == "encode":
        forward = jax.jit(encode)
        return lambda: np.asarray(forward(*given[:2]))
    both = jax.jit(jax.value_and_grad(loss))
    return lambda: np.asarray(both(*given)[1])


def make_training(config: Any, params: Any, arrays: dict[str, np.ndarray], task: dict) -> Run:
    """``run() -> losses`` of updates by Adam on the squared error of colours."""
    import jax
    import jax.numpy as jnp

    from jaxgen.nerf import Rays, render_rays
    from jaxgen.parallel import make_mesh, put_batch
    from jaxgen.training import OptimizerConfig, compile_step, create_state, make_optimizer
    from jaxgen.training.step import make_train_step

    def loss_fn(params: Any, batch: Any, key: Any) -> Any:
        rays = Rays(batch["origin"], batch["direction"])
        found = render_rays(config, params, rays)
        colours = [found.rendering.colour, *(e.colour for e in found.earlier)]
        return sum(jnp.square(colour - batch["colour"]).mean() for colour in colours), {}

    rays = task["shape"]["rays"] // (2 if config.two_networks else 1)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        tx = make_optimizer(
            OptimizerConfig("adam", task["shape"]["learning rate"], b2=0.99, eps=1e-8)
        )
        state, _ = create_state(lambda given: given, params, tx=tx)
        step = compile_step(make_train_step(loss_fn, tx), state)
        names = ("origin", "direction", "colour")
        batch = put_batch({name: arrays[name][:rays] for name in names}, mesh)

    def run() -> np.ndarray:
        nonlocal state
        losses = []
        with jax.set_mesh(mesh):
            for _ in range(task["shape"]["updates"]):
                state, metrics = step(state, batch, jax.random.key(0))
                losses.append(metrics["loss"])
        return np.asarray(jax.device_get(losses))

    return run


def measure_samples(counts: list[int], rounds: int, clock: str) -> list[dict[str, Any]]:
    """Seconds of `RAYS_OF_SAMPLES` rays of a field over a hash grid, by even samples of a ray."""
    import jax
    from flax import linen as nn

    from jaxgen.nerf import RadianceConfig, orbit_cameras

    runs, side = {}, round(RAYS_OF_SAMPLES**0.5)
    cameras = orbit_cameras(1, radius=4.0, elevation=30.0, focal=side, height=side, width=side)
    for count in counts:
        config = RadianceConfig(coarse_samples=count, fine_samples=0)
        params = jax.jit(lambda key, c=config: nn.meta.unbox(c.make_init()(key)))(jax.random.key(0))
        render = jax.jit(config.make_render())
        runs[count] = lambda render=render, params=params: render(params, cameras)
    seconds = take_turns(runs, rounds, clock)
    return [
        {
            "samples": count,
            "points": count * side**2,
            "seconds": statistics.median(seconds[count]),
            "all seconds": seconds[count],
        }
        for count in counts
    ]


def measure_views(
    model: pathlib.Path | None, side: int, rounds: int, clock: str
) -> list[dict[str, Any]]:
    """Seconds of a view of a trained field with an occupancy grid, in each way to render it."""
    if model is None:
        return []
    import jax

    from jaxgen.nerf import orbit_cameras
    from jaxgen.parallel import keep_freed_memory
    from jaxgen.training import load_model

    keep_freed_memory()
    opened = load_model(model)
    config, params = opened.config, opened.params
    cells = jax.jit(config.make_cells())(params)
    whole = dataclasses.replace(config.occupancy, least_weight=0.0)
    ways = {
        "to the end, no early termination": (dataclasses.replace(config, occupancy=whole), True),
        "to the end, early termination": (config, True),
        "within the budgets": (config, False),
    }
    cameras = orbit_cameras(
        1, radius=4.0, elevation=30.0, focal=1.25 * side, height=side, width=side
    )
    runs = {}
    for name, (changed, to_the_end) in ways.items():
        render = jax.jit(changed.make_render(to_the_end=to_the_end))
        runs[name] = lambda render=render: render(params, cameras, cells=cells)
    found = {name: run() for name, run in runs.items()}
    reference = np.asarray(next(iter(found.values())).colour)
    seconds = take_turns(runs, rounds, clock)
    return [
        {
            "what": name,
            "seconds": statistics.median(seconds[name]),
            "all seconds": seconds[name],
            "left out": float(np.mean(found[name].left_out)),
            "difference": float(np.abs(np.asarray(found[name].colour) - reference).max()),
        }
        for name in ways
    ]


def take_turns(runs: dict[Any, Callable[[], Any]], rounds: int, clock: str) -> dict[Any, list]:
    """Seconds of every run, round after round."""
    import jax

    now, seconds = CLOCKS[clock], {name: [] for name in runs}
    for run in runs.values():
        jax.block_until_ready(run())
    for round_ in range(rounds):
        for name, run in runs.items():
            start = now()
            jax.block_until_ready(run())
            seconds[name].append(now() - start)
        progress(f"round {round_ + 1} of {rounds}")
    return seconds
