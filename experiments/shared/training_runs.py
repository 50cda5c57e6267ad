"""Training a model, or resuming where a folder holds a run of it, whatever the data.

Batches depend on the step alone and parameters do not depend on the mesh, so losses are the same on
any mesh and any number of processes, to rounding.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from experiments.shared.digests import params_digest
from experiments.shared.image_plots import plot_losses
from experiments.shared.launch import launch_options, report
from experiments.shared.output import write_text
from jaxgen.errors import InputError
from jaxgen.nn.counting import multiply_adds, parameter_count
from jaxgen.parallel import Layout, current_mesh, plan_layout, replicated
from jaxgen.parallel.batches import process_rows, put_batch, put_local_batch
from jaxgen.training import (
    Checkpoints,
    LoopConfig,
    MetricsLog,
    OptimizerConfig,
    TrainState,
    averaged_params,
    compile_step,
    create_state,
    fit,
    load_config,
    load_params,
    make_optimizer,
    make_schedule,
    make_train_step,
    read_records,
    scan_steps,
)
from jaxgen.training.metrics import Record
from jaxgen.training.optimizers import MomentDtype
from jaxgen.training.profiles import parse_profile
from jaxgen.training.speed import peak_of
from jaxgen.training.step import AfterStep, LossFn, StepFn
from jaxgen.typing import Batch, Tree

VALIDATION_LOSS = "validation/loss"
STEPS_PER_CALL = 8
LEVEL_NAMES = ("log-SNR below -4", "-4 to 0", "0 to 4", "above 4")
"""Ranges of `jaxgen.diffusion.objectives.losses.loss_by_level`."""

TIMED_CALLS = 6
"""Of so many updates at once, to find out how many fit into a time; the first is not counted."""

RECORDS, EVALUATIONS, CHECKPOINTS = 40, 10, 10
"""How often a run logs, evaluates and saves, roughly."""


@dataclass(frozen=True, kw_only=True)
class OptimizationFlags:
    """How a network is trained: AdamW, linear warm-up, cosine to zero, average of parameters.

    Attributes:
      training_steps: updates.
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what is sampled.
      accumulate: microbatches of each update, one after the other, to fit it into memory.
      moment_dtype: of the optimizer's mean of gradients; "bfloat16" halves it.
    """

    training_steps: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    accumulate: int = 1
    moment_dtype: MomentDtype = "float32"

    def __post_init__(self) -> None:
        if self.training_steps < 1:
            raise InputError(f"training_steps is {self.training_steps}, expected 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}, expected 0 <= ema_decay < 1")
        if self.accumulate < 1:
            raise InputError(f"accumulate is {self.accumulate}, expected 1 or more")
        self.optimizer()

    def optimizer(self) -> OptimizerConfig:
        """The optimizer of the run."""
        return OptimizerConfig(
            "adamw",
            self.learning_rate,
            schedule="cosine",
            warmup_steps=min(200, self.training_steps // 10),
            total_steps=self.training_steps,
            weight_decay=self.weight_decay,
            clip_norm=1.0,
            b2=0.99,
            moment_dtype=self.moment_dtype,
        )

    def loop(self, per_call: int = STEPS_PER_CALL) -> LoopConfig:
        """Steps and intervals, in whole calls of so many steps."""
        per_call = min(per_call, self.training_steps)
        chosen = launch_options().checkpoint_every

        def every(times: int) -> int:
            return per_call * max(1, self.training_steps // (times * per_call))

        return LoopConfig(
            steps=self.training_steps,
            steps_per_call=per_call,
            log_every=every(RECORDS),
            evaluate_every=every(EVALUATIONS),
            checkpoint_every=-(-chosen // per_call) * per_call if chosen else every(CHECKPOINTS),
        )


@dataclass(frozen=True)
class OpenedModel:
    """A model with its parameters, ready to be sampled or rendered.

    Attributes:
      config: what it is, with ``make_init()``.
      params: its parameters (their moving average), with their sharding.
      layout: how they are sharded.
    """

    config: Any
    params: Tree
    layout: Layout

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the parameters; all processes ask for it together."""
        return params_digest(self.params)


