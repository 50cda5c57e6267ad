"""Tokens spread over the mesh axis ``sequence``: what a layer needs to know of the current mesh.

Of tokens [B, L, ...] each device holds L / n of each example, n the size of the axis. Everything
but attention works on tokens one by one and sends nothing; `sequence_attention` is about the rest.
Where n does not divide L every device along the axis holds all tokens: correct, but not shared out.
"""

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxgen.axes import SEQUENCE


def auto_axes() -> dict[str, int]:
    """Axis -> size of the mesh of ``jax.set_mesh``, without those of an enclosing shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {axis: mesh.shape[axis] for axis, kind in kinds if kind == AxisType.Auto}


def sequence_shards(length: int) -> int:
    """Into how many parts the current mesh cuts so many tokens; 1 where they do not divide.

    1 inside of a shard_map too: gradients of another one in it, unchecked, do not fit the outer's.
    """
    axes = auto_axes()
    parts = axes.get(SEQUENCE, 1)
    if length % parts or len(axes) < len(jax.sharding.get_abstract_mesh().axis_names):
        return 1
    return parts


def shard_tokens(x_BLD: Float[Array, "B L *D"]) -> Float[Array, "B L *D"]:
    """The same tokens, over ``sequence`` where they divide; other axes stay as they are."""
    if sequence_shards(x_BLD.shape[1]) == 1:
        return x_BLD
    others = (P.UNCONSTRAINED,) * (x_BLD.ndim - 2)
    return jax.lax.with_sharding_constraint(x_BLD, P(P.UNCONSTRAINED, SEQUENCE, *others))
