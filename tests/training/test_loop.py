"""The loop: what is due when, stopping, the guard's end, callbacks; resuming is in test_resume."""

import contextlib
import dataclasses
import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mlp import fresh_state_of

from jaxgen.errors import InputError
from jaxgen.training import loop
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.loop import LoopConfig, NonFiniteError, _abstract, fit
from jaxgen.training.metrics import MetricsLog, read_records
from jaxgen.training.state import create_state
from jaxgen.training.step import compile_step, make_train_step, scan_steps

KEY = jax.random.key(0)
TX = optax.sgd(1.0)


def loss_fn(params, batch, key):
    """The loss is the batch's number; theta counts the steps: its gradient is -1."""
    return batch["x"].mean() + jax.lax.stop_gradient(params["theta"]) - params["theta"], {}


def zero():
    return {"theta": jnp.zeros(())}


@functools.cache
def compiled_step(several):
    step = make_train_step(loss_fn, TX)
    return compile_step(scan_steps(step) if several else step, fresh_state_of(zero, TX)[0])


def run(config, values=None, **kwargs):
    """Trains theta from 0 by one each step; batch t holds `values[t]`, or t itself."""
    step, state = compiled_step(config.steps_per_call > 1), fresh_state_of(zero, TX)[0]
    asked = []

    def data(t):
        asked.append(t)
        return {"x": np.full(4, t if values is None else values[t], np.float32)}

    return fit(step, state, data, KEY, config, **kwargs), asked


def test_a_run_takes_each_batch_once_and_logs_averages(tmp_path):
    log = MetricsLog(tmp_path)
    result, asked = run(LoopConfig(steps=10, log_every=4), log=log)
    assert asked == list(range(10))
    assert (result.reason, float(result.state.params["theta"])) == ("steps", 10)
    records = read_records(log.path)
    assert [r["step"] for r in records] == [4, 8, 10]
    assert [r["train/loss"] for r in records] == [1.5, 5.5, 8.5]
    assert all(r["train/gradient_norm"] == 1 for r in records)
    seconds = [r["seconds"] for r in records]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("steps", [12, 10])
def test_calls_of_several_steps_log_the_same(tmp_path, steps):
    logs = []
    for k in (1, 4):
        log = MetricsLog(tmp_path / str(k))
        config = LoopConfig(steps=steps, steps_per_call=k, log_every=4)
        result, asked = run(config, log=log)
        assert asked == list(range(steps))
        assert float(result.state.params["theta"]) == steps
        logs.append([(r["step"], r["train/loss"]) for r in read_records(log.path)])
    assert logs[0] == logs[1]


