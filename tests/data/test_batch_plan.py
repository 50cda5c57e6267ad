"""Batches addressed by step: the shuffle, the plan, windows."""

import itertools
import math

import numpy as np
import pytest

from jaxgen.data import BatchPlan, trainable_span, windows_at
from jaxgen.data.batch_plan import permute
from jaxgen.errors import InputError


@pytest.mark.parametrize("n", [*range(1, 40), 100, 4096, 99_991])
def test_the_shuffle_is_a_permutation(n):
    for seed, epoch in ((0, 0), (1, 5), (-3, 2**63)):
        assert (np.sort(permute(np.arange(n), n, seed, epoch)) == np.arange(n)).all()


def mix(value: int, key: int = 0) -> int:
    """The finaliser of SplitMix64 in Python's integers."""
    value = (value + key) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def reference(index: int, n: int, seed: int, epoch: int) -> int:
    """The same permutation, one number at a time."""
    gamma = 0x9E3779B97F4A7C15
    state = mix((mix(seed % 2**64, gamma) ^ epoch % 2**64), gamma)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    while True:
        row, column = divmod(index, columns)
        for i in range(6):
            row = (row + mix(column, mix(state + 2 * i, gamma))) % rows
            column = (column + mix(row, mix(state + 2 * i + 1, gamma))) % columns
        index = row * columns + column
        if index < n:
            return index


@pytest.mark.parametrize("n", [1, 2, 8, 30, 1000, 800_000, 2**40])
def test_the_shuffle_against_a_reference(n):
    places = np.unique(np.linspace(0, n - 1, 20).astype(np.int64))
    for seed, epoch in ((0, 0), (-5, 3), (2**62, 1)):
        expected = [reference(int(place), n, seed, epoch) for place in places]
        assert permute(places, n, seed, epoch).tolist() == expected


def test_the_shuffle_is_the_same_forever():
    # Held fixed: runs resume under other versions of NumPy and of this library.
    assert permute(np.arange(8), 8, 0, 0).tolist() == [3, 5, 2, 0, 7, 6, 4, 1]


def test_the_shuffle_of_one_place_does_not_need_the_others():
    whole = permute(np.arange(1000), 1000, 4, 2)
    some = np.array([[7, 999], [0, 7]])
    assert (permute(some, 1000, 4, 2) == whole[some]).all()
    assert permute(np.int64(5), 1000, 4, 2) == whole[5]


@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_order_is_equally_likely(n):
    draws = 3000
    orders = {order: 0 for order in itertools.permutations(range(n))}
    for seed in range(draws):
        orders[tuple(permute(np.arange(n), n, seed, 0).tolist())] += 1
    expected = draws / math.factorial(n)
    chi_squared = sum((count - expected) ** 2 / expected for count in orders.values())
    freedom = math.factorial(n) - 1
    assert abs(chi_squared - freedom) < 4 * math.sqrt(2 * freedom)


def test_places_and_neighbours_are_uniform():
    n, draws = 30, 3000
    place = np.zeros((n, n))
    neighbour = np.zeros((n, n))
    for epoch in range(draws):
        order = permute(np.arange(n), n, 5, epoch)
        place[np.arange(n), order] += 1
        neighbour[order[:-1], order[1:]] += 1
    chi_squared = ((place - draws / n) ** 2 / (draws / n)).sum()
    assert abs(chi_squared - (n - 1) ** 2) < 4 * math.sqrt(2 * (n - 1) ** 2)
    assert (np.diag(neighbour) == 0).all()
    expected = draws / n
    others = neighbour[~np.eye(n, dtype=bool)]
    chi_squared = ((others - expected) ** 2 / expected).sum()
    assert abs(chi_squared - len(others)) < 4 * math.sqrt(2 * len(others))


def test_a_large_shuffle_leaves_no_order():
    n = 200_000
    order = permute(np.arange(n), n, 0, 0)
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4 / math.sqrt(n)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / math.sqrt(n)
    assert (np.diff(order) == 1).sum() < 10  # a random order has about one


