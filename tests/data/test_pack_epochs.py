"""Packs of a finite set: each example once an epoch, any pack by its number, rows of processes."""

import numpy as np
import pytest

from jaxgen.data.batch_plan import permute
from jaxgen.data.pack_epochs import EpochPacks, PackBatches, _halved
from jaxgen.data.packing import PackedExample, PackPlan
from jaxgen.errors import InputError

GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(1, 60, 1_000)
TEXTS = GENERATOR.integers(0, 9, 1_000)
SHORT = np.array([1, 7])
EVERY = list(range(len(LENGTHS)))


def packs_of(**options) -> EpochPacks:
    return EpochPacks(LENGTHS, 120, 16, seed=3, **options)


def test_every_epoch_has_every_example_once_in_as_many_packs():
    for options in ({}, {"window": 64}, {"max_open": 2}):
        plan = packs_of(**options)
        for epoch in range(6):
            packs = plan.epoch(epoch)
            assert sorted(i for pack in packs for i in pack) == EVERY
            assert len(packs) == len(plan)
            assert max(LENGTHS[pack].sum() for pack in packs) <= 120
            assert max(map(len, packs)) <= 16
        assert plan.epoch(0) != plan.epoch(1)
        np.testing.assert_allclose(plan.padding, 1 - LENGTHS.sum() / (120 * len(plan)), atol=1e-12)
    assert packs_of().padding < 0.03
    assert packs_of(window=64).padding < 0.03


def test_epochs_that_need_more_or_fewer_packs_are_fitted_to_the_first():
    """Few examples and one open sequence: the number of packs would differ by the order."""
    short = LENGTHS[:40]
    plan = EpochPacks(short, 120, 16, max_open=1)
    raw = {len(plan._pack(plan._order(epoch), 1)) for epoch in range(30)}
    assert len(raw) > 2
    for epoch in range(30):
        packs = plan.epoch(epoch)
        assert len(packs) == len(plan)
        assert sorted(i for pack in packs for i in pack) == list(range(40))
        assert all(short[pack].sum() <= 120 for pack in packs)
    assert sorted(map(len, _halved([[1, 2, 3], [4], [5, 6]], 5))) == [1, 1, 1, 1, 2]


def test_a_pack_is_known_from_its_number_alone():
    plan = packs_of()
    run = [plan.pack(i) for i in range(3 * len(plan))]
    number = 2 * len(plan) + 7
    assert packs_of().pack(number) == run[number]  # a run that resumes
    epoch, place = packs_of().epoch_and_place(number)
    assert (epoch, place) == (2, 7)
    assert run[number] == [2 * 1_000 + i for i in plan.epoch(2)[7]]
    assert sorted(i for pack in run for i in pack) == list(range(3_000))
    assert [packs_of().pack(i) for i in (number, 0, number)] == [
        run[i] for i in (number, 0, number)
    ]


def test_the_last_epoch_asked_for_is_planned_alone(monkeypatch):
    plan, planned = packs_of(), []
    original = EpochPacks._plan
    monkeypatch.setattr(
        EpochPacks, "_plan", lambda self, epoch: planned.append(epoch) or original(self, epoch)
    )
    plan.pack(1_000 * len(plan))
    plan.pack(1_000 * len(plan) + 1)
    plan.pack(1_001 * len(plan))
    plan.pack(1_000 * len(plan) + 2)  # of the epoch before, which is still kept
    assert planned == [1_000, 1_001]


def test_without_shuffling_all_epochs_are_the_plan_of_the_stream():
    plan = packs_of(shuffle=False, window=64)
    stream = PackPlan(lambda i: LENGTHS[i], 120, 16, window=64, total=1_000)
    assert plan.epoch(0) == plan.epoch(5) == list(stream)


def test_the_order_is_that_of_the_permutation():
    """Packs so long that nothing has to wait: the order of examples can be seen."""
    plan = EpochPacks(np.ones(10, int), 5, 5, seed=4, max_open=1)
    order = permute(np.arange(10), 10, 4, 2).tolist()
    assert sorted(plan.epoch(2)) == sorted([order[:5], order[5:]])