@dataclass(frozen=True)
class TrainedModel(OpenedModel):
    """A model with what is known of its training.

    Attributes:
      records: what the run logged.
      steps: updates done, skipped ones included.
      skipped: updates left out because the loss or its gradient was not finite.
      seconds: time spent training, over all restarts.
      variables: what was learned without gradients, if anything.
    """

    records: list[Record]
    steps: int
    skipped: int
    seconds: float
    variables: Tree | None = None

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """The updates at which a figure was logged, and its values."""
        points = [(record["step"], record[name]) for record in self.records if name in record]
        return [step for step, _ in points], [value for _, value in points]

    def last(self, *names: str) -> dict[str, float]:
        """The last value of those of these figures that were logged."""
        curves = {name: self.curve(name)[1] for name in names}
        return {name: values[-1] for name, values in curves.items() if values}

    def figures(self) -> dict[str, float]:
        """How large the model is, and how it was trained."""
        return {
            "parameters": parameter_count(self.params),
            "updates": self.steps,
            "seconds": self.seconds,
            **self.last("train/loss"),
        }


def train_model(
    config: Any,
    data: Callable[..., Batch],
    folder: pathlib.Path,
    flags: OptimizationFlags,
    make_loss_fn: Callable[[Layout], LossFn],
    *,
    batch_size: int | None = None,
    make_evaluation: Callable[[LossFn], Callable[[TrainState], dict[str, float]] | None],
    seed: int = 0,
    tensorboard: bool = False,
    progress: bool = True,
    start: Tree | None = None,
    resident: Batch | None = None,
    variables: Tree | None = None,
    single_steps: bool = False,
    tx: optax.GradientTransformation | None = None,
    after_step: AfterStep | None = None,
) -> TrainedModel:
    """Trains a model, or resumes.

    Args:
      config: the model, with ``make_init()``.
      data: update t -> its batch, the same whenever it is asked; or with `batch_size`
        (update t, rows) -> those rows of it.
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there.
      flags: how to train it.
      make_loss_fn: the loss for parameters of a layout.
      batch_size: B, where each process reads only the rows of a batch that its devices hold; None:
        every process reads batches whole.
      make_evaluation: what is evaluated now and then, given the loss.
      seed: of the parameters and noise.
      tensorboard: whether to write event files too.
      progress: whether to show a bar.
      start: parameters to start from; None: new ones.
      resident: arrays that stay on the devices, for every batch (`jaxgen.training.fit`).
      variables: initial values of what a stateful loss learns without gradients
        (`jaxgen.training.step`); None where the loss is not stateful.
      single_steps: whether each call is one step, as batches of several shapes need, and networks
        with convolutions: in the body of a loop XLA on CPU takes 20 to 90 times as long for the
        gradients of their kernels.
      tx: the optimizer; None: that of the flags.
      after_step: what else becomes of the state in a step (`jaxgen.training.step`).

    Raises:
      InputError: where `folder` has another run's checkpoints.
    """
    loop = flags.loop(1 if single_steps else STEPS_PER_CALL)
    state, layout, loss_fn, step = _prepare(
        config, flags, make_loss_fn, seed, variables, loop.steps_per_call, tx, after_step
    )
    of_step, put = _own_rows(data, batch_size)
    if start is not None:
        state = dataclasses.replace(state, params=_copy(start, layout), ema=_copy(start, layout))
    with Checkpoints(folder / "checkpoints", config=config, **kept_checkpoints()) as checkpoints:
        result = fit(
            compile_step(step, state),
            state,
            of_step,
            jax.random.key(seed),
            loop,
            evaluate=make_evaluation(loss_fn),
            checkpoints=checkpoints,
            log=MetricsLog(folder, tensorboard),
            progress=progress,
            resident=resident,
            put=put,
            multiply_adds=multiply_adds_of_step(step, state, of_step, loop, put, resident),
            **loop_options(folder),
        )
    records = read_records(folder / "metrics.jsonl")
    return TrainedModel(
        config,
        averaged_params(result.state),
        layout,
        records,
        steps=int(result.state.step),
        skipped=int(result.state.skipped),
        seconds=max((record.get("seconds", 0.0) for record in records), default=0.0),
        variables=result.state.variables,
    )


