"""Damaged checkpoints are refused, named, and the newest intact one offered; full disks named."""

import dataclasses
import errno
import json
import pathlib
import random
import re
import resource
import shutil
import signal
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh
from jaxgen.training import Checkpoints, create_state, load_model, load_params
from jaxgen.training.metrics import MetricsLog, read_records

FIRST_FORMAT = pathlib.Path(__file__).parent / "first_format"
PROGRESS = {"best": 0.5, "window": {"a": [1.0, 2.0]}}
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def init(key):
    return {"w": jax.random.normal(key, (64, 64)), "b": jax.random.normal(key, (8,))}


@pytest.fixture(scope="module")
def state():
    return create_state(init, jax.random.key(0), tx=optax.adam(0.1), ema=True)[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, state):
    """Three checkpoints of which the last is the best."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder, metric="loss") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(at(state, step), metrics={"loss": 1 / step}, progress=PROGRESS)
    return folder


def at(state, step):
    return dataclasses.replace(state, step=jnp.int32(step))


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def open_and_restore(folder, state):
    with Checkpoints(folder, metric="loss") as checkpoints:
        return *checkpoints.restore(abstract(state)), checkpoints.best


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def outcome(folder, state):
    """None where the third checkpoint is what was saved, or the refusal, the folder called RUN."""
    try:
        found, progress, best = open_and_restore(folder, state)
    except InputError as error:
        return str(error).replace(str(folder), "RUN")
    same(found, at(state, 3))
    assert (progress, best) == (PROGRESS, 3)
    return None


NEWEST_INTACT = "; the newest intact checkpoint is RUN/2; without RUN/3 a run resumes from it"


def test_flipped_bits_anywhere_are_refused_or_without_effect(saved, state, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "run")
    rng, refusals = random.Random(0), 0
    for file in sorted(p for p in (folder / "3").rglob("*") if p.is_file()):
        content = file.read_bytes()
        for _ in range(3):
            damaged = bytearray(content)
            damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            refusal = outcome(folder, state)
            if refusal is not None:
                assert re.fullmatch(f"RUN/3.*{NEWEST_INTACT}", refusal)
                refusals += 1
        file.write_bytes(content)
    assert refusals >= 15


def test_numbers_that_are_not_those_saved_are_named(saved, state, tmp_path):
    """Files that read well: another checkpoint's arrays, figures, configuration."""
    folder = shutil.copytree(saved, tmp_path / "run")
    other = tmp_path / "other"
    with Checkpoints(other, metric="loss") as checkpoints:
        half = jax.tree.map(lambda x: x / 2, state.params)
        different = dataclasses.replace(at(state, 3), params=half)
        checkpoints.save(different, metrics={"loss": 0.1}, progress=PROGRESS)
    for part, message in {
        "state": r"RUN/3: params/b is damaged: its digest is \d+, expected \d+",
        "metrics": r"RUN/3/metrics: {'loss': 0.1}, expected {'loss': 0.333+}",
    }.items():
        shutil.move(folder / "3" / part, tmp_path / part)
        shutil.copytree(other / "3" / part, folder / "3" / part)
        assert re.fullmatch(message + NEWEST_INTACT, outcome(folder, state))
        if part == "state":
            same(load_params(folder / "3"), state.ema)  # whose arrays are the same in both
            with pytest.raises(InputError, match="params/b is damaged"):
                load_params(folder, averaged=False)
        else:
            with pytest.raises(InputError, match="3/metrics: "):
                load_model(folder, "best")
        shutil.rmtree(folder / "3" / part)
        shutil.move(tmp_path / part, folder / "3" / part)
    shutil.rmtree(folder / "3")
    same(open_and_restore(folder, state)[0], at(state, 2))  # as the message says


def test_a_run_falls_back_to_the_newest_intact_checkpoint(saved, state, tmp_path, capsys):
    """Of three checkpoints the last two are damaged; saving again replaces them."""
    folder = shutil.copytree(saved, tmp_path / "run")
    for step in (2, 3):
        for file in (folder / str(step) / "state").rglob("d/*"):
            file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"3: cannot read its arrays.*intact checkpoint is .*/1;"):
        load_params(folder)
    same(load_params(folder, which="intact"), at(state, 1).ema)
    capsys.readouterr()
    with Checkpoints(folder, metric="loss") as checkpoints:
        found, progress = checkpoints.restore(abstract(state), "intact")
        warnings = capsys.readouterr().err.splitlines()
        same(found, at(state, 1))
        assert progress == PROGRESS
        for step in (3, 4):
            checkpoints.save(at(state, step), metrics={"loss": 1 / step})
        checkpoints.wait()
    assert [f"{folder}/{step}:" in line for step, line in zip((3, 2), warnings, strict=True)]
    assert all(line.startswith("warning: ") for line in warnings)
    assert sorted(int(path.name) for path in folder.iterdir()) == [1, 3, 4]
    with Checkpoints(folder, metric="loss") as checkpoints:
        same(checkpoints.restore(abstract(state), 3)[0], at(state, 3))


