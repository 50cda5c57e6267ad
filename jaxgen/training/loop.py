"""The training loop: steps, logging, evaluation, checkpoints, and a clean end.

A run is a function of its starting state, its key and its data: batch t is ``data(t)``, so a run
that was killed and started again continues to the same numbers bit for bit. What happens after a
step happens in this order: the step's metrics are looked at, a record is logged, the model is
evaluated, a new best is saved, callbacks see the evaluation, a checkpoint that is due is saved. So
the best is saved whatever ends the run afterwards.
"""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array

from jaxgen.errors import InputError
from jaxgen.parallel import current_mesh
from jaxgen.parallel.batches import put_batch
from jaxgen.parallel.preemption import reached_sync_point
from jaxgen.training.checkpoint import Checkpoints, Mode
from jaxgen.training.metrics import MetricsLog, Record, RunningAverage
from jaxgen.training.prefetch import prefetched
from jaxgen.training.profiles import Profile, tracing
from jaxgen.training.progress import Progress
from jaxgen.training.saved_trees import Padding
from jaxgen.training.signals import Interrupted, Signals, held
from jaxgen.training.speed import Speed
from jaxgen.training.state import TrainState
from jaxgen.training.step import Metrics, StepFn
from jaxgen.training.training_bars import training_bar
from jaxgen.typing import Batch

Evaluate = Callable[[TrainState], Mapping[str, float]]
Callback = Callable[[Record, TrainState], bool | None]