def test_numbers_outside_are_refused():
    with pytest.raises(InputError, match=r"expected them in \[0, 5\)"):
        permute(np.array([0, 5]), 5, 0, 0)


def test_an_epoch_visits_every_position_once():
    plan = BatchPlan(start=4, stop=107, batch_size=10, keep_last=True)
    assert plan.steps_per_epoch == 11
    for epoch in range(3):
        batches = [plan.positions(epoch * 11 + i) for i in range(11)]
        assert [len(batch) for batch in batches] == [10] * 10 + [3]
        assert sorted(np.concatenate(batches)) == list(range(4, 107))


def test_dropping_the_last_batch_drops_other_positions_each_epoch():
    plan = BatchPlan(start=4, stop=107, batch_size=10)
    assert plan.steps_per_epoch == 10
    dropped = []
    for epoch in range(4):
        seen = np.concatenate([plan.positions(epoch * 10 + i) for i in range(10)])
        assert len(set(seen)) == 100
        dropped.append(tuple(sorted(set(range(4, 107)) - set(seen))))
    assert len(set(dropped)) == 4


def test_positions_depend_on_step_and_seed_alone():
    plan = BatchPlan(0, 1000, 32, seed=1)
    late = [plan.positions(step) for step in (70, 3, 70)]
    assert (late[0] == late[2]).all()
    assert (BatchPlan(0, 1000, 32, seed=1).positions(70) == late[0]).all()
    assert not np.array_equal(BatchPlan(0, 1000, 32, seed=2).positions(70), late[0])
    assert not np.array_equal(plan.positions(3 + plan.steps_per_epoch), late[1])
    # The order does not depend on the size of the batches.
    halves = BatchPlan(0, 1000, 16, seed=1)
    both = np.concatenate([halves.positions(6), halves.positions(7)])
    assert (both == late[1]).all()


def test_without_shuffling_positions_come_in_order():
    plan = BatchPlan(3, 10, 3, shuffle=False, keep_last=True)
    batches = [plan.positions(step).tolist() for step in range(4)]
    assert batches == [[3, 4, 5], [6, 7, 8], [9], [3, 4, 5]]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((0, 10, 0), "batch_size is 0"),
        ((0, 10, 11), "^batch_size is 11, expected at most the number of examples, 10"),
        ((0, 10, 11, 0, True, False, "a.txt"), "^a.txt: batch_size is 11, expected at most"),
        ((5, 5, 1), "positions 5 to 5"),
        ((-1, 5, 1), "positions -1 to 5"),
    ],
)
def test_plans_that_cannot_be(arguments, fault):
    with pytest.raises(InputError, match=fault):
        BatchPlan(*arguments)
    with pytest.raises(InputError, match="step is -1"):
        BatchPlan(0, 10, 2).positions(-1)


def test_windows_end_at_the_positions():
    tokens = np.arange(100, 120, dtype=np.int32)
    windows = windows_at(tokens, np.array([19, 2, 7]), order=3)
    assert windows.dtype == np.int32
    assert windows.tolist() == [[117, 118, 119], [100, 101, 102], [105, 106, 107]]
    assert windows_at(tokens, np.array([0, 19]), order=1).tolist() == [[100], [119]]


@pytest.mark.parametrize("positions", [[1, 5], [5, 20]])
def test_windows_outside_the_text(positions):
    with pytest.raises(InputError, match=r"expected 2 to 19 \(order 3, 20 words\)"):
        windows_at(np.arange(20), np.array(positions), order=3)


def test_the_trainable_span_has_full_contexts():
    assert trainable_span((0, 100), 5) == (4, 100)
    assert trainable_span((50, 100), 5) == (50, 100)
    assert trainable_span((2, 100), 1) == (2, 100)
    assert trainable_span((0, 5), 5) == (4, 5)


@pytest.mark.parametrize(
    ("order", "fault"), [(6, "tiny: order 6 is larger than the text"), (0, "order is 0")]
)
def test_an_order_larger_than_the_text(order, fault):
    with pytest.raises(InputError, match=fault):
        trainable_span((0, 5), order, "tiny")
