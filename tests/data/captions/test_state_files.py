"""States of texts in files: bits, interruptions, and those of other texts."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.captions.state_files import open_states, write_states
from jaxgen.errors import InputError

pytest.importorskip("array_record")

COUNT, LENGTH, WIDTH, POOLED = 11, 4, 3, 2
IDS = np.random.default_rng(0).integers(50, size=(COUNT, LENGTH)).astype(np.int32)
MASK = np.random.default_rng(1).uniform(size=(COUNT, LENGTH)) > 0.3
OPTIONS = {"batch_size": 2, "file_rows": 3}


class Encoder:
    """States that tell their ids, and a count of the texts that were encoded."""

    def __init__(self, most=10**9):
        self.calls, self.most = 0, most

    def __call__(self, ids, mask):
        assert ids.shape == mask.shape == (2, LENGTH)
        self.calls += 1
        if self.calls > self.most:
            raise KeyboardInterrupt
        states, pooled = numbers(ids)
        return states, mask, pooled


def numbers(ids):
    states = np.sin(ids[..., None] + np.arange(WIDTH)).astype(np.float32)
    return states, np.cos(ids[:, :POOLED]).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_have_the_bits_that_were_written(dtype, tmp_path):
    states = write_states(tmp_path, Encoder(), IDS, MASK, "abc", dtype=dtype, **OPTIONS)
    expected = [part.astype(jnp.dtype(dtype)) for part in numbers(IDS)]
    for found in (states, open_states(tmp_path, "abc")):
        index = np.array([7, 0, 10, 7])
        rows = found.rows(index)
        assert rows.states_BLD.dtype == rows.pooled_BD.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(rows.states_BLD, expected[0][index])
        np.testing.assert_array_equal(rows.mask_BL, MASK[index])
        np.testing.assert_array_equal(rows.pooled_BD, expected[1][index])
    assert len(states.files) == 4


def test_an_interruption_looks_unfinished_and_loses_one_file(tmp_path):
    """Five batches end within the third file; then it goes on, and what there is stays."""
    with pytest.raises(KeyboardInterrupt):
        write_states(tmp_path, Encoder(5), IDS, MASK, "abc", **OPTIONS)
    with pytest.raises(InputError, match=r"no states\.json in it, expected finished states"):
        open_states(tmp_path, "abc")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.array_record")}
    assert len(before) == 2
    encoder = Encoder()
    states = write_states(tmp_path, encoder, IDS, MASK, "abc", **OPTIONS)
    assert encoder.calls == 1 + 2 + 1  # a shape, then three rows and two
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content
    np.testing.assert_array_equal(states.rows(np.arange(COUNT)).mask_BL, MASK)
    again = Encoder(0)
    write_states(tmp_path, again, IDS, MASK, "abc", **OPTIONS)
    assert again.calls == 0


def test_files_of_other_rows_are_written_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_states(tmp_path, Encoder(5), IDS, MASK, "abc", **OPTIONS)
    states = write_states(tmp_path, Encoder(), IDS, MASK, "abc", batch_size=2, file_rows=6)
    assert len(states.files) == 2
    np.testing.assert_array_equal(states.rows(np.arange(COUNT)).states_BLD, numbers(IDS)[0])


def test_what_is_refused(tmp_path):
    folder = tmp_path / "states"
    states = write_states(folder, Encoder(), IDS, MASK, "abc", **OPTIONS)
    with pytest.raises(InputError, match=r"of other captions \(digest abc, expected abd\)"):
        write_states(folder, Encoder(), IDS, MASK, "abd", **OPTIONS)
    with pytest.raises(InputError, match="states are float32, expected float16"):
        write_states(folder, Encoder(), IDS, MASK, "abc", dtype="float16", **OPTIONS)
    with pytest.raises(InputError, match=r"rows 0 to 11 of .*, expected 0 to 10"):
        states.rows(np.array([11, 0]))
    with pytest.raises(InputError, match=r"states are up to 1e.06, expected finite float16"):
        write_states(
            tmp_path / "large",
            lambda ids, mask: (1e6 * np.ones((2, LENGTH, 1)), mask, np.ones((2, 1))),
            *(IDS, MASK, "abc"),
            **{"dtype": "float16", **OPTIONS},
        )
    states.files[1].unlink()
    with pytest.raises(InputError, match=r"no abc-float32-00000003\.array_record, expected"):
        open_states(folder, "abc")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_states(tmp_path / "nowhere", "abc")


def test_damaged_folders_name_the_file_and_the_field(tmp_path):
    states = write_states(tmp_path, Encoder(), IDS, MASK, "abc", **OPTIONS)
    index = tmp_path / "states.json"
    fields = json.loads(index.read_text())
    faults = {
        "{": r"states\.json: damaged, expected JSON \(Expecting property name",
        "{}": r"states\.json: digest is None, expected a text",
        "[]": r"states\.json: digest is None, expected a text",
        json.dumps({**fields, "count": 0}): r"states\.json: count is 0, expected a number from 1",
        json.dumps({**fields, "width": "3"}): r"states\.json: width is '3', expected a number",
        json.dumps({**fields, "dtype": "int8"}): r"dtype is 'int8', expected one of float32, floa",
        json.dumps(
            {**fields, "width": 4}
        ): "rows have 60 bytes, expected 76 for length 4, width 4,",
    }
    for text, fault in faults.items():
        index.write_text(text)
        with pytest.raises(InputError, match=fault):
            open_states(tmp_path, "abc")
    index.write_text(json.dumps(fields))
    cut = states.files[2]
    content = cut.read_bytes()
    for damaged in (b"", content[:1000], content[: len(content) // 2], content[:-1]):
        cut.write_bytes(damaged)
        with pytest.raises(InputError, match=re.escape(f"{cut}: damaged, expected rows of states")):
            open_states(tmp_path, "abc")
    cut.write_bytes(content[:100] + bytes([content[100] ^ 255]) + content[101:])
    found = open_states(tmp_path, "abc")
    with pytest.raises(InputError, match=re.escape(f"{cut}: damaged, expected rows of states")):
        found.rows(np.arange(COUNT))
    cut.unlink()
    index.unlink()
    again = write_states(tmp_path, Encoder(), IDS, MASK, "abc", **OPTIONS)
    np.testing.assert_array_equal(again.rows(np.arange(COUNT)).states_BLD, numbers(IDS)[0])
    assert again.rows(np.array([], int)).states_BLD.shape == (0, LENGTH, WIDTH)


@pytest.mark.parametrize(
    ("ids", "mask", "dtype", "fault"),
    [
        (IDS, MASK[:, :3], "float32", r"mask has shape \(11, 3\), expected \(11, 4\), that of the"),
        (IDS, MASK[:4], "float32", r"mask has shape \(4, 4\), expected \(11, 4\)"),
        (
            IDS[:0],
            MASK[:0],
            "float32",
            r"ids have shape \(0, 4\), expected \[N, L\] of one text or",
        ),
        (IDS, MASK, "int8", "dtype is 'int8', expected one of float32, float16, bfloat16"),
        (IDS, MASK, "float64", "dtype is 'float64', expected one of"),
        (IDS, MASK, "foo", "dtype is 'foo', expected one of"),
    ],
)
def test_texts_that_cannot_be_stored_are_refused(ids, mask, dtype, fault, tmp_path):
    with pytest.raises(InputError, match=fault):
        write_states(tmp_path / "states", Encoder(), ids, mask, "abc", dtype=dtype, **OPTIONS)
    assert not (tmp_path / "states").exists()


def test_states_that_are_not_of_the_tokens_are_refused(tmp_path):
    def encode(ids, mask):
        return np.zeros((2, LENGTH + 1, WIDTH)), mask, np.zeros((2, POOLED))

    with pytest.raises(
        InputError, match=r"states have shape \(2, 5, 3\), expected a vector for ea"
    ):
        write_states(tmp_path, encode, IDS, MASK, "abc", **OPTIONS)