def test_texts_are_limited_as_well():
    plan = packs_of(text_length_N=TEXTS, text_length=12)
    for epoch in range(3):
        packs = plan.epoch(epoch)
        assert sorted(i for pack in packs for i in pack) == EVERY
        assert max(TEXTS[pack].sum() for pack in packs) <= 12


class Reader:
    """Examples that remember which of them were read."""

    def __init__(self):
        self.read: list[int] = []

    def __call__(self, index: int) -> PackedExample:
        self.read.append(index)
        epoch, example = divmod(index, 1_000)
        length = int(LENGTHS[example])
        tokens = np.full((length, 2), example, np.int32)
        text = np.full((int(TEXTS[example]), 3), epoch, np.float32)
        return PackedExample(index, tokens, np.zeros((length, 3), int), text=text)


def test_processes_read_their_rows_of_the_same_batches():
    options = {"text_length_N": TEXTS, "text_length": 33}
    whole_reader = Reader()
    whole = PackBatches(packs_of(**options), whole_reader, 10)
    rows = np.array([0, 1, 4, 5, 8]), np.array([2, 3, 6, 7, 9])
    readers = Reader(), Reader()
    parts = [
        PackBatches(packs_of(**options), reader, 10, own)
        for reader, own in zip(readers, rows, strict=True)
    ]
    across = len(whole.plan) // 10  # a batch of two epochs, as their border is within it
    assert len(whole.plan) % 10
    for step in (0, across, 50):
        batch = whole(step)
        for part, own in zip(parts, rows, strict=True):
            for name, array in part(step).items():
                np.testing.assert_array_equal(array, batch[name][own], err_msg=name)
    assert not set(readers[0].read) & set(readers[1].read)
    assert sorted(readers[0].read + readers[1].read) == sorted(whole_reader.read)
    assert {index // 1_000 for pack in whole.indices(across) for index in pack} == {0, 1}


def test_batches_of_a_stream_without_end():
    stream = PackPlan(lambda i: LENGTHS[i % 1_000], 120, 16)
    batches = PackBatches(stream, Reader(), 4)
    assert batches.indices(3) == [stream.pack(i) for i in range(12, 16)]


def test_examples_that_cannot_be_packed_are_named():
    lengths = [4, 9, 3]
    names = ["a.mp4", "b.mp4", "c.mp4"]
    for wrong, options, message in (
        (lengths, {"names": names}, r"example 1 \(b.mp4\) has 9 tokens, expected 1 to 8, the len"),
        ([4, 0], {}, "example 1 has 0 tokens, expected 1 to 8"),
        ([-4, 2], {}, "example 0 has -4 tokens"),
        ([], {}, r"lengths have shape \(0,\), expected \[N\], one example or more"),
        ([1.5], {}, "lengths have type float64, expected integer"),
        ([1, 2], {"names": names}, "names are 3, expected 2, as lengths"),
        (
            [1, 2],
            {"text_length_N": SHORT[:1]},
            r"lengths of texts have shape \(1,\), expected \[2\]",
        ),
        (
            [1, 2],
            {"text_length_N": SHORT, "text_length": 6},
            "example 1 has a text of 7 tokens",
        ),
        ([1, 2], {"max_open": 0}, "max_open is 0, expected 1 or more"),
        ([1, 2], {"window": 0}, "window is 0, expected 1"),
    ):
        with pytest.raises(InputError, match=message):
            EpochPacks(np.array(wrong), 8, 4, **options)
    with pytest.raises(InputError, match="pack is -1, expected 0 or more"):
        packs_of().pack(-1)
    with pytest.raises(InputError, match="epoch is -1, expected 0 or more"):
        packs_of().epoch(-1)
    for packs, rows, message in (
        (0, None, "packs are 0, expected 1 or more"),
        (4, np.array([4]), r"rows are \[4\], expected numbers in \[0, 4\), one or more"),
        (4, np.array([], int), "rows are"),
    ):
        with pytest.raises(InputError, match=message):
            PackBatches(packs_of(), Reader(), packs, rows)
    with pytest.raises(InputError, match="step is -1, expected 0 or more"):
        PackBatches(packs_of(), Reader(), 4)(-1)
