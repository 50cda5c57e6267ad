"""The program of curation from end to end."""

import json

import numpy as np
import pytest
from picture_folder import run_here

from jaxgen.data import open_video_folder, write_video


@pytest.fixture
def videos(tmp_path):
    """Two videos: one that moves and one that stands still; and a file that is damaged."""
    folder = tmp_path / "videos"
    folder.mkdir()
    frames = np.zeros((20, 16, 24, 3), np.uint8)
    write_video(folder / "still.mp4", frames, 10)
    for t in range(20):
        frames[t, :, t : t + 4] = 200
    write_video(folder / "moves.mp4", frames, 10)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def run(arguments, monkeypatch) -> int:
    return run_here("curate", arguments, monkeypatch, family="video")


def test_the_manifest_and_the_report(videos, tmp_path, monkeypatch, capfd):
    out = tmp_path / "run"
    assert run(["--data", videos, "--workdir", out], monkeypatch) == 0
    printed = capfd.readouterr()[0].splitlines()
    assert printed[-2:] == [f"1 clips are in {out}/clips.jsonl", f"Results are in {out}"]
    assert "left out, still: 1 shots" in printed
    assert (out / "report.md").read_text().startswith("- 3 videos, 1 unreadable; 3 decoded now")
    figures = json.loads((out / "metrics.json").read_text())
    assert (figures["videos"], figures["clips"], figures["unreadable"]) == (3, 1, 1)
    assert figures["hours kept"] == pytest.approx(2 / 3600)
    clips = open_video_folder(out / "clips.jsonl", frames=10)
    assert len(clips) == 2
    assert clips[1]["video"].shape == (10, 16, 24, 3)
    # Started again with other filters, nothing is decoded.
    assert run(["--data", videos, "--workdir", out, "--min-motion", "0"], monkeypatch) == 0
    printed = capfd.readouterr()[0].splitlines()
    assert printed[-2].startswith("2 clips are in")
    assert "0 decoded now" in printed[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data missing"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "EMPTY"], "no videos in it (.3gp .avi"),
        (["--data", "VIDEOS", "--min-frames", "0"], "min_frames is 0, expected 1 or more"),
        (["--data", "VIDEOS", "--cut-ratio", "0.5"], "ratio is 0.5, expected 1 to 1e+09"),
        (["--data", "VIDEOS", "--cut-colors", "nan"], "nan"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(
    arguments, message, videos, tmp_path, monkeypatch, capfd
):
    (tmp_path / "empty").mkdir()
    places = {"VIDEOS": videos, "EMPTY": tmp_path / "empty"}
    out = tmp_path / "run"
    flags = [places.get(argument, argument) for argument in arguments]
    assert run([*flags, "--workdir", out], monkeypatch) == 2
    err = capfd.readouterr()[1]
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not out.exists()


def test_no_clip_left_is_an_error_that_keeps_what_was_found(videos, tmp_path, monkeypatch, capfd):
    out = tmp_path / "run"
    flags = ["--data", videos, "--workdir", out]
    assert run([*flags, "--min-frames", "99"], monkeypatch) == 2
    assert "no clip is left (3 videos, 1 unreadable; 3 decoded now" in capfd.readouterr()[1]
    assert run(flags, monkeypatch) == 0
    assert "0 decoded now" in capfd.readouterr()[0]
