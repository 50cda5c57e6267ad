"""Word ids out of integer arrays of every type."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.ids import as_ids, as_integers, check_not_string

TYPES = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


def test_every_integer_type_is_int32(tmp_path):
    values = np.arange(6).reshape(2, 3)
    kinds = {name: values.astype(name) for name in TYPES}
    kinds["big-endian"] = values.astype(">u2")
    kinds["list"] = values.tolist()
    kinds["jax"] = jnp.asarray(values)
    values.astype(np.uint16).tofile(tmp_path / "tokens.bin")
    kinds["memory map"] = np.memmap(tmp_path / "tokens.bin", np.uint16, "r", shape=(2, 3))
    for name, given in kinds.items():
        for convert, dtype in ((as_ids, np.int32), (as_integers, np.int64)):
            got = convert(given, "numbers")
            assert got.dtype == dtype, name
            np.testing.assert_array_equal(got, values)
    same = kinds["int32"]
    same.setflags(write=False)
    assert np.shares_memory(as_ids(same), same)
    assert as_ids([]).dtype == np.int32


def test_ids_that_do_not_fit_are_named():
    for value, dtype in ((2**31, np.uint32), (2**31, np.int64), (2**64 - 1, np.uint64)):
        with pytest.raises(InputError, match=rf"tokens contain the id {value}, expected ids in \["):
            as_ids(np.array([0, value], dtype))
    with pytest.raises(InputError, match=r"tokens contain the id -2147483649, expected ids in \["):
        as_ids(np.array([-(2**31) - 1]))
    with pytest.raises(InputError, match=r"words contain the id 255, expected ids in \[0, 200\)"):
        as_ids(np.array([255], np.uint8), "words", 0, 200)
    with pytest.raises(InputError, match=r"words contain the id -1, expected ids in \[0, 300\)"):
        as_ids(np.array([-1], np.int8), "words", 0, 300)
    with pytest.raises(InputError, match=r"counts contain 9223372036854775808, expected less"):
        as_integers(np.array([2**63], np.uint64), "counts")


def test_what_is_no_integer_is_refused():
    for values, fault in (
        ([1.0, 2.0], "tokens have type float64, expected integer ids"),
        ([True, False], "tokens have type bool, expected integer ids"),
        (["1"], "tokens have type <U1, expected integer ids"),
        ("the cat", "tokens are the string 'the cat', expected integer ids"),
        (b"the cat", "tokens are the string b'the cat', expected integer ids"),
        ([[1], [2, 3]], "tokens are rows of different lengths, expected an array"),
        (None, "tokens have type object, expected integer ids"),
        (jnp.ones(2), "tokens have type float32, expected integer ids"),
    ):
        for convert in (as_ids, as_integers):
            with pytest.raises(InputError, match=fault):
                convert(values, "tokens")


def test_a_string_is_no_list_of_words():
    with pytest.raises(InputError, match=r"words are the string 'the cat', expected a list"):
        check_not_string("the cat", "words")
    check_not_string(["the cat"], "words")
