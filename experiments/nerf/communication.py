"""What a training step of a radiance field communicates, for each layout of its hash tables.

Compiles the training step on the mesh that `--mesh` describes, and lists every collective with its
kind, mesh axis, operands and bytes per call, for hash tables that are replicated and for tables
whose rows are sharded over a mesh axis. Nothing is trained. Tables are in ``communication.md``.

    python -m experiments.nerf.communication --devices 8 --mesh data=8
    python -m experiments.nerf.communication --devices 8 --mesh data=2,fsdp=2,model=2 \\
        --tables replicated fsdp model
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from experiments.nerf.support.field_flags import FieldFlags, FieldName
from experiments.nerf.support.field_training import (
    GRID,
    FieldTrainingFlags,
    check_rays,
    make_pixel_loss,
    resident_views,
)
from experiments.shared.collectives import Program, report_collectives
from experiments.shared.launch import ExperimentConfig, LaunchConfig, run
from jaxgen.axes import DEFAULT_RULES
from jaxgen.data import load_scene
from jaxgen.nerf import RadianceConfig
from jaxgen.parallel import Layout, batch_sharding, current_mesh, plan_layout
from jaxgen.training import compile_step, make_optimizer, make_train_step
from jaxgen.training.saved_names import register_config
from jaxgen.training.state import abstract_state
from jaxgen.typing import Batch

SIZE = 16
"""Pixels of the views: what is sent does not depend on them."""

TableLayout = Literal["replicated", "fsdp", "model"]


@register_config("nerf.communication")
@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """What to compile.

    Attributes:
      launch: where to run and on what.
      tables: layouts of the hash tables: "replicated", or the mesh axis over which rows are
        sharded.
      field: the field.
      training: rays of an update, optimizer, average.
    """

    launch: LaunchConfig = LaunchConfig(workdir="runs/nerf_communication", mesh="data=8", devices=8)
    tables: tuple[TableLayout, ...] = ("replicated",)
    field: FieldFlags = FieldFlags()
    training: FieldTrainingFlags = FieldTrainingFlags()


def main(config: Config) -> dict[str, int]:
    """Prints and writes the tables; the figures are bytes per device and call, by mesh axes."""
    scene = load_scene("shapes", size=SIZE)
    field = config.field.config(scene)
    flags = config.training.for_field(field)
    check_rays(flags)
    resident = resident_views((scene.part("train"),))
    programs = {
        f"training step, tables: {tables}": field_training_program(
            field, plan_tables(field, tables), flags, resident
        )
        for tables in config.tables
    }
    return report_collectives(config, programs, whole=True)


def field_program(name: FieldName, rays: int) -> Program:
    """A training step of a field with its default sizes on the current mesh, by the current rules.

    Args:
      name: of the field, of those that are rendered along rays.
      rays: of an update, of all devices together.
    """
    scene = load_scene("shapes", size=SIZE)
    field = FieldFlags(field=name).config(scene)
    flags = FieldTrainingFlags(rays=rays).for_field(field)
    check_rays(flags)
    layout = plan_layout(field.make_init(), jax.random.key(0), mesh=current_mesh())
    return field_training_program(field, layout, flags, resident_views((scene.part("train"),)))


def plan_tables(field: RadianceConfig, tables: TableLayout) -> Layout:
    """The layout of a field's parameters with its hash tables replicated, or sharded by rows."""
    rules = {**DEFAULT_RULES, "hash": None if tables == "replicated" else tables}
    return plan_layout(field.make_init(), jax.random.key(0), mesh=current_mesh(), rules=rules)


def field_training_program(
    field: RadianceConfig, layout: Layout, flags: FieldTrainingFlags, resident: Batch
) -> Program:
    """One update: loss, gradient, guard, Adam, moving average, occupancy grid.

    Args:
      field: the radiance field.
      layout: of its parameters.
      flags: rays, optimizer and average.
      resident: views on the devices.
    """
    assert flags.rays is not None  # `for_field` gives a number
    tx = make_optimizer(flags.optimizer())
    variables = None if field.occupancy is None else {GRID: field.occupancy.initial()}
    state = abstract_state(layout, tx, ema=True, variables=variables)
    loss_fn = make_pixel_loss(field, flags.distortion, flags.eikonal, layout)
    stateful = variables is not None
    step = make_train_step(loss_fn, tx, ema_decay=flags.ema_decay, stateful=stateful)
    sharding = batch_sharding(layout.mesh)
    types = {"number": jnp.int32, "anneal": jnp.float32, "progress": jnp.float32}
    batch = {
        name: jax.ShapeDtypeStruct((flags.rays,), dtype, sharding=sharding)
        for name, dtype in types.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    return compile_step(step, state), (state, batch, key, resident)


if __name__ == "__main__":
    run(main, Config)
