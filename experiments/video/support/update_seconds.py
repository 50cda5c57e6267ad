"""Seconds of an update of several trainings, taken in turns."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from experiments.shared.output import progress_bar
from experiments.video.support.comparison_rows import ComparedRow
from experiments.video.support.video_training import make_video_loss
from jaxgen.parallel import current_mesh, put_batch
from jaxgen.training import (
    TrainState,
    compile_step,
    create_state,
    make_optimizer,
    make_train_step,
)
from jaxgen.typing import Batch

ROUNDS = 5
EXAMPLES = 2048
"""Of a stream, whose padded batches say how often each length occurs."""


def measure_updates(rows: list[ComparedRow]) -> dict[str, float]:
    """Seconds of an update by name, without compilation: medians of `ROUNDS` updates.

    Of a row whose batches have several lengths it is the mean over the stream's batches.
    """
    updates = {row.name: _make_update(row) for row in rows}
    turns = [(row.name, *form) for row in rows for form in _forms(row)]
    taken: list[list[float]] = [[] for _ in turns]
    with progress_bar("measuring updates", "update", (ROUNDS + 1) * len(turns)) as advance:
        for round_ in range(ROUNDS + 1):
            for (name, _, batch), own in zip(turns, taken, strict=True):
                seconds = updates[name](batch)
                if round_:  # in the first round it is compiled
                    own.append(seconds)
                advance(1)
    found = {row.name: 0.0 for row in rows}
    for (name, share, _), own in zip(turns, taken, strict=True):
        found[name] += share * statistics.median(own)
    return found


def _forms(row: ComparedRow) -> list[tuple[float, Batch]]:
    """A batch of each shape that a row has, with its share of the updates."""
    if row.powers is None:
        return [(1.0, row.training.batches(row.data.train, row.model)(0))]
    batches = row.padded(EXAMPLES)
    lengths = [batch.length for batch in batches.plan]
    return [
        (lengths.count(length) / len(lengths), batches(lengths.index(length)))
        for length in sorted(set(lengths))
    ]


def _make_update(row: ComparedRow) -> Callable[[Batch], float]:
    """``batch -> seconds`` of an update, whatever the shape of the batch."""
    model = row.model
    tx = make_optimizer(row.training.optimizer())
    state, layout = create_state(model.make_init(), jax.random.key(0), tx=tx, ema=True)
    loss_fn = make_video_loss(model, layout)
    step = make_train_step(loss_fn, tx, ema_decay=row.training.ema_decay)
    return timed_updates(compile_step(step, state), state)


def timed_updates(step: Callable[..., Any], state: TrainState) -> Callable[[Batch], float]:
    """``batch -> seconds`` of an update, without the time that the batch takes to the devices.

    Args:
      step: compiled, ``(state, batch, key) -> (state, metrics)``.
      state: the first one; each update starts from the last one.
    """

    def update(arrays: Batch) -> float:
        nonlocal state
        batch = put_batch(arrays, current_mesh())
        start = time.perf_counter()
        state, metrics = step(state, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - start

    return update
