"""Tables and arrays that experiments write."""

import numpy as np
import pytest
from buckets import buckets_in

from experiments.shared.launch import ExperimentConfig, LaunchConfig, open_workdir
from experiments.shared.output import (
    cached_arrays,
    cached_figures,
    format_table,
    load_arrays,
    write_text,
)
from experiments.shared.plots import new_figure, save_figure
from jaxgen.errors import InputError


def test_tables_align_numbers_to_the_right():
    rows = [("MLP1", 12.345, 5, True, "0.80"), ("trigram", 1234.0, None, False, "1,234")]
    assert format_table(("model", "test", "n", "direct", "ratio"), rows).splitlines() == [
        "| model   |   test |   n | direct | ratio |",
        "| ------- | -----: | --: | ------ | ----: |",
        "| MLP1    |   12.3 |   5 | yes    |  0.80 |",
        "| trigram | 1234.0 |     | no     | 1,234 |",
    ]


def test_arrays_are_computed_once(tmp_path):
    path = tmp_path / "rows" / "a.npz"
    calls = []

    def compute():
        calls.append(1)
        return {"test": np.arange(3.0) / 7, "bins": np.array([1, 2])}

    first, second = cached_arrays(path, compute), cached_arrays(path, compute)
    assert len(calls) == 1
    assert list(first) == list(second) == ["test", "bins"]
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        assert first[name].dtype == load_arrays(path)[name].dtype
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_a_fault_while_computing_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached_arrays(tmp_path / "a.npz", lambda: {"x": np.array(1 // 0)})
    assert not any(tmp_path.iterdir())


def test_texts_end_with_one_line_break(tmp_path):
    write_text(tmp_path / "a.txt", "één\n\n")
    assert (tmp_path / "a.txt").read_bytes() == "één\n".encode()


def test_a_working_folder_may_be_in_a_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ExperimentConfig(launch=LaunchConfig(workdir="gs://bucket/run"))
    with buckets_in(tmp_path / "buckets"):
        open_workdir(config)
        folder = open_workdir(config)  # found again
        arrays = lambda: {"x": np.arange(3)}  # noqa: E731
        for _ in range(2):
            np.testing.assert_array_equal(
                cached_arrays(folder / "rows/a.npz", arrays)["x"], [0, 1, 2]
            )
            assert cached_figures(folder / "a.json", lambda: {"loss": 1}) == {"loss": 1}
        write_text(folder / "a.txt", "text")
        save_figure(new_figure("title", 2, 2)[0], folder / "a.png")
        found = tmp_path / "buckets/bucket/run"
        assert (found / "a.png").read_bytes().startswith(b"\x89PNG")
        names = [p.name for p in found.iterdir()]
        assert sorted(names) == ["a.json", "a.png", "a.txt", "config.json", "rows"]
        other = ExperimentConfig(launch=config.launch, seed=3)
        with pytest.raises(InputError, match="gs://bucket/run holds a run of another"):
            open_workdir(other)
    assert [p.name for p in tmp_path.iterdir()] == ["buckets"]
