"""The error of temporal differences: constants do not count, motion and flicker do."""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation.video_similarity import temporal_difference_error


def test_constants_do_not_count_and_flicker_does():
    video = np.random.default_rng(0).uniform(-1, 1, (2, 6, 4, 5, 3)).astype(np.float32)
    assert temporal_difference_error(video, video + 0.3) < 1e-6
    flicker = 0.1 * (-1.0) ** np.arange(6)[:, None, None, None]
    assert temporal_difference_error(video, video + flicker) == pytest.approx(0.2, rel=1e-5)
    still = np.zeros_like(video)
    expected = np.sqrt((np.diff(video, axis=1) ** 2).mean())
    assert temporal_difference_error(video, still) == pytest.approx(expected, rel=1e-5)


def test_bad_shapes_are_named():
    video = np.zeros((3, 4, 4, 1), np.float32)
    for other in (video[:2], video[:, :3]):
        with pytest.raises(InputError, match="videos have shapes"):
            temporal_difference_error(video, other)
    with pytest.raises(InputError, match="two frames or more"):
        temporal_difference_error(video[:1], video[:1])
