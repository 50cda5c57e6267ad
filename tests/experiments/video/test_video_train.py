"""The video experiment from end to end: files, restarts, meshes, processes, bad input."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from matplotlib.image import imread
from picture_folder import run_here
from processes import run_processes
from run_records import assert_same_losses, losses

from experiments.shared import classifiers, training_runs
from experiments.video.support import clip_evaluator, frame_evaluator, video_streams
from experiments.video.support.completed_clips import KNOWN_ERROR
from experiments.video.support.frame_evaluator import laid_in_square, make_frame_evaluator
from experiments.video.support.video_streams import (
    make_pack_batches,
    open_videos,
    parse_sizes,
)
from jaxgen.data import read_video, write_video
from jaxgen.data.images.load_images import read_digits
from jaxgen.data.video.sprite_sheets import CLASSES, FRAMES, LAYERS, SIDE, SpriteSheets
from jaxgen.errors import InputError
from jaxgen.training import load_model

STEPS = 16
FLAGS = [
    *("--training-steps", STEPS, "--width", "32", "--depth", "1", "--packs", "4"),
    *("--pack-length", "24", "--pack-examples", "6", "--steps", "2", "--evaluate", "0"),
    *("--checkpoint-every", "8"),
    *("--sizes", "2x8x8", "1x8x12", "3x8x8", "--sample-sizes", "2x8x8", "4x12x8", "--tasks"),
]


def run(arguments, monkeypatch, mesh="data=1", devices=1) -> int:
    return run_here("train", [*FLAGS, *arguments], monkeypatch, mesh, devices, family="video")


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> pathlib.Path:
    """The folder of a run on one device that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(["--workdir", folder], monkeypatch) == 0
    return folder


def test_videos_and_sheets_have_the_frames_that_were_asked_for(reference):
    for size in ((2, 8, 8), (4, 12, 8)):
        stem = "samples_" + "x".join(map(str, size))
        for suffix in ("mp4", "gif"):
            video = read_video(reference / f"{stem}.{suffix}")
            # Ten classes side by side, four clips of each, two pixels between, five times as large.
            height, width = 5 * (4 * (size[1] + 2) - 2), 5 * (10 * (size[2] + 2) - 2)
            assert video.frames.shape == (size[0], height, width, 3)
            assert video.fps == pytest.approx(8, rel=0.05)
            assert video.frames.std() > 10
        assert imread(reference / f"{stem}.png").std() > 0.05
    found = json.loads((reference / "metrics.json").read_text())
    assert found["updates"] == STEPS
    assert found["skipped updates"] == 0
    assert found["tokens"] == STEPS * 4 * 24
    assert found["validation/loss"] < 1.5


def test_a_checkpoint_opens_by_itself(reference):
    model = load_model(reference / "checkpoints")
    assert model.config.image_shape == (2, 8, 8, 1)
    assert model.config.network.patch == (1, 4, 4)


def test_a_run_that_was_interrupted_resumes_to_the_same_figures(reference, tmp_path, monkeypatch):
    fit = training_runs.fit

    def stop(record, state):
        if record["step"] >= 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training_runs, "fit", lambda *a, **k: fit(*a, **k, callbacks=[stop]))
        assert run(["--workdir", tmp_path], patched) == 130
    assert len(losses(tmp_path)) < len(losses(reference))
    assert run(["--workdir", tmp_path, "--sample-sizes", "2x8x8"], monkeypatch) == 0
    assert losses(tmp_path) == losses(reference)
    for name in ("samples_2x8x8.png", "samples_2x8x8.gif"):
        assert (tmp_path / name).read_bytes() == (reference / name).read_bytes()


def test_real_clips_are_completed_by_what_was_trained(reference, tmp_path, monkeypatch):
    """Other sizes are sampled, and clips completed, without training again."""
    shutil.copytree(reference, tmp_path / "run")
    arguments = ["--sample-sizes", "5x8x8", "--tasks", "extend", "loop"]
    assert run(["--workdir", tmp_path / "run", *arguments], monkeypatch) == 0
    assert losses(tmp_path / "run") == losses(reference)
    assert (tmp_path / "run" / "samples_5x8x8.png").exists()
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["extend"]["known frames"] == 2
    assert found["loop"]["known frames"] == 3
    for task, frames in (("extend", 5), ("loop", 4)):
        assert found[task][KNOWN_ERROR] < 1e-4
        assert read_video(tmp_path / "run" / f"{task}.mp4").frames.shape[0] == frames
        assert imread(tmp_path / "run" / f"{task}.png").std() > 0.05


