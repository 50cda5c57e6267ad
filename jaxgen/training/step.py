"""One training step as a pure function, and what wraps it: accumulation, guard, EMA, scans.

**Resident data.** Arrays that stay on the devices (the pixels of all photographs of a scene) are an
argument of the step rather than of each batch: not sent again, not donated, no constants of the
program. The loss finds them in its batch under their names; they are neither scanned over nor cut
into microbatches.

**Guard.** Where the loss or the global norm of the gradient is not finite, parameters, optimizer
state and average stay as they were; the step is counted and the next batch comes.

**Weights.** A loss is a mean. Where batches hold different amounts (padding, masks), the loss
function says how much its mean stands for in the metric ``weight`` (tokens, examples): microbatches
and logged averages are then combined in that proportion. The mean of nothing, weight 0, counts
nowhere, be it NaN; a whole batch of weight 0 is skipped as a gradient is that is not finite.

**Variables.** What is learned without gradients (moving averages of a codebook, an occupancy grid)
is in the state's ``variables``. A loss that uses it is *stateful*: it takes the variables and
returns their new values. Microbatches follow each other: each takes those that the one before left.
A skipped step leaves them as they were, and so does a microbatch of weight 0. Every device holds
them whole; inside a step arrays are those of the whole batch, so sums over examples are too.

**After a step.** What changes the state by other means than a gradient (Gaussians that are moved,
units that are revived) is a function of the state and a key, a part of the compiled step. What it
does now and then it does by a branch on ``state.step``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool

from jaxgen.axes import BATCH_MESH_AXES
from jaxgen.errors import InputError
from jaxgen.parallel import replicated, shardings_of
from jaxgen.training.ema import check_decay, update_average
from jaxgen.training.state import TrainState
from jaxgen.typing import Batch, Tree

Metrics = dict[str, Array]
"""Scalars by name, float32."""

LossFn = Callable[[Tree, Batch, Array], tuple[Array, Mapping[str, Array]]]
"""``(params, batch, key) -> (mean loss in nats, metrics)``."""

StatefulLossFn = Callable[
    [Tree, Batch, Array, Tree], tuple[Array, tuple[Mapping[str, Array], Tree]]
]
"""``(params, batch, key, variables) -> (mean loss in nats, (metrics, new variables))``."""

StepFn = Callable[..., tuple[TrainState, Metrics]]
"""``(state, batch, key, resident=None) -> (state, metrics)``."""

AfterStep = Callable[[TrainState, Array], TrainState]
"""``(state after an update, key) -> state``."""

AFTER_STEP = 2**31 - 1
"""What a step's key is folded with for `AfterStep`."""

WEIGHT = "weight"
"""The metric that says how much (tokens, examples) a batch's means stand for."""


def make_train_step(
    loss_fn: LossFn | StatefulLossFn,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
    stateful: bool = False,
    after_step: AfterStep | None = None,
    learning_rate: Callable[[Array], Array] | None = None,
) -> StepFn:
    """The training step of a loss and an optimizer.

    The step's randomness is ``fold_in(key, state.step)``, so the caller passes the same key always
    and a resumed run repeats the same draws.

    Args:
      loss_fn: ``(params, batch, key) -> (mean loss, metrics)``; see "Weights" above. Where it is
        stateful, ``(params, batch, key, variables) -> (mean loss, (metrics, new variables))``.
      tx: the optimizer; clipping and weight decay belong to it (`jaxgen.training.optimizers`).
      accumulate: microbatches per step, to fit a large batch into memory: the update equals that
        of the whole batch to rounding. B must be divisible by it, and B / accumulate by the number
        of devices that share a batch.
      ema_decay: d in [0, 1), or None where the state holds no average.
      stateful: whether the loss takes and returns the state's variables; see "Variables" above. A
        loss that does not leaves them as they are.
      after_step: what else becomes of the state in a step, see "After a step" above; it gets the
        state with its count of steps already increased, of a skipped step too.
      learning_rate: the optimizer's, of the number of updates before (`make_schedule`), to be among
        the metrics.

    Returns:
      ``step(state, batch, key, resident=None) -> (state, metrics)``, pure. Metrics are those of
      the loss and ``loss``, ``gradient_norm`` (before any clipping), ``skipped`` (0 or 1) and
      ``skipped_in_a_row``, scalars in float32.

    Raises:
      InputError: for values out of range; when traced, for a batch that does not divide, and for
        variables that are missing or whose new values have other shapes.
    """
    if accumulate < 1:
        raise InputError(f"accumulate is {accumulate}, expected at least 1 microbatch")
    check_decay(ema_decay)

    def step(
        state: TrainState, batch: Batch, key: Array, resident: Batch | None = None
    ) -> tuple[TrainState, Metrics]:
        if stateful and state.variables is None:
            raise InputError("variables is None in the state, expected those of a stateful loss")
        step_key = jax.random.fold_in(key, state.step)
        loss = loss_fn if resident is None else with_resident(loss_fn, resident)
        gradients, metrics, variables = _gradient_and_variables(
            loss if stateful else _stateful(loss),
            state.params,
            batch,
            step_key,
            accumulate,
            state.variables,
        )
        if learning_rate is not None:
            metrics["learning_rate"] = learning_rate(state.step - state.skipped)
        norm = optax.tree.norm(gradients)
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        good &= jnp.asarray(metrics.get(WEIGHT, 1)) != 0
        state = _update(tx, state, gradients, variables, good, ema_decay)
        if after_step is not None:
            state = after_step(state, jax.random.fold_in(step_key, AFTER_STEP))
        metrics |= {
            "gradient_norm": norm,
            "skipped": ~good,
            "skipped_in_a_row": state.skipped_in_a_row,
        }
        return state, {name: value.astype(jnp.float32) for name, value in metrics.items()}

    return step


