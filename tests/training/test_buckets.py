"""Working folders in a bucket, and schemes that no run can write to."""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest
import small_run
from buckets import buckets_in

from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh
from jaxgen.training import Checkpoints, MetricsLog, load_config, load_model
from jaxgen.training.metrics import read_records, write_csv, write_figures


def train(folder, steps):
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        return small_run.train(folder, dataclasses.replace(small_run.LOOP, steps=steps))


def test_a_run_in_a_bucket_is_that_of_a_local_folder(tmp_path, monkeypatch):
    """Interrupted and resumed: the same parameters and records, and nothing written elsewhere."""
    monkeypatch.chdir(tmp_path)
    whole = train("local", 36)
    (tmp_path / "buckets").mkdir()
    with buckets_in(tmp_path / "buckets"):
        train("gs://bucket/run", 20)
        resumed = train("gs://bucket/run", 36)
        jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
        assert (resumed.best, resumed.best_step) == (whole.best, whole.best_step)
        kept = [p.name for p in (tmp_path / "buckets/bucket/run/checkpoints").iterdir()]
        assert sorted(kept) == sorted(p.name for p in pathlib.Path("local/checkpoints").iterdir())
        assert load_config("gs://bucket/run/checkpoints/36") == small_run.MODEL
        best = load_model("gs://bucket/run/checkpoints", "best")
        assert best.step == whole.best_step
        jax.tree.map(
            np.testing.assert_array_equal,
            best.params,
            load_model("local/checkpoints", "best").params,
        )
        here, there = (
            [
                {k: v for k, v in r.items() if k != "seconds" and not k.startswith("speed/")}
                for r in read_records(f"{folder}/metrics.jsonl")
                if r["step"] > 20
            ]
            for folder in ("local", "gs://bucket/run")
        )
        assert here == there
        # A save that was interrupted: in a bucket all is under its last name, but not marked whole.
        (tmp_path / "buckets/bucket/run/checkpoints/36/commit_success.txt").unlink()
        assert load_model("gs://bucket/run/checkpoints").step == 30
        with pytest.raises(InputError, match="gs://bucket/run/checkpoints/36: "):
            load_model("gs://bucket/run/checkpoints/36")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["buckets", "local"]


def test_figures_and_tables_are_written_to_buckets(tmp_path):
    with buckets_in(tmp_path):
        for scheme in ("gs", "s3"):
            write_figures(f"{scheme}://bucket/a/metrics.json", {"loss": 1.5})
            write_csv(f"{scheme}://bucket/a/rows.csv", [{"x": 1}])
            log = MetricsLog(f"{scheme}://bucket/a")
            log.resume(0)
            for step in range(3):
                log.write({"step": step})
            log.resume(1)
            assert [r["step"] for r in read_records(f"{scheme}://bucket/a/metrics.jsonl")] == [0, 1]
        names = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
        assert names == ["metrics.json", "metrics.jsonl", "rows.csv"]


def test_checkpoints_are_not_written_where_orbax_cannot(tmp_path, monkeypatch):
    """And leave no local folder that is called as the scheme."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # not installed
    with (
        buckets_in(tmp_path),
        pytest.raises(InputError, match="no arrays to s3://, expected gs://"),
    ):
        Checkpoints("s3://bucket/run/checkpoints")
    with pytest.raises(
        InputError, match=r"gs://.* needs the package gcsfs: pip install 'jaxgen\[gs"
    ):
        Checkpoints("gs://bucket/run/checkpoints")
    with pytest.raises(InputError, match="foo://run, expected a local path, gs:// or s3://"):
        load_model("foo://run")
    assert not list(tmp_path.iterdir())
