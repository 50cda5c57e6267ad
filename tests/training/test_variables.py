"""Variables: what steps update without gradients; in microbatches, skipped steps, checkpoints."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from mlp import MLPConfig, fresh_state, fresh_state_of, make_batch, make_loss

from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh, plan_layout, replicated
from jaxgen.parallel.batches import put_batch
from jaxgen.training.checkpoint import Checkpoints, load_model, load_params, load_variables
from jaxgen.training.local_steps import make_local_steps
from jaxgen.training.loop import LoopConfig, fit
from jaxgen.training.state import abstract_state, create_state, state_axes, state_from_params
from jaxgen.training.step import compile_step, make_train_step, scan_steps

KEY = jax.random.key(1)
SGD = optax.sgd(0.1)
CONFIG = MLPConfig()
START = {"seen": {"mean": np.zeros(8, np.float32), "batches": np.zeros((), np.int32)}}


def theta():
    return {"theta": jnp.array([1.0, -2.0])}


def fresh(variables=START, tx=SGD):
    return dataclasses.replace(
        fresh_state_of(theta, tx)[0], variables=jax.tree.map(jnp.array, variables)
    )


def remembering(params, batch, key, variables):
    """The mean of x decays by half with every batch (and its loss with theta)."""
    seen = variables["seen"]
    mean = (seen["mean"] + batch["x"].mean(0)) / 2
    loss = jnp.sum(params["theta"]) * jnp.sum(mean) * batch.get("scale", jnp.ones(1)).mean()
    new = {"seen": {"mean": mean, "batches": seen["batches"] + 1}}
    return loss, ({"before": seen["mean"].sum()}, new)


def batch_of(index, size=8):
    return {"x": np.random.default_rng([4, index]).normal(size=(size, 8)).astype(np.float32)}


def close(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)


def test_a_loss_takes_the_variables_that_it_returned_before():
    step = compile_step(make_train_step(remembering, SGD, stateful=True), fresh())
    state, mean, total = fresh(), np.zeros(8), np.array([1.0, -2.0])
    for index in range(4):
        before = mean.sum()
        state, metrics = step(state, batch_of(index), KEY)
        mean = (mean + batch_of(index)["x"].mean(0)) / 2
        total = total - 0.1 * mean.sum()
        np.testing.assert_allclose(metrics["before"], before, rtol=1e-5, atol=1e-6)
    close(state.variables, {"seen": {"mean": mean, "batches": 4}}, rtol=1e-5)
    close(state.params["theta"], total, rtol=1e-5)


def test_scanned_steps_and_microbatches_follow_each_other():
    state = fresh()
    single = compile_step(make_train_step(remembering, SGD, stateful=True), state)
    for index in range(3):
        state, _ = single(state, batch_of(index), KEY)
    many = compile_step(scan_steps(make_train_step(remembering, SGD, stateful=True)), fresh())
    batches = {"x": np.stack([batch_of(index)["x"] for index in range(3)])}
    close(many(fresh(), batches, KEY)[0], state)
    accumulated = compile_step(
        make_train_step(remembering, SGD, stateful=True, accumulate=4), fresh()
    )
    mean, x = np.zeros(8), batch_of(0)["x"]
    for part in range(4):
        mean = (mean + x[part::4].mean(0)) / 2
    found, _ = accumulated(fresh(), {"x": x}, KEY)
    close(found.variables, {"seen": {"mean": mean, "batches": 4}}, rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_leaves_variables_as_they_were(accumulate):
    made = make_train_step(remembering, SGD, stateful=True, accumulate=accumulate)
    step = compile_step(made, fresh())
    state, _ = step(fresh(), {**batch_of(0), "scale": np.ones(8, np.float32)}, KEY)
    before = jax.device_get(state.variables)
    bad = batch_of(1)["x"]
    bad[3] = np.nan
    for batch in (
        {"x": bad, "scale": np.ones(8, np.float32)},
        {**batch_of(1), "scale": np.full(8, np.inf, np.float32)},
    ):
        state, metrics = step(state, batch, KEY)
        assert metrics["skipped"] == 1
        same(state.variables, before)
    state, _ = step(state, {**batch_of(1), "scale": np.ones(8, np.float32)}, KEY)
    assert state.variables["seen"]["batches"] == 2 * accumulate


def test_a_microbatch_without_weight_leaves_them_too():
    def masked(params, batch, key, variables):
        weight = batch["mask"].sum()
        mean = jnp.sum(batch["mask"][:, None] * batch["x"], 0) / weight
        new = {"seen": {"mean": mean, "batches": variables["seen"]["batches"] + 1}}
        return jnp.sum(params["theta"]) * mean.sum(), ({"weight": weight}, new)

    step = compile_step(make_train_step(masked, SGD, stateful=True, accumulate=4), fresh())
    mask = np.array([1, 1, 0, 0, 1, 1, 0, 0], np.float32)  # two of four have weight
    state, metrics = step(fresh(), {**batch_of(0), "mask": mask}, KEY)
    assert (metrics["weight"], metrics["skipped"]) == (4, 0)
    last = batch_of(0)["x"][[1, 5]].mean(0)
    close(state.variables, {"seen": {"mean": last, "batches": 2}}, rtol=1e-5)
    state, metrics = step(state, {**batch_of(1), "mask": 0 * mask}, KEY)
    assert metrics["skipped"] == 1
    close(state.variables, {"seen": {"mean": last, "batches": 2}}, rtol=1e-5)


def test_resident_data_and_losses_without_state():
    def with_table(params, batch, key, variables):
        return remembering(params, {"x": batch["x"] + batch["table"]}, key, variables)

    table = jnp.arange(8.0)
    step = compile_step(make_train_step(with_table, SGD, stateful=True), fresh())
    state, _ = step(fresh(), batch_of(0), KEY, {"table": table})
    mean = (batch_of(0)["x"].mean(0) + np.arange(8)) / 2
    close(state.variables["seen"]["mean"], mean)

    def stateless(params, batch, key):
        return jnp.sum(params["theta"]) * batch["x"].mean(), {}

    for accumulate in (1, 2):
        step = jax.jit(make_train_step(stateless, SGD, accumulate=accumulate))
        same(step(state, batch_of(0), KEY)[0].variables, state.variables)


def test_missing_and_changed_variables_are_refused():
    step = make_train_step(remembering, SGD, stateful=True)
    with pytest.raises(InputError, match="variables is None in the state, expected those of a st"):
        step(fresh(None), batch_of(0), KEY)
    for new, message in (
        ({"count": jnp.zeros(3)}, r"variables\[count\] is float32\[3\] after a loss, expected fl"),
        ({"count": jnp.zeros(2), "more": jnp.ones(1)}, r"more\] is float32\[1\] .*no such variabl"),
        ({}, r"variables\[count\] is gone after a loss, expected float32\[2\]"),
    ):
        made = make_train_step(
            lambda params, batch, key, old, new=new: (jnp.sum(params["theta"]), ({}, new)),
            SGD,
            stateful=True,
        )
        with pytest.raises(InputError, match=message):
            made(fresh({"count": jnp.zeros(2)}), batch_of(0), KEY)


def with_moments(config=CONFIG):
    """The classifier's loss, which counts the classes that it has seen."""
    loss_fn = make_loss(config)

    def stateful(params, batch, key, variables):
        counts = jnp.bincount(batch["y"], length=5).astype(jnp.float32)
        seen = {"classes": 0.9 * variables["seen"]["classes"] + 0.1 * counts}
        return *loss_fn(params, batch, key)[:1], (loss_fn(params, batch, key)[1], {"seen": seen})

    return stateful


