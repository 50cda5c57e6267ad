"""Rays of whole images in chunks of one size, sharded over devices."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jaxgen.axes import BATCH_MESH_AXES
from jaxgen.typing import Tree


def ray_chunk_size(chunk: int, count: int) -> int:
    """At most all rays, rounded up to a multiple of the devices that share them."""
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_MESH_AXES)
    return -(-min(chunk, count) // shards) * shards


def ray_chunks(array: Array, size: int) -> Array:
    """[R, ...] to [chunks, size, ...]; the last row fills what is missing."""
    missing = -len(array) % size
    filled = jnp.concatenate([array, jnp.repeat(array[-1:], missing, axis=0)])
    return filled.reshape(-1, size, *array.shape[1:])


def shard_rays(tree: Tree) -> Tree:
    """Arrays [R, ...] sharded as the rule "rays" has it; unchanged where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    spec = PartitionSpec(BATCH_MESH_AXES)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)
