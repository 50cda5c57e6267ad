"""Averages, the log of records, and the files that runs leave."""

import csv
import json
import math
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.training.metrics import (
    MetricsLog,
    RunningAverage,
    read_records,
    write_csv,
    write_figures,
)


def test_averages_weigh_steps_by_their_tokens():
    rng = np.random.default_rng(0)
    losses, weights = rng.normal(size=10), rng.integers(0, 5, size=10)
    average = RunningAverage()
    for loss, weight in zip(losses, weights, strict=True):
        average.add({"loss": loss, "weight": weight, "skipped": 0})
    means = average.means()
    assert means["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-12)
    assert (means["weight"], means["skipped"]) == (weights.sum(), 0)


def test_averages_leave_out_skipped_steps_but_count_them():
    average = RunningAverage()
    for loss, skipped in [(1.0, 0), (math.nan, 1), (4.0, 0), (math.inf, 1)]:
        average.add({"loss": loss, "skipped": skipped})
    assert average.means() == {"loss": 2.5, "skipped": 2}
    only_bad = RunningAverage()
    only_bad.add({"loss": math.nan, "skipped": 1})
    assert only_bad.means() == {"skipped": 1}


def test_averages_go_on_from_their_sums_through_json():
    values = np.random.default_rng(1).normal(size=9)
    whole, first = RunningAverage(), RunningAverage()
    for value in values:
        whole.add({"x": value})
    for value in values[:4]:
        first.add({"x": value})
    rest = RunningAverage(json.loads(json.dumps(first.sums)))
    for value in values[4:]:
        rest.add({"x": value})
    assert rest.means() == whole.means()


def test_records_are_read_as_they_were_written(tmp_path):
    log = MetricsLog(tmp_path / "run")
    log.resume(0)
    records = [
        {"step": 1, "loss": 0.1, "inf": math.inf},
        {"step": 2, "loss": np.float32(0.5), "n": jnp.int32(3)},
    ]
    for record in records:
        log.write(record)
    assert read_records(log.path) == records
    json.loads(log.path.read_text().splitlines()[0], parse_constant=pytest.fail)


def test_resuming_drops_later_records_and_a_torn_line(tmp_path):
    log = MetricsLog(tmp_path)
    log.resume(0)
    for step in (2, 4, 4, 6):
        log.write({"step": step})
    with log.path.open("a") as handle:
        handle.write('{"step": 7')
    MetricsLog(tmp_path).resume(4)
    assert [record["step"] for record in read_records(log.path)] == [2, 4, 4]
    MetricsLog(tmp_path).resume(0)
    assert read_records(log.path) == []


@pytest.mark.parametrize("line", ["{broken}", "[1]", '{"loss": 1}', ""])
def test_a_broken_log_is_refused_by_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(
        InputError, match=r"metrics.jsonl, line 2, is no record, expected a JSON object"
    ):
        read_records(path)


def test_no_log_has_no_records(tmp_path):
    assert read_records(tmp_path / "metrics.jsonl") == []


def test_csv_has_a_column_for_each_name(tmp_path):
    write_csv(tmp_path / "m.csv", [{"step": 1, "a": 0.5}, {"step": 2, "b": 1e-9}])
    with (tmp_path / "m.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows == [["step", "a", "b"], ["1", "0.5", ""], ["2", "", "1e-09"]]


def test_figures_are_valid_json_and_replaced_whole(tmp_path):
    path = tmp_path / "metrics.json"
    write_figures(path, {"test": {"perplexity": np.float64(3.5)}, "list": [math.nan, 1]})
    assert json.loads(path.read_text()) == {"test": {"perplexity": 3.5}, "list": ["nan", 1]}
    with pytest.raises(TypeError):
        write_figures(path, {"test": object()})
    assert json.loads(path.read_text())["list"] == ["nan", 1]
    assert os.listdir(tmp_path) == ["metrics.json"]


def read_events(path):
    """(step, name, value) of every scalar in an event file: length, crc, event, crc, ..."""
    from tensorboardX.proto.event_pb2 import Event

    data, scalars = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return scalars


def test_tensorboard_files_hold_the_scalars(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    log = MetricsLog(tmp_path, tensorboard=True)
    log.resume(0)
    log.write({"step": 3, "train/loss": 0.25})
    log.write({"step": 4, "train/loss": 0.125, "train/accuracy": 0.5})
    log.close()
    (path,) = tmp_path.glob("events.*")
    assert read_events(path) == [
        (3, "train/loss", 0.25),
        (4, "train/loss", 0.125),
        (4, "train/accuracy", 0.5),
    ]
