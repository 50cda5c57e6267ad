"""Counts of codes and their perplexity, against numpy and at both ends."""

import jax
import numpy as np
import pytest

from jaxgen.compressors.bottlenecks import code_counts, codebook_perplexity, total_code_counts
from jaxgen.errors import InputError


def test_perplexity_is_that_of_numpy_and_1_to_k():
    perplexity = jax.jit(codebook_perplexity)
    counts = np.random.default_rng(0).integers(1, 50, 6).astype(np.int32)
    share = counts / counts.sum()
    expected = np.exp(-np.sum(share * np.log(share)))
    np.testing.assert_allclose(perplexity(counts), expected, rtol=1e-6)
    np.testing.assert_allclose(perplexity(np.full(6, 7, np.int32)), 6, rtol=1e-6)
    assert perplexity(np.array([0, 0, 9, 0, 0, 0], np.int32)) == 1
    np.testing.assert_allclose(perplexity(np.array([3, 0, 3, 0, 0, 0], np.int32)), 2, rtol=1e-6)


def test_counts_of_batches_add_up_to_those_of_all_codes():
    codes = np.random.default_rng(1).integers(0, 9, (4, 3, 5))
    expected = np.bincount(codes.ravel(), minlength=11)
    np.testing.assert_array_equal(code_counts(codes, 11), expected)
    total = total_code_counts(iter(codes), 11)
    np.testing.assert_array_equal(total, expected)
    assert total.dtype == np.int64
    with pytest.raises(InputError, match="codes have 0 batches, expected one or more"):
        total_code_counts([], 11)
