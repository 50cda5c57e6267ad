"""A tiny VideoDiT, clips and packs for it, and its loss on a mesh; a worker of two processes.

    python sharded_video.py FILE MESH [MESH ...]

writes the loss on packs and the norm of each gradient on every mesh as JSON, on all processes that
`jaxgen.parallel.start` finds.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from networks import randomised

from jaxgen.nn.positions import grid_places
from jaxgen.parallel import (
    gather_fsdp,
    make_mesh,
    on_main_process,
    plan_layout,
    put_batch,
    replicated,
    start,
)
from jaxgen.spacetime import VideoDiTConfig

B, SIZE, L, C, CLASSES, TEXT = 4, (4, 4, 4), 16, 2, 3, 6
CONFIG = VideoDiTConfig(
    in_channels=C,
    out_channels=C,
    patch=(1, 2, 2),
    width=64,
    depth=1,
    heads=8,
    mlp_ratio=1.0,
    num_classes=CLASSES,
    positions="rotary",
)


def clips():
    """Noisy clips, times and labels."""
    rng = np.random.default_rng(0)
    return {
        "z_BTYXC": rng.normal(size=(B, *SIZE, C)).astype(np.float32),
        "time_B": rng.uniform(0, 1000, B).astype(np.float32),
        "label_B": np.arange(B, dtype=np.int32) % CLASSES,
    }


def packs():
    """Two examples in each pack, of 8 and 4 tokens, padding, and their texts."""
    rng = np.random.default_rng(1)
    first, second = (grid_places(grid) for grid in ((2, 2, 2), (1, 2, 2)))
    place_LA = np.concatenate([first, second, np.zeros((4, 3), first.dtype)])
    segment_L = np.repeat([1, 2, 0], [8, 4, 4]).astype(np.int32)
    return {
        "tokens_BLF": rng.normal(size=(B, L, 4 * C)).astype(np.float32),
        "place_BLA": np.tile(place_LA, (B, 1, 1)).astype(np.float32),
        "segment_BL": np.tile(segment_L, (B, 1)),
        "time_BE": rng.uniform(0, 1000, (B, 2)).astype(np.float32),
        "label_BE": rng.integers(0, CLASSES, (B, 2)).astype(np.int32),
        "text_BNC": rng.normal(size=(B, 3, TEXT)).astype(np.float32),
        "text_segment_BN": np.tile(np.array([1, 1, 2], np.int32), (B, 1)),
    }


def loss_on(config, given, mesh=None):
    """A loss with its outputs, of parameters and input; and both, over a mesh if there is one."""
    packed = "segment_BL" in given
    model, method = config.make_model(), "packed" if packed else None
    one = jax.tree.map(lambda x: x[:1], given)

    def init(key):
        return model.init(key, **one, method=method)["params"]

    params, layout = randomised(nn.unbox(jax.eval_shape(init, jax.random.key(0)))), None
    if mesh is not None:
        layout = plan_layout(init, jax.random.key(0), mesh=mesh)
        params, given = jax.device_put(params, layout.shardings), put_batch(given, mesh)

    def loss(params, given):
        params = params if layout is None else gather_fsdp(params, layout)
        outputs = model.apply({"params": params}, **given, method=method)
        kept = (given["segment_BL"] > 0)[..., None] if packed else True
        return jnp.mean(jnp.where(kept, jnp.sin(outputs), 0)), outputs

    return loss, params, given


def figures_of(mesh=None):
    """The loss on packs, and the norm of each gradient."""
    loss, params, given = loss_on(CONFIG, packs_without_text(), mesh)

    def figures(params, given):
        (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(params, given)
        return value, [jnp.linalg.norm(x.ravel()) for x in jax.tree.leaves(gradients)]

    options = {} if mesh is None else {"out_shardings": replicated(mesh)}
    return jax.tree.map(float, jax.jit(figures, **options)(params, given))


def packs_without_text():
    """`packs` for a network without texts."""
    return {name: x for name, x in packs().items() if not name.startswith("text")}


def main():
    path, *meshes = sys.argv[1:]
    start(timeout_s=120)
    found = {}
    for description in meshes:
        with jax.set_mesh(mesh := make_mesh(description)):
            found[description] = figures_of(mesh)
    on_main_process(Path(path).write_text, json.dumps(found))


if __name__ == "__main__":
    main()
