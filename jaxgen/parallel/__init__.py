"""Arrays sharded over devices: meshes, named axes, batches, processes, communication.

Typical start-up, the same on one device and on a pod::

    mesh = make_mesh("data=2,model=4")
    with jax.set_mesh(mesh):
        params, layout = init_sharded(model.init, key, contexts_BL, mesh=mesh)
        opt_state = init_optimizer(tx, params, layout)
        batch = put_batch(numpy_batch, mesh)
        print(communication(train_step, params, opt_state, batch).table())
"""

from jaxgen.parallel.batches import (
    batch_sharding,
    check_batch_size,
    num_batch_shards,
    process_rows,
    put_batch,
    put_local_batch,
)
from jaxgen.parallel.collectives.hlo import Operand
from jaxgen.parallel.collectives.report import (
    Collective,
    Communication,
    communication,
    communication_of_text,
)
from jaxgen.parallel.distributed import (
    all_succeed,
    barrier,
    gather_texts,
    is_main_process,
    on_main_process,
    start,
    stop,
)
from jaxgen.parallel.host_memory import keep_freed_memory
from jaxgen.parallel.mesh import (
    abstract_mesh,
    current_mesh,
    make_mesh,
    mesh_places,
    on_abstract_mesh,
    parse_mesh,
)
from jaxgen.parallel.rules import current_rules, parse_rules, using_rules
from jaxgen.parallel.sharding import (
    Layout,
    bytes_per_device,
    gather_fsdp,
    init_optimizer,
    init_sharded,
    optimizer_layout,
    partition_spec,
    plan_layout,
    replicated,
    shardings_of,
)

__all__ = [
    "Collective",
    "Communication",
    "Layout",
    "Operand",
    "abstract_mesh",
    "all_succeed",
    "barrier",
    "batch_sharding",
    "bytes_per_device",
    "check_batch_size",
    "communication",
    "communication_of_text",
    "current_mesh",
    "current_rules",
    "gather_fsdp",
    "gather_texts",
    "init_optimizer",
    "init_sharded",
    "is_main_process",
    "keep_freed_memory",
    "make_mesh",
    "mesh_places",
    "num_batch_shards",
    "on_abstract_mesh",
    "on_main_process",
    "optimizer_layout",
    "parse_mesh",
    "parse_rules",
    "partition_spec",
    "plan_layout",
    "process_rows",
    "put_batch",
    "put_local_batch",
    "replicated",
    "shardings_of",
    "start",
    "stop",
    "using_rules",
]
