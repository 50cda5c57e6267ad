"""The network that compares clips: what it is trained on, where it is kept, what it says."""

import numpy as np
import pytest

from experiments.shared import classifiers
from experiments.video.support import clip_evaluator
from experiments.video.support.clip_evaluator import (
    CLIP_DISTANCE,
    IN_ORDER,
    OF_CLASS,
    ClipSet,
    frames_in_another_order,
    i3d_distance,
    make_clip_evaluator,
    open_i3d,
)
from experiments.video.support.video_streams import open_videos
from jaxgen.data import BatchPlan, batch_at
from jaxgen.errors import InputError
from jaxgen.interop.safetensors import write_safetensors

SIZES = ((4, 8, 12), (6, 12, 8), (1, 12, 12))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An evaluator after five updates, and the folder of it."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: jaxgen[data]")
    folder = tmp_path_factory.mktemp("evaluator")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clip_evaluator, "TRAINING_CLIPS", 64)
        patched.setattr(clip_evaluator, "TEST_CLIPS", 16)
        patched.setattr(classifiers, "FEWEST_STEPS", 5)
        patched.setattr(classifiers, "MOST_STEPS", 5)
        yield make_clip_evaluator(open_videos("digits", SIZES, 0), SIZES, folder), folder


def clips_of(evaluator, size, count):
    return evaluator.data.unseen_clips(size, count)[0]


def test_real_clips_are_nearer_than_others(trained):
    evaluator, _ = trained
    real = clips_of(evaluator, (6, 12, 8), 40)
    still = np.repeat(real[:, :1], 6, axis=1)
    inverse = 255 - real
    near, further, furthest = (
        evaluator.figures(clips)[CLIP_DISTANCE] for clips in (real, still, inverse)
    )
    assert 0 < near < further < furthest
    assert evaluator.figures(real[:, :1]) == {}
    assert str(evaluator.protocol(40, 6)) == (
        "features: classifier of clips, 64; 40 clips of 6 frames in each set, stride 1, resize: "
        "none, in the middle of 12 x 12"
    )


def test_shares_of_classes_and_orders(trained, monkeypatch):
    """Of probabilities: two clips of their classes, one of them in order."""
    evaluator, _ = trained
    p_NV = np.zeros((3, 20))
    p_NV[0, 4], p_NV[1, 12], p_NV[2, 5] = 1, 1, 1  # 4; 2 in another order; 5
    p_NV[2, 15], p_NV[2, 7] = 0.9, 1.8
    monkeypatch.setattr(
        clip_evaluator, "apply_classifier", lambda *_: (np.eye(3)[:, :2] * 1.0, p_NV)
    )
    clips = clips_of(evaluator, (4, 8, 12), 3)
    found = evaluator.figures(clips, np.array([4, 2, 7]))
    assert found[OF_CLASS] == pytest.approx(2 / 3)  # of the third, 5 has 1 + 0.9 of both orders
    assert found[IN_ORDER] == pytest.approx(2 / 3)


def test_it_is_kept_and_opened(trained):
    evaluator, folder = trained
    again = make_clip_evaluator(evaluator.data, SIZES, folder)
    assert again.accuracy == evaluator.accuracy
    assert len(list(folder.iterdir())) == 1
    clips = clips_of(evaluator, (4, 8, 12), 5)
    assert again.figures(clips) == evaluator.figures(clips)


def test_clips_to_train_on(trained):
    evaluator, _ = trained
    clips = clip_evaluator._labelled_clips(evaluator.data, ((4, 8, 12), (4, 12, 8)), 12)
    assert clips.images.shape == (80, 4, 12, 12, 1)
    assert len(clips.classes) == 20
    assert 0.3 < (clips.labels >= 10).mean() < 0.7
    batch = batch_at(clips, BatchPlan(0, 64, 8, seed=0), 3)
    assert batch["image"].shape == (8, 4, 12, 12, 1)
    assert batch["image"].min() == -1
    assert not clips.images[0::2][:, :, [0, 1, -2, -1]].any()  # 8 rows in the middle of 12


def test_another_order():
    generator = np.random.default_rng(0)
    for frames in (3, 4, 8):
        clip = np.arange(frames, dtype=np.uint8)[:, None, None, None]
        for _ in range(20):
            found = frames_in_another_order(clip, generator)[:, 0, 0, 0].tolist()
            assert sorted(found) == list(range(frames))
            assert found not in (list(range(frames)), list(range(frames))[::-1])


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="sizes have one frame each"):
        make_clip_evaluator(None, ((1, 8, 8),), tmp_path)
    with pytest.raises(InputError, match=r"c: clips are uint8 \[2, 8, 8, 1\], expected uint8"):
        ClipSet("c", np.zeros((2, 8, 8, 1), np.uint8), None, (), {"train": (0, 2)})


def test_distances_by_i3d_state_what_they_are_of(tmp_path, monkeypatch):
    def means(params, clips):
        return clips.mean(axis=(2, 3, 4))

    monkeypatch.setattr(clip_evaluator, "i3d_features", means)
    rng = np.random.default_rng(0)
    real = rng.integers(0, 200, (30, 10, 4, 4, 3), dtype=np.uint8)
    value, protocol = i3d_distance({}, real, real + np.uint8(5), stride=3)
    assert value == pytest.approx(10 * 5**2, rel=1e-6)
    assert str(protocol) == (
        "features: logits of I3D; 30 clips of 10 frames in each set, stride 3, resize: 224 x 224, "
        "bilinear"
    )
    assert open_i3d(None) is None
    write_safetensors(tmp_path / "other.safetensors", {"a.weight": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"other\.safetensors.*Conv3d_1a_7x7"):
        open_i3d(str(tmp_path / "other.safetensors"))
