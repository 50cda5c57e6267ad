"""The compressor experiment from end to end: files, restarts, meshes, bottlenecks, bad input."""

import json
import pathlib

import numpy as np
import pytest
from picture_folder import run_here
from processes import run_processes
from run_records import assert_same_losses, losses

from experiments.video.compressor import Config
from experiments.video.support import compressor_results
from experiments.video.support.compressor_data import make_crops, open_clips
from experiments.video.support.compressor_results import compressor_method, transform_method
from jaxgen.compressors.block_transforms import cosine_basis
from jaxgen.data import read_video, write_video
from jaxgen.errors import InputError
from jaxgen.training import load_model

STEPS = 2
FLAGS = [
    *("--training-steps", STEPS, "--checkpoint-every", STEPS),
    *("--width", "8", "--blocks", "1", "--block", "4x4x4"),
    *("--crop", "5x16x16", "--batch-size", "4", "--channels", "4"),
]


def run(arguments, monkeypatch, mesh="data=1", devices=1) -> int:
    flags = [*FLAGS, *arguments]
    return run_here("compressor", flags, monkeypatch, mesh, devices, family="video")


def write_clips(folder: pathlib.Path) -> None:
    """Two videos of moving gratings."""
    folder.mkdir()
    y, x = np.mgrid[:16, :24]
    for i in range(2):
        waves = [np.sin((y + i * x) / 3 + t / 2) * 80 + 128 for t in range(10)]
        frames = np.stack(waves).astype(np.uint8)[..., None].repeat(3, -1)
        write_video(folder / f"clip{i}.mp4", frames, 10)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> pathlib.Path:
    """The folder of a run on one device that nothing disturbed."""
    folder = tmp_path_factory.mktemp("compressor")
    write_clips(folder / "clips")
    with pytest.MonkeyPatch.context() as monkeypatch:
        flags = ["--data", folder / "clips", "--side", "16", "--held-out", "each"]
        assert run([*flags, "--workdir", folder / "run"], monkeypatch) == 0
    return folder / "run"


def test_every_clip_is_held_out_in_turn(reference):
    found = json.loads((reference / "metrics.json").read_text())
    assert set(found["clips"]) == {"clip0", "clip1"}
    assert found["numbers kept, 1 of (causal)"] == found["numbers kept, 1 of (frames)"] == 48
    for method in ("cosine transform 3-D", "cosine transform of frames", "causal compressor"):
        values = [clip[method]["PSNR"] for clip in found["clips"].values()]
        assert found[method]["PSNR"] == pytest.approx(np.mean(values))
        assert min(values) > 10
    table = (reference / "table.md").read_text()
    assert table.count("\n") == 2 + 2 + 3
    for name in ("clip0", "clip1"):
        video = read_video(reference / name / f"{name}.mp4")
        # The original and four reconstructions of 1 + 2 x 4 frames, two pixels between.
        assert video.frames.shape == (9, 16, 5 * 18 - 2, 3)
        assert (reference / name / "curves.png").exists()


def test_a_saved_compressor_opens_by_itself_and_streams(reference, monkeypatch):
    """Encoded and decoded latent by latent it gives what it gives of a whole clip."""
    monkeypatch.setattr(compressor_results, "LATENTS_PER_CHUNK", 1)
    model = load_model(reference / "clip1" / "causal" / "compressor")
    compressor = model.config.make_compressor(model.params)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 9, 16, 24, 3)).astype(np.float32)
    z = compressor.encode(x)
    assert z.shape == (2, *compressor.grid((9, 16, 24)), 4) == (2, 3, 4, 6, 4)
    whole = np.asarray(compressor.decode(z))
    pieces = compressor_method("", model.config, model.params).reconstruct(x[1])
    np.testing.assert_allclose(pieces, whole[1], atol=1e-4)


def test_a_run_that_was_finished_trains_no_more(reference, monkeypatch):
    before = losses(reference / "clip0" / "causal")
    flags = ["--data", reference.parent / "clips", "--side", "16", "--held-out", "clip0"]
    assert run([*flags, "--workdir", reference], monkeypatch) == 0
    assert losses(reference / "clip0" / "causal") == before


