"""Figures of speed, batches made ahead, and traces of some steps."""

import gzip
import json
import math
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.parallel import current_mesh
from jaxgen.training import speed
from jaxgen.training.loop import LoopConfig, fit
from jaxgen.training.metrics import MetricsLog, read_records
from jaxgen.training.optimizers import OptimizerConfig, make_optimizer, make_schedule
from jaxgen.training.prefetch import prefetched
from jaxgen.training.profiles import Profile, parse_profile
from jaxgen.training.speed import Speed, peak_of, units_of
from jaxgen.training.state import create_state
from jaxgen.training.step import compile_step, make_train_step, scan_steps

STEP_SECONDS, READ_SECONDS = 0.02, 0.01
OPTIMIZER = OptimizerConfig("sgd", 0.5, schedule="cosine", warmup_steps=2, total_steps=10)


def loss_fn(params, batch, key):
    return (params["theta"] * batch["image"]).mean(), {}


def fresh():
    tx = make_optimizer(OPTIMIZER)
    state, _ = create_state(lambda: {"theta": jnp.zeros(())}, tx=tx)
    return state, make_train_step(loss_fn, tx, learning_rate=make_schedule(OPTIMIZER))


def run(config, data=None, **kwargs):
    state, step = fresh()
    step = scan_steps(step) if config.steps_per_call > 1 else step
    data = data or (lambda t: {"image": np.full((6, 2), t, np.float32)})
    return fit(compile_step(step, state), state, data, jax.random.key(0), config, **kwargs)


@pytest.mark.parametrize("per_call", [1, 2])
def test_records_say_how_fast_and_at_which_rate(tmp_path, per_call):
    config = LoopConfig(steps=8, steps_per_call=per_call, log_every=4)
    run(config, log=MetricsLog(tmp_path), prefetch=2)
    records = read_records(tmp_path / "metrics.jsonl")
    rates = [1 / 6, 1 / 3, *(0.25 * (1 + math.cos(math.pi * t / 8)) for t in range(6))]
    expected = [sum(rates[:4]) / 4, sum(rates[4:]) / 4]
    assert [r["train/learning_rate"] for r in records] == pytest.approx(expected)
    for record in records:
        rate = record["speed/steps_per_second"]
        assert record["speed/images_per_second"] == pytest.approx(6 * rate)
        assert record["speed/device_bytes"] > 10**7  # on CPU: of the process
        assert "speed/share_of_peak" not in record  # of CPUs it is not known


def test_the_rate_is_that_of_steps_alone(monkeypatch):
    """Of 10 steps a second; the first call, which compiles, and evaluations do not count."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(speed, "peak_of", lambda kind: 1e6)
    found, batch = Speed(multiply_adds=4000), {"tokens": np.zeros((3, 4, 7, 2))}
    assert found.figures(0) == {}
    clock[0] = 60.0
    found.after_call(3, batch, leading=1)
    assert found.figures(3) == {}
    clock[0] += 0.5
    found.after_call(8, batch, leading=1)
    figures = found.figures(8)
    assert figures["speed/steps_per_second"] == pytest.approx(10)
    assert figures["speed/tokens_per_second"] == pytest.approx(10 * 4 * 7)
    share = 2 * 4000 * 10 / 1e6 / jax.device_count()
    assert figures["speed/share_of_peak"] == pytest.approx(share)
    clock[0] += 100  # an evaluation
    found.restart(8)
    clock[0] += 1
    assert found.figures(18)["speed/steps_per_second"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("steps", "per_call", "timed"),
    [(6, 1, True), (6, 2, True), (1, 1, False), (4, 4, False), (7, 2, False)],
    ids=["steps", "calls", "one step", "one call", "a shorter call at the end"],
)
def test_one_record_says_how_fast_the_steps_are_that_compiled_nothing(
    tmp_path, monkeypatch, steps, per_call, timed
):
    """A step takes 3 s, a call of a new length a minute besides."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    state, step = fresh()
    compiled, lengths = compile_step(scan_steps(step) if per_call > 1 else step, state), set()

    def slow(state, batch, key):
        count = len(batch["image"]) if per_call > 1 else 1
        clock[0] += 3 * count + 60 * (count not in lengths)
        lengths.add(count)
        return compiled(state, batch, key)

    config = LoopConfig(steps=steps, steps_per_call=per_call, log_every=8)
    data = lambda t: {"image": np.ones((6, 2), np.float32)}  # noqa: E731
    fit(slow, state, data, jax.random.key(0), config, log=MetricsLog(tmp_path))
    (record,) = read_records(tmp_path / "metrics.jsonl")
    found = record.get("speed/steps_per_second")
    assert found == (pytest.approx(1 / 3) if timed else None)


