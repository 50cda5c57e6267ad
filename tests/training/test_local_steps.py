"""Local steps: equal to synchronous steps where they must be, and silent along `data`."""

import jax
import numpy as np
import optax
import pytest
from mlp import MLPConfig, fresh_state, make_batch, make_loss

from jaxgen.parallel import communication, gather_fsdp, make_mesh, put_batch
from jaxgen.training.local_steps import make_local_steps
from jaxgen.training.step import compile_step, make_train_step, scan_steps

CONFIG = MLPConfig(blocks=2)
KEY = jax.random.key(5)
MESHES = [
    pytest.param("data=8", marks=pytest.mark.slow),
    "data=4,model=2",
    "data=2,fsdp=2,model=2",
    pytest.param("data=2,fsdp=4", marks=pytest.mark.slow),
]


def close(a, b, tolerance=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), a, b)


def batches(start, count, mesh=None, size=16):
    stacked = jax.tree.map(
        lambda *x: np.stack(x), *[make_batch(i, size) for i in range(start, start + count)]
    )
    return stacked if mesh is None else put_batch(stacked, mesh, leading=1)


def setup(mesh, tx, config=CONFIG, ema=False):
    """A state on the current mesh, and the loss to use there."""
    state, layout = fresh_state(config, tx, ema)
    loss_fn = make_loss(config)
    return state, lambda params, batch, key: loss_fn(gather_fsdp(params, layout), batch, key)


@pytest.mark.parametrize("mesh", MESHES)
def test_one_local_sgd_step_is_a_synchronous_step(mesh):
    mesh, tx = make_mesh(mesh), optax.sgd(0.5)
    with jax.set_mesh(mesh):
        local, loss_fn = setup(mesh, tx)
        together, _ = setup(mesh, tx)
        one = compile_step(make_local_steps(loss_fn, tx), local)
        all_at_once = compile_step(scan_steps(make_train_step(loss_fn, tx)), together)
        for index in range(4):
            local, metrics = one(local, batches(index, 1, mesh), KEY)
            together, expected = all_at_once(together, batches(index, 1, mesh), KEY)
            close((metrics["loss"], metrics["accuracy"]), (expected["loss"], expected["accuracy"]))
    close(local.params, together.params)
    assert int(local.step) == 4
    assert jax.tree.map(lambda x: x.sharding, local) == jax.tree.map(lambda x: x.sharding, together)


