"""Packs of a finite set, epoch after epoch, and batches of them on any number of processes.

The packs of an epoch are a function of the lengths, the seed and the epoch: nothing is read, and
no other epoch is planned (but epoch 0, once). So that pack i of a run is in epoch ``i // P``, all
epochs have the same number of packs P, that of epoch 0: where the order of an epoch needs more,
it is packed with more open sequences; where it needs fewer, packs with many examples are halved.

An epoch has every example exactly once. Its order, and that of its packs, are permutations of
`jaxgen.data.batch_plan`. An example's index in the run is ``epoch N + example``: its randomness
(`jaxgen.diffusion.objectives.packed_loss`) is another one every epoch.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int, Integer, Shaped

from jaxgen.data.batch_plan import permute
from jaxgen.data.first_fit import Packer, check_length, longest_first
from jaxgen.data.packing import PackedExample, pack_arrays
from jaxgen.errors import InputError
from jaxgen.ids import as_integers

DOUBLINGS = 6
"""How often the number of open sequences is doubled for an epoch that needs too many packs."""
EPOCHS_KEPT = 2


class EpochPacks:
    """The packs of a finite set of examples, without end, each epoch in an order of its own.

    Attributes:
      pack_length: L.
      max_examples: E, examples of a pack, at most.
      text_length: tokens of the texts of a pack, at most, or None.

    Args:
      length_N: the examples' lengths in tokens.
      pack_length: L.
      max_examples: E.
      seed: with the lengths and the epoch, all that packs depend on.
      shuffle: whether epochs have orders of their own; without, all are as the first.
      max_open: open sequences, at most.
      window: examples that are sorted by length before they are packed; 1 packs them as they come.
      text_length_N: the tokens of the examples' texts; None for no texts.
      text_length: tokens of the texts of a pack, at most; None does not limit them.
      names: of the examples, such as files, for errors.

    Raises:
      InputError: for no examples, one that is longer than a pack or empty (naming it), lengths that
        are no integers, and options as of `Packer`.
    """

    def __init__(
        self,
        length_N: Shaped[np.ndarray, "N"],
        pack_length: int,
        max_examples: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        max_open: int = 8,
        window: int = 1,
        text_length_N: Shaped[np.ndarray, "N"] | None = None,
        text_length: int | None = None,
        names: Sequence[str] | None = None,
    ):
        self.pack_length, self.max_examples = pack_length, max_examples
        self.text_length = text_length
        self._seed, self._shuffle = operator.index(seed), shuffle
        self._max_open, self._window = max_open, window
        self._length_N = _lengths(length_N, "lengths")
        self._text_N = np.zeros_like(self._length_N)
        if text_length_N is not None:
            self._text_N = _lengths(text_length_N, "lengths of texts", len(self._length_N))
        Packer(pack_length, max_examples, max_open, text_length)  # refuses options
        self._check_examples(names)
        self._first = self._pack(self._order(0), max_open)
        self._kept: dict[int, list[list[int]]] = {}

    def _check_examples(self, names: Sequence[str] | None) -> None:
        if names is not None and len(names) != len(self._length_N):
            raise InputError(f"names are {len(names)}, expected {len(self._length_N)}, as lengths")
        wrong_N = (self._length_N < 1) | (self._length_N > self.pack_length) | (self._text_N < 0)
        if self.text_length is not None:
            wrong_N |= self._text_N > self.text_length
        for i in np.flatnonzero(wrong_N)[:1].tolist():
            text = int(self._text_N[i]), self.text_length
            name = names[i] if names is not None else ""
            check_length(i, int(self._length_N[i]), self.pack_length, *text, name)

    def __len__(self) -> int:
        """P, the packs of an epoch."""
        return len(self._first)

    @property
    def examples(self) -> int:
        """N, the examples of an epoch."""
        return len(self._length_N)

    @property
    def padding(self) -> float:
        """The share of tokens that are padding, the same in every epoch."""
        return 1 - int(self._length_N.sum()) / (len(self) * self.pack_length)

    def epoch_and_place(self, number: int) -> tuple[int, int]:
        """The epoch of a pack of the run, and its place there.

        Raises:
          InputError: for a number below 0.
        """
        if number < 0:
            raise InputError(f"pack is {number}, expected 0 or more")
        return divmod(number, len(self))

    def pack(self, number: int) -> list[int]:
        """The examples of pack `number` of the run, as ``epoch N + example``."""
        epoch, place = self.epoch_and_place(number)
        return [epoch * self.examples + example for example in self.epoch(epoch)[place]]

    def epoch(self, epoch: int) -> list[list[int]]:
        """The packs of an epoch: the examples of each.

        Raises:
          InputError: for an epoch below 0.
        """
        if epoch < 0:
            raise InputError(f"epoch is {epoch}, expected 0 or more")
        if not self._shuffle:
            return self._first
        if epoch not in self._kept:
            packs = self._plan(epoch)
            places = permute(np.arange(len(packs)), len(packs), ~self._seed, epoch)
            kept = dict(list(self._kept.items())[1 - EPOCHS_KEPT :])
            self._kept = {**kept, epoch: [packs[place] for place in places.tolist()]}
        return self._kept[epoch]

    def _plan(self, epoch: int) -> list[list[int]]:
        """P packs of an epoch, in the order in which they are closed."""
        order_N = self._order(epoch)
        for doubling in range(DOUBLINGS):
            packs = self._pack(order_N, self._max_open << doubling)
            if len(packs) <= len(self):
                return _halved(packs, len(self))
        return self._first

    def _order(self, epoch: int) -> Int[np.ndarray, "N"]:
        order_N = np.arange(self.examples)
        if self._shuffle:
            order_N = permute(order_N, self.examples, self._seed, epoch)
        return longest_first(order_N, self._length_N[order_N], self._window)

    def _pack(self, order_N: Int[np.ndarray, "N"], max_open: int) -> list[list[int]]:
        packer = Packer(self.pack_length, self.max_examples, max_open, self.text_length)
        columns = order_N.tolist(), self._length_N[order_N].tolist(), self._text_N[order_N].tolist()
        packs = []
        for example, length, text in zip(*columns, strict=True):
            packs += packer.add(example, length, text)
        return packs + packer.flush()


def _lengths(
    length_N: Shaped[np.ndarray, "N"], name: str, count: int | None = None
) -> Int[np.ndarray, "N"]:
    """Lengths as int64."""
    length_N = as_integers(length_N, name).astype(np.int64)
    if length_N.ndim != 1 or not len(length_N) or len(length_N) != (count or len(length_N)):
        expected = f"[{count}]" if count else "[N], one example or more"
        raise InputError(f"{name} have shape {length_N.shape}, expected {expected}")
    return length_N


def _halved(packs: list[list[int]], count: int) -> list[list[int]]:
    """As many packs as asked for: those with the most examples become two."""
    packs = list(packs)
    while len(packs) < count:
        most = np.argsort([-len(pack) for pack in packs], kind="stable")[: count - len(packs)]
        for place in most.tolist():
            pack = packs[place]
            if len(pack) > 1:
                packs[place] = pack[: len(pack) // 2]
                packs.append(pack[len(pack) // 2 :])
    return packs


class Packs(Protocol):
    """The packs of a run by number: `EpochPacks`, or a `jaxgen.data.packing.PackPlan`."""

    pack_length: int
    max_examples: int
    text_length: int | None

    def pack(self, number: int) -> list[int]:
        """The indices of the examples of a pack."""


@dataclass(frozen=True, eq=False)
class PackBatches:
    """Update t -> its batch of packs, of which each process reads its own rows alone.

    Attributes:
      plan: the packs; update t has those from ``t B`` on.
      read: an example by its index.
      packs: B, packs of a global batch.
      rows: of the batch, those to read: `jaxgen.parallel.process_rows` of this process. None reads
        all.

    Raises:
      InputError: for no packs, or rows outside of the batch.
    """

    plan: Packs
    read: Callable[[int], PackedExample]
    packs: int
    rows: Integer[np.ndarray, "rows"] | None = None

    def __post_init__(self) -> None:
        if self.packs < 1:
            raise InputError(f"packs are {self.packs}, expected 1 or more")
        rows = self._rows()
        if not len(rows) or rows.min() < 0 or rows.max() >= self.packs:
            raise InputError(f"rows are {rows}, expected numbers in [0, {self.packs}), one or more")

    def _rows(self) -> Int[np.ndarray, "rows"]:
        return np.arange(self.packs) if self.rows is None else as_integers(self.rows, "rows")

    def indices(self, step: int) -> list[list[int]]:
        """The examples of each pack of this process's rows.

        Raises:
          InputError: for a step below 0.
        """
        if step < 0:
            raise InputError(f"step is {step}, expected 0 or more")
        return [self.plan.pack(step * self.packs + row) for row in self._rows().tolist()]

    def __call__(self, step: int) -> dict[str, Any]:
        """The arrays of `jaxgen.data.packing.pack_arrays`, this process's rows."""
        examples = [[self.read(index) for index in pack] for pack in self.indices(step)]
        plan = self.plan
        return pack_arrays(examples, plan.pack_length, plan.max_examples, plan.text_length)
