"""From logical axis names to shardings, and state initialised with its sharding.

A parameter names its dimensions (``("vocab", "embed")``); a table of rules maps such names to mesh
axes (`jaxgen.axes.DEFAULT_RULES`). This module joins the two, for trees of abstract values boxed by
Linen (`nn.with_logical_partitioning`), and validates them. Errors are: an unknown name, one mesh
axis used by two dimensions of a parameter, names that are not as many as the dimensions, a
dimension that its mesh axes do not divide. The first three are rejected on every mesh, one device
included, so that a mistake shows on a laptop and not first on a pod.

Start-up in the order that keeps memory flat: ``jax.eval_shape(init)`` -> logical axes -> shardings
-> ``jax.jit(init, out_shardings=...)``: no device ever holds a sharded parameter whole.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxgen.axes import FSDP, Rules
from jaxgen.errors import InputError
from jaxgen.parallel.rules import current_rules
from jaxgen.typing import Tree

_COMPILED_ONCE = {"xla_backend_optimization_level": 0}
"""Programs that run once: on CPU they are compiled in 0.6 of the time."""


@dataclass(frozen=True)
class Layout:
    """How a tree of parameters is sharded over a mesh; all trees have the structure of the unboxed
    one.

    Attributes:
      mesh: The mesh; an abstract one where nothing is to be computed.
      abstract: `jax.ShapeDtypeStruct` leaves that carry their sharding: what restoring a
        checkpoint or lowering a step ahead of time needs.
      shardings: `NamedSharding` leaves.
      axes: Logical axis names, a tuple per leaf; ``()`` for a leaf without names.
    """

    mesh: Mesh | AbstractMesh
    abstract: Tree
    shardings: Tree
    axes: Tree


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of a value that every device of the mesh holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def partition_spec(
    names: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh | AbstractMesh,
    rules: Rules | None = None,
    path: str = "array",
) -> PartitionSpec:
    """The `PartitionSpec` that the rules give to one array.

    Args:
      names: A logical axis name per dimension; None for a dimension that is never split.
      shape: The array's shape.
      mesh: The mesh of the array.
      rules: Logical axis -> mesh axis, several mesh axes, or None for replicated; by default
        the current rules (`jaxgen.parallel.current_rules`).
      path: What error messages call the array.

    Returns:
      A spec with one entry per dimension.

    Raises:
      InputError: On a rank mismatch, a name without a rule, a rule whose mesh axis the mesh has
        not, a mesh axis used by two dimensions, or a dimension that its mesh axes do not
        divide; the message names the path, the shape and the axes.
    """
    rules = current_rules() if rules is None else rules
    what = f"{path} of shape {tuple(shape)} with axes {tuple(names)}"
    if len(names) != len(shape):
        raise InputError(f"{what}: {len(names)} names for {len(shape)} dimensions")
    entries = [_mesh_axes(name, mesh, rules, what) for name in names]
    used: dict[str, str | None] = {}
    for name, size, axes in zip(names, shape, entries, strict=True):
        for axis in axes:
            if axis in used:
                raise InputError(
                    f"{what}: the rules put both {used[axis]!r} and {name!r} on mesh axis "
                    f"{axis!r}, expected a mesh axis at most once per array"
                )
            used[axis] = name
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            raise InputError(
                f"{what}: dimension {name!r} of size {size} is not divisible by {parts}, the "
                f"size of mesh axes {axes}; pad it, or replicate it with the rule "
                f"{name!r}: None (--rules {name}=none)"
            )
    return PartitionSpec(*(_entry(axes) for axes in entries))


def _mesh_axes(
    name: str | None, mesh: Mesh | AbstractMesh, rules: Rules, what: str
) -> tuple[str, ...]:
    """The mesh axes of one dimension, none for a replicated one."""
    if name is None:
        return ()
    if name not in rules:
        raise InputError(f"{what}: no rule for axis {name!r}, expected one of {', '.join(rules)}")
    rule = rules[name]
    axes = () if rule is None else (rule,) if isinstance(rule, str) else tuple(rule)
    for axis in axes:
        if axis not in mesh.shape:
            raise InputError(
                f"{what}: the rule for {name!r} names mesh axis {axis!r}; "
                f"the mesh has {', '.join(map(str, mesh.axis_names))}"
            )
    return axes


def _entry(axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """Mesh axes as an entry of a `PartitionSpec`."""
    if not axes:
        return None
    return axes[0] if len(axes) == 1 else axes


def plan_layout(
    init_fn: Callable[..., Tree],
    *args: Any,
    mesh: Mesh | AbstractMesh,
    rules: Rules | None = None,
) -> Layout:
    """How the tree that ``init_fn(*args)`` would return is sharded over the mesh; nothing is
    computed.

    Args:
      init_fn: Returns a tree whose arrays are boxed by `nn.with_logical_partitioning`. An array
        without a box has no names and is replicated.
      *args: Its arguments; only their shapes matter.
      mesh: The mesh, or an abstract one (`jaxgen.parallel.abstract_mesh`).
      rules: Logical axis -> mesh axes; by default the current rules.

    Raises:
      InputError: See `partition_spec`; the message names the parameter's path.
    """
    boxed = jax.eval_shape(init_fn, *args)

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = _value(leaf).shape
        names = _names(leaf) if isinstance(leaf, nn.Partitioned) else (None,) * len(shape)
        return NamedSharding(mesh, partition_spec(names, shape, mesh, rules, where))

    shardings = jax.tree_util.tree_map_with_path(sharding, boxed, is_leaf=_is_box)
    return Layout(
        mesh=mesh,
        abstract=jax.tree.map(_with_sharding, _unbox(boxed), shardings),
        shardings=shardings,
        axes=jax.tree.map(_names, boxed, is_leaf=_is_box),
    )


def init_sharded(
    init_fn: Callable[..., Tree], *args: Any, mesh: Mesh, rules: Rules | None = None
) -> tuple[Tree, Layout]:
    """Initialises ``init_fn(*args)`` with its sharding, and strips Linen's boxes.

    With JAX's default random numbers (partitionable Threefry) the values do not depend on the mesh.

    Args:
      init_fn: As in `plan_layout`; traced by `jax.jit`.
      *args: Its arguments, arrays or trees of arrays, for example a key and a batch.
      mesh: The mesh.
      rules: Logical axis -> mesh axes; by default the current rules.

    Returns:
      The unboxed tree of sharded arrays, and its layout.

    Raises:
      InputError: See `partition_spec`.
    """
    layout = plan_layout(init_fn, *args, mesh=mesh, rules=rules)
    # Of the same function, boxes and all, which `plan_layout` has traced already.
    boxes = jax.tree.structure(jax.eval_shape(init_fn, *args))
    shardings = jax.tree.unflatten(boxes, jax.tree.leaves(layout.shardings))
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    make = jax.jit(
        init_fn, out_shardings=shardings, compiler_options=_COMPILED_ONCE if on_cpu else None
    )
    return _unbox(make(*args)), layout


def gather_fsdp(params: Tree, layout: Layout) -> Tree:
    """The parameters whole along ``fsdp``, as a loss should use them: to be called inside jit.

    Fully sharded parameters are stored in parts and computed with as wholes. Saying so at the start
    of a loss keeps the matrix products free of the axis: XLA gathers each parameter when it is
    needed. Gradients are sums over all examples that each device keeps its part of, which is a
    reduce-scatter: half of what an all-reduce sends.

    It is not only a matter of speed: asked for the product
    ``[(data, fsdp), model] x [model, fsdp] -> [(data, fsdp), model]`` with ``fsdp`` and ``model``
    of equal size and ``data`` > 1, XLA's partitioner (jax 0.10 and 0.12) gets it wrong.

    Args:
      params: The parameters, as `init_sharded` laid them.
      layout: Their layout.

    Returns:
      The same values; dimensions split along other axes stay split.
    """
    if layout.mesh.shape[FSDP] == 1:
        return params
    # Inside a shard_map over other axes, the context's mesh knows that they are taken.
    context = jax.sharding.get_abstract_mesh()
    mesh = layout.mesh if context.empty else context

    def gather(value: Any, sharding: NamedSharding) -> Any:
        entries = [(entry,) if isinstance(entry, str) else entry or () for entry in sharding.spec]
        kept = [_entry(tuple(axis for axis in axes if axis != FSDP)) for axes in entries]
        # In parts first, where they are already: transposed, it says where the gradient goes.
        # Without it the gradient is whole until the update, and its norm is computed of the whole.
        for spec in (sharding.spec, PartitionSpec(*kept)):
            value = jax.lax.with_sharding_constraint(value, NamedSharding(mesh, spec))
        return value

    return jax.tree.map(gather, params, layout.shardings)


def optimizer_layout(tx: optax.GradientTransformation, params: Layout) -> Tree:
    """Abstract optimizer state: `jax.ShapeDtypeStruct` leaves that carry their shardings.

    Whatever the optimizer keeps per parameter and in the parameter's shape (moments, averages,
    accumulated gradients) follows the parameter; everything else (counters, factored
    statistics, hyperparameters) is replicated.

    Args:
      tx: An Optax transformation.
      params: The layout of the parameters that it will update.

    Returns:
      A tree with the structure of ``tx.init(params)``.
    """
    whole = replicated(params.mesh)

    def like_parameter(leaf: Any, parameter: jax.ShapeDtypeStruct) -> Any:
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        same = leaf.shape == parameter.shape
        return _with_sharding(leaf, parameter.sharding if same else whole)

    return optax.tree_utils.tree_map_params(
        tx,
        like_parameter,
        jax.eval_shape(tx.init, params.abstract),
        params.abstract,
        transform_non_params=lambda leaf: _with_sharding(leaf, whole),
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )


def init_optimizer(tx: optax.GradientTransformation, params: Tree, layout: Layout) -> Tree:
    """``tx.init(params)``, initialised with the sharding of `optimizer_layout`.

    (`jax.jit(tx.init)` alone would put all of the state on one device.)

    Args:
      tx: An Optax transformation.
      params: The parameters.
      layout: Their layout, from `init_sharded`.
    """
    shardings = shardings_of(optimizer_layout(tx, layout))
    return jax.jit(tx.init, out_shardings=shardings)(params)


def shardings_of(tree: Tree) -> Tree:
    """The sharding of every leaf, for a tree of arrays or of abstract values that carry one."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def bytes_per_device(tree: Tree) -> int:
    """Bytes that a device holds of a tree of arrays, or of abstract values, with shardings.

    Args:
      tree: leaves with a shape, a type and a sharding, such as `Layout.abstract`.
    """
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_box(node: Any) -> bool:
    return isinstance(node, nn.meta.AxisMetadata)


def _value(leaf: Any) -> Any:
    """What a box holds. (`unbox` of the box itself would add a sharding constraint of its own.)"""
    return leaf.value if isinstance(leaf, nn.Partitioned) else leaf


def _names(leaf: Any) -> tuple[str | None, ...]:
    return tuple(leaf.names) if isinstance(leaf, nn.Partitioned) else ()


def _unbox(tree: Tree) -> Tree:
    return jax.tree.map(_value, tree, is_leaf=_is_box)
