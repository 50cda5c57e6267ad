"""Images as patches and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.nn.patches import patchify, unpatchify


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


@pytest.mark.parametrize(
    ("sizes", "patch"),
    [((6,), (2,)), ((4, 6), (2, 3)), ((4, 6, 8), (2, 3, 4)), ((1, 4, 4), (1, 2, 2)),
     ((2, 4, 2, 6), (1, 2, 2, 3))],
)  # fmt: skip
def test_patches_of_any_rank_are_blocks_and_come_back_bit_by_bit(sizes, patch):
    z = np.random.default_rng(0).integers(256, size=(2, *sizes, 3)).astype(np.uint8)
    grid = tuple(size // side for size, side in zip(sizes, patch, strict=True))
    tokens = patchify(z, patch)
    assert tokens.dtype == np.uint8
    for number, place in enumerate(np.ndindex(grid)):
        corner = np.multiply(place, patch)
        block = tuple(slice(c, c + side) for c, side in zip(corner, patch, strict=True))
        np.testing.assert_array_equal(tokens[:, number], z[:, *block].reshape(2, -1))
    np.testing.assert_array_equal(unpatchify(tokens, grid, patch), z)
    floats = jnp.asarray(z, jnp.float32)
    np.testing.assert_array_equal(unpatchify(patchify(floats, patch), grid, patch), floats)


def test_an_image_is_a_video_of_one_frame():
    z = np.random.default_rng(0).normal(size=(2, 4, 8, 3))
    np.testing.assert_array_equal(patchify(z[:, None], (1, 2, 2)), patchify(z, 2))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 4, 4, 1), r"videos have shape \(2, 3, 4, 4, 1\), expected \[B, T, Y, X, C\] with "
         r"frames and height and width divisible by the patch size \(2, 2, 2\)"),
        ((2, 4, 5, 4, 1), "divisible by the patch size"),
        ((2, 4, 4, 1), r"videos have shape \(2, 4, 4, 1\), expected \[B, T, Y, X, C\]"),
    ],
)  # fmt: skip
def test_videos_that_a_patch_does_not_divide_are_refused(shape, message):
    with pytest.raises(InputError, match=message):
        patchify(np.zeros(shape), (2, 2, 2))


@pytest.mark.parametrize("patch", [(0, 2, 2), (1, -1, 2)])
def test_sides_below_one_are_refused(patch):
    with pytest.raises(InputError, match=r"expected 3 sides of 1 or more"):
        patchify(np.zeros((1, 2, 2, 2, 1)), patch)
