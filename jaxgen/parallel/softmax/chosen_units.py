"""Logits of a few chosen output units: nodes on the path to a word, sampled words, candidates.

For example b and its k-th chosen unit j = ids[b, k]::

    y_bk = b_j + sum_i h_bi . kernel_i[unit j]

Kernels and bias are sharded over the mesh axis ``model`` as in
`jaxgen.parallel.softmax.output_units`. Every device computes the logits of those chosen units that
it owns. The collectives along ``model`` are their sum, [B, K] numbers, and in the backward pass the
gradient with respect to the h_i: nothing of size V. The axis spreads memory, not work: each device
gathers K rows for each of its examples and zeroes those that it does not own.

The gradient with respect to a kernel is dense (zero outside the chosen units), so that an optimizer
still visits all of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError
from jaxgen.parallel.softmax.mesh_axes import MeshAxes
from jaxgen.parallel.softmax.output_units import Hidden


def chosen_logits(
    hidden: Hidden,
    kernels: tuple[Float[Array, "..."], ...],
    bias: Float[Array, "V"],
    ids: Int[Array, "..."],
    *,
    unit_axis: int = 0,
) -> Float[Array, "B K"]:
    """The logits of chosen units, differentiable with respect to all but the ids.

    Args:
      hidden: the layers h_i [B, D_i], one for each kernel.
      kernels: [V, D_i] where ``unit_axis`` is 0, [D_i, V] where it is 1. On CPU the first form is
        5 times as fast for ids [B, K] (a unit's numbers are contiguous); for ids [K], where one
        gather serves all examples, the form makes no difference.
      bias: [V].
      ids: units in [0, V): [K] where all examples choose the same, else [B, K].
      unit_axis: which axis of the kernels counts units.

    Returns:
      [B, K] float32.

    Raises:
      InputError: shapes that do not fit each other, or if the devices along ``model`` do not
        divide V.
    """
    _check_shapes(hidden, kernels, bias, ids, unit_axis)
    axes = MeshAxes.current(hidden[0].shape[0])
    _check_blocks("bias", bias, axes)

    def on_device(hidden, kernels, bias, ids):
        local, mine = ids, None
        if axes.model:
            local = ids - jax.lax.axis_index(axes.model) * bias.shape[0]
            mine = (local >= 0) & (local < bias.shape[0])
        y_BK = _logits(hidden, kernels, bias, local, unit_axis)
        return y_BK if mine is None else jax.lax.psum(jnp.where(mine, y_BK, 0.0), axes.model)

    arguments = tuple(hidden), tuple(kernels), bias, ids
    if not axes.names:
        return on_device(*arguments)
    in_specs: Any = (
        tuple(axes.spec("BD") for _ in hidden),
        tuple(axes.spec("DV" if unit_axis else "VD") for _ in kernels),
        axes.spec("V"),
        axes.spec("BK") if ids.ndim == 2 else P(),
    )
    return jax.shard_map(
        on_device,
        mesh=axes.mesh,
        in_specs=in_specs,
        out_specs=axes.spec("BK"),
        axis_names=axes.names,
    )(*arguments)


def chosen_rows(table_VD: Float[Array, "V D"], ids: Int[Array, "B ..."]) -> Float[Array, "B ... D"]:
    """Rows of a table sharded over ``model`` as output units are, differentiable in the table.

    Each device supplies the rows that it owns; the collective along ``model`` is their sum, D
    numbers for each id, and none in the backward pass.

    Args:
      table_VD: the table; the devices along ``model`` divide V.
      ids: rows in [0, V), [B, ...].

    Returns:
      [B, ..., D] in the table's type.

    Raises:
      InputError: if the devices along ``model`` do not divide V.
    """
    axes = MeshAxes.current(ids.shape[0])
    _check_blocks("table", table_VD, axes)

    def on_device(table_VD, ids):
        if not axes.model:
            return table_VD[ids]
        local = ids - jax.lax.axis_index(axes.model) * table_VD.shape[0]
        mine = (local >= 0) & (local < table_VD.shape[0])
        rows = jnp.take(table_VD, local, axis=0, mode="clip")
        return jax.lax.psum(jnp.where(mine[..., None], rows, 0), axes.model)

    if not axes.names:
        return on_device(table_VD, ids)
    by_example = "B" + "K" * (ids.ndim - 1)
    return jax.shard_map(
        on_device,
        mesh=axes.mesh,
        in_specs=(axes.spec("VD"), axes.spec(by_example)),
        out_specs=axes.spec(by_example + "D"),
        axis_names=axes.names,
    )(table_VD, ids)


def _logits(hidden, kernels, bias, ids, unit_axis: int) -> Float[Array, "B K"]:
    """What one device computes; ids of other devices' units are clipped, their logits unused."""
    per_example = "B" if ids.ndim == 2 else ""
    picked = f"D{per_example}K" if unit_axis else f"{per_example}KD"
    y_BK = jnp.take(bias, ids, mode="clip").astype(jnp.float32)
    for h_BD, kernel in zip(hidden, kernels, strict=True):
        chosen = jnp.take(kernel, ids, axis=unit_axis, mode="clip")
        y_BK = y_BK + jnp.einsum(
            f"BD,{picked}->BK", h_BD, chosen, preferred_element_type=jnp.float32
        )
    return y_BK


def _check_blocks(name: str, array: Array, axes: MeshAxes) -> None:
    if array.shape[0] % axes.blocks:
        raise InputError(
            f"{name} of shape {array.shape} cannot be cut into {axes.blocks} equal blocks "
            "along `model`"
        )


def _check_shapes(hidden, kernels, bias, ids, unit_axis: int) -> None:
    if len(hidden) != len(kernels):
        raise InputError(f"{len(hidden)} hidden layers for {len(kernels)} output kernels")
    for i, (h_BD, kernel) in enumerate(zip(hidden, kernels, strict=True)):
        expected = (*bias.shape, h_BD.shape[-1])[:: -1 if unit_axis else 1]
        if kernel.shape != expected:
            raise InputError(f"output kernel {i} has shape {kernel.shape}, expected {expected}")
    if ids.ndim not in (1, 2) or (ids.ndim == 2 and ids.shape[0] != hidden[0].shape[0]):
        raise InputError(
            f"ids have shape {ids.shape}, expected [K] or [B, K] with B = {hidden[0].shape[0]}"
        )
