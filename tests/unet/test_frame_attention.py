"""Attention over frames: T5's buckets, the layer in numpy, which frames see each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import randomised

from jaxgen.errors import InputError
from jaxgen.nn.relative import BucketBias, bucket_index
from jaxgen.unet.frame_attention import FrameAttention, FrameRows, rows_of_frames
from jaxgen.unet.unet import UNetConfig
from tests.unet.small_unets import shapes

OPTIONS = UNetConfig(channels=(8,), attention_levels=(), head_size=4, groups=2).block_options_at(0)


def t5_bucket(offset, buckets, largest):
    """Raffel et al. 2020, with floor(e log_(largest / e)(n / e)) counted in whole numbers."""
    e, n = buckets // 4, abs(offset)
    if n >= e:
        n = e + sum(n**e * e**j >= e**e * largest**j for j in range(1, e))
    return n + (buckets // 2 if offset < 0 else 0)


@pytest.mark.parametrize(("buckets", "largest"), [(32, 32), (32, 128), (8, 20), (4, 2)])
def test_buckets_are_those_of_t5(buckets, largest):
    offset = np.arange(-300, 301)
    expected = [t5_bucket(int(n), buckets, largest) for n in offset]
    np.testing.assert_array_equal(bucket_index(offset, buckets, largest), expected)


def test_buckets_of_the_video_networks():
    """32 buckets, largest distance 32: one each below 8, the last from 27 on."""
    assert bucket_index(np.array([0, 1, 7, 8, 9, 16, 26, 27, 1000])).tolist() == [
        *(0, 1, 7, 8, 8, 12, 14, 15, 15)
    ]
    assert bucket_index(np.array([-1, -7, -8, -1000])).tolist() == [17, 23, 24, 31]


def test_the_bias_is_a_row_for_each_offset():
    layer = BucketBias(heads=2, buckets=8, largest=4)
    table = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    bias = jax.jit(lambda: layer.apply({"params": {"table": table}}, 6))()
    for query in range(6):
        for key in range(6):
            np.testing.assert_array_equal(bias[:, query, key], table[t5_bucket(query - key, 8, 4)])


def test_the_layer_in_numpy():
    """Pixel by pixel, head by head, frames that see some of the others."""
    layer = FrameAttention(OPTIONS, frames=3, buckets=8, distance=4)
    x = np.random.default_rng(0).normal(size=(2 * 3, 2, 2, 8))
    segment = np.array([[0, 0, 1], [0, 1, 2]], np.int32)
    p = randomised(shapes(layer.init, x))
    found = jax.jit(layer.apply)({"params": p}, x, segment)

    grouped = x.reshape(6, 4, 2, 4)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    normal = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)
    h = (normal.reshape(x.shape) * p["norm"]["scale"] + p["norm"]["bias"]).reshape(2, 3, 4, 8)
    expected = np.array(x).reshape(2, 3, 4, 8)
    for b, t, pixel, head in np.ndindex(2, 3, 4, 2):
        parts = np.einsum("td,dnk->tnk", h[b, :, pixel], p["qkv"]["kernel"][:, head])
        q, k, v = (parts + p["qkv"]["bias"][head]).swapaxes(0, 1)
        rows = [t5_bucket(t - key, 8, 4) for key in range(3)]
        logits = k @ q[t] / 2 + p["bias"]["table"][rows, head]
        weights = np.exp(logits) * (segment[b] == segment[b, t])
        seen = weights @ v / weights.sum()
        expected[b, t, pixel] += seen @ p["output"]["kernel"][head]
    expected = (expected + p["output"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_which_frames_see_each_other():
    assert rows_of_frames((2, 5, 4, 4, 1)) == FrameRows(5, 0, None)
    joint = rows_of_frames((2, 5, 4, 4, 1), 2)
    assert joint.segment_BT.tolist() == [[0, 0, 0, 1, 2]] * 2
    joint = rows_of_frames((2, 4, 4, 4, 1), 1, jnp.array([False, True]))
    assert joint.segment_BT.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_values_of_examples_of_parts_and_of_frames():
    rows = FrameRows(frames=4, images=2)
    for value, expected in (
        ([[1], [2]], [1, 1, 1, 1, 2, 2, 2, 2]),
        ([[1, 2, 3], [4, 5, 6]], [1, 1, 2, 3, 4, 4, 5, 6]),
        ([[1, 2, 3, 4]], [1, 2, 3, 4]),
    ):
        assert jax.jit(rows.spread)(np.array(value)).tolist() == expected
    assert jax.eval_shape(rows.spread, np.zeros((2, 3, 5))).shape == (8, 5)


def test_what_does_not_fit():
    for call, fault in (
        (
            lambda: rows_of_frames((2, 3, 4, 4, 1), 3),
            "image_frames is 3 of 3 frames, expected 0 to 2",
        ),
        (lambda: rows_of_frames((2, 3, 4, 4, 1), -1), "image_frames is -1 of 3 frames"),
        (lambda: rows_of_frames((2, 3, 4, 4, 1), 0, np.zeros(3, bool)), r"\(3,\), expected \[2\]"),
        (lambda: bucket_index(np.arange(3), 6), "buckets is 6, expected a positive multiple of 4"),
        (lambda: bucket_index(np.arange(3), 0), "buckets is 0, expected a positive multiple of 4"),
        (lambda: bucket_index(np.arange(3), 32, 8), "largest distance is 8, expected more than 8"),
    ):
        with pytest.raises(InputError, match=fault):
            call()
