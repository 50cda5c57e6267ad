"""Cascades of videos: what stages are made of, and the experiment from end to end on a folder."""

import itertools
import json

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import run_here

from experiments.text_to_image.support.attribute_evaluator import seen_frames
from experiments.text_to_image.support.cascade_stages import pictures_at
from experiments.text_to_image.support.text_training import random_crops
from experiments.text_to_image.support.video_stages import VideoStageFlags
from jaxgen.data import CaptionedSet, to_unit
from jaxgen.data.video.video_files import read_video, write_video
from jaxgen.errors import InputError
from jaxgen.training import load_model


def test_stages_enlarge_one_after_the_other():
    def sizes(flags):
        return [(name, *sizes[:2]) for name, sizes in flags.shapes().items()]

    assert sizes(VideoStageFlags()) == [
        ("base", 4, 8),
        ("space_16", 4, 16),
        ("time_16", 16, 16),
        ("space_32", 16, 32),
    ]
    other = VideoStageFlags(order=("time", "time", "space"), time_factor=2, space_factor=4)
    assert [size[1:] for size in sizes(other)] == [(4, 8), (8, 8), (16, 8), (16, 32)]


def test_what_a_stage_enlarges_is_what_the_stage_before_it_makes():
    """Means of pixels and every so many frames, by whatever way."""
    x = np.random.default_rng(0).integers(0, 255, (2, 16, 32, 32, 3), dtype=np.uint8)
    spans = {"train": (0, 1), "test": (1, 2)}
    clips = CaptionedSet("noise", x, ("a", "b"), ("a", "b"), None, spans)
    shapes = list(VideoStageFlags().shapes().values())
    for before, (frames, side, augmentation) in itertools.pairwise(shapes):
        large = to_unit(pictures_at(clips, side, frames).images)
        small = to_unit(pictures_at(clips, before[1], before[0]).images)
        assert small.shape[1:4] == (before[0], before[1], before[1])
        found = augmentation.small_of(large)
        np.testing.assert_allclose(found, small, atol=2 / 255)  # both were rounded to bytes
    with pytest.raises(InputError, match="noise: 16 frames, expected a multiple of 5"):
        pictures_at(clips, 8, 5)


def test_crops_of_clips_are_parts_of_them_at_whole_small_pixels():
    x = np.random.default_rng(0).uniform(-1, 1, (6, 4, 16, 16, 3)).astype(np.float32)
    found = np.asarray(random_crops(x, 8, 2, jax.random.key(0)))
    places = set()
    for b in range(6):
        windows = np.lib.stride_tricks.sliding_window_view(x[b], (8, 8), axis=(1, 2))
        part = np.moveaxis(found[b], 3, 1)  # T, C, Y, X
        equal = (np.moveaxis(windows, (1, 2), (0, 1)) == part).all(axis=(2, 3, 4, 5))
        ((top, left),) = np.argwhere(equal)
        assert top % 2 == left % 2 == 0
        places.add((top, left))
    assert len(places) > 2


def test_the_evaluator_looks_at_frames_from_the_first_to_the_last():
    x = np.random.default_rng(0).normal(size=(2, 16, 4, 6, 3))
    np.testing.assert_array_equal(seen_frames(x), x[:, [0, 2, 4, 6, 9, 11, 13, 15]])
    np.testing.assert_array_equal(seen_frames(x[:, :5]), x[:, :5])
    np.testing.assert_array_equal(seen_frames(x[:, 0]), x[:, 0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"order": ("space", "colour")}, "order has 'colour', expected space or time"),
        ({"time_factor": 0}, "time_factor is 0, expected 1 or more"),
        ({"head_width": 7}, "head_width is 7, expected a divisor of 96"),
    ],
)
def test_options_of_stages_that_cannot_be_meant(flags, message):
    with pytest.raises(InputError, match=message):
        VideoStageFlags(**flags)


@pytest.mark.slow
def test_a_cascade_is_trained_distilled_and_sampled(tmp_path, monkeypatch):
    """Time is enlarged; that halving goes on from a stage's student is tested on images."""
    rng = np.random.default_rng(0)
    data = tmp_path / "clips"
    for part in ("train", "test"):
        (data / part).mkdir(parents=True)
        for i in range(4):
            frames = rng.integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
            write_video(data / part / f"{i}.gif", frames, 10)
            (data / part / f"{i}.txt").write_text(f"noise of kind {i}")
    folder = tmp_path / "run"
    sizes = [
        *("--base-channels", 8, "--resolver-channels", 8),
        *("--head-width", 8, "--text-width", 32, "--text-depth", 1),
        *("--base-frames", 2, "--time-factor", 2, "--order", "time"),
    ]
    arguments = [
        *("--data", data, "--workdir", folder, *sizes),
        *("--training-steps", 4, "--batch-size", 2, "--resolver-steps", 2, "--resolver-batch", 2),
        *("--distil-updates", 2, "--distil-stop", 2, "--steps", 2, "--evaluate", 2),
        *("--evaluator-updates", 4, "--checkpoint-every", 100),
    ]
    alone = [*arguments, "--train", "time_4"]
    assert run_here("imagen_video", alone, monkeypatch, family="text_to_image") == 0
    assert imread(folder / "alone.png").std() > 0.02
    assert not (folder / "base").exists()
    before = (folder / "time_4" / "metrics.jsonl").read_bytes()
    assert run_here("imagen_video", arguments, monkeypatch, family="text_to_image") == 0
    assert (folder / "time_4" / "metrics.jsonl").read_bytes() == before
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["base"]["updates"] == 4
    assert all(row["seconds a clip"] > 0 for name, row in figures.items() if "steps" in name)
    assert "distilled to 2 steps" in (folder / "table.md").read_text()
    video = read_video(folder / "samples.mp4")
    assert len(video.frames) == 4
    student = load_model(folder / "time_4" / "matched" / "checkpoints")
    assert student.config.denoiser.guidance_channels == 16
    assert student.config.denoiser.beside_channels == 4