@pytest.mark.slow
def test_a_mesh_changes_nothing(reference, tmp_path, monkeypatch):
    assert run(["--workdir", tmp_path], monkeypatch, "data=2,fsdp=2", 4) == 0
    assert_same_losses(tmp_path, reference)


@pytest.mark.slow
def test_nor_do_two_processes(reference, tmp_path):
    flags = [*map(str, FLAGS), "--workdir", str(tmp_path), "--coordinator", "auto"]
    run_processes("experiments.video.train", flags, devices_per_process=2)
    assert_same_losses(tmp_path, reference)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "1x4"], "patch is '1x4', expected frames x height x width, as 8x16x16"),
        (["--patch", "0x4x4"], "patch is '0x4x4', expected sides of 1 or more"),
        (["--sizes", "2x9x8"], "sizes has 2x9x8, expected multiples of the patch 1x4x4"),
        (["--sizes", "8x8"], "sizes is '8x8', expected frames x height x width, as 8x16x16"),
        (["--sample-sizes", "2x4x4"], "size is (2, 4, 4), expected frames, height and width"),
        (["--sample-sizes", "2x8x9"], "sample_sizes has 2x8x9, expected multiples of the patch"),
        (["--sizes", "2x4x8"], "size is (2, 4, 8), expected frames, height and width of 1, 8"),
        (["--pack-length", "10"], "has 12 tokens, expected 1 to 10, the length of a pack"),
        (["--pack-examples", "0"], "max_examples is 0, expected 1 or more"),
        (["--packs", "0"], "packs is 0, expected a multiple of 1"),
        (["--shift", "0"], "shift is 0.0, expected"),
        (["--data", "sprites:nowhere"], "nowhere/body"),
        (["--data", "sprites:.", "--fps", "8"], "fps is 8.0, expected none of sprites:."),
        (["--width", "20"], "width is 20, expected a multiple of 32"),
        (["--positions", "learnt"], "invalid choice 'learnt' for argument '--positions'"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--class-dropout", "0"], "guidance is 3.0, but the network has no null class"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(arguments, message, tmp_path, monkeypatch, capfd):
    workdir = tmp_path / "run"
    assert run(["--workdir", workdir, *arguments], monkeypatch) == 2
    _, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not workdir.exists()


def write_clips(folder: pathlib.Path, frames: int = 7, count: int = 4) -> None:
    """Two classes of some videos each: bars that rise, and bars that fall."""
    for label, step in (("up", -1), ("down", 1)):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            video = np.zeros((frames, 16, 16, 3), np.uint8)
            for t in range(frames):
                video[t, (8 + i + step * t) % 16] = (200, 40 * i % 256, 90)
            write_video(folder / label / f"{i}.mp4", video, 10)


def test_a_folder_of_video_files(tmp_path, monkeypatch, capfd):
    write_clips(tmp_path / "clips")
    sizes = ["--sizes", "3x8x8", "1x8x12", "--sample-sizes", "3x8x8", "--training-steps", "8"]
    workdir = tmp_path / "run"
    assert run([*sizes, "--data", tmp_path / "clips", "--workdir", workdir], monkeypatch) == 0
    assert "16 clips of 8 files, 3x8x8, 1x8x12" in capfd.readouterr()[0]
    assert read_video(workdir / "samples_3x8x8.mp4").frames.shape[0] == 3
    assert load_model(workdir / "checkpoints").config.classes == ("down", "up")
    stream = open_videos(str(tmp_path / "clips"), ((3, 8, 8), (1, 8, 12)), 0).train
    assert stream[0]["video"].shape == (3, 8, 8, 3)
    assert stream[1]["video"].shape == (1, 8, 12, 3)


@pytest.mark.slow
def test_samples_of_a_folder_are_evaluated_by_a_classifier_of_clips(
    tmp_path, monkeypatch, short_classifiers
):
    write_clips(tmp_path / "clips", count=10)
    monkeypatch.setattr(clip_evaluator, "TRAINING_CLIPS", 32)
    monkeypatch.setattr(clip_evaluator, "TEST_CLIPS", 8)
    workdir = tmp_path / "run"
    sizes = ["--sizes", "3x8x8", "1x8x12", "--sample-sizes", "3x8x8", "3x16x8", "--evaluate", "6"]
    assert run([*sizes, "--data", tmp_path / "clips", "--workdir", workdir], monkeypatch) == 0
    found = json.loads((workdir / "metrics.json").read_text())
    rows = ["3x8x8, real", "3x8x8, samples, trained size"]  # there are no real clips of 3x16x8
    assert [name for name in found if name.startswith("3x")] == rows
    for name in rows:
        shares = clip_evaluator.OF_CLASS, clip_evaluator.IN_ORDER
        assert set(found[name]) == {*shares, clip_evaluator.CLIP_DISTANCE}
        assert all(0 <= found[name][share] <= 1 for share in shares)
        assert found[name][clip_evaluator.CLIP_DISTANCE] >= 0
        assert name in (workdir / "table.md").read_text()
    assert (workdir / "samples_3x16x8.mp4").exists()


def test_a_folder_may_be_called_as_the_digits_are(tmp_path, monkeypatch):
    write_clips(tmp_path / "digits_of_mine")
    monkeypatch.chdir(tmp_path)
    data = open_videos("digits_of_mine", ((3, 8, 8),), 0)
    assert data.classes == ("down", "up")
    assert data.digits is None


def test_sizes_that_sprites_do_not_have_are_refused_before_training(tmp_path, monkeypatch, capfd):
    layer = np.zeros((10, len(CLASSES), FRAMES, SIDE, SIDE, 4), np.uint8)
    sheets = SpriteSheets("sheets", (layer,) * len(LAYERS))
    monkeypatch.setattr(video_streams, "open_sprite_sheets", lambda folder: sheets)
    arguments = ["--data", "sprites:here", "--sizes", "2x32x32", "--pack-length", "128"]
    arguments += ["--sample-sizes", "2x32x16", "--workdir", tmp_path / "run"]
    assert run(arguments, monkeypatch) == 2
    assert "size is 2x32x16, expected up to 6 square frames" in capfd.readouterr()[1]
    assert not (tmp_path / "run").exists()


def test_weights_of_i3d_that_are_none_are_named(tmp_path, monkeypatch, capfd):
    file = tmp_path / "i3d.safetensors"
    file.write_bytes(b"")
    assert run(["--i3d", file, "--workdir", tmp_path / "run"], monkeypatch) == 2
    assert capfd.readouterr()[1].startswith(f"error: {file}: not a safetensors file")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_videos_is_named(tmp_path, monkeypatch, capfd):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "note.txt").write_text("no video")
    assert run(["--data", tmp_path / "clips", "--workdir", tmp_path / "run"], monkeypatch) == 2
    err = capfd.readouterr()[1]
    assert err.startswith(f"error: {tmp_path / 'clips'}")
    assert err.count("\n") == 1


