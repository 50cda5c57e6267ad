"""Examples of several lengths in sequences of one length: greedy first-fit packing.

Dehghani et al. 2023, "Patch n' Pack", section 2: a model of fixed shapes then takes images and
videos of any size, with hardly any padding. A few sequences are *open*. Each example of a stream
goes into the first open one (the oldest) that has room; where none has, the fullest is closed and a
new one opened. A sequence holds a bounded number of examples, since what belongs to an example
(its time, its class) needs a place of fixed size too.

A plan depends on the lengths of the stream alone, in its order: batch after batch is known without
reading an example. A run that was interrupted finds its place by planning once more from the
beginning: 100,000 examples take a fifth of a second.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Shaped

from jaxgen.errors import InputError

Lengths = Callable[[Int[np.ndarray, "N"]], Int[np.ndarray, "N"]]
"""``indices of examples [N] -> their lengths in tokens [N]``."""

EXAMPLES_AT_A_TIME = 4096


@dataclass
class Packer:
    """The open sequences of first-fit packing.

    Attributes:
      pack_length: L, tokens of a sequence.
      max_examples: E, examples of a sequence, at most.
      max_open: open sequences, at most.
      sequences: the open ones, oldest first: the examples of each.
      used: tokens of each.

    Raises:
      InputError: for values below 1.
    """

    pack_length: int
    max_examples: int
    max_open: int = 8
    sequences: list[list[int]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("pack_length", "max_examples", "max_open"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")

    def add(self, example: int, length: int) -> list[list[int]]:
        """Puts an example into a sequence; returns the sequences that were closed for it.

        Raises:
          InputError: for an example that is longer than a sequence, or empty.
        """
        if not 1 <= length <= self.pack_length:
            raise InputError(
                f"example {example} has {length} tokens, expected 1 to {self.pack_length}, the "
                "length of a pack"
            )
        closed = []
        place = next((i for i, used in enumerate(self.used) if self._fits(i, length)), None)
        if place is None:
            if len(self.sequences) == self.max_open:
                closed.append(self._close(max(range(len(self.used)), key=self.used.__getitem__)))
            self.sequences.append([])
            self.used.append(0)
            place = len(self.sequences) - 1
        self.sequences[place].append(example)
        self.used[place] += length
        if self.used[place] == self.pack_length or len(self.sequences[place]) == self.max_examples:
            closed.append(self._close(place))
        return closed

    def _fits(self, place: int, length: int) -> bool:
        return self.used[place] + length <= self.pack_length

    def _close(self, place: int) -> list[int]:
        del self.used[place]
        return self.sequences.pop(place)

    def flush(self) -> list[list[int]]:
        """Closes all open sequences, oldest first."""
        closed, self.sequences, self.used = self.sequences, [], []
        return closed


class PackPlan:
    """The packs of a stream of examples, in the order in which they are closed.

    Pack n is the same whenever it is asked for. Packs are planned one after the other; of a stream
    without end those far behind the latest are forgotten, and planned again when asked for.

    Args:
      lengths: indices of examples to their lengths in tokens.
      pack_length: L.
      max_examples: E, examples of a pack, at most.
      max_open: open sequences, at most.
      total: examples of the stream; None for a stream without end.

    Raises:
      InputError: as `Packer`; and when a pack is asked for, for an example longer than a pack, or
        beyond the end of the stream.
    """

    def __init__(
        self,
        lengths: Lengths,
        pack_length: int,
        max_examples: int,
        *,
        max_open: int = 8,
        total: int | None = None,
    ):
        self._lengths, self._total = lengths, total
        self._options = pack_length, max_examples, max_open
        self._restart()

    def _restart(self) -> None:
        self._packer = Packer(*self._options)
        self._read, self._first = 0, 0
        self._packs: list[list[int]] = []

    def pack(self, number: int) -> list[int]:
        """The indices of the examples of pack `number`, 0 for the first."""
        if number < self._first:
            self._restart()
        while number >= self._first + len(self._packs) and self._read != self._total:
            if self._total is None and len(self._packs) > EXAMPLES_AT_A_TIME:
                self._first += len(self._packs)
                self._packs = []
            self._read_more()
        if not 0 <= number < self._first + len(self._packs):
            raise InputError(f"pack is {number}, expected 0 to {len(self._packs) - 1}")
        return self._packs[number - self._first]

    def __len__(self) -> int:
        """The packs of a stream that ends."""
        if self._total is None:
            raise InputError("the stream has no end, expected total")
        while self._read < self._total:
            self._read_more()
        return len(self._packs)

    def __iter__(self) -> Iterator[list[int]]:
        """The packs of a stream that ends."""
        return (self.pack(number) for number in range(len(self)))

    def _read_more(self) -> None:
        """Packs some more examples of the stream."""
        stop = self._read + EXAMPLES_AT_A_TIME
        if self._total is not None:
            stop = min(stop, self._total)
        index_N = np.arange(self._read, stop)
        for index, length in zip(index_N.tolist(), self._lengths(index_N).tolist(), strict=True):
            self._packs += self._packer.add(index, length)
        self._read = stop
        if stop == self._total:
            self._packs += self._packer.flush()


@dataclass(frozen=True, eq=False)
class PackedExample:
    """An example as tokens, ready to be packed.

    Attributes:
      index: of the example in its stream; its randomness follows from it.
      tokens: [L, F].
      places: [L, A], where each token is in its example.
      label: its class, or None.
    """

    index: int
    tokens: Shaped[np.ndarray, "L F"]
    places: Int[np.ndarray, "L A"]
    label: int | None = None


def pack_arrays(
    packs: Sequence[Sequence[PackedExample]], pack_length: int, max_examples: int
) -> dict[str, np.ndarray]:
    """A batch of packs as arrays of fixed shapes.

    Args:
      packs: the examples of each pack, in order.
      pack_length: L.
      max_examples: E.

    Returns:
      ``"tokens"`` [B, L, F], zero where there is padding; ``"place"`` int32 [B, L, A];
      ``"segment"`` int32 [B, L], e + 1 where a token is of example e of its pack and 0 for
      padding; ``"index"`` int32 [B, E]; and with labels ``"label"`` int32 [B, E]. Where a pack has
      fewer than E examples, index and label are 0.

    Raises:
      InputError: for packs that are too long or have too many examples, or labels for some alone.
    """
    known = [example for pack in packs for example in pack]
    if not known:
        raise InputError("packs are empty, expected one example or more")
    first, rows = known[0], (len(packs), pack_length)
    batch = {
        "tokens": np.zeros((*rows, first.tokens.shape[1]), first.tokens.dtype),
        "place": np.zeros((*rows, first.places.shape[1]), np.int32),
        "segment": np.zeros(rows, np.int32),
        "index": np.zeros((len(packs), max_examples), np.int32),
    }
    labelled = first.label is not None
    if labelled:
        batch["label"] = np.zeros_like(batch["index"])
    for row, pack in enumerate(packs):
        total = sum(len(example.tokens) for example in pack)
        if total > pack_length or len(pack) > max_examples:
            raise InputError(
                f"pack {row} has {len(pack)} examples of {total} tokens, expected at most "
                f"{max_examples} of {pack_length}"
            )
        start = 0
        for e, example in enumerate(pack):
            if (example.label is not None) != labelled:
                raise InputError(f"example {example.index} differs from others in having a label")
            span = slice(start, start := start + len(example.tokens))
            batch["tokens"][row, span] = example.tokens
            batch["place"][row, span] = example.places
            batch["segment"][row, span] = e + 1
            batch["index"][row, e] = example.index
            if labelled:
                batch["label"][row, e] = example.label
    return batch
