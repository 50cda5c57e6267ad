"""Word ids: one conversion for integer arrays of every type, and the check that words are words.

A text kept as bytes, as uint16 (the usual token file), as int64, memory-mapped or read-only is one
text. Functions that take ids convert them here, where they enter: "no word" is -1, which unsigned
types cannot hold, and arithmetic of mixed types would wrap or turn into floating point.
"""

import reprlib

import numpy as np
from jaxtyping import Int32, Int64

from jaxgen.errors import InputError

_INT32 = np.iinfo(np.int32)


def as_ids(
    values: object, name: str = "tokens", low: int = _INT32.min, stop: int = _INT32.max + 1
) -> Int32[np.ndarray, "..."]:
    """Ids as int32; no copy where they are int32 already.

    Args:
      values: An array or nested list of whole numbers, of any integer type.
      name: What they are, in the plural, for the error message.
      low: The least id that is allowed.
      stop: One more than the greatest one.

    Raises:
      InputError: They are a string, floats, booleans or anything else that is no integer, or an id
        is outside [low, stop).

    Example:
      >>> as_ids([[3, 1], [2, 0]]).dtype
      dtype('int32')
      >>> as_ids([1.0])
      Traceback (most recent call last):
      jaxgen.errors.InputError: tokens have type float64, expected integer ids
    """
    array = _integers(values, name)
    limits = np.iinfo(array.dtype)
    if array.size and (limits.min < low or limits.max >= stop):
        smallest, largest = int(array.min()), int(array.max())
        if smallest < low or largest >= stop:
            wrong = smallest if smallest < low else largest
            raise InputError(f"{name} contain the id {wrong}, expected ids in [{low}, {stop})")
    return array.astype(np.int32, copy=False)


def as_integers(values: object, name: str) -> Int64[np.ndarray, "..."]:
    """Whole numbers as int64 (positions, counts), from any integer type.

    Raises:
      InputError: They are no integers, or too large.
    """
    array = _integers(values, name)
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} contain {array.max()}, expected less than 2^63")
    return array.astype(np.int64, copy=False)


def _integers(values: object, name: str) -> np.ndarray:
    """An array of an integer type; one of no elements may have any type."""
    if isinstance(values, str | bytes):
        raise InputError(f"{name} are the string {reprlib.repr(values)}, expected integer ids")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} are rows of different lengths, expected an array") from error
    if array.size == 0 and array.dtype.kind == "f":  # an empty list
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} have type {array.dtype}, expected integer ids")
    return array


def check_not_string(
    words: object, name: str, expected: str = "a list of words, such as its .split()"
) -> None:
    """Refuses a string where a list of words is due: its letters would be taken for words.

    Args:
      words: The words.
      name: What they are, in the plural, for the error message.
      expected: What the message asks for.

    Raises:
      InputError: It is a string or bytes.
    """
    if isinstance(words, str | bytes):
        raise InputError(f"{name} are the string {reprlib.repr(words)}, expected {expected}")