CLASSES = {"seen": {"classes": np.zeros(5, np.float32)}}


@functools.cache
def trained(mesh, steps=3):
    with jax.set_mesh(mesh):
        state, layout = fresh_state(CONFIG, SGD, ema=True)
        state = state_from_params(state.params, layout, tx=SGD, ema=True, variables=CLASSES)
        made = make_train_step(with_moments(), SGD, stateful=True, ema_decay=0.5)
        step = compile_step(made, state)
        for index in range(steps):
            state, _ = step(state, put_batch(make_batch(index), mesh), KEY)
    return state, layout


def test_variables_of_a_sharded_batch_are_those_of_the_whole():
    whole, _ = trained(make_mesh("data=1", jax.devices()[:1]))
    sharded, layout = trained(make_mesh("data=4,fsdp=2"))
    close(jax.device_get(sharded), jax.device_get(whole), rtol=1e-5)
    expected = sum(
        0.1 * 0.9 ** (2 - i) * np.bincount(make_batch(i)["y"], minlength=5) for i in range(3)
    )
    np.testing.assert_allclose(sharded.variables["seen"]["classes"], expected, rtol=1e-5)
    assert sharded.variables["seen"]["classes"].sharding.spec == P()
    abstract = abstract_state(layout, SGD, ema=True, variables=CLASSES)
    like = jax.tree.map(
        lambda a, x: (a.shape, a.dtype, a.sharding) == (x.shape, x.dtype, x.sharding),
        abstract,
        sharded,
    )
    assert all(jax.tree.leaves(like))
    axes = state_axes(layout, SGD, ema=True, variables=CLASSES)
    assert axes.variables == {"seen": {"classes": ()}}
    assert state_axes(layout, SGD).variables is abstract_state(layout, SGD).variables is None