def test_without_another_intact_checkpoint_the_message_says_so(saved, state, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "run")
    for step in (1, 2, 3):
        (folder / str(step) / "run/data.json").write_text("{}")
    expected = r"RUN/3/run: .*; no other checkpoint of the run is intact"
    assert re.fullmatch(expected, outcome(folder, state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [d], r"\[.*expected a JSON object"),
        (lambda d: {**d, "files": {"a": 1}}, "files is {'a': 1}, expected texts by name"),
        (lambda d: {**d, "config": 3}, "config is 3, expected a JSON object"),
        (lambda d: {**d, "mode": "least"}, "mode is 'least', expected min or max"),
        (lambda d: {**d, "metric": 1}, "metric is 1, expected the name of a figure"),
    ],
)
def test_odd_values_in_json_of_the_first_format_are_one_line(
    saved, state, tmp_path, change, message
):
    """It has no digests, so the values themselves are looked at."""
    folder = shutil.copytree(saved, tmp_path / "run")
    file = folder / "3/run/data.json"
    data = json.loads(file.read_text())
    del data["digest"], data["digests"], data["figures"]
    file.write_text(json.dumps(data))
    same(open_and_restore(folder, state)[0], at(state, 3))
    file.write_text(json.dumps(change(data)))
    with pytest.raises(InputError, match=f"^{folder}/3/run: {message}"):
        open_and_restore(folder, state)


@pytest.mark.parametrize(
    "figures", ["[1]", '{"loss": "low"}', '{"loss": [1]}', '{"loss": tru', "3"]
)
def test_odd_figures_are_one_line(saved, state, tmp_path, figures):
    folder = shutil.copytree(saved, tmp_path / "run")
    (folder / "3/metrics/metrics").write_text(figures)
    assert re.fullmatch(f"RUN/3/metrics.*{NEWEST_INTACT}", outcome(folder, state))


def test_checkpoints_of_the_first_format_open(tmp_path):
    for name in ("nplm", "dit"):
        with zipfile.ZipFile(FIRST_FORMAT / f"{name}.zip") as archive:
            archive.extractall(tmp_path / name)
        (checkpoint,) = [p.parents[1] for p in (tmp_path / name).rglob("run/data.json")]
        assert "digests" not in json.loads((checkpoint / "run/data.json").read_text())
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(load_params(checkpoint)))


def test_a_step_is_written_anew_where_it_lacked_figures(tmp_path, state):
    with Checkpoints(tmp_path, metric="loss") as checkpoints:
        checkpoints.save(at(state, 1), progress=1)
        assert checkpoints.best is None
        checkpoints.save(at(state, 1), metrics={"loss": 2.0}, progress=2)
        checkpoints.save(at(state, 1), metrics={"loss": 1.0}, progress=3)  # left alone
        assert checkpoints.best == 1
        assert checkpoints.restore(abstract(state))[1] == 2
    assert load_params(tmp_path, which="best") is not None


@pytest.fixture
def small_files():
    """Every file of more than 20 kB fails to be written, with EFBIG in place of ENOSPC."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_cannot_be_written_is_an_os_error_that_names_the_folder(
    tmp_path, state, small_files, caplog
):
    """Of the save in the background, at the next call; nothing else is said."""
    for end in ("save", "wait", "close"):
        folder = tmp_path / end
        checkpoints = Checkpoints(folder)
        checkpoints.save(at(state, 1))
        with pytest.raises(OSError, match="File too large") as error:
            checkpoints.save(at(state, 2)) if end == "save" else getattr(checkpoints, end)()
        assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(folder))
        checkpoints.close()
        assert not list(folder.glob("[0-9]"))
    assert not caplog.records


def test_a_log_that_cannot_grow_names_its_file(tmp_path, small_files):
    log = MetricsLog(tmp_path)
    log.resume(0)
    write_all = lambda: [log.write({"step": s, "train/loss": 1.5}) for s in range(1000)]  # noqa: E731
    with pytest.raises(OSError, match="File too large") as error:
        write_all()
    assert error.value.filename == str(tmp_path / "metrics.jsonl")
    records = read_records(tmp_path / "metrics.jsonl")  # without the half record
    log.resume(100)
    assert read_records(tmp_path / "metrics.jsonl") == records[:101]


def test_large_sharded_arrays_are_verified_on_other_meshes(tmp_path):
    """Digests of them are made on the devices, also where another mesh is the current one."""
    mesh = make_mesh("data=2,model=4")
    spread = NamedSharding(mesh, P("data", "model"))
    w = jnp.arange(90_000.0).reshape(300, 300)
    with jax.set_mesh(mesh):
        state = create_state(lambda: {"w": w}, tx=optax.sgd(1))[0]
        state = dataclasses.replace(state, params=jax.device_put(state.params, spread))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state)
            checkpoints.save(at(state, 1))
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        for target in (make_mesh("data=8"), make_mesh("data=1", jax.devices()[1:2])):
            same(load_params(tmp_path, mesh=target), state.params)
        one_device = {"w": jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=w.sharding)}
        same(load_params(tmp_path, one_device), state.params)
    run = json.loads((tmp_path / "1/run/data.json").read_text())
    run["digests"]["params/w"] ^= 1
    del run["digest"]
    run["digest"] = zlib.crc32(json.dumps(run, sort_keys=True).encode())
    (tmp_path / "1/run/data.json").write_text(json.dumps(run))
    with pytest.raises(
        InputError, match=f"{tmp_path}/1: params/w is damaged.*intact.*{tmp_path}/0;"
    ):
        load_params(tmp_path, mesh=mesh)