def with_resident(loss_fn: Callable[..., Any], resident: Batch) -> Callable[..., Any]:
    """A loss whose batches hold the resident arrays too.

    Raises:
      InputError: when called, for a name that both have.
    """

    def loss(params: Tree, batch: Batch, *rest: Any) -> tuple[Array, Any]:
        if both := sorted(set(batch) & set(resident)):
            raise InputError(f"resident is {both}, expected other names than those of the batch")
        return loss_fn(params, {**batch, **resident}, *rest)

    return loss


def compile_step(step: StepFn, state: TrainState) -> StepFn:
    """`jax.jit` of a step (or of `scan_steps` of one) that updates the state in place.

    The state's buffers are donated: after ``state, metrics = compiled(state, batch, key)`` the old
    state is gone. The new one has the same sharding, the metrics are on every device.
    """
    shardings = shardings_of(state)
    return jax.jit(
        step, donate_argnums=0, out_shardings=(shardings, replicated(shardings.step.mesh))
    )


def scan_steps(step: StepFn) -> StepFn:
    """Several steps in one call, which saves the time between calls of short steps.

    Args:
      step: one step, not compiled.

    Returns:
      The same signature with batches [K, B, ...] and metrics [K]; K is theirs to choose. The state
      after it is that of K calls of `step`, to rounding.
    """

    def steps(
        state: TrainState, batches: Batch, key: Array, resident: Batch | None = None
    ) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda carry, batch: step(carry, batch, key, resident), state, batches)

    return steps


def mean_gradient(
    loss_fn: LossFn, params: Tree, batch: Batch, key: Array, accumulate: int = 1
) -> tuple[Tree, Metrics]:
    """Gradient of the mean loss over a batch, and the batch's metrics, ``loss`` among them.

    With microbatches a = 1..A of weights w_a: ``g = sum_a w_a g_a / sum_a w_a``, in float32, over
    those with w_a other than 0, and the same for the loss and every metric but ``weight``, which is
    summed. Microbatch a draws its randomness from ``fold_in(key, a)``.
    """
    loss = _stateful(loss_fn)
    return _gradient_and_variables(loss, params, batch, key, accumulate, None)[:2]


def _stateful(loss_fn: Callable[..., Any]) -> StatefulLossFn:
    """A loss in the form of a stateful one, which leaves the variables as they are."""

    def loss(
        params: Tree, batch: Batch, key: Array, variables: Tree
    ) -> tuple[Array, tuple[Mapping[str, Array], Tree]]:
        value, metrics = loss_fn(params, batch, key)
        return value, (metrics, variables)

    return loss


