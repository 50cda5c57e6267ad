"""What a training run carries from step to step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxgen.axes import Rules
from jaxgen.parallel import (
    Layout,
    current_mesh,
    init_optimizer,
    init_sharded,
    optimizer_layout,
    replicated,
)
from jaxgen.training.ema import average_dtype, start_average
from jaxgen.typing import Tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The whole state of a run; all of it is saved, nothing else is needed to resume.

    Attributes:
      step: steps taken, skipped ones included: the index of the next batch.
      params: the parameters, a plain (unboxed) tree.
      opt_state: the optimizer's state.
      ema: moving average of the parameters in float32 (`jaxgen.training.ema`), or None.
      skipped: how many steps were skipped because the loss or its gradient was not finite.
      skipped_in_a_row: how many of them came last, without a good step between.
      variables: what a step updates without gradients (averages of a codebook, an occupancy grid),
        or None: arrays that every device holds whole, in nested dicts as Flax's collections are.
    """

    step: Int[Array, ""]
    params: Tree
    opt_state: Tree
    ema: Tree | None
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]
    variables: Tree | None = None


def averaged_params(state: TrainState) -> Tree:
    """The parameters to evaluate and to publish: the moving average where there is one."""
    return state.params if state.ema is None else state.ema


def create_state(
    init_fn: Callable[..., Tree],
    *args: Any,
    tx: optax.GradientTransformation,
    ema: bool = False,
    variables: Tree | None = None,
    rules: Rules | None = None,
) -> tuple[TrainState, Layout]:
    """A state at step 0, initialised with its sharding over the current mesh (`jax.set_mesh`; else
    one device).

    Args:
      init_fn: returns the parameters with their logical axes; see `jaxgen.parallel.init_sharded`.
      *args: its arguments, for example a key and a batch.
      tx: the optimizer.
      ema: whether a moving average of the parameters is kept.
      variables: initial values of the state's variables; None where the loss has none.
      rules: logical axis -> mesh axes; None: the current rules (`jaxgen.parallel.current_rules`).

    Returns:
      The state, and the layout of its parameters.

    Raises:
      InputError: where the rules do not fit a parameter; see `jaxgen.parallel.partition_spec`.
    """
    mesh = current_mesh()
    params, layout = init_sharded(init_fn, *args, mesh=mesh, rules=rules)
    return state_from_params(params, layout, tx=tx, ema=ema, variables=variables), layout


def state_from_params(
    params: Tree,
    layout: Layout,
    *,
    tx: optax.GradientTransformation,
    ema: bool = False,
    variables: Tree | None = None,
) -> TrainState:
    """A state at step 0 around parameters that exist already, say from a checkpoint."""
    whole = replicated(layout.mesh)
    zero = jax.device_put(jnp.zeros((), jnp.int32), whole)
    average = jax.jit(start_average, out_shardings=layout.shardings)
    return TrainState(
        step=zero,
        params=params,
        opt_state=init_optimizer(tx, params, layout),
        ema=average(params) if ema else None,
        skipped=zero.copy(),
        skipped_in_a_row=zero.copy(),
        # Copies, since what is donated to a step must not share memory.
        variables=jax.tree.map(lambda x: jax.device_put(x, whole).copy(), variables),
    )


def abstract_state(
    layout: Layout,
    tx: optax.GradientTransformation,
    *,
    ema: bool = False,
    variables: Tree | None = None,
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without computing anything: what loading needs.

    Args:
      layout: of the parameters.
      tx: the optimizer.
      ema: whether the state holds an average.
      variables: its variables, arrays or their shapes (`jax.eval_shape`); None where it has none.
    """
    whole = replicated(layout.mesh)
    scalar: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    average = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, average_dtype(x), sharding=x.sharding),
        layout.abstract,
    )
    return TrainState(
        step=scalar,
        params=layout.abstract,
        opt_state=optimizer_layout(tx, layout),
        ema=average if ema else None,
        skipped=scalar,
        skipped_in_a_row=scalar,
        variables=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), variables
        ),
    )


def state_axes(
    layout: Layout,
    tx: optax.GradientTransformation,
    *,
    ema: bool = False,
    variables: Tree | None = None,
) -> TrainState:
    """Logical axis names of every array of the state, a tuple per leaf.

    Whatever the optimizer keeps per parameter and in its shape has the parameter's names; all else
    has none. Arguments are those of `abstract_state`.
    """

    def like_parameter(leaf: Any, parameter: jax.ShapeDtypeStruct, names: tuple[Any, ...]) -> Any:
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        return names if leaf.shape == parameter.shape else ()

    opt_axes = optax.tree_utils.tree_map_params(
        tx,
        like_parameter,
        optimizer_layout(tx, layout),
        layout.abstract,
        layout.axes,
        transform_non_params=lambda _: (),
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    none: Any = ()
    return TrainState(
        step=none,
        params=layout.axes,
        opt_state=opt_axes,
        ema=layout.axes if ema else None,
        skipped=none,
        skipped_in_a_row=none,
        variables=jax.tree.map(lambda _: none, variables),
    )