def loss_of_batch(loss_fn: LossFn, batch: Batch) -> Callable[[TrainState], dict[str, float]]:
    """An evaluation: the loss of the averaged parameters on one batch, always with one noise.

    Args:
      loss_fn: the loss.
      batch: whole, in the memory of this process.
    """
    mesh = current_mesh()
    compiled = jax.jit(lambda p, b, k: loss_fn(p, b, k)[0], out_shardings=replicated(mesh))
    shared = put_batch(batch, mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        return {VALIDATION_LOSS: float(compiled(averaged_params(state), shared, jax.random.key(0)))}

    return evaluate


def kept_checkpoints() -> dict[str, int]:
    """Which checkpoints of a run are kept: arguments of `jaxgen.training.Checkpoints`."""
    options = launch_options()
    return {"keep": options.keep, "keep_every": options.keep_every}


def loop_options(folder: pathlib.Path) -> dict[str, Any]:
    """What the flags of every program say of the loop: arguments of `jaxgen.training.fit`."""
    options = launch_options()
    where = folder / "profile"
    profile = None if options.profile is None else parse_profile(options.profile, where)
    return {"prefetch": options.prefetch, "profile": profile}


def multiply_adds_of_step(
    step: StepFn,
    state: TrainState,
    data: Callable[[int], Batch],
    loop: LoopConfig,
    put: Callable[..., Batch] = put_batch,
    resident: Batch | None = None,
) -> int | None:
    """Those of one update, for devices whose peak is known; None where they cannot be counted.

    Args:
      step: what `jaxgen.training.fit` calls, of ``loop.steps_per_call`` updates, compiled or not.
      state, data, loop, put, resident: as for `jaxgen.training.fit`.
    """
    if peak_of(jax.devices()[0].device_kind) is None:
        return None
    count = loop.steps_per_call
    batch = put(data(0), current_mesh())
    if count > 1:
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), batch)
    try:
        kept = () if resident is None else (resident,)
        return multiply_adds(step, state, batch, jax.random.key(0), *kept) // count
    except InputError:
        return None


def _own_rows(
    data: Callable[..., Batch], batch_size: int | None
) -> tuple[Callable[[int], Batch], Callable[..., Batch]]:
    """What each process reads of a batch, and what puts it on the devices."""
    if batch_size is None:
        return data, put_batch
    rows = process_rows(current_mesh(), batch_size)
    put = functools.partial(put_local_batch, batch_size=batch_size)
    return lambda index: data(index, rows), put


def _prepare(
    config: Any,
    flags: OptimizationFlags,
    make_loss_fn: Callable[[Layout], LossFn],
    seed: int,
    variables: Tree | None,
    per_call: int,
    tx: optax.GradientTransformation | None,
    after_step: AfterStep | None,
) -> tuple[TrainState, Layout, LossFn, StepFn]:
    """A new state, its layout, the loss, and the step, of several updates at once where asked."""
    schedule = make_schedule(flags.optimizer()) if tx is None else None
    tx = make_optimizer(flags.optimizer()) if tx is None else tx
    state, layout = create_state(
        _init_of(config), jax.random.key(seed), tx=tx, ema=True, variables=variables
    )
    loss_fn, stateful = make_loss_fn(layout), variables is not None
    step = make_train_step(
        loss_fn,
        tx,
        accumulate=flags.accumulate,
        ema_decay=flags.ema_decay,
        stateful=stateful,
        after_step=after_step,
        learning_rate=schedule,
    )
    return state, layout, loss_fn, scan_steps(step) if per_call > 1 else step


