"""What test_distributed.py runs as one process and as two: writes what a process saw to a file.

    python two_processes.py FILE MESH [MESH ...]

For every mesh it initialises a small network already sharded, takes steps on batches given whole
and given in part, and writes the losses, the final parameters and who did what as JSON.
"""

import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from jaxgen.parallel import (
    barrier,
    communication,
    gather_fsdp,
    init_optimizer,
    init_sharded,
    is_main_process,
    make_mesh,
    on_main_process,
    process_rows,
    put_batch,
    put_local_batch,
    shardings_of,
    start,
)

RULES = {"embed": "fsdp", "mlp": "model", "vocab": "model"}
BATCH = 16
named = nn.with_logical_partitioning


class Network(nn.Module):
    @nn.compact
    def __call__(self, inputs_BD):
        init = nn.initializers.normal(0.5)
        hidden = nn.Dense(32, kernel_init=named(init, ("embed", "mlp")), use_bias=False)(inputs_BD)
        return nn.Dense(24, kernel_init=named(init, ("embed", "vocab")), use_bias=False)(
            jnp.tanh(hidden)
        )


def batch_of(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    inputs = rng.normal(size=(BATCH, 8)).astype(np.float32)
    return {"inputs": inputs, "targets": rng.integers(0, 24, BATCH).astype(np.int32)}


def train(mesh: jax.sharding.Mesh) -> dict:
    model, tx = Network(), optax.adamw(1e-2)
    inputs = jnp.zeros((1, 8))
    params, layout = init_sharded(model.init, jax.random.key(1), inputs, mesh=mesh, rules=RULES)
    state = init_optimizer(tx, params, layout)

    def loss_fn(params, batch):
        logits_BV = model.apply(gather_fsdp(params, layout), batch["inputs"])
        return optax.softmax_cross_entropy_with_integer_labels(logits_BV, batch["targets"]).mean()

    def step(params, state, batch):
        loss, gradients = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    pinned = (layout.shardings, shardings_of(state), None)
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=pinned)
    compiled = jitted.lower(params, state, put_batch(batch_of(0), mesh)).compile()
    rows, losses = process_rows(mesh, BATCH), []
    for i in range(6):
        whole = batch_of(i)
        local = {name: array[rows] for name, array in whole.items()}
        batch = put_batch(whole, mesh) if i % 2 else put_local_batch(local, mesh, BATCH)
        params, state, loss = compiled(params, state, batch)
        losses.append(float(loss))
    whole_params = multihost_utils.process_allgather(params, tiled=True)
    return {
        "losses": losses,
        "params": [leaf.tolist() for leaf in jax.tree.leaves(whole_params)],
        "rows": rows.tolist(),
        "bytes": communication(compiled, mesh=mesh).bytes_by_axes(),
    }


def main() -> None:
    path, *meshes = sys.argv[1:]
    start(timeout_s=120)
    start(timeout_s=120)  # changes nothing
    found = {
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "local": [device.id for device in jax.local_devices()],
        "main": is_main_process(),
        "on_main": on_main_process(lambda word, times: word * times, "a", times=3),
        "runs": {mesh: train(make_mesh(mesh)) for mesh in meshes},
    }
    Path(path).write_text(json.dumps(found))
    barrier("written")


if __name__ == "__main__":
    main()
