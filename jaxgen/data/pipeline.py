"""Batches of records (images, videos, lines of text) through grain.

The one module that imports grain (extra ``jaxgen[data]``). An element of the pipeline is the batch
of one training step: it is addressed by the step's number, so a run resumes at any step, and the
global batch is chosen before a process takes its rows of it, so the order of examples does not
depend on the number of processes.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from jaxgen.data.batches import process_rows
from jaxgen.errors import InputError


class Records(Protocol):
    """Records by number: a list, an array, a `tfds.data_source`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Transform = Callable[[Any, np.random.Generator], Any]
"""Maps a record to an example, with a generator of its own for augmentation."""


def make_batches(
    records: Records,
    batch_size: int,
    *,
    seed: int = 0,
    epochs: int | None = None,
    shuffle: bool = True,
    transform: Transform | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Any:
    """A `grain.MapDataset` whose element i is the batch of step i.

    Every epoch has each record at most once; records that fill no batch are dropped (other ones
    each epoch). The generator given to `transform` depends on the seed and on the example's place
    in the global order alone.

    Args:
      records: Random access to the records.
      batch_size: Records in a global batch.
      seed: With the epoch, all that the order depends on.
      epochs: How often the records are repeated; None repeats without end.
      shuffle: Whether to shuffle each epoch anew.
      transform: Applied to each record; by default the record itself.
      process_index: This process's number.
      process_count: Processes that share a batch; each gets equal consecutive rows.

    Returns:
      The dataset. ``dataset[i]`` reads batch i: the examples' arrays stacked, with leading axis
      ``batch_size / process_count``, in the examples' own tree structure.

    Raises:
      InputError: There are fewer records than `batch_size`, or it does not divide among the
        processes, or grain is not installed.
    """
    rows = process_rows(batch_size, process_index, process_count)
    if not 0 < batch_size <= len(records):
        raise InputError(f"batch_size is {batch_size}; expected 1 to {len(records)} records")
    indices = _import_grain().MapDataset.range(len(records)).seed(seed)
    if shuffle:
        indices = indices.shuffle()
    indices = indices.batch(batch_size, drop_remainder=True).repeat(epochs)

    def read_batch(step: int, batch_B: np.ndarray) -> Any:
        places = range(step * batch_size, (step + 1) * batch_size)[rows]
        examples = [records[int(i)] for i in batch_B[rows]]
        if transform is not None:
            examples = [
                transform(example, np.random.default_rng((seed, place)))
                for example, place in zip(examples, places, strict=True)
            ]
        return _stack(examples)

    return indices.map_with_index(read_batch)


def iterate(
    dataset: Any, first_step: int = 0, *, threads: int = 4, prefetch: int = 8
) -> Iterator[Any]:
    """Batches of a dataset from a step on, read ahead by threads.

    Args:
      dataset: What `make_batches` gives.
      first_step: The step to begin with: 0, or where an interrupted run goes on.
      threads: Reading threads; 0 reads in the calling thread.
      prefetch: Batches read ahead.
    """
    options = _import_grain().ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    iterator = iter(dataset.to_iter_dataset(options))
    if first_step:
        iterator.set_state({"next_index": first_step})
    yield from iterator


def _stack(examples: list[Any]) -> Any:
    """One tree of stacked arrays out of many trees of arrays."""
    import jax

    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def _import_grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise InputError(
            f"batches of records need the package grain, extra jaxgen[data] ({error})"
        ) from error
    return grain
