"""Images as patches and back."""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.spacetime import patchify, unpatchify


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (6, 2)])
def test_patches_are_squares_row_by_row(size):
    z = np.random.default_rng(0).normal(size=(2, *size, 3))
    tokens = np.asarray(patchify(z, 2))
    rows, columns = size[0] // 2, size[1] // 2
    assert tokens.shape == (2, rows * columns, 12)
    for place, (y, x) in enumerate(np.ndindex(rows, columns)):
        square = z[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        np.testing.assert_allclose(tokens[:, place], square.reshape(2, -1), rtol=1e-6)
    np.testing.assert_allclose(unpatchify(tokens, (rows, columns), 2), z, rtol=1e-6)


def test_patches_of_one_pixel_are_the_pixels():
    z = np.arange(24.0).reshape(1, 2, 4, 3)
    np.testing.assert_array_equal(patchify(z, 1), z.reshape(1, 8, 3))


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 4, 5, 3), (2, 0, 4, 3)])
def test_sizes_that_the_patch_does_not_divide_are_refused(shape):
    with pytest.raises(InputError, match=r"height and width divisible by the patch size 2"):
        patchify(np.zeros(shape), 2)


@pytest.mark.parametrize(("shape", "grid"), [((1, 7, 12), (2, 4)), ((1, 8, 10), (2, 4))])
def test_patches_that_make_no_image_are_refused(shape, grid):
    with pytest.raises(InputError, match=r"expected \[B, 8, 4 C\] for a grid of 2 x 4 patches"):
        unpatchify(np.zeros(shape), grid, 2)
