"""How arrays lie over devices: meshes, shardings by named axes, batches, processes, communication.

Typical start-up, the same on one device and on a pod::

    mesh = make_mesh("data=2,model=4")
    with jax.set_mesh(mesh):
        params, layout = init_sharded(model.init, key, contexts_BL, mesh=mesh)
        opt_state = init_optimiser(tx, params, layout)
        batch = put_batch(numpy_batch, mesh)
"""

from jaxgen.parallel.mesh import current_mesh, make_mesh, parse_mesh
from jaxgen.parallel.sharding import (
    Layout,
    init_optimiser,
    init_sharded,
    optimiser_layout,
    partition_spec,
    plan_layout,
    replicated,
    shardings_of,
)

__all__ = [
    "Layout",
    "current_mesh",
    "init_optimiser",
    "init_sharded",
    "make_mesh",
    "optimiser_layout",
    "parse_mesh",
    "partition_spec",
    "plan_layout",
    "replicated",
    "shardings_of",
]
