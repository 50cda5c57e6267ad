"""Batches by padding: each example once, about as many tokens, and what padding costs."""

import numpy as np
import pytest

from jaxgen.data.length_buckets import bucket_batches, powers_of_two
from jaxgen.errors import InputError


def test_by_hand():
    lengths = np.array([3, 4, 5, 1, 9, 2, 7])
    assert powers_of_two(lengths).tolist() == [1, 2, 4, 8, 9]
    found = bucket_batches(lengths, np.array([4, 9]), 18)
    assert found == [(9, 2, [2, 4]), (4, 4, [0, 1, 3, 5]), (9, 2, [6])]
    assert bucket_batches(lengths, np.array([9]), 4) == [(9, 1, [i]) for i in range(7)]
    with pytest.raises(InputError, match="example 4 has 9 tokens, expected 1 to 8"):
        bucket_batches(lengths, np.array([8]), 16)
    with pytest.raises(InputError, match="example 0 has 0 tokens"):
        bucket_batches(np.array([0, 1]), np.array([8]), 16)


def test_what_padding_costs():
    """The mixed stream: 7.1 times the tokens to the longest, 1.43 times to powers of two."""
    generator = np.random.default_rng(0)
    frames = np.where(generator.random(10_000) < 0.5, 1, generator.integers(2, 10, 10_000))
    lengths = generator.integers(8, 33, (10_000, 2)).prod(axis=1) * frames
    cost = {}
    for name, buckets in (("longest", lengths[[lengths.argmax()]]), ("2", powers_of_two(lengths))):
        batches = bucket_batches(lengths, buckets, 2 * int(lengths.max()))
        assert sorted(i for batch in batches for i in batch.examples) == list(range(10_000))
        assert all(lengths[batch.examples].max() <= batch.length for batch in batches)
        cost[name] = sum(batch.length * batch.rows for batch in batches) / lengths.sum()
    assert 7.1 < cost["longest"] < 7.2
    assert 1.43 < cost["2"] < 1.44
