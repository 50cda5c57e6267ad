"""Codebooks that are moving averages: numpy, the fixed point, revival of dead codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.compressors.bottlenecks import CodebookStatistics, update_codebook
from jaxgen.errors import InputError

KEY = jax.random.key(0)
update = jax.jit(update_codebook, static_argnames=("decay", "revive_below"))


def start(codebook_KD):
    return CodebookStatistics(jnp.ones(len(codebook_KD)), jnp.asarray(codebook_KD, jnp.float32))


def test_three_updates_are_those_of_numpy_with_smoothed_counts():
    rng = np.random.default_rng(0)
    statistics = start(rng.normal(size=(5, 3)))
    count, total = np.ones(5), np.asarray(statistics.total_KD, np.float64)
    for _ in range(3):
        z, codes = rng.normal(size=(2, 6, 3)), rng.integers(0, 4, (2, 6))  # code 4 never
        statistics = update(statistics, z.astype(np.float32), codes, decay=0.9)
        one_hot = np.eye(5)[codes.ravel()]
        count = 0.9 * count + 0.1 * one_hot.sum(0)
        total = 0.9 * total + 0.1 * one_hot.T @ z.reshape(-1, 3)
    np.testing.assert_allclose(statistics.count_K, count, rtol=1e-6)
    np.testing.assert_allclose(statistics.total_KD, total, rtol=1e-5, atol=1e-6)
    smoothed = (count + 1e-5) / (count.sum() + 5e-5) * count.sum()
    np.testing.assert_allclose(
        statistics.codebook_KD, total / smoothed[:, None], rtol=1e-5, atol=1e-6
    )


def test_codes_become_the_means_of_what_is_quantised_to_them():
    rng = np.random.default_rng(1)
    z, codes = rng.normal(size=(60, 2)).astype(np.float32), np.arange(60) % 3
    statistics = start(np.zeros((4, 2)))
    for _ in range(60):
        statistics = update(statistics, z, codes, decay=0.5)
    means = np.stack([z[codes == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(statistics.codebook_KD[:3], means, rtol=1e-4, atol=1e-6)
    assert np.isfinite(statistics.codebook_KD).all()  # of a code that is never used too


def test_dead_codes_become_positions_of_the_batch_and_others_stay():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(4, 10, 2)).astype(np.float32)
    codes = rng.integers(0, 2, (4, 10))  # codes 2 to 7 are not used
    before = start(rng.normal(size=(8, 2)))
    revive = functools.partial(update, decay=0.5, revive_below=2.0)
    after, plain = revive(before, z, codes, KEY), update(before, z, codes, decay=0.5)
    np.testing.assert_array_equal(after.count_K[2:], 2)
    for name in ("count_K", "total_KD"):
        np.testing.assert_allclose(getattr(after, name)[:2], getattr(plain, name)[:2], rtol=1e-6)
    rows = {tuple(row) for row in z.reshape(-1, 2).tolist()}
    revived = np.asarray(after.total_KD[2:]) / 2
    assert all(tuple(row) in rows for row in revived.tolist())
    assert len(np.unique(revived, axis=0)) == 6
    np.testing.assert_allclose(after.codebook_KD[2:], revived, rtol=1e-5)
    same = revive(before, z, codes, KEY)
    np.testing.assert_array_equal(same.total_KD, after.total_KD)
    other = revive(before, z, codes, jax.random.key(1))
    assert (other.total_KD[2:] != after.total_KD[2:]).any()


def test_revival_needs_a_key_and_enough_positions():
    statistics = start(np.zeros((8, 2)))
    z, codes = np.zeros((15, 2), np.float32), np.zeros(15, np.int32)
    with pytest.raises(InputError, match="key is None, expected a key: dead codes become random"):
        update_codebook(statistics, z, codes, revive_below=1.0)
    message = "revive_below is 2.0, expected at most 1.88: a batch has 15 positions for 8 codes"
    with pytest.raises(InputError, match=message):
        update_codebook(statistics, z, codes, KEY, revive_below=2.0)
