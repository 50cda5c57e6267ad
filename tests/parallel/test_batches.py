"""Batches over the data axes, on one process. (test_distributed.py has two.)"""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxgen.errors import InputError
from jaxgen.parallel import (
    batch_sharding,
    make_mesh,
    num_batch_shards,
    process_rows,
    put_batch,
    put_local_batch,
)


def batch_of(size: int) -> dict[str, np.ndarray]:
    contexts = np.arange(size * 3, dtype=np.int32).reshape(size, 3)
    return {"contexts": contexts, "targets": np.arange(size, dtype=np.int32)}


@pytest.mark.parametrize(
    ("description", "shards"),
    [
        ("data=2,fsdp=2,model=2", 4),
        ("data=-1", 8),
        ("model=8", 1),
        ("fsdp=4,model=2", 4),
        ("fsdp=2,sequence=4", 2),
    ],
)
def test_rows_are_divided_among_data_and_fsdp(description: str, shards: int) -> None:
    mesh = make_mesh(description)
    assert num_batch_shards(mesh) == shards
    batch = put_batch(batch_of(16), mesh)
    assert batch["contexts"].sharding == batch_sharding(mesh)
    np.testing.assert_array_equal(batch["contexts"], batch_of(16)["contexts"])
    rows = 16 // shards
    for shard in batch["contexts"].addressable_shards:
        coordinates = np.argwhere(mesh.devices == shard.device)[0]
        block = coordinates[0] * mesh.shape["fsdp"] + coordinates[1]
        expected = batch_of(16)["contexts"][block * rows : (block + 1) * rows]
        np.testing.assert_array_equal(shard.data, expected)


def test_one_device_takes_the_same_path() -> None:
    mesh = make_mesh("data=1", devices=jax.devices()[:1])
    batch = put_batch(batch_of(5), mesh)
    np.testing.assert_array_equal(batch["targets"], np.arange(5))
    np.testing.assert_array_equal(process_rows(mesh, 5), np.arange(5))


def test_one_process_supplies_every_row() -> None:
    mesh = make_mesh("data=2,fsdp=2,model=2")
    rows = process_rows(mesh, 12)
    np.testing.assert_array_equal(rows, np.arange(12))
    local = {name: array[rows] for name, array in batch_of(12).items()}
    batch = put_local_batch(local, mesh, 12)
    np.testing.assert_array_equal(batch["contexts"], batch_of(12)["contexts"])


@pytest.mark.parametrize("put", [put_batch, lambda *args, **kw: put_local_batch(*args, 8, **kw)])
def test_several_batches_in_one_array(put) -> None:
    mesh = make_mesh("data=2,fsdp=2,model=2")
    stack = np.arange(3 * 8 * 2).reshape(3, 8, 2).astype(np.float32)
    array = put(stack, mesh, leading=1)
    assert array.sharding.spec == P(None, ("data", "fsdp"))
    assert {shard.data.shape for shard in array.addressable_shards} == {(3, 2, 2)}
    np.testing.assert_array_equal(array, stack)


@pytest.mark.parametrize("description", ["data=8", "model=8"])
def test_the_memory_of_a_batch_may_be_used_again(description: str) -> None:
    rows = np.zeros((1 << 12, 16), np.float32)
    batch = put_batch(rows, make_mesh(description))
    rows[:] = 7
    assert np.asarray(batch).max() == 0


def test_batches_that_do_not_fit_are_refused() -> None:
    mesh = make_mesh("data=2,fsdp=2,model=2")
    with pytest.raises(
        InputError,
        match=r"contexts of shape \(6, 3\): 6 rows .* divisible by 4 \(data=2 x fsdp=2\)",
    ):
        put_batch(batch_of(6), mesh)
    with pytest.raises(InputError, match=r"inner/loss of shape \(\): no dimension 0"):
        put_batch({"inner": {"loss": np.float32(3)}}, mesh)
    with pytest.raises(InputError, match=r"\(the only one\) of shape \(3, 6\): 6 rows"):
        put_batch(np.zeros((3, 6)), mesh, leading=1)
    with pytest.raises(InputError, match="batch of 6 rows: 6 rows are not divisible by 4"):
        process_rows(mesh, 6)
    with pytest.raises(
        InputError, match=r"targets of shape \(4,\), expected 8 rows in dimension 0"
    ):
        put_local_batch({"targets": np.arange(4)}, mesh, 8)
