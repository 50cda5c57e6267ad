"""Examples of several lengths in sequences of one length: plans of packs, and packs as arrays.

Dehghani et al. 2023, "Patch n' Pack", section 2: a model of fixed shapes then takes images and
videos of any size, with hardly any padding (`jaxgen.data.first_fit` says how little). A sequence
holds a bounded number of examples, since what belongs to an example (its time, its class) needs a
place of fixed size too.

A plan depends on the lengths of the stream alone, in its order: batch after batch is known without
reading an example. A run that was interrupted finds its place by planning once more from the
beginning: 100,000 examples take a fifth of a second. Of a finite set that is seen epoch after epoch
`jaxgen.data.pack_epochs` plans one epoch alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from jaxgen.data.first_fit import Packer, longest_first
from jaxgen.errors import InputError

Lengths = Callable[[Int[np.ndarray, "N"]], Int[np.ndarray, "N"]]
"""``indices of examples [N] -> their lengths in tokens [N]``."""

EXAMPLES_AT_A_TIME = 4096


class PackPlan:
    """The packs of a stream of examples, in the order in which they are closed.

    Pack n is the same whenever it is asked for. Packs are planned one after the other; of a stream
    without end those far behind the latest are forgotten, and planned again when asked for.

    Attributes:
      pack_length: L.
      max_examples: E, examples of a pack, at most.
      text_length: tokens of the texts of a pack, at most, or None.

    Args:
      lengths: indices of examples to their lengths in tokens.
      pack_length: L.
      max_examples: E.
      max_open: open sequences, at most.
      total: examples of the stream; None for a stream without end.
      window: examples that are sorted by length before they are packed; 1 packs them as they come.
      text_lengths: indices of examples to the tokens of their texts; None for no texts.
      text_length: tokens of the texts of a pack, at most; None does not limit them.
      name_of: an example's name, for errors.

    Raises:
      InputError: as `Packer` and `longest_first`; and when a pack is asked for, for an example
        longer than a pack, or beyond the end of the stream.
    """

    def __init__(
        self,
        lengths: Lengths,
        pack_length: int,
        max_examples: int,
        *,
        max_open: int = 8,
        total: int | None = None,
        window: int = 1,
        text_lengths: Lengths | None = None,
        text_length: int | None = None,
        name_of: Callable[[int], str] | None = None,
    ):
        longest_first(np.arange(0), np.arange(0), window)  # refuses a window that is none
        self.pack_length, self.max_examples = pack_length, max_examples
        self.text_length = text_length
        self._lengths, self._text_lengths = lengths, text_lengths
        self._total, self._window, self._name_of = total, window, name_of
        self._max_open = max_open
        self._restart()

    def _restart(self) -> None:
        options = self.pack_length, self.max_examples, self._max_open, self.text_length
        self._packer = Packer(*options)
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
        """Packs some more examples of the stream: whole windows."""
        stop = self._read + -(-EXAMPLES_AT_A_TIME // self._window) * self._window
        if self._total is not None:
            stop = min(stop, self._total)
        index_N = np.arange(self._read, stop)
        length_N, text_N = self._lengths(index_N), np.zeros_like(index_N)
        if self._text_lengths is not None:
            text_N = self._text_lengths(index_N)
        order_N = longest_first(index_N, length_N, self._window) - self._read
        columns = index_N[order_N].tolist(), length_N[order_N].tolist(), text_N[order_N].tolist()
        for index, length, text in zip(*columns, strict=True):
            name = self._name_of(index) if self._name_of else ""
            self._packs += self._packer.add(index, length, text, name=name)
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
      text: the tokens of its text, [M, C] (or ids [M]); M = 0 for an example without one. None
        where no example has any.
      of_example: arrays by name, one of each example: numbers such as frame rate, motion and size
        [P], what places are multiplied by [3], times of frames [N].
      of_tokens: arrays by name [L, ...], a row of each token: further channels, or a
        mask.
    """

    index: int
    tokens: Shaped[np.ndarray, "L F"]
    places: Int[np.ndarray, "L A"]
    label: int | None = None
    text: Shaped[np.ndarray, "M *C"] | None = None
    of_example: Mapping[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict)
    of_tokens: Mapping[str, Shaped[np.ndarray, "L ..."]] = field(default_factory=dict)


RESERVED = {"tokens", "place", "segment", "index", "label", "text", "text_segment"}
MOST_INDICES = 2**31


