"""Steps: accumulation, guard, averages, scans and sharding, against numpy and each other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from mlp import MLPConfig, fresh_state, fresh_state_of, init_fn, make_batch, make_loss

from jaxgen.errors import InputError
from jaxgen.parallel import current_mesh, gather_fsdp, make_mesh, plan_layout
from jaxgen.parallel.batches import put_batch
from jaxgen.training.state import abstract_state, averaged_params, create_state, state_axes
from jaxgen.training.step import (
    compile_step,
    make_train_step,
    scan_steps,
    split_batch,
)
from jaxgen.training.step import mean_gradient as _mean_gradient

CONFIG = MLPConfig()
KEY = jax.random.key(1)


def mean_gradient(loss_fn, params, batch, key, accumulate=1):
    return jax.jit(_mean_gradient, static_argnums=(0, 4))(loss_fn, params, batch, key, accumulate)


def close(a, b, rtol=1e-6, atol=1e-7):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)


def scalar_state(tx, ema=False):
    """A state with one parameter vector theta = (1, -2)."""
    return fresh_state_of(theta, tx, ema)[0]


def theta():
    return {"theta": jnp.array([1.0, -2.0])}


def linear_loss(params, batch, key):
    """Loss c . theta: its gradient is the batch itself."""
    return jnp.sum(params["theta"] * batch["c"].mean(0)), {}


def test_step_matches_numpy_on_a_linear_model():
    state = create_state(lambda: {"w": jnp.zeros(3), "b": jnp.zeros(())}, tx=optax.sgd(0.1))[0]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=8).astype(np.float32)

    def loss_fn(params, batch, key):
        error = batch["x"] @ params["w"] + params["b"] - batch["y"]
        return jnp.mean(error**2) / 2, {}

    step = compile_step(make_train_step(loss_fn, optax.sgd(0.1)), state)
    w, b = np.zeros(3), 0.0
    for _ in range(5):
        state, metrics = step(state, {"x": x, "y": y}, KEY)
        error = x @ w + b - y
        gradient_w, gradient_b = x.T @ error / 8, error.mean()
        expected_norm = np.sqrt(np.sum(gradient_w**2) + gradient_b**2)
        assert metrics["loss"] == pytest.approx(np.mean(error**2) / 2, rel=1e-5)
        assert metrics["gradient_norm"] == pytest.approx(expected_norm, rel=1e-5)
        w, b = w - 0.1 * gradient_w, b - 0.1 * gradient_b
    close(state.params, {"w": w, "b": b}, rtol=1e-5)
    assert int(state.step) == 5
    assert all(m.dtype == jnp.float32 and m.shape == () for m in metrics.values())


SGD = optax.sgd(0.1)


def test_accumulated_gradient_equals_that_of_the_whole_batch():
    state, _ = fresh_state(CONFIG, SGD)
    loss_fn, batch = make_loss(CONFIG), make_batch(0)
    whole = mean_gradient(loss_fn, state.params, batch, KEY)
    for accumulate in (2, 16):
        parts = mean_gradient(loss_fn, state.params, batch, KEY, accumulate)
        close(parts, whole)


def test_accumulation_weighs_microbatches_by_their_tokens():
    """With masks, microbatches stand for different amounts; an empty one for nothing."""
    state, _ = fresh_state(CONFIG, SGD)
    mask = np.array([1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 0], np.float32)
    batch = {**make_batch(0), "mask": mask}
    loss_fn = make_loss(CONFIG)
    whole_gradient, whole = mean_gradient(loss_fn, state.params, batch, KEY)
    parts_gradient, parts = mean_gradient(loss_fn, state.params, batch, KEY, 4)
    assert [mask[a::4].sum() for a in range(4)] == [4, 0, 3, 1]
    assert parts["weight"] == whole["weight"] == 8
    close((parts_gradient, parts), (whole_gradient, whole))
    kept = {name: x[mask == 1] for name, x in batch.items() if name != "mask"}
    close(whole_gradient, mean_gradient(loss_fn, state.params, kept, KEY)[0])


def masked_loss(params, batch, key):
    """A mean over true examples, without a care for there being none: 0 / 0."""
    weight = batch["mask"].sum()
    squares = (batch["x"] @ params["w"] - batch["y"]) ** 2
    return jnp.sum(batch["mask"] * squares) / weight, {"weight": weight, "square": squares[0]}


def safe_loss(params, batch, key):
    """The same, 0 where there is none."""
    loss, metrics = masked_loss(params, {**batch, "mask": batch["mask"] + 1e-30}, key)
    return loss, {**metrics, "weight": batch["mask"].sum()}


@pytest.mark.parametrize("loss_fn", [masked_loss, safe_loss])
def test_an_empty_microbatch_counts_nowhere_and_an_empty_batch_is_skipped(loss_fn):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    tx = optax.adamw(0.1, weight_decay=0.1)  # which moves parameters though the gradient is 0
    state = create_state(lambda: {"w": jnp.arange(3.0)}, tx=tx, ema=True)[0]
    steps = [
        jax.jit(make_train_step(loss_fn, tx, accumulate=parts, ema_decay=0.9)) for parts in (1, 4)
    ]
    odd_rows_empty, some, nothing = np.zeros((3, 8), np.float32)
    odd_rows_empty[::2] = some[[1, 2, 5]] = 1
    for mask in (odd_rows_empty, some, nothing):
        whole, *others = [step(state, {"x": x, "y": y, "mask": mask}, KEY) for step in steps]
        for new, metrics in others:
            same((new.step, new.skipped), (whole[0].step, whole[0].skipped))
            close((new.params, new.ema), (whole[0].params, whole[0].ema), rtol=1e-5)
            assert metrics["skipped"] == whole[1]["skipped"] == (not mask.any())
            assert metrics["weight"] == mask.sum()
            if mask.any():
                for name in ("loss", "gradient_norm"):
                    np.testing.assert_allclose(metrics[name], whole[1][name], rtol=1e-5)
        if not mask.any():
            same((whole[0].params, whole[0].opt_state), (state.params, state.opt_state))


def test_split_batch_sends_nothing_and_keeps_batches_balanced():
    mesh = make_mesh("data=2,fsdp=2,model=2")
    sharding = NamedSharding(mesh, P(("data", "fsdp")))
    x = jax.device_put(np.arange(16.0), sharding)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda batch: split_batch(batch, 4)).lower({"x": x}).compile()
        parts = compiled({"x": x})["x"]
    np.testing.assert_array_equal(parts, np.arange(16.0).reshape(4, 4).T)
    assert parts.sharding.spec == P(None, ("data", "fsdp"))
    text = compiled.as_text()
    assert not [word for word in ("all-", "collective", "permute") if word in text]


@pytest.mark.parametrize(("size", "mesh"), [(10, "data=1"), (12, "data=8")])
def test_batches_that_do_not_divide_are_refused(size, mesh):
    step = make_train_step(make_loss(CONFIG), optax.sgd(0.1), accumulate=4)
    devices = jax.devices()[:1] if mesh == "data=1" else None
    with jax.set_mesh(make_mesh(mesh, devices)):
        state, _ = fresh_state(CONFIG, SGD)
        with pytest.raises(InputError, match=rf"batch\[x\] of shape \({size}, 8\): 4 microb"):
            compile_step(step, state)(state, make_batch(0, size), KEY)


@pytest.mark.parametrize("kwargs", [{"accumulate": 0}, {"ema_decay": 1.0}, {"ema_decay": -0.1}])
def test_step_refuses_values_out_of_range(kwargs):
    with pytest.raises(InputError, match=next(iter(kwargs))):
        make_train_step(linear_loss, optax.sgd(0.1), **kwargs)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
def test_average_is_the_weighted_mean_of_all_parameters_since_the_first_update(decay):
    tx = SGD
    state = scalar_state(tx, ema=True)
    step = compile_step(make_train_step(linear_loss, tx, ema_decay=decay), state)
    history = []
    for t in range(1, 30):
        gradient = np.random.default_rng(t).normal(size=(1, 2)).astype(np.float32)
        state, _ = step(state, {"c": gradient}, KEY)
        history.append(np.asarray(state.params["theta"]))
        weights = decay ** np.arange(t - 1, -1, -1.0)
        expected = np.average(history, axis=0, weights=weights)
        np.testing.assert_allclose(state.ema["theta"], expected, rtol=1e-5, atol=1e-6)
    assert averaged_params(state) is state.ema


def test_guard_leaves_everything_as_it_was_and_counts():
    tx = optax.adam(0.1)
    step = compile_step(make_train_step(linear_loss, tx, ema_decay=0.9), scalar_state(tx, ema=True))
    for bad in (np.nan, np.inf):
        check_guard(step, tx, bad)


def check_guard(step, tx, bad):
    state = scalar_state(tx, ema=True)
    good = {"c": np.ones((1, 2), np.float32)}
    state, metrics = step(state, good, KEY)
    assert metrics["skipped"] == 0
    before = jax.device_get(state)
    for row in (1, 2):
        state, metrics = step(state, {"c": np.array([[1.0, bad]], np.float32)}, KEY)
        assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (1, row)
    same(
        (state.params, state.opt_state, state.ema),
        (before.params, before.opt_state, before.ema),
    )
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (3, 2, 2)
    state, _ = step(state, good, KEY)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (4, 2, 0)
    twice = scalar_state(tx, ema=True)
    for _ in range(2):
        twice, _ = step(twice, good, KEY)
    same((state.params, state.opt_state, state.ema), (twice.params, twice.opt_state, twice.ema))


def test_guard_sees_a_gradient_that_is_not_finite_while_the_loss_is():
    def loss_fn(params, batch, key):
        return jnp.sum(jnp.sqrt(params["theta"] * 0)), {}

    state = scalar_state(SGD)
    state, metrics = compile_step(make_train_step(loss_fn, SGD), state)(
        state, {"c": np.zeros(2)}, KEY
    )
    assert metrics["loss"] == 0
    assert metrics["skipped"] == 1
    np.testing.assert_array_equal(state.params["theta"], [1.0, -2.0])


def test_scanned_steps_equal_single_steps():
    """Bit for bit where it was tried (CPU), but another program may round differently."""
    config, tx = MLPConfig(dropout=0.3), optax.adamw(0.01)
    single, _ = fresh_state(config, tx, ema=True)
    scanned, _ = fresh_state(config, tx, ema=True)
    step = make_train_step(make_loss(config), tx, ema_decay=0.9)
    one, many = compile_step(step, single), compile_step(scan_steps(step), scanned)
    losses = []
    for index in range(6):
        single, metrics = one(single, make_batch(index), KEY)
        losses.append(metrics["loss"])
    for start in (0, 3):
        batches = [make_batch(index) for index in range(start, start + 3)]
        stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
        scanned, metrics = many(scanned, stacked, KEY)
        np.testing.assert_allclose(metrics["loss"], losses[start : start + 3], rtol=1e-6)
    close(scanned, single)


def test_randomness_depends_on_key_and_step_alone():
    config = MLPConfig(dropout=0.5)
    tx = optax.sgd(0.0)
    state, _ = fresh_state(config, tx)
    step = compile_step(make_train_step(make_loss(config), tx), state)
    losses = []
    for key in (KEY, KEY, jax.random.key(2)):
        state, _ = fresh_state(config, tx)
        for _ in range(2):
            state, metrics = step(state, make_batch(0), key)
            losses.append(float(metrics["loss"]))
    assert losses[:2] == losses[2:4]
    assert len(set(losses)) == 4


ADAMW = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.01))


def run(mesh, accumulate=1, steps=4):
    tx = ADAMW
    with jax.set_mesh(mesh):
        state, layout = fresh_state(CONFIG_8, tx, ema=True)
        loss_fn = make_loss(CONFIG_8)
        made = make_train_step(
            lambda params, batch, key: loss_fn(gather_fsdp(params, layout), batch, key),
            tx,
            ema_decay=0.5,
            accumulate=accumulate,
        )
        step = compile_step(made, state)
        for index in range(steps):
            batch = put_batch(make_batch(index), mesh)
            state, metrics = step(state, batch, KEY)
        assert step._cache_size() == 1  # compiled once
    return state, metrics, layout, tx


CONFIG_8 = MLPConfig(blocks=2)


@functools.cache
def whole():
    state, metrics, *_ = run(make_mesh("data=1", jax.devices()[:1]))
    return jax.device_get((state, metrics))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_sharded_steps_equal_those_of_one_device(accumulate):
    sharded, metrics, layout, tx = run(make_mesh("data=2,fsdp=2,model=2"), accumulate)
    close(jax.device_get(sharded), whole()[0], rtol=1e-6, atol=1e-6)
    close(metrics, whole()[1], rtol=1e-6)
    assert sharded.params["output"]["kernel"].sharding.spec == P("fsdp", "model")
    assert sharded.opt_state[1][0].mu["output"]["kernel"].sharding.spec == P("fsdp", "model")
    assert sharded.ema["output"]["kernel"].sharding.spec == P("fsdp", "model")
    abstract = abstract_state(layout, tx, ema=True)
    same_kind = jax.tree.map(
        lambda a, x: (a.shape, a.dtype, a.sharding) == (x.shape, x.dtype, x.sharding),
        abstract,
        sharded,
    )
    assert all(jax.tree.leaves(same_kind))


def test_state_axes_name_the_optimizer_state_as_the_parameters():
    layout = plan_layout(init_fn(CONFIG), KEY, mesh=current_mesh())
    axes = state_axes(layout, optax.adam(0.1), ema=True)
    assert axes.params["output"]["kernel"] == ("embed", "vocab")
    assert axes.opt_state[0].nu["output"]["bias"] == ("vocab",)
    assert axes.opt_state[0].count == ()
    assert axes.ema == axes.params
    assert axes.step == ()


def test_resident_data_are_seen_whole_by_every_step_and_survive_it():
    """A table on the devices: as if it were in each batch, scanned or in microbatches."""
    table = jnp.arange(10.0)

    def loss_fn(params, batch, key):
        return jnp.sum(params["theta"]) * batch["table"][batch["i"]].mean(), {}

    index_KB = np.array([[1, 3, 5, 7], [2, 2, 9, 0]], np.int32)
    expected = np.array([1.0, -2.0]) - 0.1 * table[index_KB].mean(axis=1).sum()
    for accumulate in (1, 2):
        step = make_train_step(loss_fn, SGD, accumulate=accumulate)
        state = scalar_state(SGD)
        single = compile_step(step, state)
        for index_B in index_KB:
            state, _ = single(state, {"i": index_B}, KEY, {"table": table})
        np.testing.assert_allclose(state.params["theta"], expected, rtol=1e-6)
        state = scalar_state(SGD)
        scanned = compile_step(scan_steps(step), state)
        state, _ = scanned(state, {"i": index_KB}, KEY, {"table": table})
        np.testing.assert_allclose(state.params["theta"], expected, rtol=1e-6)
    assert not table.is_deleted()
    compiled = scanned.lower(state, {"i": index_KB}, KEY, {"table": table}).as_text()
    assert (
        "constant" not in compiled or "9.000000e+00" not in compiled
    )  # no constant of the program


def test_a_name_that_batch_and_resident_data_share_is_refused():
    with pytest.raises(InputError, match=r"resident is \['c'\], expected other names than those"):
        make_train_step(linear_loss, SGD)(
            scalar_state(SGD), {"c": jnp.ones((2, 2))}, KEY, {"c": jnp.ones(2)}
        )


def test_what_comes_after_a_step_changes_the_state_within_it():
    """It sees the new count and a key of each step, of skipped ones too; scans include it."""
    tx = optax.sgd(0.5)

    def after_step(state, key):
        return dataclasses.replace(
            state, params={"theta": state.params["theta"] + jax.random.uniform(key) + state.step}
        )

    step = make_train_step(linear_loss, tx, after_step=after_step)
    plain = make_train_step(linear_loss, tx)
    batches = {"c": jnp.array([[[1.0, 2.0]], [[3.0, jnp.nan]], [[5.0, 6.0]]])}
    both = jax.jit(step), jax.jit(plain)
    found = expected = scalar_state(tx)
    shifts = []
    for i in range(3):
        batch = {"c": batches["c"][i]}
        expected = dataclasses.replace(both[1](found, batch, KEY)[0])
        found = both[0](found, batch, KEY)[0]
        shifts.append(np.asarray(found.params["theta"] - expected.params["theta"]) - (i + 1))
        assert found.skipped == (i > 0)
    assert np.all((np.array(shifts) > 0) & (np.array(shifts) < 1))
    assert len({round(float(shift[0]), 4) for shift in shifts}) == 3
    scanned, _ = jax.jit(scan_steps(step))(scalar_state(tx), batches, KEY)
    close(scanned.params, found.params)
