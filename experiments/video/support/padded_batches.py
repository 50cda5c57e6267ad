"""Batches of examples that are padded to one length, as packs of one example each.

What packing is compared with (`jaxgen.data.length_buckets`): each example is padded to the longest
of the stream, or to the next power of two, where batches of each length have a program of their
own. A padded row is a pack that holds one example, so the same loss serves.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experiments.video.support.video_streams import Size, Stream, as_tokens
from jaxgen.data.length_buckets import PaddedBatch, bucket_batches, powers_of_two
from jaxgen.data.packing import pack_arrays
from jaxgen.data.video.moving_digits import number_of_tokens
from jaxgen.errors import InputError
from jaxgen.typing import Batch


class Seen(NamedTuple):
    """What some updates see.

    Attributes:
      examples: how many.
      tokens: of these examples.
      room: tokens of the arrays that hold them.
    """

    examples: int
    tokens: int
    room: int

    @property
    def padding(self) -> float:
        """The share of tokens that are none of an example."""
        return 1 - self.tokens / self.room


@dataclass(frozen=True, eq=False)
class PaddedBatches:
    """The batches of the first examples of a stream; ``batches(t)`` is that of update t.

    Attributes:
      stream: the examples.
      patch: P_t, P_y, P_x.
      plan: which examples each batch has, how many rows and how long they are.
      seen: all of it.
    """

    stream: Stream
    patch: Size
    plan: list[PaddedBatch]
    seen: Seen

    def __len__(self) -> int:
        return len(self.plan)

    def __call__(self, step: int) -> Batch:
        """The batch of an update; rows beyond its examples are empty."""
        length, rows, examples = self.plan[step]
        packs = [[as_tokens(self.stream, index, self.patch)] for index in examples]
        return pack_arrays([*packs, *[[]] * (rows - len(packs))], length, 1)


def pad_examples(
    stream: Stream, patch: Size, count: int, per_update: int, *, powers: bool
) -> PaddedBatches:
    """Batches of the first `count` examples of a stream.

    Args:
      stream: the examples.
      patch: P_t, P_y, P_x.
      count: how many examples.
      per_update: examples of a batch, on average over a stream without end: short ones have
        batches of more rows.
      powers: whether lengths are powers of two, else that of the longest example.

    Raises:
      InputError: for a size that the patch does not divide, or no examples.
    """
    if count < 1:
        raise InputError(f"count is {count}, expected 1 example or more")
    length_N = number_of_tokens(stream.sizes, patch, np.arange(count))
    all_K = number_of_tokens(stream.sizes, patch, np.arange(len(stream.sizes)))
    bucket_K = powers_of_two(all_K) if powers else np.array([all_K.max()])
    tokens = round(per_update * bucket_K[np.searchsorted(bucket_K, all_K)].mean())
    plan = bucket_batches(length_N, bucket_K, tokens)
    room = sum(batch.rows * batch.length for batch in plan)
    return PaddedBatches(stream, patch, plan, Seen(count, int(length_N.sum()), room))
