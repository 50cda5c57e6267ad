"""The distance of clips: closed form, what is stated with it, and what it refuses."""

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.evaluation.frechet_video import ClipProtocol, frechet_video_distance

PROTOCOL = ClipProtocol("I3D", 2048, 16, stride=3, resize="224 x 224, bilinear")


def test_the_distance_of_gaussians():
    """Scaled by 2 and moved by 3 along each of four axes: 4 (3^2 + (2 - 1)^2) for unit variance."""
    features_ND = np.random.default_rng(0).normal(size=(2048, 4))
    features_ND = (features_ND - features_ND.mean(axis=0)) / features_ND.std(axis=0, ddof=1)
    features_ND = features_ND @ np.linalg.inv(np.linalg.cholesky(np.cov(features_ND.T))).T
    assert frechet_video_distance(features_ND, features_ND, PROTOCOL) == pytest.approx(0, abs=1e-9)
    moved_ND = 2 * features_ND + 3
    assert frechet_video_distance(features_ND, moved_ND, PROTOCOL) == pytest.approx(40, rel=1e-9)


def test_all_that_it_depends_on_is_stated():
    assert str(PROTOCOL) == (
        "features: I3D; 2,048 clips of 16 frames in each set, stride 3, resize: 224 x 224, bilinear"
    )


def test_what_is_refused():
    features = np.zeros((2048, 4))
    with pytest.raises(InputError, match="features are of 3 generated clips, expected 2048"):
        frechet_video_distance(features, features[:3], PROTOCOL)
    with pytest.raises(InputError, match="real clips: 1 of 2048 samples are not"):
        frechet_video_distance(np.where(np.arange(2048)[:, None], 0, np.nan), features, PROTOCOL)
    with pytest.raises(InputError, match="features of widths 4 and 5"):
        frechet_video_distance(features, np.zeros((2048, 5)), PROTOCOL)
    for fields in ({"count": 1}, {"length": 0}, {"stride": 0}):
        (name, value), *_ = fields.items()
        with pytest.raises(InputError, match=f"{name} is {value}, expected"):
            ClipProtocol(**{"features": "I3D", "count": 2, "length": 16, **fields})