def seconds_per_update(
    config: Any,
    data: Callable[[int], Batch],
    flags: OptimizationFlags,
    make_loss_fn: Callable[[Layout], LossFn],
    resident: Batch | None = None,
    variables: Tree | None = None,
    *,
    single_steps: bool = False,
    tx: optax.GradientTransformation | None = None,
    after_step: AfterStep | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """How long an update takes here, without compilation; on a state that is then thrown away.

    Arguments are those of `train_model`, and a clock, in seconds.
    """
    count = 1 if single_steps else STEPS_PER_CALL
    state, _, _, step = _prepare(config, flags, make_loss_fn, 0, variables, count, tx, after_step)
    compiled = compile_step(step, state)
    kept = () if resident is None else (resident,)
    times = []
    for call in range(TIMED_CALLS):
        every = [data(call * count + i) for i in range(count)]
        batch = every[0] if single_steps else jax.tree.map(lambda *x: np.stack(x), *every)
        batch = put_batch(batch, current_mesh(), leading=int(not single_steps))
        start = clock()
        state, metrics = compiled(state, batch, jax.random.key(0), *kept)
        jax.block_until_ready(metrics)
        times.append((clock() - start) / count)
    return sorted(times[1:])[len(times) // 2]


def updates_in(minutes: float, folder: pathlib.Path, seconds: Callable[[], float]) -> int:
    """As many updates as fit into a time; found out once for a folder, so that a run resumes.

    Args:
      minutes: the time.
      folder: of the run; ``updates.json`` is written there.
      seconds: of an update.

    Raises:
      InputError: where the file is of another time.
    """
    path = folder / "updates.json"
    if not path.exists():
        report("timing an update ...")
        count = max(STEPS_PER_CALL, round(60 * minutes / seconds()))
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            count = int(multihost_utils.broadcast_one_to_all(np.int32(count)))
        write_text(path, json.dumps({"minutes": minutes, "updates": count}))
        return count
    known = json.loads(path.read_text())
    if known["minutes"] != minutes:
        raise InputError(f"{path}: minutes is {minutes}, expected {known['minutes']}")
    return known["updates"]


def plot_training(path: pathlib.Path, trained: TrainedModel) -> None:
    """Plots the losses of a denoiser in the course of training, and by noise level."""
    names = {"training batches": "train/loss", "validation, averaged parameters": VALIDATION_LOSS}
    curves = {label: trained.curve(name) for label, name in names.items()}
    levels = {}
    for i, name in enumerate(LEVEL_NAMES):
        steps, parts = trained.curve(f"train/loss_snr_{i}")
        _, shares = trained.curve(f"train/share_snr_{i}")
        levels[name] = (steps, (np.array(parts) / np.maximum(shares, 1e-9)).tolist())
    network = type(trained.config.network).__name__.removesuffix("Config")
    plot_losses(
        path,
        {name: curve for name, curve in curves.items() if curve[0]},
        levels,
        f"{network} predicting {trained.config.target}: loss, and by noise level",
    )


def open_trained_model(folder: pathlib.Path, kind: type, what: str) -> OpenedModel:
    """The model of a finished (or interrupted) run, laid over the current mesh.

    Args:
      folder: the run's.
      kind: the class that its configuration has to be of.
      what: what such a model is called in an error.

    Raises:
      FileNotFoundError: where there is no checkpoint.
      InputError: where it is not one of such a model.
    """
    config = load_config(folder / "checkpoints")
    if not isinstance(config, kind):
        raise InputError(f"{folder} holds {type(config).__name__}, expected {what}")
    layout = plan_layout_of(config)
    return OpenedModel(config, load_params(folder / "checkpoints", layout.abstract), layout)


def plan_layout_of(config: Any) -> Layout:
    """How the parameters of a model are sharded over the current mesh; nothing is computed.

    Raises:
      InputError: for a size that the mesh does not divide.
    """
    return plan_layout(_init_of(config), jax.random.key(0), mesh=current_mesh())


@functools.lru_cache(maxsize=8)
def _init_of(config: Any) -> Callable[..., Tree]:
    """``config.make_init()``, once: JAX keeps what it has traced by the function."""
    return config.make_init()


def check_layout(config: Any) -> None:
    """Refuses, before anything is written, what `plan_layout_of` would refuse."""
    plan_layout_of(config)


def _copy(params: Tree, layout: Layout) -> Tree:
    """A copy with the layout's sharding: what is donated to a step must not share memory."""
    copy = jax.jit(lambda tree: jax.tree.map(lambda x: x + 0, tree), out_shardings=layout.shardings)
    return copy(params)
