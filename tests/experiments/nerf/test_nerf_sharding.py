"""Training steps of radiance fields over devices: as on one, and the gradient is sent once."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.nerf import communication
from experiments.nerf.communication import field_training_program, plan_tables
from experiments.nerf.support.field_flags import FieldFlags
from experiments.nerf.support.field_training import GRID, FieldTrainingFlags, resident_views
from experiments.shared.launch import LaunchConfig
from jaxgen.data import load_scene
from jaxgen.parallel import communication as communication_of
from jaxgen.parallel import make_mesh, put_batch
from jaxgen.training import create_state, make_optimizer

RAYS, STEPS = 64, 3
SMALL = {"levels": 3, "log2_table_size": 10, "finest_resolution": 32}
OCCUPANCY = FieldFlags(**SMALL, candidates=4096, samples=2048)
EVEN = FieldFlags(**SMALL, occupancy=False, coarse_samples=16, fine_samples=8)


@pytest.fixture(scope="module")
def scene():
    return load_scene("shapes", size=16)


def train(scene, flags, tables, description):
    """Losses, parameters and occupancy grid after a few updates on a mesh."""
    devices = jax.devices()[:1] if description == "data=1" else None
    with jax.set_mesh(make_mesh(description, devices)) as _:
        mesh = jax.sharding.get_mesh()
        field = flags.config(scene)
        training = dataclasses.replace(
            FieldTrainingFlags(rays=RAYS, training_steps=STEPS), learning_rate=1e-2
        ).for_field(field)
        layout = plan_tables(field, tables)
        resident = resident_views((scene.part("train"),))
        step, (abstract, *_) = field_training_program(field, layout, training, resident)
        variables = None if field.occupancy is None else {GRID: field.occupancy.initial()}
        state, _ = create_state(
            field.make_init(),
            jax.random.key(0),
            tx=make_optimizer(training.optimizer()),
            ema=True,
            variables=variables,
        )
        state = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), state, abstract)
        ones = np.ones(RAYS, np.float32)
        batch = {"number": np.arange(RAYS, dtype=np.int32), "anneal": ones, "progress": ones}
        losses = []
        for _ in range(STEPS):
            state, metrics = step(state, put_batch(batch, mesh), jax.random.key(1), resident)
            losses.append(float(metrics["loss"]))
        return losses, jax.device_get((state.params, state.variables))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "mesh", "tables"),
    [
        (OCCUPANCY, "data=8", "replicated"),
        (EVEN, "fsdp=8", "fsdp"),
        (OCCUPANCY, "data=4,model=2", "model"),
    ],
    ids=["occupancy", "even", "occupancy, model"],
)
def test_eight_devices_are_one(scene, flags, mesh, tables):
    losses, (params, variables) = train(scene, flags, tables, mesh)
    expected, (params_1, variables_1) = train(scene, flags, "replicated", "data=1")
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[-1] != losses[0]
    # Adam without epsilon turns rounding of rare gradients into whole steps.
    for found, one in zip(*map(jax.tree.leaves, (params, params_1)), strict=True):
        assert np.abs(found - one).mean() < 1e-2 * np.abs(one).mean()
    if variables is not None:
        density, density_1 = (v[GRID]["density"] for v in (variables, variables_1))
        np.testing.assert_allclose(density, density_1, rtol=1e-2, atol=1e-5)


@pytest.mark.slow
def test_gradients_of_tables_are_summed_over_devices_once(tmp_path):
    config = communication.Config(
        launch=LaunchConfig(workdir=str(tmp_path / "run"), devices=8),
        tables=("replicated",),
        field=EVEN,
        training=FieldTrainingFlags(rays=RAYS),
    )
    with jax.set_mesh(make_mesh("data=8")):
        found = communication.main(config)
        layout = plan_tables(EVEN.config(load_scene("shapes", size=16)), "replicated")
    parameters = sum(x.size for x in jax.tree.leaves(layout.abstract))
    # Gradients, and the loss and one figure.
    assert found["training step, tables: replicated/data"] == pytest.approx(4 * parameters, abs=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "tables"), [("fsdp=8", "fsdp"), ("data=4,model=2", "model")], ids=["fsdp", "model"]
)
def test_what_sharded_tables_communicate(scene, mesh, tables):
    """By fsdp they are gathered and their gradient is summed; by model what is read is summed.

    By fsdp each device gives its eighth of every sharded array, and the gradient of all. By model
    it gives, of the points of its rays, 4 features at 8 corners in 3 levels, and over the data axis
    the gradient of its half of all. Losses and norms are a few numbers.
    """
    with jax.set_mesh(make_mesh(mesh)):
        field = EVEN.config(scene)
        training = FieldTrainingFlags(rays=RAYS).for_field(field)
        layout = plan_tables(field, tables)
        resident = resident_views((scene.part("train"),))
        program, arguments = field_training_program(field, layout, training, resident)
        found = communication_of(program, *arguments)
    leaves = jax.tree.leaves(layout.abstract)
    parameters = sum(x.size for x in leaves)
    if tables == "fsdp":
        sharded = sum(x.size for x in leaves if "fsdp" in x.sharding.spec)
        assert found.along("fsdp").bytes == pytest.approx(4 * (parameters + sharded / 8), abs=32)
    else:
        read = [c.bytes for c in found.collectives if "grid/gather" in c.op_name]
        points = RAYS // 4 * (EVEN.coarse_samples + EVEN.fine_samples)
        assert sum(read) == 4 * points * 3 * 8 * 4
        assert found.along("data").bytes == pytest.approx(4 * parameters / 2, abs=32)
