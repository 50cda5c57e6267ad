"""What a `jax.shard_map` over output units and examples needs to know of the current mesh."""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxgen.axes import BATCH_MESH_AXES, MESH_AXES, MODEL


@dataclasses.dataclass(frozen=True)
class MeshAxes:
    """The axes of the current mesh that concern B examples and the output units.

    Attributes:
      mesh: the mesh.
      names: the axes that a `jax.shard_map` is to handle.
      outer: those that an enclosing shard_map handles already.
      batch: those that the examples are sharded over.
      model: the axis that the units are sharded over, or None.
    """

    mesh: Any
    names: frozenset[str]
    outer: tuple[str, ...]
    batch: tuple[str, ...]
    model: str | None

    @classmethod
    def current(cls, examples: int) -> "MeshAxes":
        """The axes of the mesh of ``jax.set_mesh``; none without one."""
        mesh = jax.sharding.get_abstract_mesh()
        kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
        outer = tuple(a for a, kind in kinds.items() if kind == AxisType.Manual)
        free = frozenset(kinds).difference(outer).intersection(MESH_AXES)
        batch = tuple(a for a in BATCH_MESH_AXES if a in free)
        # Too few examples to share out (one prompt, say): every device computes all of them.
        if examples % math.prod(mesh.shape[a] for a in batch):
            batch = ()
        return cls(mesh, free, outer, batch, MODEL if MODEL in free else None)

    @classmethod
    def none(cls) -> "MeshAxes":
        """No axes, whatever the mesh: for code that runs on whole arrays."""
        return cls(None, frozenset(), (), (), None)

    @property
    def blocks(self) -> int:
        """Devices along ``model``: the M of the paper."""
        return self.mesh.shape[MODEL] if self.model else 1

    def spec(self, dimensions: str) -> P:
        """The PartitionSpec of an array with these dimension letters."""
        axes = {"B": self.batch or None, "V": self.model}
        return P(*(axes.get(letter) for letter in dimensions))

    def vary(self, tree: Any, *, model: bool = False, batch: bool = False) -> Any:
        """Marks what is the same along ``model``, or for all examples, as a device's own.

        The transpose is a sum over those devices: gradients are summed where this is said.
        """
        along_model = (self.model,) if model and self.model else ()
        axes = (*along_model, *(self.batch if batch else ()))
        return jax.lax.pcast(tree, axes, to="varying") if axes else tree

    def as_varying(self, x: Array) -> Array:
        """Marks a constant as differing between devices, as sums over their examples will."""
        axes = (*self.outer, *self.batch, *([self.model] if self.model else []))
        return jax.lax.pcast(x, axes, to="varying") if axes else x

    def sum_over_batch(self, tree: Any) -> Any:
        """The sum over the devices that share the examples."""
        return jax.lax.psum(tree, self.batch) if self.batch else tree
