"""jaxgen's side of benchmarks/video.py: inputs and weights for both sides, runs, cost by frames.

Run by benchmarks/video.py; not a script of its own. JAX is imported where it is needed: the process
that starts the others has no use for it.
"""

import functools
import itertools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.contenders import progress


def network_config(shape: dict[str, Any]) -> Any:
    """jaxgen's configuration of a network."""
    if shape["kind"] == "compressor":
        from jaxgen.compressors.causal_autoencoder import CausalAutoencoderConfig

        names = ("width", "blocks", "latent_channels", "channels")
        fields = {name: shape[name] for name in names} | {"decoder_blocks": shape["blocks"]}
        return CausalAutoencoderConfig.patch_first(**fields, patch=tuple(shape["patch"]))
    from jaxgen.spacetime import VideoDiTConfig

    return VideoDiTConfig(
        in_channels=shape["channels"],
        out_channels=shape["channels"],
        **{name: shape[name] for name in ("width", "depth", "heads")},
        num_classes=0,
        attention_pattern=shape["pattern"],
    )


def random_inputs(shape: dict[str, Any]) -> dict[str, np.ndarray]:
    """Videos, times and what is to be predicted: of a compressor, the video itself."""
    generator = np.random.default_rng(0)
    size = (shape["batch"], shape["frames"], shape["side"], shape["side"], shape["channels"])
    z, target = generator.normal(size=(2, *size)).astype(np.float32)
    times = generator.uniform(0, 1000, shape["batch"]).astype(np.float32)
    return {"z": z, "time": times, "target": z if shape["kind"] == "compressor" else target}


def random_weights(shape: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By path, random numbers for every parameter, so large that each matters; scales about 1."""
    import jax
    from flax import linen as nn
    from flax import traverse_util

    init = network_config(shape).make_model().init
    given = [arrays[name] for name in input_names(shape)]
    params = nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), *given))["params"]
    generator = np.random.default_rng(1)
    size = 0.02 if shape["kind"] == "compressor" else shape["width"] ** -0.5
    return {
        path: size * generator.standard_normal(leaf.shape, np.float32) + path.endswith("/scale")
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }


def input_names(shape: dict[str, Any]) -> tuple[str, ...]:
    """What a network takes."""
    return ("z",) if shape["kind"] == "compressor" else ("z", "time")


def write_inputs(folder: pathlib.Path, shape: dict[str, Any]) -> None:
    """Weights and inputs for both sides."""
    arrays = random_inputs(shape)
    np.savez(folder / "inputs.npz", **arrays)
    np.savez(folder / "weights.npz", **random_weights(shape, arrays))


def make_jaxgen_run(
    task: dict[str, Any], weights: dict[str, np.ndarray], arrays: dict[str, np.ndarray]
) -> Callable[[], np.ndarray]:
    """A run of jaxgen, whose result is what is compared."""
    import jax

    from jaxgen.parallel import keep_freed_memory

    keep_freed_memory()  # as experiments do
    shape = task["shape"]
    predict, params = make_predict(shape, weights)
    if task["form"] == "train":
        update = make_update(predict, params, task["learning rate"])
        return lambda: np.stack([update(arrays) for _ in range(task["updates"])])
    times = np.array(task["times"], np.float32)
    if shape["kind"] == "compressor":
        compiled = jax.jit(predict)
        return lambda: [np.asarray(compiled(params, arrays)) for _ in times][-1]

    @jax.jit
    def sample(params: Any, z: Any, times: Any) -> Any:
        def step(z: Any, at: Any) -> Any:
            given = {"z": z, "time": jax.numpy.full(len(z), at)}
            return z - predict(params, given) / len(times), None

        return jax.lax.scan(step, z, times)[0]

    return lambda: np.asarray(sample(params, arrays["z"], times))


def make_predict(shape: dict[str, Any], weights: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """``(params, batch) -> prediction``, and the parameters on the device."""
    import jax
    from flax import traverse_util

    model = network_config(shape).make_model()

    def predict(params: Any, batch: Any) -> Any:
        return model.apply({"params": params}, *(batch[name] for name in input_names(shape)))

    return predict, jax.device_put(traverse_util.unflatten_dict(weights, sep="/"))


def make_update(
    predict: Any, params: Any, rate: float, compiled: dict[Any, Any] | None = None
) -> Callable[[Any], Any]:
    """``batch -> loss`` of an update by AdamW on the squared error; a state is carried along.

    Args:
      predict: ``(params, batch) -> prediction``.
      params: the first.
      rate: the learning rate.
      compiled: a dict that receives the compiled programs of batches, by shape.
    """
    import jax

    from jaxgen.parallel import make_mesh, put_batch
    from jaxgen.training import OptimizerConfig, compile_step, create_state, make_optimizer
    from jaxgen.training.step import make_train_step

    def loss_fn(params: Any, batch: Any, key: Any) -> Any:
        return ((predict(params, batch) - batch["target"]) ** 2).mean(), {}

    programs: dict[Any, Any] = {} if compiled is None else compiled
    mesh, key = make_mesh(devices=jax.devices()[:1]), jax.random.key(0)
    with jax.set_mesh(mesh):
        tx = make_optimizer(OptimizerConfig("adamw", rate))
        state, _ = create_state(lambda given: given, params, tx=tx)
        step = compile_step(make_train_step(loss_fn, tx), state)

    def update(arrays: dict[str, np.ndarray]) -> Any:
        nonlocal state
        form = arrays["z"].shape
        with jax.set_mesh(mesh):
            batch = put_batch(arrays, mesh)
            if form not in programs:
                programs[form] = step.lower(state, batch, key).compile()
            state, metrics = programs[form](state, batch, key)
        return metrics["loss"]

    return update


def measure_durations(
    shapes: dict[str, dict[str, Any]], durations: list[int], rounds: int
) -> list[dict[str, Any]]:
    """Seconds and working memory of transformers on one video, by frames, all taking turns.

    Args:
      shapes: of networks, by name.
      durations: frames.
      rounds: runs of each.
    """
    import jax

    from jaxgen.parallel import keep_freed_memory

    keep_freed_memory()
    rows = []
    for network, shape in shapes.items():
        base = shape | {"batch": 1}
        predict, params = make_predict(base, random_weights(base, random_inputs(base)))
        programs: dict[Any, Any] = {}
        update = make_update(predict, params, 1e-4, programs)
        for frames in durations:
            progress(f"{network}: compiling {frames} frames")
            arrays = random_inputs(base | {"frames": frames})
            forward = jax.jit(predict).lower(params, arrays).compile()
            jax.block_until_ready((forward(params, arrays), update(arrays)))
            runs = {
                "forward": functools.partial(forward, params, arrays),
                "train": functools.partial(update, arrays),
            }
            memory = {"forward": forward, "train": programs[arrays["z"].shape]}
            tokens = frames * (base["side"] // 2) ** 2
            rows += [
                {
                    "network": network,
                    "frames": frames,
                    "tokens": tokens,
                    "form": form,
                    "run": run,
                    "all seconds": [],
                    "working bytes": memory[form].memory_analysis().temp_size_in_bytes,
                }
                for form, run in runs.items()
            ]
    for round_, row in itertools.product(range(rounds), rows):
        start = time.perf_counter()
        jax.block_until_ready(row["run"]())
        row["all seconds"].append(time.perf_counter() - start)
        progress(f"durations: round {round_ + 1} of {rounds}")
    for row in rows:
        del row["run"]
        row["seconds"] = statistics.median(row["all seconds"])
    return rows
