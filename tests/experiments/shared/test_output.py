"""Tables and arrays that experiments write."""

import numpy as np
import pytest

from experiments.shared.output import cached_arrays, format_table, load_arrays, write_text


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
