"""Batches of records through grain."""

import numpy as np
import pytest

pytest.importorskip("grain", reason="needs grain: jaxgen[data]")

from jaxgen.data.pipeline import iterate, make_batches
from jaxgen.errors import InputError

RECORDS = [{"image": np.full((2, 3), i, np.uint8), "label": i} for i in range(23)]


def labels(dataset, steps) -> list[list[int]]:
    return [dataset[step]["label"].tolist() for step in steps]


def noisy(record, generator):
    return {**record, "noise": generator.normal()}


def test_examples_are_stacked_in_their_own_structure():
    batch = make_batches(RECORDS, 4)[0]
    assert batch["image"].shape == (4, 2, 3)
    assert batch["image"].dtype == np.uint8
    assert (batch["image"][:, 1, 2] == batch["label"]).all()


def test_an_epoch_has_each_record_once_in_another_order():
    dataset = make_batches(RECORDS, 4, seed=1)
    epochs = np.array(labels(dataset, range(15))).reshape(3, 20).tolist()
    for order in epochs:
        assert len(set(order)) == 20
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(make_batches(RECORDS, 4, epochs=3)) == 15


def test_without_shuffling():
    dataset = make_batches(RECORDS, 10, shuffle=False)
    assert labels(dataset, range(3)) == [list(range(10)), list(range(10, 20)), list(range(10))]


def test_the_seed_decides():
    assert labels(make_batches(RECORDS, 4, seed=1), range(5)) == labels(
        make_batches(RECORDS, 4, seed=1), range(5)
    )
    assert labels(make_batches(RECORDS, 4, seed=1), range(5)) != labels(
        make_batches(RECORDS, 4, seed=2), range(5)
    )


@pytest.mark.parametrize("shares", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 7], [1, 2, 3], [4, 5, 6]]])
def test_the_global_order_does_not_depend_on_the_processes(shares):
    alone = make_batches(RECORDS, 8, seed=3, transform=noisy)
    shared = [
        make_batches(RECORDS, 8, seed=3, transform=noisy, rows=np.array(rows)) for rows in shares
    ]
    for step in (0, 1, 7, 100):
        for rows, dataset in zip(shares, shared, strict=True):
            for key, part in dataset[step].items():
                np.testing.assert_array_equal(part, alone[step][key][rows])


def test_a_process_reads_its_own_records_only():
    class Counting(list):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    records = Counting(RECORDS)
    make_batches(records, 8, rows=np.array([2, 5]))[0]
    assert records.read == 2


def test_noise_differs_between_examples_and_epochs():
    dataset = make_batches(RECORDS, 4, transform=noisy)
    noise = np.concatenate([dataset[step]["noise"] for step in range(50)])
    assert len(set(noise)) == 200


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("first", [0, 3, 13])
def test_iteration_resumes_at_any_step(threads, first):
    dataset = make_batches(RECORDS, 4, seed=9, epochs=3)
    seen = [batch["label"].tolist() for batch in iterate(dataset, first, threads=threads)]
    assert seen == labels(dataset, range(first, 15))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"batch_size": 24}, "batch_size is 24, expected 1 to 23 records"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 4, "rows": [3, 4]}, r"rows \[3 4\], expected numbers in \[0, 4\)"),
        ({"batch_size": 4, "rows": []}, "one at least"),
    ],
)
def test_bad_sizes(arguments, fault):
    with pytest.raises(InputError, match=fault):
        make_batches(RECORDS, **arguments)