def test_calls_of_several_steps_fall_into_line_again(tmp_path):
    """A run that was stopped at step 5 and resumes with four steps a call."""
    log = MetricsLog(tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as saved:
        run(LoopConfig(steps=5), checkpoints=saved)
        config = LoopConfig(steps=14, steps_per_call=4, log_every=4)
        result, asked = run(config, checkpoints=saved, log=log)
    assert asked == list(range(5, 14))
    assert float(result.state.params["theta"]) == 14
    assert [r["step"] for r in read_records(log.path)] == [8, 12, 14]


def test_evaluation_happens_at_intervals_and_at_the_end():
    seen = []

    def evaluate(state):
        seen.append(int(state.params["theta"]))
        return {"loss": 1.0}

    run(LoopConfig(steps=10, evaluate_every=4), evaluate=evaluate)
    assert seen == [4, 8, 10]
    seen.clear()
    run(LoopConfig(steps=8, evaluate_every=4), evaluate=evaluate)
    assert seen == [4, 8]
    seen.clear()
    run(LoopConfig(steps=5), evaluate=evaluate)
    assert seen == [5]


SCORES = {2: 5.0, 4: 3.0, 6: float("nan"), 8: 3.0, 10: 2.9, 12: 4.0, 14: 4.0, 16: 4.0, 18: 0.0}


@pytest.mark.parametrize(
    ("mode", "patience", "best", "best_step", "stop"),
    [("min", 2, 3.0, 4, 8), ("min", 3, 2.9, 10, 16), ("max", 4, 5.0, 2, 10)],
)
def test_early_stopping_waits_for_as_many_evaluations(mode, patience, best, best_step, stop):
    config = LoopConfig(steps=18, evaluate_every=2, metric="score", mode=mode, patience=patience)
    evaluate = lambda state: {"score": SCORES[int(state.step)]}  # noqa: E731
    result, asked = run(config, evaluate=evaluate)
    assert (result.best, result.best_step) == (best, best_step)
    assert (result.reason, len(asked)) == ("no improvement", stop)


def test_a_first_score_that_is_not_a_number_is_not_the_best():
    scores = {2: float("nan"), 4: float("inf"), 6: 3.0, 8: 4.0}
    config = LoopConfig(steps=8, evaluate_every=2, metric="score", patience=3)
    result, _ = run(config, evaluate=lambda state: {"score": scores[int(state.step)]})
    assert (result.reason, result.best, result.best_step) == ("steps", 3.0, 6)


def test_a_checkpoint_saved_by_hand_can_be_gone_on_from(tmp_path):
    state, _ = create_state(lambda: {"theta": jnp.float32(7)}, tx=TX)
    with Checkpoints(tmp_path) as saved:
        saved.save(state)
        result, _ = run(LoopConfig(steps=2), checkpoints=saved)
    assert float(result.state.params["theta"]) == 9


def test_a_new_best_is_saved_at_once_and_kept(tmp_path):
    config = LoopConfig(steps=18, evaluate_every=2, checkpoint_every=6, metric="score")
    saved_steps = []
    evaluate = lambda state: {"score": SCORES[int(state.step)] + (state.step == 18) * 9}  # noqa: E731
    with Checkpoints(tmp_path, keep=1, metric="score") as saved:
        result, _ = run(config, evaluate=evaluate, checkpoints=saved)
        assert (saved.latest, saved.best, result.best_step) == (18, 10, 10)
        saved_steps = sorted(int(p.name) for p in tmp_path.iterdir())
    assert saved_steps == [10, 18]


def test_the_loop_stops_after_too_many_bad_steps_in_a_row():
    nan = float("nan")
    values = [1, nan, nan, 1, nan, nan, nan, 1, 1, 1]
    config = LoopConfig(steps=10, max_skipped_in_a_row=3)
    with pytest.raises(NonFiniteError, match="was not finite in 3 steps in a row"):
        run(config, values)
    result, _ = run(LoopConfig(steps=10, max_skipped_in_a_row=4), values)
    assert int(result.state.skipped) == 5
    assert float(result.state.params["theta"]) == 5


def test_too_many_bad_steps_stop_the_run_soon_and_before_a_save(tmp_path):
    asked = []

    def evaluate(state):
        asked.append(int(state.step))
        return {}

    config = LoopConfig(steps=1000, evaluate_every=5, checkpoint_every=5, max_skipped_in_a_row=5)
    with Checkpoints(tmp_path) as saved:
        with pytest.raises(NonFiniteError):
            run(config, [float("nan")] * 1000, checkpoints=saved, evaluate=evaluate)
        assert saved.latest is None
    assert asked == []


def test_averages_leave_out_skipped_steps(tmp_path):
    log = MetricsLog(tmp_path)
    run(LoopConfig(steps=4, log_every=4), [1, float("nan"), 3, 5], log=log)
    (record,) = read_records(log.path)
    assert (record["train/loss"], record["train/skipped"]) == (3, 1)


def test_a_callback_sees_records_and_may_end_the_run():
    seen = []

    def callback(record, state):
        seen.append((record["step"], float(state.params["theta"])))
        return record["step"] >= 6

    result, asked = run(LoopConfig(steps=100, log_every=2), callbacks=[callback])
    assert seen == [(2, 2), (4, 4), (6, 6)]
    assert (result.reason, len(asked)) == ("callback", 6)


def test_a_metric_that_is_not_evaluated_is_refused():
    config = LoopConfig(steps=2, metric="loss")
    with pytest.raises(InputError, match="metric is 'loss', expected one of perplexity"):
        run(config, evaluate=lambda state: {"perplexity": 1.0})


def test_a_signal_that_comes_too_late_to_stop_is_raised_at_the_end(tmp_path):
    """The last evaluation is under way; whoever runs the program must not take it for finished."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def evaluate(state):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with Checkpoints(tmp_path) as saved:
        with pytest.raises(SystemExit) as stopped:
            run(LoopConfig(steps=3), evaluate=evaluate, checkpoints=saved)
        assert saved.latest == 3
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_several_processes_end_where_the_preemption_service_says(monkeypatch):
    """Records are rare. The process beside this one is its mirror; the other one was told."""

    def data(t):
        steps.append(t)
        return {"x": np.full(4, t, np.float32)}

    def allgather(values):
        asked.append(len(steps))
        return np.stack([values, values])

    state, _ = create_state(lambda: {"theta": jnp.zeros(())}, tx=TX)
    step = compile_step(make_train_step(loss_fn, TX), state)
    steps, asked = [], []
    config = LoopConfig(steps=100, log_every=6)
    with monkeypatch.context() as patched:
        patched.setattr(jax, "process_count", lambda: 2)
        patched.setattr(loop, "reached_sync_point", lambda: len(steps) == 16)
        patched.setattr("jax.experimental.multihost_utils.process_allgather", allgather)
        with pytest.raises(SystemExit) as stopped:
            fit(step, state, data, KEY, config, put=lambda batch, *_, **__: batch)
    assert (stopped.value.code, len(steps)) == (128 + signal.SIGTERM, 16)
    assert asked == [0, 6, 12]


def test_a_second_signal_ends_the_run_at_once():
    def data(t):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    state, _ = create_state(lambda: {"theta": jnp.zeros(())}, tx=TX)
    with pytest.raises(SystemExit) as stopped:
        fit(None, state, data, KEY, LoopConfig(steps=3))
    assert stopped.value.code == 128 + signal.SIGINT


def test_a_bar_is_shown(capsys):
    run(LoopConfig(steps=4, log_every=2), progress=True)
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": -1}, "steps is -1, expected at least 0"),
        ({"steps_per_call": 0}, "steps_per_call is 0, expected at least 1"),
        ({"log_every": 0}, "log_every is 0"),
        ({"evaluate_every": -2}, "evaluate_every is -2"),
        ({"steps_per_call": 3}, "log_every is 100, expected a multiple of steps_per_call=3"),
        ({"mode": "best"}, "mode is 'best', expected one of min, max"),
        ({"patience": 3}, "patience is 3, expected at least 1, and a metric"),
        ({"max_skipped_in_a_row": 0}, "max_skipped_in_a_row is 0"),
    ],
)
def test_bad_values_name_the_field(fields, message):
    with pytest.raises(InputError, match=message):
        LoopConfig(**fields)


def scores_then(scores, end, folder):
    """An evaluation by step, and data that end the run as told once step 4 is evaluated."""
    at = {"step": 0}

    def evaluate(state):
        at["step"] = int(state.step)
        return {"score": scores[at["step"]]}

    def data(t):
        if at["step"] == 4 and end == "data":
            raise OSError("no more")
        if at["step"] == 4 and end == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        bad = at["step"] == 4 and end == "not finite"
        return {"x": np.full(4, np.nan if bad else 0, np.float32)}

    def callback(record, state):
        if record["step"] == 4 and "score" in record:
            assert (folder / "4").is_dir()  # so a run that is killed from here on has it too
            if end == "callback":
                raise KeyError("a fault")
            return end == "callback stops"
        return False

    return evaluate, data, callback


ENDS = {
    "steps": None,
    "callback stops": None,
    "patience": None,
    "data": OSError,
    "signal": SystemExit,
    "not finite": NonFiniteError,
    "callback": KeyError,
}


def test_the_best_is_kept_however_the_run_ends(tmp_path):
    state, _ = create_state(lambda: {"theta": jnp.zeros(())}, tx=TX)
    step = jax.jit(make_train_step(loss_fn, TX))
    config = LoopConfig(steps=9, log_every=3, evaluate_every=2, metric="score", mode="max")
    config = dataclasses.replace(config, checkpoint_every=3, max_skipped_in_a_row=2)
    for end, error in ENDS.items():
        scores = {2: 3.0, 4: 5.0, 6: float("inf"), 8: float("nan"), 9: 1.0}
        evaluate, data, callback = scores_then(scores, end, tmp_path / end)
        patience = 2 if end == "patience" else None
        with Checkpoints(tmp_path / end, keep=1, metric="score", mode="max") as saved:
            expected = contextlib.nullcontext() if error is None else pytest.raises(error)
            with expected:
                fit(
                    step,
                    state,
                    data,
                    KEY,
                    dataclasses.replace(config, patience=patience),
                    evaluate=evaluate,
                    checkpoints=saved,
                    callbacks=[callback],
                )
        with Checkpoints(tmp_path / end, metric="score", mode="max") as saved:
            assert saved.best == 4, end
            restored, progress = saved.restore(jax.tree.map(_abstract, state), "best")
        assert (int(restored.step), progress["best"], progress["best_step"]) == (4, 5.0, 4), end


def test_a_best_that_the_last_evaluation_finds_is_saved_over_its_step(tmp_path):
    """Step 6 is saved before its evaluation, by a run that is started again and ends there."""
    with Checkpoints(tmp_path, metric="score") as saved:
        run(LoopConfig(steps=6), checkpoints=saved)
        assert (saved.latest, saved.best) == (6, None)
        config = LoopConfig(steps=6, metric="score")
        result, asked = run(config, evaluate=lambda state: {"score": 2.0}, checkpoints=saved)
        assert (asked, result.best_step, saved.best) == ([], 6, 6)


def test_a_callback_that_stops_where_a_checkpoint_is_due_still_has_its_evaluation_saved(tmp_path):
    config = LoopConfig(steps=20, log_every=2, checkpoint_every=2, metric="score")
    with Checkpoints(tmp_path, metric="score") as saved:
        result, _ = run(
            config,
            evaluate=lambda state: {"score": 1.0},
            checkpoints=saved,
            callbacks=[lambda record, state: record["step"] == 4],
        )
        assert (result.reason, result.best_step, saved.best) == ("callback", 4, 4)


def test_checkpoints_that_keep_another_best_are_refused(tmp_path):
    config = LoopConfig(steps=1, metric="score")
    for kwargs in ({}, {"metric": "loss"}, {"metric": "score", "mode": "max"}):
        with (
            Checkpoints(tmp_path, **kwargs) as saved,
            pytest.raises(InputError, match=r"keep the best by .*, expected \('score', 'min'\)"),
        ):
            run(config, evaluate=lambda state: {"score": 0.0}, checkpoints=saved)


@pytest.mark.parametrize(
    "progress",
    [3, [1], {"best": "low"}, {"worse": -1}, {"window": {"a": [1]}}, {"window": 2}, {"other": 1}],
)
def test_odd_progress_is_one_line(tmp_path, progress):
    state, _ = create_state(lambda: {"theta": jnp.float32(7)}, tx=TX)
    with Checkpoints(tmp_path) as saved:
        saved.save(state, progress=progress)
        with pytest.raises(InputError, match=f"^{tmp_path}/0: progress .* expected that of `fit`$"):
            run(LoopConfig(steps=2), checkpoints=saved)
