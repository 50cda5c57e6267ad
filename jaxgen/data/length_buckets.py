"""Batches of examples of several lengths by padding: what packing is compared with.

A bucket is a length that examples are padded to, the least that holds them. Its batches have
``max(1, tokens // length)`` rows, so those of all buckets hold about as many tokens. One bucket as
long as the longest example is padding to the longest; buckets of powers of two, the last cut to the
longest example, waste a quarter of their tokens or so.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from jaxgen.errors import InputError


class PaddedBatch(NamedTuple):
    """A batch of examples that are padded to one length.

    Attributes:
      length: that they are padded to.
      rows: of the batch.
      examples: that it has, ``rows`` of them or, at the end of a stream, fewer.
    """

    length: int
    rows: int
    examples: list[int]


def powers_of_two(length_N: Integer[np.ndarray, "N"]) -> Int[np.ndarray, "K"]:
    """The powers of two that lengths are padded to, the last cut to the longest of them."""
    longest = int(length_N.max())
    powers = 2 ** np.unique(np.ceil(np.log2(length_N)).astype(np.int64))
    return np.unique(np.minimum(powers, longest))


def bucket_batches(
    length_N: Integer[np.ndarray, "N"], bucket_K: Integer[np.ndarray, "K"], tokens: int
) -> list[PaddedBatch]:
    """The batches of a stream, in the order in which they are full; then those that are not.

    Args:
      length_N: the examples' lengths, in the order of the stream.
      bucket_K: the lengths of the buckets, rising.
      tokens: of a batch; a bucket that is longer has batches of one row.

    Raises:
      InputError: for an example that no bucket holds, or one without tokens.
    """
    which_N = np.searchsorted(bucket_K, length_N)
    for i in np.flatnonzero((which_N == len(bucket_K)) | (length_N < 1))[:1].tolist():
        raise InputError(f"example {i} has {length_N[i]} tokens, expected 1 to {bucket_K[-1]}")
    waiting: list[list[int]] = [[] for _ in bucket_K]
    batches = []
    for example, which in enumerate(which_N.tolist()):
        waiting[which].append(example)
        rows = max(1, tokens // int(bucket_K[which]))
        if len(waiting[which]) == rows:
            batches.append(PaddedBatch(int(bucket_K[which]), rows, waiting[which]))
            waiting[which] = []
    for bucket, examples in zip(bucket_K.tolist(), waiting, strict=True):
        if examples:
            batches.append(PaddedBatch(bucket, max(1, tokens // bucket), examples))
    return batches
