"""Deterministic batches of a text: which positions a training step sees, from its number alone.

A `BatchPlan` is a pure function from step to positions. It keeps no state and no permutation of the
epoch in memory, so a run resumes at any step, and does not depend on how many processes share the
batch: each takes its rows of the same global one (`jaxgen.parallel.batches`).

The shuffle is a Feistel network (Black and Rogaway 2002, "Ciphers with arbitrary finite domains",
the generalised form with cycle walking): a permutation of [0, n) that can be evaluated anywhere, in
integer arithmetic, hence the same on every machine and with every version of NumPy.
"""

import math
import operator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt64

from jaxgen.errors import InputError
from jaxgen.ids import as_ids, as_integers

_ROUNDS = 6  # fewer leave some orders of very short texts likelier than others
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class BatchPlan:
    """Positions of a span in batches, each position once an epoch.

    Attributes:
      start: First position.
      stop: One past the last position.
      batch_size: B.
      seed: With the epoch, all that the order depends on.
      shuffle: Whether to shuffle; without, every epoch visits the positions in order.
      keep_last: What happens to the positions of an epoch that fill no batch: False drops them
        (other ones each epoch), True gives them as a shorter batch.
      name: Of what the positions are, for errors.

    Raises:
      InputError: for positions or a batch size that cannot be, naming what they are of.
    """

    start: int
    stop: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    keep_last: bool = False
    name: str = ""

    def __post_init__(self):
        whose = f"{self.name}: " if self.name else ""
        if self.batch_size < 1:
            raise InputError(f"{whose}batch_size is {self.batch_size}, expected 1 or more")
        if not 0 <= self.start < self.stop:
            raise InputError(
                f"{whose}positions {self.start} to {self.stop}, expected 0 <= start < stop"
            )
        if self.steps_per_epoch == 0:
            raise InputError(
                f"{whose}batch_size is {self.batch_size}, expected at most the number of examples, "
                f"{len(self)}"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def steps_per_epoch(self) -> int:
        """Batches that an epoch has."""
        full, rest = divmod(len(self), self.batch_size)
        return full + (self.keep_last and rest > 0)

    def positions(self, step: int) -> Int64[np.ndarray, "B"]:
        """The positions that a step sees, int64 [B] (fewer in a kept last batch).

        Args:
          step: The step's number, 0 for the first one, running on through the epochs.

        Raises:
          InputError: `step` is negative.
        """
        if step < 0:
            raise InputError(f"step is {step}, expected 0 or more")
        epoch, step = divmod(step, self.steps_per_epoch)
        first = step * self.batch_size
        index_B = np.arange(first, min(first + self.batch_size, len(self)))
        if self.shuffle:
            index_B = permute(index_B, len(self), self.seed, epoch)
        return self.start + index_B


def permute(
    index: Integer[np.ndarray, "..."] | np.integer, n: int, seed: int, epoch: int
) -> Int64[np.ndarray, "..."]:
    """Applies a permutation of [0, n) that depends on (seed, epoch) alone.

    Args:
      index: Numbers in [0, n), of any shape.
      n: How many numbers are permuted.
      seed: Any integer of up to 64 bits.
      epoch: Any integer of up to 64 bits.

    Returns:
      int64 of the same shape.

    Raises:
      InputError: A number is outside [0, n).
    """
    value, n = as_integers(index, "numbers").flatten(), operator.index(n)
    if value.size and not 0 <= value.min() <= value.max() < n:
        raise InputError(f"numbers {value.min()} to {value.max()}, expected them in [0, {n})")
    keys = _round_keys(seed, epoch)
    value = _feistel(value, n, keys)
    # The network permutes the slightly larger [0, rows * columns): walk on until inside [0, n). The
    # cycle of a value leads back to it, so the walk ends, and no two values end at the same place.
    outside = value >= n
    while outside.any():
        value[outside] = _feistel(value[outside], n, keys)
        outside = value >= n
    return value.reshape(np.shape(index))


def _feistel(value: Int64[np.ndarray, "..."], n: int, keys: list[int]) -> np.ndarray:
    """A permutation of [0, rows * columns), the smallest near-square table that holds n cells."""
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    row, column = np.divmod(value.astype(np.uint64), np.uint64(columns))
    # Adding a function of the one half to the other can be undone, whatever the function is: every
    # round is a permutation, and a position is found by itself, without a table of all of them.
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        row = (row + _mix(column, even) % np.uint64(rows)) % np.uint64(rows)
        column = (column + _mix(row, odd) % np.uint64(columns)) % np.uint64(columns)
    return (row * np.uint64(columns) + column).astype(np.int64)


def _round_keys(seed: int, epoch: int) -> list[int]:
    state = _mix_one(_mix_one(seed & _MASK) ^ (epoch & _MASK))
    return [_mix_one(state + i) for i in range(2 * _ROUNDS)]


def _mix(value: UInt64[np.ndarray, "..."], key: int) -> UInt64[np.ndarray, "..."]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) on an array; products wrap."""
    value = value + np.uint64(key)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _mix_one(value: int) -> int:
    """SplitMix64 on one integer."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def windows_at(
    tokens_N: Integer[np.ndarray, "N"], positions_B: Integer[np.ndarray, "B"], order: int
) -> Int32[np.ndarray, "B L"]:
    """Windows of `order` words that end at given positions: contexts with their targets.

    Args:
      tokens_N: The stream, ids of any integer type.
      positions_B: Positions in [order - 1, N).
      order: n of the model; L = n.

    Returns:
      int32 [B, n]: row i is ``tokens[p-n+1 : p+1]`` for ``p = positions[i]``; the last column is
      the word to predict.

    Raises:
      InputError: A position has no full context or is outside the stream.
    """
    positions_B = as_integers(positions_B, "positions")
    low, high = int(positions_B.min()), int(positions_B.max())
    if low < order - 1 or high >= len(tokens_N):
        raise InputError(
            f"positions {low} to {high}, expected {order - 1} to {len(tokens_N) - 1}"
            f" (order {order}, {len(tokens_N)} words)"
        )
    return as_ids(tokens_N[positions_B[:, None] + np.arange(1 - order, 1)])


def trainable_span(span: tuple[int, int], order: int, name: str = "text") -> tuple[int, int]:
    """The part of a span whose positions have a full context of ``order - 1`` words before them.

    Args:
      span: (start, stop) in the stream.
      order: n of the model.
      name: The text's name, for the error message.

    Raises:
      InputError: The order is below 1 or larger than the text, so that no position remains.
    """
    if order < 1:
        raise InputError(f"order is {order}, expected 1 or more")
    start, stop = max(span[0], order - 1), span[1]
    if start >= stop:
        raise InputError(
            f"{name}: order {order} is larger than the text: the part from {span[0]} to {span[1]}"
            f" has no word with {order - 1} words before it"
        )
    return start, stop