def _gradient_and_variables(
    loss_fn: Callable[..., Any],
    params: Tree,
    batch: Batch,
    key: Array,
    accumulate: int,
    variables: Tree,
) -> tuple[Tree, Metrics, Tree]:
    """As `mean_gradient`, of a stateful loss: with the variables that the last microbatch left."""
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def gradient(batch: Batch, key: Array, variables: Tree) -> tuple[Tree, Metrics, Tree]:
        (loss, (metrics, new)), gradients = value_and_grad(params, batch, key, variables)
        _check_variables(variables, new)
        return gradients, {**metrics, "loss": loss}, new

    if accumulate == 1:
        return gradient(batch, key, variables)

    def add(carry: Tree, item: tuple[Array, Batch]) -> tuple[Tree, None]:
        *totals, total_weight, old = carry
        index, microbatch = item
        gradients, metrics, new = gradient(microbatch, jax.random.fold_in(key, index), old)
        weight = jnp.asarray(metrics.pop(WEIGHT, 1.0), jnp.float32)
        # The mean of an empty microbatch may be NaN, which no factor of 0 would take away.
        summed = jax.tree.map(
            lambda t, x: jnp.where(weight == 0, t, t + weight * x), totals, [gradients, metrics]
        )
        kept = jax.tree.map(lambda before, after: jnp.where(weight == 0, before, after), old, new)
        return (*summed, total_weight + weight, kept), None

    microbatches = split_batch(batch, accumulate)
    first = jax.tree.map(lambda x: x[0], microbatches)
    gradients, metrics, _ = jax.eval_shape(gradient, first, key, variables)
    weighted = metrics.pop(WEIGHT, None) is not None
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (gradients, metrics))
    items = (jnp.arange(accumulate), microbatches)
    carry, _ = jax.lax.scan(add, (*zeros, jnp.zeros(()), variables), items)
    *summed, weight, variables = carry
    totals, metrics = jax.tree.map(lambda total: total / weight, summed)
    gradients = jax.tree.map(lambda total, g: total.astype(g.dtype), totals, gradients)
    return gradients, metrics | ({WEIGHT: weight} if weighted else {}), variables


def _check_variables(old: Tree, new: Tree) -> None:
    """Refuses variables that would have other shapes or dtypes after a step."""
    found, expected = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (new, old)
    )
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            after, before = found.get(name, "gone"), expected.get(name, "no such variable")
            raise InputError(f"variables[{name}] is {after} after a loss, expected {before}")


def split_batch(batch: Batch, parts: int) -> Batch:
    """Cuts a batch [B, ...] into microbatches [parts, B / parts, ...], each spread as it was.

    Microbatch a holds the examples a, a + parts, a + 2 parts, ...: so every device keeps its own
    examples and has an equal share of each microbatch; nothing is sent.

    Raises:
      InputError: where B / parts is not a multiple of the number of devices that share a batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(
        axis
        for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if axis in BATCH_MESH_AXES and kind == AxisType.Auto
    )
    devices = math.prod(mesh.shape[axis] for axis in axes)

    def split(path: Any, x: Array) -> Array:
        if x.shape[0] % (parts * devices):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(
                f"batch[{name}] of shape {x.shape}: {parts} microbatches over {devices} devices "
                f"need a leading axis divisible by {parts * devices}"
            )
        x = jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
        return jax.lax.with_sharding_constraint(x, P(None, axes)) if axes else x

    return jax.tree_util.tree_map_with_path(split, batch)


def _update(
    tx: optax.GradientTransformation,
    state: TrainState,
    gradients: Tree,
    variables: Tree,
    good: Bool[Array, ""],
    ema_decay: float | None,
) -> TrainState:
    """The state after a step: updated where the gradient is good, else only counted."""

    def updated(params: Tree, opt_state: Tree, ema: Tree, _: Tree) -> tuple[Tree, ...]:
        updates, opt_state = tx.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        if ema_decay is not None:
            good_updates = state.step + 1 - state.skipped
            ema = update_average(ema, params, ema_decay, good_updates.astype(jnp.float32))
        return params, opt_state, ema, variables

    # A branch, not a choice between old and new numbers: it updates in place, where choosing keeps
    # a copy of both (on CPU four times as slow as the update itself).
    old = state.params, state.opt_state, state.ema, state.variables
    params, opt_state, ema, variables = jax.lax.cond(good, updated, lambda *old: old, *old)
    bad = (~good).astype(jnp.int32)
    return TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        skipped=state.skipped + bad,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * bad,
        variables=variables,
    )