def test_batches_follow_from_their_number():
    stream = open_videos("digits", parse_sizes(["2x8x8", "1x8x8"], (1, 4, 4), "sizes"), 0).train
    make = lambda: make_pack_batches(stream, (1, 4, 4), 24, 6, 3)  # noqa: E731
    in_order, late = make(), make()
    batches = [in_order(i) for i in range(5)]
    for name, array in late(4).items():
        np.testing.assert_array_equal(array, batches[4][name])
    seen = np.concatenate([batch["index"][batch["segment"].max(axis=1) > 0] for batch in batches])
    assert len(np.unique(seen)) > 30


def test_frames_are_laid_in_the_middle():
    images = np.full((1, 2, 4, 1), 7, np.uint8)
    found = laid_in_square(images, 6)
    assert found.shape == (1, 6, 6, 1)
    np.testing.assert_array_equal(found[0, 2:4, 1:5], images[0])
    assert found.sum() == images.sum()


@pytest.mark.slow
def test_the_evaluator_of_frames_is_right_on_95_percent_of_real_ones(tmp_path, monkeypatch):
    """After fewer updates than it has, on smaller frames."""
    monkeypatch.setattr(classifiers, "MOST_STEPS", 400)
    sizes = parse_sizes(["8x12x12", "8x12x16"], (1, 4, 4), "sizes")
    evaluator = make_frame_evaluator(read_digits(), sizes, tmp_path)
    assert evaluator.accuracy > 0.95
    videos, labels = open_videos("digits", sizes, 0).unseen_clips(sizes[0], 60)
    figures = evaluator.figures(videos, labels)
    assert figures[frame_evaluator.RIGHT_FRAMES] > 0.93
    # Frames in another order are of the same digit; frames of two clips are not.
    mixed = np.concatenate([videos[:30, :4], videos[30:, :4]], axis=1)
    broken = evaluator.figures(mixed, labels[:30])
    assert broken[frame_evaluator.RIGHT_CLIPS] < 0.4 < figures[frame_evaluator.RIGHT_CLIPS]


def test_sizes_are_named_once_where_they_name_files():
    with pytest.raises(InputError, match="expected each size once"):
        parse_sizes(["2x8x8", "2x8x8"], (1, 4, 4), "sample_sizes")
