"""States of texts in files: bits, interruptions, and those of other texts."""

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