@pytest.mark.slow
def test_a_mesh_changes_nothing(reference, tmp_path, monkeypatch):
    flags = ["--data", reference.parent / "clips", "--side", "16", "--held-out", "clip0"]
    flags += ["--kinds", "causal", "--workdir", tmp_path / "run"]
    assert run(flags, monkeypatch, "data=2,fsdp=2", 4) == 0
    part = "clip0/causal"
    assert_same_losses(tmp_path / "run" / part, reference / part)


@pytest.mark.slow
def test_nor_do_two_processes(reference, tmp_path):
    flags = [*FLAGS, "--data", reference.parent / "clips", "--side", "16", "--held-out", "clip0"]
    flags += ["--kinds", "causal", "--workdir", tmp_path / "run", "--coordinator", "auto"]
    run_processes("experiments.video.compressor", [*map(str, flags)], devices_per_process=2)
    part = "clip0/causal"
    assert_same_losses(tmp_path / "run" / part, reference / part)


@pytest.mark.slow
@pytest.mark.parametrize("bottleneck", ["vq", "fsq", "lfq"])
def test_codes_are_kept_and_found_again(bottleneck, reference, tmp_path, monkeypatch):
    flags = ["--data", reference.parent / "clips", "--side", "16", "--held-out", "clip0"]
    flags += ["--kinds", "causal", "--bottleneck", bottleneck, "--codebook-size", "16"]
    assert run([*flags, "--workdir", tmp_path], monkeypatch) == 0
    model = load_model(tmp_path / "clip0" / "causal" / "compressor")
    compressor = model.config.make_compressor(model.params)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 5, 16, 16, 3)).astype(np.float32)
    found = compressor.from_codes(compressor.codes(x))
    np.testing.assert_allclose(found, compressor.decode(compressor.encode(x)), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--block", "4x4"], "block is '4x4', expected frames x height x width"),
        (["--block", "2x4x4"], "block is 2x4x4, expected a square number of frames"),
        (["--crop", "6x16x16"], "a video has 6 frames, expected 1 + 4 k, such as 5 or 9"),
        (["--crop", "5x18x16"], "frames have 18 x 16 pixels, expected multiples of 4 x 4"),
        (["--crop", "5x40x16"], "crop is 5x40x16, expected no more than clip"),
        (["--batch-size", "0"], "batch_size is 0, expected a multiple of 1"),
        (["--width", "0"], "width is 0, expected 1 or more"),
        (["--held-out", "clip7"], "held_out is 'clip7', expected 'test' of moving digits"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--kinds", "causal", "causal"], "expected causal, frames or both, once each"),
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


def test_default_crops_fit_the_default_clips():
    config = Config()
    size = config.training.crop_size()
    data = open_clips(config.data, config.side, config.held_out, config.seed)
    for part in (data.training("test"), data.held_out("test")):
        crops = make_crops(part, size, config.training.batch_size, config.seed)
        assert crops(0)["video"].shape == (config.training.batch_size, *size, data.channels)
    for kind in config.kinds:
        assert config.compressor.config(kind, size, data.channels).shape[-3:-1] == size[1:]


def test_a_whole_transform_loses_nothing():
    patch = (2, 4, 4)
    clip = np.random.default_rng(0).uniform(-1, 1, (5, 8, 12, 3)).astype(np.float32)
    method = transform_method("", cosine_basis(patch, 3), patch)
    np.testing.assert_allclose(method.reconstruct(clip), clip, atol=1e-5)


def test_crops_follow_from_their_number_and_come_from_every_clip():
    clips = {str(i): np.full((6, 8, 8, 1), i, np.uint8) for i in range(3)}
    crops = make_crops(clips, (3, 4, 4), 5, seed=1)
    np.testing.assert_array_equal(crops(7)["video"], make_crops(clips, (3, 4, 4), 5, 1)(7)["video"])
    assert crops(0)["video"].shape == (5, 3, 4, 4, 1)
    assert {int(v) for step in range(10) for v in np.unique(crops(step)["video"])} == {0, 1, 2}


def test_digits_hold_out_other_digits():
    data = open_clips("digits", 16, "test", 0)
    training, held = data.training("test"), data.held_out("test")
    assert len(training) + len(held) == len(data.clips)
    assert not set(training) & set(held)
    with pytest.raises(InputError, match="held_out is 'each', expected 'test'"):
        open_clips("digits", 16, "each", 0)
