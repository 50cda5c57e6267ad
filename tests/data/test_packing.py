"""First-fit packing: little padding, nothing lost, the same plan whenever it is asked for."""

import numpy as np
import pytest

from jaxgen.data.packing import PackedExample, Packer, PackPlan, pack_arrays
from jaxgen.errors import InputError


def mixed_lengths(count: int) -> np.ndarray:
    """Tokens of images and clips: half images, sides of 8 to 32 tokens, clips of 2 to 9 frames."""
    generator = np.random.default_rng(0)
    frames = np.where(generator.random(count) < 0.5, 1, generator.integers(2, 10, count))
    return generator.integers(8, 33, (count, 2)).prod(axis=1) * frames


LENGTHS = mixed_lengths(10_000)


def plan(**options) -> PackPlan:
    length = options.pop("pack_length", 2 * int(LENGTHS.max()))
    return PackPlan(lambda i: LENGTHS[i], length, options.pop("max_examples", 256), **options)


def test_padding_is_under_one_percent_and_no_example_is_lost():
    """10,000 mixed examples, the tail included; 0.3 % with eight open sequences."""
    length = 2 * int(LENGTHS.max())
    padding = {}
    for most_open in (1, 8):
        packs = list(plan(max_open=most_open, total=len(LENGTHS)))
        assert sorted(i for pack in packs for i in pack) == list(range(len(LENGTHS)))
        used = [int(LENGTHS[pack].sum()) for pack in packs]
        assert max(used) <= length
        padding[most_open] = 1 - sum(used) / (len(packs) * length)
    assert padding[8] < 0.005 < 0.05 < padding[1]


def test_by_hand():
    packer = Packer(pack_length=10, max_examples=3, max_open=2)
    assert packer.add(0, 6) == []
    assert packer.add(1, 7) == []  # does not fit beside example 0
    assert packer.add(2, 3) == []  # fits into the first open sequence: 0 has room
    assert packer.sequences == [[0, 2], [1]]
    assert packer.add(3, 4) == [[0, 2]]  # fits nowhere: the fullest is closed
    assert packer.add(4, 3) == [[1, 4]]  # full
    assert packer.add(5, 1) == []
    assert packer.add(6, 1) == [[3, 5, 6]]  # three examples are the most
    assert packer.flush() == []
    packer.add(7, 2)
    assert packer.flush() == [[7]]


def test_a_pack_is_the_same_whenever_it_is_asked_for():
    packs = list(plan(total=len(LENGTHS)))
    late = plan()
    assert late.pack(250) == packs[250]  # a run that resumes
    assert late.pack(3) == packs[3]
    assert late.pack(299) == packs[299]


def test_a_stream_without_end_is_planned_on_and_forgotten_behind():
    endless = PackPlan(lambda i: 1 + i % 7, 8, 8)
    some = {i: endless.pack(i) for i in (0, 20_000, 20_001, 40_000)}
    assert len(endless._packs) < 20_000
    assert {i: endless.pack(i) for i in reversed(some)} == some
    with pytest.raises(InputError, match="the stream has no end, expected total"):
        len(endless)


@pytest.mark.parametrize(
    ("length", "message"),
    [(9, "example 0 has 9 tokens, expected 1 to 8, the length of a pack"), (0, "has 0 tokens")],
)
def test_examples_that_fit_no_pack_are_refused(length, message):
    with pytest.raises(InputError, match=message):
        PackPlan(lambda i: np.full(len(i), length), 8, 4).pack(0)


def test_options_and_packs_that_cannot_be():
    for options, message in (
        ({"pack_length": 0}, "pack_length is 0, expected 1 or more"),
        ({"max_examples": 0}, "max_examples is 0"),
        ({"max_open": 0}, "max_open is 0"),
    ):
        with pytest.raises(InputError, match=message):
            plan(**options)
    with pytest.raises(InputError, match=r"pack is -1, expected 0 to"):
        plan(total=100).pack(-1)
    with pytest.raises(InputError, match="expected 0 to"):
        plan(total=100).pack(10_000)


def example(index: int, length: int, label: int | None = None) -> PackedExample:
    tokens = np.full((length, 2), index, np.uint8)
    return PackedExample(index, tokens, np.arange(3 * length).reshape(length, 3), label)


def test_arrays_of_packs():
    batch = pack_arrays([[example(5, 2, 1), example(6, 1, 0)], [example(7, 3, 2)]], 4, 2)
    np.testing.assert_array_equal(batch["segment"], [[1, 1, 2, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(batch["tokens"][..., 0], [[5, 5, 6, 0], [7, 7, 7, 0]])
    np.testing.assert_array_equal(batch["index"], [[5, 6], [7, 0]])
    np.testing.assert_array_equal(batch["label"], [[1, 0], [2, 0]])
    np.testing.assert_array_equal(batch["place"][0, 2], [0, 1, 2])
    assert batch["tokens"].dtype == np.uint8
    assert "label" not in pack_arrays([[example(0, 1)]], 4, 2)


def test_packs_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="pack 0 has 1 examples of 5 tokens, expected at most 2"):
        pack_arrays([[example(0, 5)]], 4, 2)
    with pytest.raises(InputError, match="pack 0 has 3 examples"):
        pack_arrays([[example(i, 1) for i in range(3)]], 4, 2)
    with pytest.raises(InputError, match="example 1 differs from others in having a label"):
        pack_arrays([[example(0, 1), example(1, 1, 0)]], 4, 2)
    with pytest.raises(InputError, match="packs are empty"):
        pack_arrays([[]], 4, 2)
