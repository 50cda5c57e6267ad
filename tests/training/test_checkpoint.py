"""Checkpoints: other meshes, padding, the best and the latest, models from files, faults named."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from mlp import MLPConfig, init_fn, make_batch, make_loss
from processes import xla_flags

from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh, plan_layout
from jaxgen.parallel.batches import put_batch
from jaxgen.training.checkpoint import (
    Checkpoints,
    load_config,
    load_model,
    load_params,
)
from jaxgen.training.saved_trees import Padding
from jaxgen.training.state import abstract_state, create_state, state_axes
from jaxgen.training.step import compile_step, make_train_step

KEY = jax.random.key(3)
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01))
CONFIG = MLPConfig(classes=5, blocks=4)
MESH = "data=2,model=4"


def trained(config=CONFIG, mesh=MESH, tx=TX, steps=2):
    """A state after some steps, with its layout."""
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        state, layout = create_state(init_fn(config), KEY, tx=tx, ema=True)
        step = compile_step(make_train_step(make_loss(config), tx, ema_decay=0.5), state)
        for index in range(steps):
            state, _ = step(state, put_batch(make_batch(index), mesh), KEY)
    return state, layout


@pytest.fixture(scope="module")
def state_and_layout():
    return trained()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, state_and_layout):
    """A folder with one checkpoint, of step 2, made on 8 devices."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder, config=CONFIG, files={"words.txt": "a\nü\n"}) as checkpoints:
        checkpoints.save(state_and_layout[0], metrics={"loss": 1.5}, progress={"x": [0.1, None]})
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(saved, tmp_path / "copy")


def abstract_on(mesh, config=CONFIG, tx=TX, devices=None):
    layout = plan_layout(init_fn(config), KEY, mesh=make_mesh(mesh, devices))
    return abstract_state(layout, tx, ema=True), layout


def restore(folder, abstract, **kwargs):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(abstract, **kwargs)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)


@pytest.mark.parametrize("mesh", ["data=1", "data=2", "data=2,fsdp=2,model=2", "fsdp=2,sequence=4"])
def test_a_state_opens_on_another_mesh(saved, state_and_layout, mesh):
    devices = jax.devices()[: {"data=1": 1, "data=2": 2}.get(mesh, 8)]
    abstract, _ = abstract_on(mesh, devices=devices)
    state, progress = restore(saved, abstract)
    same(state, state_and_layout[0])
    assert progress == {"x": [0.1, None]}
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, abstract)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_output_units_are_repadded(saved, state_and_layout, blocks):
    """5 classes: 8 rows in 4 blocks, 5 in one, 6 in two or three."""
    config = dataclasses.replace(CONFIG, blocks=blocks)
    abstract, layout = abstract_on("data=4,model=2" if blocks == 2 else "data=8", config)
    padding = Padding(state_axes(layout, TX, ema=True), {"vocab": 5})
    state, _ = restore(saved, abstract, padding=padding)
    kernels = lambda s: [t["output"]["kernel"] for t in (s.params, s.ema, s.opt_state[1][0].mu)]  # noqa: E731
    for loaded, original in zip(kernels(state), kernels(state_and_layout[0]), strict=True):
        assert loaded.shape == (8, config.padded)
        np.testing.assert_array_equal(loaded[:, :5], original[:, :5])
        np.testing.assert_array_equal(loaded[:, 5:], 0)
    same(state.params["hidden"], state_and_layout[0].params["hidden"])
    params = load_params(
        saved, layout.abstract, averaged=False, padding=Padding(layout.axes, {"vocab": 5})
    )
    same(params, state.params)


def test_smaller_padding_is_widened(tmp_path):
    narrow, _ = trained(MLPConfig(blocks=1), "data=8")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(narrow)
    abstract, layout = abstract_on(MESH)
    padding = Padding(state_axes(layout, TX, ema=True), {"vocab": 5})
    state, _ = restore(tmp_path, abstract, padding=padding)
    assert state.params["output"]["kernel"].sharding.spec == P("fsdp", "model")
    np.testing.assert_array_equal(
        state.opt_state[1][0].nu["output"]["bias"],
        np.pad(narrow.opt_state[1][0].nu["output"]["bias"], (0, 3)),
    )


def test_no_other_axis_and_no_real_unit_is_cut_or_padded(saved):
    def problem(config, sizes):
        abstract, layout = abstract_on("data=8", config)
        padding = Padding(state_axes(layout, TX, ema=True), sizes)
        with pytest.raises(InputError) as error:
            restore(saved, abstract, padding=padding)
        return str(error.value)

    assert "hidden/bias has shape (8,), dtype float32, expected shape (16,)" in problem(
        MLPConfig(hidden=16, blocks=4), {"vocab": 5}
    )
    assert "output/bias has shape (8,), dtype float32, expected shape (5,)" in problem(
        MLPConfig(blocks=1), {"vocab": 6}
    )
    assert "output/bias has shape (8,)" in problem(MLPConfig(blocks=1), {})


