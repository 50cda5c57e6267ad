"""Moving digits: straight lines, reflected; a function of seed and index."""

import numpy as np
import pytest

from jaxgen.data.images.load_images import read_digits
from jaxgen.data.video.moving_digits import (
    MovingDigits,
    number_of_tokens,
    placed,
    reflected,
)
from jaxgen.errors import InputError

SIZES = ((8, 16, 20), (1, 12, 8), (5, 8, 8))


@pytest.fixture(scope="module")
def digits():
    return read_digits().part("train")


def test_positions_are_reflected_by_the_borders():
    found = reflected(np.array([-1.0, 0.0, 2.5, 4.0, 5.0, 9.0, -12.0]), np.array(4.0))
    np.testing.assert_allclose(found, [1, 0, 2.5, 4, 3, 1, 4])
    np.testing.assert_array_equal(reflected(np.array([-3.0, 7.0]), np.array(0.0)), [0, 0])


def test_every_frame_holds_the_digit_at_its_corner(digits):
    stream = MovingDigits(digits, SIZES, seed=3)
    for index in range(40):
        video, label = stream[index].values()
        assert video.shape == (*SIZES[index % 3], 1)
        assert video.dtype == np.uint8
        image = digits.images[stream._digit(index)]
        assert digits.labels[stream._digit(index)] == label
        for frame, corner_2 in zip(video[..., 0], stream.corners(index), strict=True):
            near, at = np.zeros(frame.shape), np.floor(corner_2).astype(int)
            for below in np.ndindex(2, 2):  # the pixels around, each by how near it is
                row, column = at + below
                weight = np.prod(1 - np.abs(corner_2 - at - below))
                if weight > 0:
                    near[row : row + 8, column : column + 8] += weight * image[..., 0]
            np.testing.assert_allclose(frame, near, atol=0.5 + 1e-6)


def test_an_image_at_a_whole_pixel_is_itself(digits):
    image, corners = digits.images[0], [(0, 4), (3, 0)]
    for frame, (row, column) in zip(
        placed(image, np.array(corners, np.float64), (11, 12)), corners, strict=True
    ):
        np.testing.assert_array_equal(frame[row : row + 8, column : column + 8], image)
        assert frame.sum() == image.sum()


def test_motion_is_straight_between_reflections(digits):
    stream, straight = MovingDigits(digits, ((6, 64, 64),), seed=0), 0
    for index in range(30):
        corners = stream.corners(index)
        steps = np.diff(corners, axis=0)
        speed = np.hypot(*steps[0])
        inside = (corners > 0).all() and (corners < 56).all()
        if inside and np.allclose(steps, steps[0]):
            straight += 1
            assert 0.5 <= speed <= 1.5
    assert straight > 20


def test_an_example_depends_on_seed_and_index_alone(digits):
    first, again, other = (MovingDigits(digits, SIZES, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[1000]["video"], again[1000]["video"])
    assert any((first[i]["video"] != other[i]["video"]).any() for i in range(0, 9, 3))


def test_every_digit_comes_once_an_epoch(digits):
    stream = MovingDigits(digits, ((1, 8, 8),))
    for epoch in range(2):
        numbers = [stream._digit(epoch * len(digits) + i) for i in range(len(digits))]
        assert sorted(numbers) == list(range(len(digits)))


def test_numbers_of_tokens():
    found = number_of_tokens(SIZES, (1, 4, 4), np.arange(4))
    np.testing.assert_array_equal(found, [160, 6, 20, 160])
    with pytest.raises(InputError, match=r"size is \(5, 8, 8\), expected multiples of the patch"):
        number_of_tokens(SIZES[2:], (2, 4, 4), np.arange(1))


def test_what_cannot_move_is_refused(digits):
    with pytest.raises(InputError, match=r"size is \(4, 6, 16\), expected frames, height and"):
        MovingDigits(digits, ((4, 6, 16),))
    with pytest.raises(InputError, match="sizes are empty"):
        MovingDigits(digits, ())


def test_indices_of_numpy_are_indices(digits):
    stream = MovingDigits(digits, ((2, 10, 12),), seed=3)
    for index in (5, 4000):
        np.testing.assert_array_equal(stream[np.int64(index)]["video"], stream[index]["video"])