def test_peaks_and_units():
    kinds = ["NVIDIA H100 80GB HBM3", "TPU v5 lite", "TPU v5p", "TPU v4", "cpu"]
    assert [peak_of(kind) for kind in kinds] == [989e12, 197e12, 459e12, 275e12, None]
    array = np.zeros((5, 3))
    names = [units_of({name: array}, 0) for name in ("image", "video", "targets", "rays")]
    assert names == [("images", 5), ("clips", 5), ("tokens", 5), ("examples", 5)]


def seconds_of_a_run(ahead, count=20):
    """Of a step and a reader that wait."""
    calls = [(t, 1) for t in range(count)]

    def make(step, steps):
        time.sleep(READ_SECONDS)
        return {"x": np.full(1, step), "thread": np.full(1, threading.get_ident())}

    with prefetched(make, calls, ahead, current_mesh()) as batches:
        batches_seen = []
        started = time.monotonic()
        for call in calls:
            batches_seen.append(batches(*call))
            time.sleep(STEP_SECONDS)
        seconds = time.monotonic() - started
    assert [int(batch["x"][0]) for batch in batches_seen] == list(range(count))
    here = {int(batch["thread"][0]) == threading.get_ident() for batch in batches_seen}
    assert here == {ahead == 0}
    return seconds / count


def test_a_slow_reader_costs_nothing():
    """Steps of 20 ms, batches of 10 ms: 30 ms without a thread, 20 with one (more of both where the
    machine is busy)."""
    alone, ahead = (min(seconds_of_a_run(n, 15) for _ in range(3)) for n in (0, 2))
    assert alone > STEP_SECONDS + READ_SECONDS
    assert ahead < alone - READ_SECONDS / 2


def test_batches_made_ahead_give_the_same_run():
    config = LoopConfig(steps=9, steps_per_call=2, log_every=4)
    thetas = [float(run(config, prefetch=ahead).state.params["theta"]) for ahead in (0, 1, 3)]
    assert thetas == [thetas[0]] * 3


def test_a_reader_that_fails_says_so_where_its_batch_is_needed():
    def data(t):
        if t == 5:
            raise InputError("record 5 is odd")
        seen.append(t)
        return {"image": np.zeros((2, 2), np.float32)}

    seen, callbacks = [], []
    with pytest.raises(InputError, match="record 5 is odd"):
        run(
            LoopConfig(steps=100, log_every=1),
            data,
            prefetch=3,
            callbacks=[lambda record, state: callbacks.append(record["step"])],
        )
    assert (seen, callbacks) == ([*range(5)], [1, 2, 3, 4, 5])
    assert not [thread for thread in threading.enumerate() if thread.name == "input"]


def test_some_steps_are_traced(tmp_path):
    run(LoopConfig(steps=6, log_every=6), profile=Profile(2, 4, tmp_path / "profile"))
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    calls = [e["ts"] for e in events if e.get("name") == "PjitFunction(step)"]
    ends = [e["ts"] + e["dur"] for e in events if e.get("name") == "PjitFunction(step)"]
    outer = {
        max(end for start, end in zip(calls, ends, strict=True) if start <= t <= end) for t in calls
    }  # such an event holds another one of its name
    assert len(outer) == 2


@pytest.mark.parametrize("text", ["", "5", "5:5", "7:5", "-1:5", "a:b", "1:2:3"])
def test_odd_profiles_are_refused(text):
    with pytest.raises(InputError, match="profile is"):
        parse_profile(text, "profile")


def test_moments_in_bfloat16():
    """Half the bytes of the mean of gradients; squares stay; updates differ by its rounding."""
    params = {"kernel": jnp.linspace(-1, 1, 64).reshape(8, 8)}
    states, found = {}, {}
    for dtype in ("float32", "bfloat16"):
        tx = make_optimizer(OptimizerConfig("adamw", 0.1, moment_dtype=dtype))
        state = tx.init(params)
        for t in range(5):
            gradient = {"kernel": jnp.sin(params["kernel"] * (t + 1))}
            updates, state = tx.update(gradient, state, params)
        adam = state[0]
        states[dtype] = (adam.mu["kernel"].dtype.name, adam.nu["kernel"].dtype.name)
        found[dtype] = updates["kernel"]
    assert states == {"float32": ("float32",) * 2, "bfloat16": ("bfloat16", "float32")}
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=0.02, atol=1e-3)
    assert not np.array_equal(found["bfloat16"], found["float32"])
    momentum = make_optimizer(OptimizerConfig("momentum", 0.1, moment_dtype="bfloat16"))
    assert {x.dtype.name for x in jax.tree.leaves(momentum.init(params)) if x.ndim} == {"bfloat16"}
    with pytest.raises(InputError, match="moment_dtype is 'float16'"):
        OptimizerConfig(moment_dtype="float16")