def test_another_length_without_padding_names_path_found_and_expected(saved):
    abstract, _ = abstract_on("data=8", MLPConfig(blocks=1))
    with pytest.raises(
        InputError,
        match=r"saved\d*/2: ema/output/bias has shape \(8,\), dtype float32, "
        r"expected shape \(5,\), dtype float32 \(and 7 more differences\)$",
    ):
        restore(saved, abstract)


def test_a_wrong_dtype_is_refused(saved, state_and_layout):
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_and_layout[0]
    )
    half = jax.ShapeDtypeStruct((8,), np.float16, sharding=abstract.step.sharding)
    abstract.params["hidden"]["bias"] = half
    with pytest.raises(InputError, match=r"params/hidden/bias has .*float32, expected .*float16$"):
        restore(saved, abstract)


def test_missing_and_unexpected_arrays_are_named(saved):
    with pytest.raises(InputError, match="opt_state/1/0/count is not expected"):
        restore(saved, abstract_on(MESH, tx=optax.sgd(0.1))[0])
    extra = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01), optax.trace(0.9))
    with pytest.raises(InputError, match="opt_state/2/trace/hidden/bias is missing"):
        restore(saved, abstract_on(MESH, tx=extra)[0])


def test_a_model_loads_from_its_folder_alone(saved, state_and_layout):
    for path in (saved, saved / "2"):
        model = load_model(path)
        assert (model.config, model.step) == (CONFIG, 2)
        assert model.files == {"words.txt": "a\nü\n"}
        same(model.params, state_and_layout[0].ema)
        x = make_batch(5)["x"]
        apply = jax.jit(model.config.make_model().apply)
        np.testing.assert_allclose(
            apply({"params": model.params}, x),
            apply({"params": jax.device_get(state_and_layout[0].ema)}, x),
            rtol=1e-6,
        )
    same(load_model(saved, averaged=False).params, state_and_layout[0].params)
    mesh = make_mesh("data=8")
    on_all = load_model(saved, mesh=mesh).params["output"]["kernel"]
    assert (on_all.sharding.mesh, on_all.sharding.spec) == (mesh, P())
    assert load_config(saved) == CONFIG