def test_initial_values_are_copied():
    mesh = make_mesh("data=8")
    given = jax.device_put(CLASSES, replicated(mesh))
    with jax.set_mesh(mesh):
        state, _ = create_state(theta, tx=SGD, variables=given)
        step = compile_step(make_train_step(lambda p, b, k: (p["theta"].sum(), {}), SGD), state)
        step(state, {}, KEY)
    assert state.variables["seen"]["classes"].is_deleted()
    same(given, CLASSES)


def test_a_checkpoint_holds_them_for_any_mesh_and_one_without_opens_as_before(tmp_path):
    state, _ = trained(make_mesh("data=4,fsdp=2"))
    with Checkpoints(tmp_path / "with", config=CONFIG) as checkpoints:
        checkpoints.save(state)
        layout = plan_layout(
            lambda key: CONFIG.make_model().init(key, jnp.zeros((1, 8)))["params"],
            KEY,
            mesh=make_mesh("data=2", jax.devices()[:2]),
        )
        shapes = jax.eval_shape(lambda: CLASSES)
        found, _ = checkpoints.restore(abstract_state(layout, SGD, ema=True, variables=shapes))
        same(found, state)
        with pytest.raises(InputError, match="variables/seen/classes is not expected; found shape"):
            checkpoints.restore(abstract_state(layout, SGD, ema=True))
    model = load_model(tmp_path / "with")
    same((model.params, model.variables), (state.ema, state.variables))
    same(load_params(tmp_path / "with"), state.ema)
    same(load_variables(tmp_path / "with"), state.variables)

    without = dataclasses.replace(state, variables=None)
    with Checkpoints(tmp_path / "without", config=CONFIG) as checkpoints:
        checkpoints.save(without)
        found, _ = checkpoints.restore(abstract_state(layout, SGD, ema=True))
        same(found, without)
        with pytest.raises(InputError, match="variables/seen/classes is missing, expected shape"):
            checkpoints.restore(abstract_state(layout, SGD, ema=True, variables=CLASSES))
    assert load_model(tmp_path / "without").variables is None
    assert load_variables(tmp_path / "without") is None


def test_a_resumed_run_has_the_same_variables_bit_for_bit(tmp_path):
    step = compile_step(make_train_step(with_moments(), SGD, stateful=True), start())
    once = fit(step, start(), make_batch, KEY, LoopConfig(steps=4)).state
    for steps in (2, 4):
        with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
            config = LoopConfig(steps=steps)
            state = fit(step, start(), make_batch, KEY, config, checkpoints=checkpoints).state
    same(state, once)
    assert state.variables["seen"]["classes"].sum() > 0


def start():
    state, layout = fresh_state(CONFIG, SGD)
    return state_from_params(state.params, layout, tx=SGD, variables=CLASSES)


def test_local_steps_leave_them_as_they_are():
    mesh = make_mesh("data=4,fsdp=2")
    with jax.set_mesh(mesh):
        state, layout = fresh_state(CONFIG, SGD)
        variables = {"grid": np.array([True, False]), "third": np.full(3, 1 / 3, np.float32)}
        state = state_from_params(state.params, layout, tx=SGD, variables=variables)
        round_ = compile_step(make_local_steps(make_loss(CONFIG), SGD), state)
        batches = jax.tree.map(lambda *x: np.stack(x), make_batch(0), make_batch(1))
        state, _ = round_(state, put_batch(batches, mesh, leading=1), KEY)
    same(state.variables, variables)
    assert int(state.step) == 2
