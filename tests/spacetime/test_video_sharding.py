"""VideoDiT with tokens spread over `sequence`: as on one device, clips and packs."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import run_processes
from sharded_video import CONFIG, TEXT, B, L, clips, figures_of, loss_on, packs

from jaxgen.parallel import (
    abstract_mesh,
    bytes_per_device,
    communication,
    gather_fsdp,
    make_mesh,
    on_abstract_mesh,
    plan_layout,
)
from jaxgen.spacetime import VideoDiTConfig

FAST = {"xla_backend_optimization_level": 0}
CASES = {
    # Causal in time, recomputed in the backward pass.
    "joint clips": ({"causal": True, "remat": True}, "data=2,sequence=2,model=2"),
    "packs": ({"text_width": TEXT, "attention": "blocks"}, "fsdp=2,sequence=4"),
    "factorised clips": ({"attention_pattern": "factorised"}, "data=2,sequence=2,model=2"),
}


def value_and_gradient(config, given, mesh=None):
    """Outputs, loss and gradient, as numpy arrays; and what the program sends."""
    loss, *arguments = loss_on(config, given, mesh)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*arguments).compile(FAST)
    found = jax.tree.map(np.asarray, step(*arguments))
    return found, None if mesh is None else communication(step, mesh=mesh)


@pytest.mark.parametrize("case", CASES)
def test_outputs_loss_and_gradients_are_those_of_one_device(case):
    changes, description = CASES[case]
    config = dataclasses.replace(CONFIG, **changes)
    given = packs() if case == "packs" else clips()
    expected, _ = value_and_gradient(config, given)
    with jax.set_mesh(mesh := make_mesh(description)):
        found, report = value_and_gradient(config, given, mesh)
    assert abs(expected[0][1]).max() > 0.1
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(abs(b).max())))
    # An attention exchanges q, k, v and what is seen, forward and backward (recomputed, q, k and v
    # twice); in space nothing. What a device exchanges: its examples, tokens and heads.
    exchanges = report.of_kind("all-to-all")
    assert {c.axes for c in exchanges} == {("sequence",)}
    times = 11 if config.remat else 8
    assert exchanges.bytes == times * 4 * B * L * config.width // 8
    # Ids are gathered, but nothing of tokens.
    others = report.along("sequence").of_kind("all-gather", "collective-permute")
    assert {o.dtype for c in others for o in c.operands} <= {"s32"}


@pytest.mark.slow
def test_two_processes_share_the_tokens_of_packs(tmp_path):
    """Within a process, and across both."""
    worker = pathlib.Path(__file__).parent / "sharded_video.py"
    meshes = ["fsdp=2,sequence=4", "sequence=8"]
    run_processes(worker, [str(tmp_path / "found.json"), *meshes])
    found, (loss, norms) = json.loads((tmp_path / "found.json").read_text()), figures_of()
    for mesh in meshes:
        assert found[mesh][0] == pytest.approx(loss, abs=1e-6)
        np.testing.assert_allclose(found[mesh][1], norms, rtol=1e-5, atol=1e-6)


BILLION = VideoDiTConfig(
    in_channels=16,
    out_channels=16,
    width=3072,
    depth=6,
    heads=32,
    num_classes=0,
    dtype="bfloat16",
    positions="rotary",
    conditioning="adaln_shared",
    text_width=512,
)


@pytest.mark.parametrize("description", ["fsdp=16,model=16", "fsdp=16,sequence=4,model=4"])
def test_a_billion_parameters_on_256_devices_that_are_not_there(description):
    """Shapes, shardings and bytes per device; nothing is allocated."""
    mesh, model = abstract_mesh(description, 256), BILLION.make_model()
    given = {
        "z_BTYXC": jax.ShapeDtypeStruct((16, 16, 64, 64, 16), jnp.float32),
        "time_B": jax.ShapeDtypeStruct((16,), jnp.float32),
        "text_BNC": jax.ShapeDtypeStruct((16, 64, 512), jnp.float32),
    }

    def init(key, given):
        return model.init(key, **given)["params"]

    def loss(params, given):
        outputs = model.apply({"params": gather_fsdp(params, layout)}, **given)
        return jnp.square(outputs).mean(), outputs

    with on_abstract_mesh(mesh):
        layout = plan_layout(init, jax.random.key(0), given, mesh=mesh)
        step = jax.value_and_grad(loss, has_aux=True)
        (_, outputs), gradients = jax.eval_shape(step, layout.abstract, given)
    assert outputs.shape == given["z_BTYXC"].shape
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, layout.abstract)
    leaves, parts = jax.tree.leaves(layout.abstract), mesh.shape["model"]
    total = sum(math.prod(x.shape) for x in leaves)
    assert 0.95e9 < total < 1.1e9
    qkv = layout.abstract["blocks_0"]["attention"]["qkv"]["kernel"]
    assert qkv.sharding.shard_shape(qkv.shape) == (3072 // 16, 32 // parts, 3, 96)
    # Heads and units are cut along both axes, the rest along fsdp alone (but for tables and some
    # biases, which are whole along it).
    both = sum(x.size for x in leaves if "model" in x.sharding.spec)
    assert both > 0.9 * total
    expected = 4 * (both / (16 * parts) + (total - both) / 16)
    assert bytes_per_device(layout.abstract) == pytest.approx(expected, rel=0.03)