class NonFiniteError(RuntimeError):
    """The loss or its gradient was not finite in too many steps in a row."""


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, and what to do how often; intervals are in steps.

    Attributes:
      steps: T, the steps of the whole run.
      steps_per_call: K: the step takes K batches at once (`scan_steps`); intervals must be
        multiples of it.
      log_every: after how many steps a record of averages is written.
      evaluate_every: after how many steps to evaluate, and once at the end; 0 for the end only.
      checkpoint_every: after how many steps to save; 0 for the end (and each new best) only.
      metric: the evaluation's figure that says which model is best, for early stopping; a new best
        is on disk before the run continues. None: no early stopping.
      mode: whether the best is the smallest or the largest.
      patience: stop after so many evaluations in a row without a new best; None: never.
      max_skipped_in_a_row: stop with an error after so many steps in a row whose loss or gradient
        was not finite.

    Raises:
      InputError: for values out of range, naming the field.
    """

    steps: int = 1000
    steps_per_call: int = 1
    log_every: int = 100
    evaluate_every: int = 0
    checkpoint_every: int = 0
    metric: str | None = None
    mode: Mode = "min"
    patience: int | None = None
    max_skipped_in_a_row: int = 10

    def __post_init__(self) -> None:
        for name in ("steps_per_call", "log_every", "max_skipped_in_a_row"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("steps", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("log_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) % self.steps_per_call:
                raise InputError(
                    f"{name} is {getattr(self, name)}, expected a multiple of "
                    f"steps_per_call={self.steps_per_call}"
                )
        if self.mode not in ("min", "max"):
            raise InputError(f"mode is {self.mode!r}, expected one of min, max")
        if self.patience is not None and (self.patience < 1 or self.metric is None):
            raise InputError(f"patience is {self.patience}, expected at least 1, and a metric")

    def next_count(self, step: int) -> int:
        """Steps of the next call: up to a multiple of K, whatever step the run was stopped at."""
        return min(self.steps_per_call - step % self.steps_per_call, self.steps - step)

    def calls(self, step: int) -> Iterator[tuple[int, int]]:
        """First step and number of steps of every call of a run that begins at a step."""
        while step < self.steps:
            yield step, (count := self.next_count(step))
            step += count


@dataclass(frozen=True)
class FitResult:
    """How a run ended: its last state, why it stopped, and the best evaluation (or None)."""

    state: TrainState
    reason: str
    best: float | None
    best_step: int | None


def fit(
    step: StepFn,
    state: TrainState,
    data: Callable[[int], Batch],
    key: Array,
    config: LoopConfig,
    *,
    evaluate: Evaluate | None = None,
    checkpoints: Checkpoints | None = None,
    log: MetricsLog | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    put: Callable[..., Batch] = put_batch,
    resident: Batch | None = None,
    padding: Padding | None = None,
    prefetch: int = 0,
    profile: Profile | None = None,
    multiply_adds: int | None = None,
) -> FitResult:
    """Trains, or resumes where `checkpoints` holds earlier states of the run, at the newest intact.

    SIGINT and SIGTERM end the run cleanly: the step under way is finished, a checkpoint saved, and
    `SystemExit` raised with 128 + the signal's number; a second signal ends it at once. Several
    processes that `jaxgen.parallel.start` joined stop at the same step, the next that none of them
    has begun when all have heard of it (JAX looks once a second), or the next that is logged,
    evaluated or saved, where they agree on what callbacks say too. A signal that comes too late for
    that is raised at the end.

    Args:
      step: a compiled step (`compile_step`); of `scan_steps` where ``steps_per_call`` is not 1.
      state: the state to start from, which is used up.
      data: t -> batch t, numpy arrays, the same whenever it is asked. With `put_local_batch` each
        process gives its own rows (`process_rows`).
      key: the run's key.
      config: how long, and what how often.
      evaluate: ``state -> figures by name``, say ``{"validation/loss": 4.2}``.
      checkpoints: where to save, and to resume from.
      log: where records go: averages as ``train/NAME``, figures of speed as ``speed/NAME``
        (`jaxgen.training.speed`), and the evaluation's figures.
      callbacks: called with every record and the state; one that returns True ends the run.
      progress: whether to show a bar (needs the package tqdm).
      put: lays a batch over the current mesh's devices: ``put(batch, mesh, leading=0 or 1)``.
      resident: arrays on the devices that the loss finds in every batch (`jaxgen.training.step`).
      padding: which axes of the state may have another length than in the checkpoint.
      prefetch: batches of so many calls are made in a thread, in their order, and put on the
        devices ahead; 0: in this thread, when they are needed.
      profile: which steps to write a trace of; None: none.
      multiply_adds: of a step, for the share of the devices' peak that is logged.

    Returns:
      The last state and why the run ended: "steps", "no improvement" or "callback".

    Raises:
      NonFiniteError: after ``max_skipped_in_a_row`` bad steps in a row.
      InputError: where the checkpoint does not fit the state, the metric is not among the
        evaluation's figures, or the checkpoints keep the best by another.
      OSError: where a checkpoint or a record cannot be written, naming the folder or the file.
      SystemExit: after a signal.
    """
    run = _Run(config, evaluate, checkpoints, log, callbacks, Speed(multiply_adds))
    state = run.resume(state, padding)
    mesh, leading = current_mesh(), int(config.steps_per_call > 1)
    metrics = None
    kept = () if resident is None else (resident,)

    def make(index: int, count: int) -> Batch:
        batch = _stacked(data, index, count) if leading else data(index)
        return put(batch, mesh, leading=leading)

    with (
        contextlib.nullcontext() if log is None else contextlib.closing(log),
        held() as signals,
        training_bar(progress, run.step, config.steps) as advance,
        tracing(profile) as trace,
        prefetched(make, config.calls(run.step), prefetch, mesh) as batches,
    ):
        while (reason := run.reason(signals)) is None:
            run.save_if_due(state)  # where the run ends, `finish` saves once all is known
            count = config.next_count(run.step)
            trace(run.step, metrics)
            batch = batches(run.step, count)
            state, new = step(state, batch, key, *kept)
            # At the metrics of the call before: reading this call's would wait for the device, and
            # leave it idle while the host reads and places the next batch.
            run.look(metrics)
            metrics, run.step = new, run.step + count
            run.speed.after_call(run.step, batch, leading, metrics)
            if run.due():
                run.look(metrics)
                metrics = None
                run.boundary(state)
            advance(count, run.record)
        run.look(metrics)
        return run.finish(state, reason, signals)


class _Run:
    """The host's side of a run: what it has seen, and what is due."""

    def __init__(
        self,
        config: LoopConfig,
        evaluate: Evaluate | None,
        checkpoints: Checkpoints | None,
        log: MetricsLog | None,
        callbacks: Sequence[Callback],
        speed: Speed,
    ):
        self.config, self.evaluate_fn, self.speed = config, evaluate, speed
        self.checkpoints, self.log, self.callbacks = checkpoints, log, callbacks
        if checkpoints is not None and config.metric is not None:
            kept, best = (checkpoints.metric, checkpoints.mode), (config.metric, config.mode)
            if kept != best:
                raise InputError(f"checkpoints keep the best by {kept}, expected {best}")
        self.step = 0
        self.record: Record = {}
        self.figures: Mapping[str, float] = {}
        self.progress = Progress()
        self.average = RunningAverage()
        self.started = time.monotonic()
        self.stop = False
        self.save_due = False

    def resume(self, state: TrainState, padding: Padding | None) -> TrainState:
        """The state of the newest intact checkpoint where there is one, else the given one."""
        if self.checkpoints is not None and self.checkpoints.latest is not None:
            abstract = jax.tree.map(_abstract, state)
            state, saved = self.checkpoints.restore(abstract, "intact", padding)
            self.progress = Progress.from_json(saved, f"{self.checkpoints.folder}/{state.step}")
            self.average = RunningAverage(self.progress.window)
            self.started -= self.progress.seconds
        self.step = int(state.step)
        if self.log is not None:
            self.log.resume(self.step)
        return state

    def reason(self, signals: Signals) -> str | None:
        """Why the run ends before the next step, or None."""
        patience = self.config.patience
        signalled, stop = self._agreed(bool(signals.received), self.stop)
        if signalled:
            return "signal"
        if self.step >= self.config.steps:
            return "steps"
        if patience is not None and self.progress.worse >= patience:
            return "no improvement"
        return "callback" if stop else None

    def _agreed(self, *wishes: bool) -> Sequence[bool]:
        """Which of the wishes of signals and of callbacks any process has."""
        if jax.process_count() == 1:
            return wishes
        synced = reached_sync_point()
        if not self.due():
            return synced, False
        from jax.experimental import multihost_utils

        signalled, stop = multihost_utils.process_allgather(np.array(wishes)).any(axis=0)
        return synced or bool(signalled), bool(stop)

    def look(self, metrics: Metrics | None) -> None:
        """Takes in the metrics of one call, [] or [K] each."""
        if metrics is None:
            return
        by_name = {name: np.atleast_1d(values) for name, values in jax.device_get(metrics).items()}
        in_a_row = by_name.pop("skipped_in_a_row", np.zeros(1))
        if in_a_row.max() >= self.config.max_skipped_in_a_row:
            raise NonFiniteError(
                f"training stopped before step {self.step}: the loss or its gradient was not "
                f"finite in {int(in_a_row.max())} steps in a row; the parameters are those before"
            )
        for values in zip(*by_name.values(), strict=True):
            self.average.add(dict(zip(by_name, values, strict=True)))

    def due(self) -> bool:
        """Whether anything but stepping is to be done now."""
        c = self.config
        intervals = (c.log_every, c.evaluate_every, c.checkpoint_every, c.steps)
        return any(every and self.step % every == 0 for every in intervals)

    def boundary(self, state: TrainState) -> None:
        """Logs and evaluates, as far as each is due."""
        c, last = self.config, self.step == self.config.steps
        if last or self.step % c.log_every == 0:
            means = self.average.means()
            self.average = RunningAverage()
            figures = {f"train/{name}": value for name, value in means.items()}
            self._write({**figures, **self.speed.figures(self.step)})
            self._call(state)
        if last or (c.evaluate_every and self.step % c.evaluate_every == 0):
            self._evaluate(state)
        self.save_due = bool(c.checkpoint_every and self.step % c.checkpoint_every == 0)
        self.speed.restart(self.step)

    def save_if_due(self, state: TrainState) -> None:
        """Saves at multiples of ``checkpoint_every``."""
        if self.save_due:
            self._save(state)
            self.speed.restart(self.step)
        self.save_due = False

    def _write(self, values: Mapping[str, float]) -> None:
        self.record = {"step": self.step, "seconds": self._seconds(), **values}
        if self.log is not None:
            self.log.write(self.record)

    def _call(self, state: TrainState) -> None:
        for callback in self.callbacks:
            self.stop |= bool(callback(self.record, state))

    def _evaluate(self, state: TrainState) -> None:
        """Evaluates once per step; a new best is saved before any callback sees it."""
        if self.evaluate_fn is None or self.progress.evaluated == self.step:
            return
        self.progress.evaluated = self.step
        self.figures = {name: float(value) for name, value in self.evaluate_fn(state).items()}
        self._write(self.figures)
        if self._is_new_best() and self.checkpoints is not None:
            self._save(state)
            self.checkpoints.wait()  # so that even a killed run has it
        self._call(state)

    def _is_new_best(self) -> bool:
        """Whether the metric is finite and has never been better; counts how often it was not."""
        progress, metric = self.progress, self.config.metric
        if metric is None:
            return False
        if metric not in self.figures:
            raise InputError(f"metric is {metric!r}, expected one of {', '.join(self.figures)}")
        value, sign = self.figures[metric], 1 if self.config.mode == "min" else -1
        better = progress.best is None or sign * value < sign * progress.best
        if better and math.isfinite(value):
            progress.best, progress.best_step, progress.worse = value, self.step, 0
            return True
        progress.worse += 1
        return False

    def _save(self, state: TrainState) -> None:
        if self.checkpoints is None:
            return
        self.progress.seconds = self._seconds()
        self.progress.window = self.average.sums
        figures = self.figures if self.progress.evaluated == self.step else {}
        self.checkpoints.save(state, metrics=figures, progress=dataclasses.asdict(self.progress))

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def finish(self, state: TrainState, reason: str, signals: Signals) -> FitResult:
        """The last evaluation and checkpoint."""
        if reason != "signal":
            self._evaluate(state)
        self._save(state)
        if self.checkpoints is not None:
            self.checkpoints.wait()
        if reason == "signal":
            signals.check()
            raise Interrupted(signal.SIGTERM)  # another process received it
        return FitResult(state, reason, self.progress.best, self.progress.best_step)


def _abstract(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _stacked(data: Callable[[int], Batch], start: int, count: int) -> Batch:
    """Batches start .. start + count - 1 as arrays [count, B, ...]."""
    batches = [data(index) for index in range(start, start + count)]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
