"""The motion of clips: real ones, the same with noise, and clips that move otherwise."""

import numpy as np
import pytest

from experiments.video.support.motion_evaluator import (
    FEWEST_FRAMES,
    LARGEST_RMS,
    MOTION,
    MotionEvaluator,
    clip_centres,
    distance_of_centres,
    make_motion_evaluator,
)
from jaxgen.data import ImageSet
from jaxgen.data.video.moving_digits import MovingDigits, placed, reflected
from jaxgen.errors import InputError

COUNT = 100


def made_digits():
    """Ten strokes in 8 x 8, with dark margins of several widths; no other package is needed."""
    rng = np.random.default_rng(0)
    images = np.zeros((10, 8, 8, 1), np.uint8)
    for image in images:
        left, right = rng.integers(0, 3), rng.integers(5, 9)
        inside = rng.uniform(size=(8, right - left, 1)) < 0.5
        inside[[0, -1], 0] = inside[4, [0, -1]] = True
        image[:, left:right] = inside * rng.integers(80, 256, inside.shape)
    labels = np.arange(10, dtype=np.int32)
    return ImageSet("strokes", images, labels, tuple("0123456789"), {"test": (0, 10)})


DIGITS = made_digits()
EVALUATOR = make_motion_evaluator(DIGITS)


def clips(size):
    stream = MovingDigits(DIGITS, (size,), seed=5)
    return np.stack([stream[index]["video"] for index in range(COUNT)])


def share(videos):
    return EVALUATOR.figures(videos)[MOTION]


def moved(path, size):
    """Clips of the digits at given corners, path(i) [T, 2] reflected by the borders."""
    room_2 = np.subtract(size[1:], 8).astype(float)
    corners = [reflected(path(np.random.default_rng(i), room_2), room_2) for i in range(COUNT)]
    return np.stack(
        [placed(DIGITS.images[i % 10], corner_T2, size[1:]) for i, corner_T2 in enumerate(corners)]
    )


def velocity(generator, low=0.5, high=1.5):
    angle = generator.uniform(0, 2 * np.pi)
    return generator.uniform(low, high) * np.array([np.sin(angle), np.cos(angle)])


@pytest.mark.parametrize("size", [(8, 12, 12), (12, 12, 12), (8, 16, 16), (16, 16, 20)])
def test_real_clips_move_as_the_data(size):
    real = clips(size)
    assert share(real) == 1.0
    noise = np.random.default_rng(0).normal(0, 15, real.shape)
    assert share(np.clip(real + noise, 0, 255).astype(np.uint8)) >= 0.97
    found = EVALUATOR.fit(real)
    assert np.median(found.rms_N) < 0.2
    assert found.speed_N.min() >= 0.5
    assert found.speed_N.max() <= 1.5


@pytest.mark.parametrize(("size", "most"), [((8, 12, 12), 0.05), ((12, 16, 16), 0.0)])
def test_frames_in_another_order_do_not(size, most):
    rng = np.random.default_rng(1)
    shuffled = np.stack([video[rng.permutation(size[0])] for video in clips(size)])
    assert share(shuffled) <= most


@pytest.mark.parametrize(("size", "most"), [((8, 16, 16), 0.3), ((16, 24, 24), 0.1)])
def test_clips_with_a_kink_do_not(size, most):
    """A right angle in the middle; in short clips of slow digits it is under half a pixel."""

    def path(generator, room_2):
        start_2, before_2 = generator.uniform(0, room_2), velocity(generator)
        after_2 = before_2[::-1] * generator.permutation([1, -1])
        time_T = np.arange(size[0])[:, None]
        half = size[0] // 2
        return (
            start_2 + np.minimum(time_T, half) * before_2 + np.maximum(time_T - half, 0) * after_2
        )

    assert share(moved(path, size)) <= most


def test_speeds_that_the_data_do_not_have():
    size = (12, 24, 24)
    time_T = np.arange(12)[:, None]
    for low, high, most in ((0, 0, 0), (0.05, 0.2, 0), (2.2, 3, 0.05)):

        def path(generator, room_2, low=low, high=high):
            return generator.uniform(0, room_2) + time_T * velocity(generator, low, high)

        assert share(moved(path, size)) <= most, (low, high)


