"""What a plan says of a device: held to arrays that are really there, and to XLA's own count."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import ROOT, xla_flags

from experiments import plan
from experiments.shared.launch import LaunchConfig, parse_flags
from jaxgen.errors import InputError
from jaxgen.parallel import communication, make_mesh, mesh_places

MESH = "data=2,fsdp=2,model=2"
SMALL = {"model": "nplm", "batch_size": 64}


@pytest.fixture(scope="module")
def planned():
    """The configuration, its state and batch without numbers, and the compiled step."""
    config = plan.Config(launch=LaunchConfig(mesh=MESH), **SMALL)
    with jax.set_mesh(make_mesh(MESH)):
        program, arguments = plan.training_step_of(config)
        compiled = program.lower(*arguments).compile()
        figures = plan.held_by_each_device(arguments[0], arguments[1], compiled)
    return config, arguments, compiled, figures


def bytes_on(device, tree):
    """What a device holds of arrays that are there."""
    made = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), tree)
    shards = [s for x in jax.tree.leaves(made) for s in x.addressable_shards]
    return sum(s.data.nbytes for s in shards if s.device == device)


def test_a_device_holds_what_is_planned(planned):
    config, (state, *_), compiled, figures = planned
    assert (config.launch.devices, figures["devices"]) == (8, 8)
    device = jax.devices()[3]
    assert figures["bytes of parameters"] == bytes_on(device, state.params)
    assert figures["bytes of the optimizer"] == bytes_on(device, state.opt_state)
    assert figures["parameters"] == sum(x.size for x in jax.tree.leaves(state.params))
    memory = compiled.memory_analysis()
    held = sum(figures[f"bytes of {name}"] for name in ("parameters", "the optimizer", "the batch"))
    assert 0 <= memory.argument_size_in_bytes - held < 64  # counts of steps, and the key
    assert figures["bytes of activations and other temporaries"] == memory.temp_size_in_bytes > 0
    assert figures["bytes in all"] == held + memory.temp_size_in_bytes


ADM_64 = 295_904_454 + 9 * 192 - 2 * (9 * 192 + 1) + 768
"""As published, with 4 channels in and, in place of 6, out, and with a null class."""


@pytest.mark.parametrize(
    ("model", "parameters", "example"),
    [
        ("stable-diffusion-1", 859_520_964, 4 * (64 * 64 * 4 + 77 * 768) + 77),
        ("ADM-64", ADM_64, 4 * (64 * 64 * 4 + 1)),
        ("ngp", 3_066_720, 4 * 3),
    ],
)
def test_steps_of_u_nets_and_fields(model, parameters, example):
    """An example (a ray, of which number and two shares of the run) lies on each device."""
    mesh = "data=2,fsdp=4"
    launch = LaunchConfig(mesh=mesh)
    config = plan.Config(launch=launch, model=model, batch_size=8, image_size=64)
    with jax.set_mesh(make_mesh(mesh)):
        _, (state, batch, *_) = plan.training_step_of(config)
    assert sum(x.size for x in jax.tree.leaves(state.params)) == parameters
    assert bytes_on(jax.devices()[3], batch) == example


def test_the_text_says_it_all(planned):
    config, (state, _, _), compiled, figures = planned
    with jax.set_mesh(make_mesh(MESH)):
        sent = communication(compiled)
    text = plan.plan_text(config, figures, sent, state.params)
    assert re.search(rf"\| bytes of parameters +\| +{figures['bytes of parameters']:,} \|", text)
    assert "all-reduce" in text
    rows = plan.grouped_rows(state.params)
    sizes = {name: np.prod([int(x) for x in part.split(", ")]) for name, *_, part in rows}
    assert 4 * sum(sizes.values()) == figures["bytes of parameters"]
    assert ("context/C", "1", "17906, 30", "-, fsdp", "17906, 15") in rows


def test_blocks_share_a_row():
    leaf = jax.ShapeDtypeStruct(
        (8, 4), np.float32, sharding=jax.NamedSharding(make_mesh("data=8"), jax.P("data", None))
    )
    params = {"blocks_0": {"kernel": leaf}, "blocks_11": {"kernel": leaf}, "end": {"kernel": leaf}}
    rows = plan.grouped_rows(params)
    assert rows == [
        ("blocks_*/kernel", "2", "8, 4", "data, -", "1, 4"),
        ("end/kernel", "1", "8, 4", "data, -", "1, 4"),
    ]


@pytest.mark.slow
def test_a_mesh_larger_than_the_machine(tmp_path):
    """256 places, in a process of its own; bytes follow from shapes alone."""
    flags = ["nplm", "--mesh", "data=16,fsdp=2,model=8", "--batch-size", "256"]
    command = [sys.executable, "-m", "experiments.plan", *flags, "--workdir", str(tmp_path / "p")]
    environment = {**os.environ, "XLA_FLAGS": xla_flags(), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    figures = json.loads((tmp_path / "p/metrics.json").read_text())
    assert figures["devices"] == 256
    vocabulary = 17_906 + -17_906 % 8
    cut = 17_906 * 30 + 120 * 100 + 100 * vocabulary  # C, H and U: their `embed` in halves
    assert figures["parameters"] >= cut + vocabulary
    assert figures["bytes of parameters"] < 4 * (17_906 * 15 + 2 * 100 * vocabulary / 8 + 13_000)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (
            ["Unet"],
            "model is 'Unet', expected a published network such as DiT-S/2, U-ViT-S/2, MDT-S/2, "
            "DiffiT-XL/2, ADM-64, or one of stable-diffusion-1, stable-diffusion-2, ",
        ),
        (["nplm", "--remat"], "remat is True of nplm"),
        (["nerfacto", "--remat"], "remat is True of nerfacto"),
        (["nplm", "--mesh", "data=-1"], "-1 stands for the rest of the devices"),
        (["nplm", "--mesh", "rows=2"], "unknown axis 'rows'"),
    ],
)
def test_odd_plans_are_refused(flags, fault):
    with pytest.raises(InputError) as error:
        parse_flags(plan.Config, flags)
    assert fault in str(error.value)


def test_places_of_a_mesh():
    assert mesh_places("data=16, fsdp=16") == 256
    assert parse_flags(plan.Config, []).launch.devices == 256