def one_after_the_other(loss_fn, tx, params, stacked, replicas):
    """The definition, one replica after the other: k steps each, then the mean."""

    @jax.jit
    def advance(own, opt_state, batch):
        gradient = jax.grad(lambda p: loss_fn(p, batch, KEY)[0])(own)
        updates, opt_state = tx.update(gradient, opt_state, own)
        return optax.apply_updates(own, updates), opt_state

    ends, start = [], jax.device_get(jax.jit(tx.init)(params))
    for r in range(replicas):
        own, opt_state = params, start
        for x, y in zip(stacked["x"], stacked["y"], strict=True):
            rows = slice(r * len(x) // replicas, (r + 1) * len(x) // replicas)
            own, opt_state = advance(own, opt_state, {"x": x[rows], "y": y[rows]})
        ends.append(jax.device_get((own, opt_state)))
    return jax.tree.map(lambda *x: np.mean(np.stack(x), axis=0), *ends)


@pytest.mark.parametrize(
    "mesh", [pytest.param("data=4,model=2", marks=pytest.mark.slow), "data=2,fsdp=2,model=2"]
)
def test_a_round_is_what_it_says(mesh):
    """Four local steps with momentum, against replicas that are run one after the other."""
    mesh, tx = make_mesh(mesh), optax.sgd(0.5, momentum=0.9)
    replicas = mesh.shape["data"]
    with jax.set_mesh(mesh):
        state, loss_fn = setup(mesh, tx)
        before = jax.device_get(state.params)
        round_ = compile_step(make_local_steps(loss_fn, tx), state)
        state, metrics = round_(state, batches(0, 4, mesh), KEY)
    params, opt_state = one_after_the_other(make_loss(CONFIG), tx, before, batches(0, 4), replicas)
    close(state.params, params)
    close(state.opt_state[0].trace, opt_state[0].trace)
    assert int(state.step) == 4
    assert metrics["loss"].shape == (4,)


def test_more_local_steps_drift_apart():
    """With k > 1 the result is not the synchronous one, and metrics are means over replicas."""
    mesh, tx = make_mesh("data=8"), optax.sgd(0.5)
    with jax.set_mesh(mesh):
        local, loss_fn = setup(mesh, tx)
        together, _ = setup(mesh, tx)
        local, metrics = compile_step(make_local_steps(loss_fn, tx), local)(
            local, batches(0, 3, mesh), KEY
        )
        together, expected = compile_step(scan_steps(make_train_step(loss_fn, tx)), together)(
            together, batches(0, 3, mesh), KEY
        )
    close(metrics["loss"][0], expected["loss"][0])
    ends = jax.tree.leaves(jax.device_get((local.params, together.params)))
    squares = [np.square(a - b).sum() for a, b in zip(ends[:4], ends[4:], strict=True)]
    assert 1e-3 < np.sqrt(sum(squares)) < 0.5


@pytest.mark.parametrize(
    "mesh", ["data=2,fsdp=2,model=2", pytest.param("data=8", marks=pytest.mark.slow)]
)
def test_nothing_travels_along_data_during_local_steps(mesh):
    """One average of the state a round, however many steps; the steps' own traffic elsewhere."""
    mesh, tx = make_mesh(mesh), optax.adam(0.1)
    sizes = {}
    with jax.set_mesh(mesh):
        state, loss_fn = setup(mesh, tx)
        for k in (2, 8):
            report = communication(
                compile_step(make_local_steps(loss_fn, tx), state),
                state,
                batches(0, k, mesh),
                KEY,
                mesh=mesh,
            )
            along_data = [c for c in report if "data" in c.axes]
            assert {c.kind for c in along_data} == {"all-reduce"}
            assert all(c.times == 1 and not c.unknown_loop for c in along_data)
            sizes[k] = sum(c.bytes for c in along_data)
    shards = lambda tree: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
    averaged = shards((state.params, state.opt_state))
    assert averaged <= sizes[2] <= averaged + 200  # metrics and counters besides
    assert sizes[8] - sizes[2] <= 6 * 5 * 4  # five metrics of six more steps


def test_a_replica_with_a_bad_batch_skips_alone():
    mesh, tx = make_mesh("data=4", jax.devices()[:4]), optax.sgd(0.5)
    with jax.set_mesh(mesh):
        state, loss_fn = setup(mesh, tx, ema=True)
        before = jax.device_get(state.params)
        round_ = compile_step(make_local_steps(loss_fn, tx, ema_decay=0.0), state)
        bad = batches(0, 1)
        bad["x"][0, 0, 0] = np.nan  # in the first replica's share
        state, metrics = round_(state, put_batch(bad, mesh, leading=1), KEY)
    assert (int(state.skipped), metrics["skipped"][0], metrics["skipped_in_a_row"][0]) == (1, 1, 1)
    good = jax.tree.map(lambda x: x[:, 4:], bad)
    ends = one_after_the_other(make_loss(CONFIG), tx, before, good, 3)[0]
    close(state.params, jax.tree.map(lambda end, start: (3 * end + start) / 4, ends, before))


def test_without_a_mesh_a_round_is_a_scan():
    tx = optax.adam(0.1)
    local, loss_fn = setup(None, tx)
    together, _ = setup(None, tx)
    local, _ = compile_step(make_local_steps(loss_fn, tx), local)(local, batches(0, 3), KEY)
    step = compile_step(scan_steps(make_train_step(loss_fn, tx)), together)
    together, _ = step(together, batches(0, 3), KEY)
    close(local, together, 0)


def test_replicas_draw_their_own_randomness():
    """Two replicas with equal examples: dropout differs between them, and follows the key."""
    config = MLPConfig(dropout=0.5)
    mesh, tx = make_mesh("data=2", jax.devices()[:2]), optax.sgd(0.0)
    half = batches(0, 1, size=8)
    twice = jax.tree.map(lambda x: np.concatenate([x, x], axis=1), half)
    losses = []
    with jax.set_mesh(mesh):
        state, loss_fn = setup(mesh, tx, config)
        round_ = compile_step(make_local_steps(loss_fn, tx), state)
        for key in (KEY, jax.random.key(6)):
            state, _ = setup(mesh, tx, config)
            _, metrics = round_(state, put_batch(twice, mesh, leading=1), key)
            losses.append(float(metrics["loss"][0]))
        state, _ = setup(mesh, tx, config)
        single = jax.jit(make_train_step(loss_fn, tx))
        _, one = single(state, jax.tree.map(lambda x: x[0], half), jax.random.fold_in(KEY, 0))
    assert losses[0] != losses[1]
    assert losses[0] != float(one["loss"])