def pack_arrays(
    packs: Sequence[Sequence[PackedExample]],
    pack_length: int,
    max_examples: int,
    text_length: int | None = None,
) -> dict[str, np.ndarray]:
    """A batch of packs as arrays of fixed shapes.

    Args:
      packs: the examples of each pack, in order.
      pack_length: L.
      max_examples: E.
      text_length: N, tokens of the texts of a pack; needed where examples have texts.

    Returns:
      ``"tokens"`` [B, L, F], zero where there is padding; ``"place"`` int32 [B, L, A];
      ``"segment"`` int32 [B, L], e + 1 where a token is of example e of its pack and 0 for
      padding; ``"index"`` int32 [B, E], modulo 2^31; and with labels ``"label"`` int32 [B, E]. With
      texts ``"text"`` [B, N, C] and ``"text_segment"`` int32 [B, N], as ``"segment"``. The arrays
      of examples and tokens by their names, [B, E, ...] and [B, L, ...]. Where a pack has fewer
      than E examples, index, label and what else examples have are 0.

    Raises:
      InputError: for packs that are too long or have too many examples, for texts that are longer
        than `text_length` together, and for examples that differ in what they have, or in its
        shape.
    """
    known = [example for pack in packs for example in pack]
    if not known:
        raise InputError("packs are empty, expected one example or more")
    first = _parts(known[0])
    for example in known:
        _check_parts(example, first, known[0].index)
    if known[0].text is not None and text_length is None:
        raise InputError("text_length is None, expected a length: examples have texts")
    sizes = {"L": pack_length, "E": max_examples, "N": text_length or 0}
    batch = {
        name: np.zeros((len(packs), sizes[over], *array.shape[over != "E" :]), array.dtype)
        for name, (over, array) in first.items()
    }
    batch["segment"] = np.zeros((len(packs), pack_length), np.int32)
    if known[0].text is not None:
        batch["text_segment"] = np.zeros((len(packs), sizes["N"]), np.int32)
    for row, pack in enumerate(packs):
        _check_pack_fits(row, pack, pack_length, max_examples, text_length)
        start = {"L": 0, "N": 0}
        for e, example in enumerate(pack):
            spans: dict[str, Any] = {"E": e}
            for over, array in (("L", example.tokens), ("N", example.text)):
                if array is not None:
                    spans[over] = slice(start[over], start[over] + len(array))
                    start[over] += len(array)
            for name, (over, array) in _parts(example).items():
                batch[name][row, spans[over]] = array
            batch["segment"][row, spans["L"]] = e + 1
            if "N" in spans:
                batch["text_segment"][row, spans["N"]] = e + 1
    return batch


def unpack(
    values_BL: Shaped[Any, "B L ..."], segment_BL: Int[Any, "B L"]
) -> list[list[Shaped[np.ndarray, "_ ..."]]]:
    """What belongs to the tokens of packs, such as predictions, example by example.

    Args:
      values_BL: [B, L, ...].
      segment_BL: e + 1 where a token is of example e, 0 for padding.

    Returns:
      For every pack the arrays [L_e, ...] of its examples, in their order.

    Raises:
      InputError: where the two are not of the same tokens.
    """
    values_BL, segment_BL = np.asarray(values_BL), np.asarray(segment_BL)
    if segment_BL.ndim != 2 or values_BL.shape[:2] != segment_BL.shape:
        raise InputError(
            f"values have shape {values_BL.shape} and segments {segment_BL.shape}, expected "
            "[B, L, ...] and [B, L]"
        )
    return [
        [values_L[segment_L == e + 1] for e in range(int(segment_L.max(initial=0)))]
        for values_L, segment_L in zip(values_BL, segment_BL, strict=True)
    ]


def _parts(example: PackedExample) -> dict[str, tuple[str, np.ndarray]]:
    """Everything that an example has: over which axis of a batch it is laid (L, N, E), and it."""
    parts = {
        "tokens": ("L", example.tokens),
        "place": ("L", np.asarray(example.places, np.int32)),
        "index": ("E", np.asarray(example.index % MOST_INDICES, np.int32)),
    }
    if example.label is not None:
        parts["label"] = "E", np.asarray(example.label, np.int32)
    if example.text is not None:
        parts["text"] = "N", example.text
    for over, arrays in (("E", example.of_example), ("L", example.of_tokens)):
        for name, array in arrays.items():
            if name in RESERVED or name in parts:
                raise InputError(
                    f"example {example.index} has an array named {name!r}, expected another name "
                    "than those of other arrays"
                )
            parts[name] = over, np.asarray(array)
    return parts


def _check_parts(
    example: PackedExample, first: Mapping[str, tuple[str, np.ndarray]], other: int
) -> None:
    """Refuses an example that has not what the first one has."""
    parts = _parts(example)
    for name in parts.keys() ^ first.keys():
        what = "a label" if name == "label" else f"{name!r}"
        raise InputError(f"example {example.index} differs from others in having {what}")
    for name, (over, array) in parts.items():
        apart = over != "E"  # the first axis of what tokens have is their own
        expected = first[name][1]
        if array.shape[apart:] != expected.shape[apart:] or array.dtype != expected.dtype:
            raise InputError(
                f"{name} of example {example.index} has shape {array.shape} of {array.dtype}, "
                f"expected that of example {other}, {expected.shape} of {expected.dtype}"
            )
        if over == "L" and len(array) != len(example.tokens):
            raise InputError(
                f"{name} of example {example.index} has {len(array)} rows, expected "
                f"{len(example.tokens)}, one for each token"
            )


def _check_pack_fits(
    row: int,
    pack: Sequence[PackedExample],
    pack_length: int,
    max_examples: int,
    text_length: int | None,
) -> None:
    """Refuses a pack that has more than there is room for."""
    total = sum(len(example.tokens) for example in pack)
    if total > pack_length or len(pack) > max_examples:
        raise InputError(
            f"pack {row} has {len(pack)} examples of {total} tokens, expected at most "
            f"{max_examples} of {pack_length}"
        )
    text = sum(len(example.text) for example in pack if example.text is not None)
    if text_length is not None and text > text_length:
        raise InputError(f"pack {row} has texts of {text} tokens, expected at most {text_length}")
