"""Data parallelism that talks seldom: local steps on copies of the parameters, then an average.

Bengio et al. (2003), section 3.1, let processors update shared parameters without waiting for each
other. A mesh has no shared memory to race on; the same trade, gradients at parameters that are a
little stale for less waiting, is had by *local* steps: along the mesh axis ``data`` each of the R
replicas starts a round from the same parameters theta, takes k steps on its own share of k batches,
and the replicas are averaged::

    theta_r^0 = theta,   theta_r^{i+1} = step(theta_r^i, share r of batch i),   i = 0 .. k-1
    theta' = (1/R) sum_r theta_r^k

With k = 1 and plain SGD this is the synchronous step: the mean of ``theta - e g_r`` is
``theta - e mean_r g_r``. Between two averages there is no collective along ``data``; ``fsdp`` and
``model`` work inside a replica as they always do. (One thing is beyond XLA there, in jax 0.10 to
0.12: it aborts on `jnp.take_along_axis` into an array that is sharded over both ``fsdp`` and
``model``. `jaxgen.parallel.softmax.output_units` and sums over one-hot masks are free of it.)

**What is averaged**: parameters, their moving average, and the optimizer's state (moments and
accumulators; of counters, the largest). So after a round all replicas are equal, and the state is
an ordinary `TrainState` that can be saved, evaluated or trained on synchronously. Losses are not
stateful: variables of the state stay as they are.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxgen.axes import DATA
from jaxgen.training.state import TrainState
from jaxgen.training.step import WEIGHT, LossFn, Metrics, StepFn, make_train_step, scan_steps
from jaxgen.typing import Batch


def make_local_steps(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> StepFn:
    """A round of local steps: as many as there are batches, then the average.

    The guard works in each replica: one whose loss or gradient is not finite skips that step alone.
    Replica r draws its randomness from ``fold_in(key, r)``.

    Args:
      loss_fn: as for `make_train_step`, which also explains `tx`, `accumulate` and `ema_decay`. It
        sees a replica's share of the batch, with ``data`` out of its sight.

    Returns:
      ``round(state, batches, key) -> (state, metrics)`` with batches [k, B, ...] and metrics [k],
      as of `scan_steps`; B must be divisible by the size of ``data``. Means are over all replicas
      (by ``weight`` where the loss gives one); ``skipped`` counts replicas.
    """
    steps = scan_steps(make_train_step(loss_fn, tx, accumulate=accumulate, ema_decay=ema_decay))

    def on_replica(state: TrainState, batches: Batch, key: Array) -> tuple[TrainState, Metrics]:
        own = jax.tree.map(lambda x: jax.lax.pcast(x, DATA, to="varying"), state)
        own_key = jax.random.fold_in(key, jax.lax.axis_index(DATA))
        new, metrics = steps(own, batches, own_key)
        skipped = state.skipped + jax.lax.psum(new.skipped - own.skipped, DATA)
        average = jax.tree.map(_average, dataclasses.replace(new, variables=None))
        average = dataclasses.replace(average, skipped=skipped, variables=state.variables)
        return average, _average_metrics(metrics)

    def round_(state: TrainState, batches: Batch, key: Array) -> tuple[TrainState, Metrics]:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.shape[DATA] == 1:
            return steps(state, batches, jax.random.fold_in(key, 0))
        return jax.shard_map(
            on_replica,
            in_specs=(P(), P(None, DATA), P()),
            out_specs=P(),
            axis_names={DATA},
        )(state, batches, key)

    return round_


def _average(x: Array) -> Array:
    """The mean over replicas; of integers, which count, the largest."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jax.lax.pmean(x, DATA)
    return jax.lax.pmax(x, DATA)


def _average_metrics(metrics: Metrics) -> Metrics:
    """Metrics over all replicas: counts summed, the rest averaged by weight."""
    weight = metrics.get(WEIGHT)

    def over_replicas(name: str, x: Array) -> Array:
        if name in (WEIGHT, "skipped"):
            return jax.lax.psum(x, DATA)
        if name == "skipped_in_a_row":
            return jax.lax.pmax(x, DATA)
        if weight is None:
            return jax.lax.pmean(x, DATA)
        weighted = jnp.where(weight == 0, 0, weight * x)  # the mean of nothing may be NaN
        return jax.lax.psum(weighted, DATA) / jax.lax.psum(weight, DATA)

    return {name: over_replicas(name, x) for name, x in metrics.items()}