def test_the_speed_is_found():
    """In a frame so large that nothing is reflected."""
    size = (12, 44, 44)
    time_T = np.arange(12)[:, None]
    videos = moved(lambda generator, room_2: room_2 / 2 + time_T * velocity(generator), size)
    speed_N = [np.hypot(*velocity(np.random.default_rng(i))) for i in range(COUNT)]
    found = EVALUATOR.fit(videos)
    assert (found.rms_N < LARGEST_RMS).all()
    np.testing.assert_allclose(found.speed_N, speed_N, atol=0.1)


def test_centres_against_the_centre_of_mass():
    """Without noise; the bright part of one digit, wherever it is."""
    rng = np.random.default_rng(2)
    image_YX = np.maximum(DIGITS.images[3, :, :, 0] - DIGITS.images[3].max() / 4, 0)
    rows, columns = np.indices((8, 8))
    centre_2 = np.array([(image_YX * x).sum() for x in (rows, columns)]) / image_YX.sum()
    videos = np.zeros((2, 8, 20, 18, 1), np.uint8)
    corner_NT2 = rng.integers(0, (13, 11), (2, 8, 2))
    for video, corner_T2 in zip(videos, corner_NT2, strict=True):
        for frame, (row, column) in zip(video, corner_T2, strict=True):
            frame[row : row + 8, column : column + 8] = DIGITS.images[3]
    found = clip_centres(videos, (8, 8))
    np.testing.assert_allclose(found.centre_NT2, corner_NT2 + centre_2, atol=1e-9)
    assert (found.least_N2 <= centre_2 + 1e-9).all()
    assert (found.largest_N2 >= centre_2 - 1e-9).all()
    videos[0, :, 0, 0] = 255  # a speck in the corner, outside of most windows
    away = (corner_NT2[0] > 0).any(axis=1)
    specked = clip_centres(videos, (8, 8)).centre_NT2[0]
    threshold = np.abs(specked - found.centre_NT2[0])[away]
    assert threshold.max() < 0.5


def test_blank_frames_have_no_motion():
    real = clips((8, 12, 12))[:3]
    real[1, 4] = 0
    real[2] = 0
    found = EVALUATOR.fit(real)
    assert np.isinf(found.rms_N).tolist() == [False, True, True]
    assert np.isnan(found.speed_N).tolist() == [False, True, True]
    assert share(real) == pytest.approx(1 / 3)


def test_frames_as_large_as_the_digit():
    """Without room nothing is seen of the motion, so that a still digit moves as the data do."""
    assert share(clips((8, 8, 8))) == 1.0


def test_clips_that_do_not_fit():
    short = clips((FEWEST_FRAMES - 1, 12, 12))
    assert EVALUATOR.figures(short) == {}
    with pytest.raises(InputError, match="clips have 7 frames, expected 8 or more"):
        EVALUATOR.fit(short)
    with pytest.raises(InputError, match="frames are 12 x 12, expected 16 x 8 or more"):
        MotionEvaluator((16, 8)).fit(clips((8, 12, 12)))


def test_distances_of_centres_are_those_of_corners():
    videos = clips((8, 14, 16))[:5]
    pushed = np.roll(videos, 1, axis=3)
    pushed[1] = videos[1]
    found = distance_of_centres(pushed, videos, np.array([0, 3]), (8, 8))
    clear = ~videos[:, :, :, -1][:, [0, 3]].any(axis=(1, 2, 3))  # nothing comes in at the left
    assert clear.sum() > 1
    np.testing.assert_allclose(found[clear], np.where(np.arange(5) == 1, 0, 1)[clear], atol=1e-9)
    blank = distance_of_centres(np.zeros_like(videos), videos, np.arange(8), (8, 8))
    middle = clip_centres(videos, (8, 8)).centre_NT2 - [6.5, 7.5]
    np.testing.assert_allclose(blank, np.sqrt((middle**2).sum(-1).mean(1)))
