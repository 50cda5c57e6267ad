"""Positions on a grid: waves in numpy, and offsets."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import InputError
from jaxgen.nn import RelativeBias, relative_index, sincos, sincos_grid


def test_waves_of_one_axis():
    found = sincos(np.array([0.0, 1.5]), 6)
    w = 10_000.0 ** -(np.arange(3) / 3)
    np.testing.assert_allclose(found[0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(found[1], np.r_[np.sin(1.5 * w), np.cos(1.5 * w)])


def test_waves_of_an_image_put_the_width_first():
    """Row y, column x: [sin, cos of x | sin, cos of y], for grids that are no squares too."""
    rows, columns, features = 3, 5, 8
    found = sincos_grid((rows, columns), features)
    assert found.dtype == np.float32
    w = np.array([1.0, 0.01])
    for place, (y, x) in enumerate(np.ndindex(rows, columns)):
        expected = [np.sin(x * w), np.cos(x * w), np.sin(y * w), np.cos(y * w)]
        np.testing.assert_allclose(found[place], np.concatenate(expected), rtol=1e-6)


def test_waves_of_a_video_have_a_third_for_each_axis():
    found = sincos_grid((2, 3, 4), 12).reshape(2, 3, 4, 3, 4)
    for axis, size in enumerate((2, 3, 4)):
        along = np.moveaxis(found[..., 2 - axis, :], axis, 0)
        np.testing.assert_allclose(along[:, 0, 0], sincos(np.arange(size), 4), rtol=1e-6)
        np.testing.assert_array_equal(along, np.broadcast_to(along[:, :1, :1], along.shape))


@pytest.mark.parametrize(("sizes", "features"), [((2, 3), 6), ((2, 3, 4), 8)])
def test_features_that_do_not_divide_are_refused(sizes, features):
    with pytest.raises(InputError, match=f"features are {features}, expected a multiple of"):
        sincos_grid(sizes, features)


def test_an_odd_number_of_features_is_refused():
    with pytest.raises(InputError, match="features are 3, expected an even number"):
        sincos(np.arange(2), 3)


def test_equal_offsets_share_a_row_and_others_do_not():
    rows, columns = 2, 3
    index = relative_index((rows, columns))
    places = list(np.ndindex(rows, columns))
    offsets = {}
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            offsets.setdefault(tuple(np.subtract(a, b)), set()).add(int(index[i, j]))
    assert all(len(found) == 1 for found in offsets.values())
    assert {row for found in offsets.values() for row in found} == set(range(3 * 5))


def test_the_bias_of_some_places_is_cut_from_that_of_all():
    module = RelativeBias(heads=2, grid=(2, 3))
    params = nn.meta.unbox(module.init(jax.random.key(0)))
    whole = np.asarray(module.apply(params))
    assert whole.shape == (2, 6, 6)
    np.testing.assert_array_equal(
        whole[1], np.asarray(params["params"]["table"])[relative_index((2, 3)), 1]
    )
    places = np.array([[0, 4, 5], [2, 1, 3]])
    some = module.apply(params, places)
    for b, chosen in enumerate(places):
        np.testing.assert_array_equal(some[b], whole[:, chosen][:, :, chosen])
