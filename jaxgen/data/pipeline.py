"""Batches of records (images, videos, lines of text) through grain.

The one module that imports grain (extra ``jaxgen[data]``). An element of the pipeline is the batch
of one training step: it is addressed by the step's number, so a run resumes at any step, and the
global batch is chosen before a process takes its rows of it, so the order of examples does not
depend on the number of processes.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from jaxtyping import Integer

from jaxgen.errors import InputError
from jaxgen.ids import as_integers


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
    rows: Integer[np.ndarray, "rows"] | None = None,
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
      shuffle: Whether each epoch has an order of its own.
      transform: Applied to each record; by default the record itself.
      rows: The rows of a global batch to read, numbers in [0, batch_size): those that
        `jaxgen.parallel.process_rows` gives for this process. None reads the whole batch.

    Returns:
      The dataset. ``dataset[i]`` reads batch i: the examples' arrays stacked along a new leading
      axis, one entry a row, in the examples' own tree structure.

    Raises:
      InputError: There are fewer records than `batch_size`, a row is outside the batch, or grain is
        not installed.
    """
    if not 0 < batch_size <= len(records):
        raise InputError(f"batch_size is {batch_size}, expected 1 to {len(records)} records")
    rows = np.arange(batch_size) if rows is None else as_integers(rows, "rows")
    if not len(rows) or rows.min() < 0 or rows.max() >= batch_size:
        raise InputError(f"rows {rows}, expected numbers in [0, {batch_size}), one at least")
    indices = _import_grain().MapDataset.range(len(records)).seed(seed)
    if shuffle:
        indices = indices.shuffle()
    indices = indices.batch(batch_size, drop_remainder=True).repeat(epochs)

    def read_batch(step: int, batch_B: np.ndarray) -> Any:
        places = step * batch_size + rows
        examples = [records[int(i)] for i in batch_B[rows]]
        if transform is not None:
            examples = [
                transform(example, np.random.default_rng((seed, int(place))))
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
      first_step: The step to begin with: 0, or where an interrupted run resumes.
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
