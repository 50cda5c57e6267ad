"""Pooling of packed examples."""

import numpy as np

from jaxgen.nn.pooling import pooled_by_attention, pooled_mean


def test_pooled_vectors_are_those_of_each_example_alone():
    """The mean, and the mean under a softmax; padding and an example with nan spoil no other."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 7, 3)).astype(np.float32)
    logit = (40 * generator.normal(size=(2, 7))).astype(np.float32)
    segment = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 3, 3, 3]], np.int32)
    x[0, 5:], x[1, 4] = np.nan, np.nan
    mean = np.asarray(pooled_mean(x, segment, 4))
    weighted = np.asarray(pooled_by_attention(x, logit, segment, 4))
    for b in range(2):
        for e in range(4):
            own = segment[b] == e + 1
            if not own.any():
                assert not mean[b, e].any()
                assert not weighted[b, e].any()
                continue
            weight = np.exp(logit[b, own] - logit[b, own].max())
            np.testing.assert_allclose(mean[b, e], x[b, own].mean(0), rtol=1e-5, atol=1e-6)
            expected = weight @ x[b, own] / weight.sum()
            np.testing.assert_allclose(weighted[b, e], expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(mean[1, 2]).all()
    assert np.isfinite(mean[1, 1]).all()