def test_another_process_loads_the_model(saved):
    """On one device, with no knowledge of how it was trained."""
    program = (
        "import sys, mlp; from jaxgen.training.checkpoint import load_model;"
        "m = load_model(sys.argv[1]); import jax, numpy as np;"
        "assert len(jax.devices()) == 1;"
        "model = m.config.make_model();"
        "print(float(model.apply({'params': m.params}, np.ones((1, 8))).max()))"
    )
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "XLA_FLAGS": xla_flags(), "PYTHONPATH": path}
    output = subprocess.run(
        [sys.executable, "-c", program, str(saved)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    model = load_model(saved)
    here = model.config.make_model().apply({"params": model.params}, np.ones((1, 8))).max()
    assert float(output) == pytest.approx(float(here), rel=1e-6)


def test_the_latest_and_the_best_are_kept(tmp_path, state_and_layout):
    state, _ = state_and_layout
    with Checkpoints(tmp_path, config=CONFIG, keep=2, metric="score", mode="max") as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (None, None)
        scores = {1: 3.0, 2: 7.0, 3: float("nan"), 4: 7.0, 5: None, 6: 1.0}
        for step, score in scores.items():
            at_step = dataclasses.replace(state, step=jax.numpy.int32(step))
            checkpoints.save(at_step, metrics={} if score is None else {"score": score})
        checkpoints.wait()
        assert sorted(int(p.name) for p in tmp_path.iterdir()) == [2, 5, 6]
        assert (checkpoints.latest, checkpoints.best) == (6, 2)
    assert [load_model(tmp_path, which).step for which in ("latest", "best", 5)] == [6, 2, 5]
    with pytest.raises(FileNotFoundError, match="no checkpoint 4; there are: 2, 5, 6"):
        load_model(tmp_path, 4)


def test_nothing_is_best_without_a_figure(saved):
    with pytest.raises(FileNotFoundError, match="no checkpoint is the best by None"):
        load_model(saved, "best")


def test_saving_a_step_twice_keeps_the_first(copy, state_and_layout):
    state = jax.tree.map(lambda x: np.asarray(x) + 1, state_and_layout[0])
    with Checkpoints(copy, config=CONFIG) as checkpoints:
        checkpoints.save(dataclasses.replace(state, step=state_and_layout[0].step))
    same(load_model(copy).params, state_and_layout[0].ema)


def test_saving_in_the_background_survives_donation(tmp_path):
    """The step overwrites the state's memory while it is being saved."""
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        state, layout = create_state(lambda k: {"w": jax.random.normal(k, (500, 500))}, KEY, tx=TX)
        loss = lambda params, batch, key: (jax.numpy.sum(params["w"] ** 2), {})  # noqa: E731
        step = compile_step(make_train_step(loss, TX), state)
        with Checkpoints(tmp_path) as checkpoints:
            for _ in range(3):
                state, _ = step(state, {"x": np.zeros(1)}, KEY)
            expected = jax.tree.map(np.array, state)
            checkpoints.save(state)
            for _ in range(20):
                state, _ = step(state, {"x": np.zeros(1)}, KEY)
            back, _ = checkpoints.restore(abstract_state(layout, TX))
    same(back, expected)


def test_another_configuration_is_refused_by_field(saved):
    other = dataclasses.replace(CONFIG, hidden=9, dropout=0.5)
    with pytest.raises(
        InputError, match=r"another configuration: hidden: 8, expected 9; dropout: 0.0, expected"
    ):
        Checkpoints(saved, config=other)
    with pytest.raises(InputError, match=r"another configuration: dropout: 0.0, expected 0.5$"):
        Checkpoints(saved, config=other, may_differ=["hidden"])
    Checkpoints(saved, config=other, may_differ=["hidden", "dropout"]).close()


def test_a_checkpoint_without_configuration_says_so(tmp_path, state_and_layout):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_and_layout[0])
    with pytest.raises(InputError, match="was saved without a configuration"):
        load_model(tmp_path)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder of checkpoints"):
        load_model(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="holds no checkpoint, expected a folder of checkpoints"):
        load_model(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "7").mkdir()
    with pytest.raises(InputError, match="holds no checkpoint, expected a folder of checkpoints"):
        load_model(tmp_path)
    with pytest.raises(InputError, match=r"notes.txt is a file, expected a folder of checkpoints"):
        load_model(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"notes.txt is a file, expected a folder for checkpoints"):
        Checkpoints(tmp_path / "notes.txt")
    with Checkpoints(tmp_path / "new") as checkpoints, pytest.raises(FileNotFoundError):
        checkpoints.restore(abstract_on(MESH)[0])


def data_files(folder):
    """The files that hold the arrays, largest first."""
    files = [p for p in (folder / "2" / "state").rglob("*") if p.parent.name == "d"]
    return sorted(files, key=lambda p: -p.stat().st_size)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


FAULTS = {
    "data cut": lambda f: [cut(p) for p in data_files(f)],
    "data gone": lambda f: [p.unlink() for p in data_files(f)],
    "data changed": lambda f: [flip(p) for p in data_files(f)],
    "manifest cut": lambda f: cut(f / "2/state/manifest.ocdbt"),
    "metadata cut": lambda f: cut(f / "2/state/_METADATA"),
    "metadata gone": lambda f: (f / "2/state/_METADATA").unlink(),
    "arrays gone": lambda f: shutil.rmtree(f / "2/state"),
    "run gone": lambda f: shutil.rmtree(f / "2/run"),
    "run cut": lambda f: cut(f / "2/run/data.json"),
    "all files empty": lambda f: [p.write_bytes(b"") for p in f.rglob("*") if p.is_file()],
}


# Readers inside Orbax that outlive the first error complain about it when they end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_reported_in_one_line_that_names_the_folder(copy, fault):
    FAULTS[fault](copy)
    with pytest.raises(InputError) as error:
        load_model(copy)
    message = str(error.value)
    assert message.startswith(str(copy))
    assert "\n" not in message
    with pytest.raises(InputError, match=str(copy)):
        restore(copy, abstract_on(MESH)[0])


def test_leftovers_of_a_killed_save_are_ignored_and_removed(copy, state_and_layout):
    for leftover in ("4.orbax-checkpoint-tmp", "2.orbax-checkpoint-tmp-17"):
        shutil.copytree(copy / "2", copy / leftover)
    assert load_model(copy).step == 2
    with Checkpoints(copy, config=CONFIG) as checkpoints:
        assert checkpoints.latest == 2
        checkpoints.save(dataclasses.replace(state_and_layout[0], step=jax.numpy.int32(4)))
    assert load_model(copy).step == 4
    assert sorted(p.name for p in copy.iterdir()) == ["2", "4"]
    shutil.copytree(copy / "2", copy / "6.orbax-checkpoint-tmp")
    with Checkpoints(copy, config=CONFIG) as checkpoints:
        assert checkpoints.latest == 4
    assert sorted(p.name for p in copy.iterdir()) == ["2", "4"]  # though nothing was saved


def test_importing_training_does_not_import_orbax():
    program = (
        "import sys, jaxgen.training.loop, jaxgen.training.checkpoint;"
        "print(json.dumps([m for m in ('orbax', 'tqdm', 'tensorboardX') if m in sys.modules]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", "import json;" + program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(output) == []


@pytest.mark.parametrize("kwargs", [{"keep": 0}, {"keep_every": -1}, {"mode": "least"}])
def test_bad_values_name_the_field(tmp_path, kwargs):
    with pytest.raises(InputError, match=next(iter(kwargs))):
        Checkpoints(tmp_path, **kwargs)


def test_multiples_are_kept_besides_the_latest(tmp_path, state_and_layout):
    state, _ = state_and_layout
    with Checkpoints(tmp_path, config=CONFIG, keep=2, keep_every=4) as checkpoints:
        for step in range(1, 12):
            checkpoints.save(dataclasses.replace(state, step=jax.numpy.int32(step)))
        checkpoints.wait()
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [4, 8, 10, 11]
