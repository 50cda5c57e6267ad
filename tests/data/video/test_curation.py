"""Curation: what is kept and why not, and that a killed run decodes nothing twice."""

import json
import os

import numpy as np
import pytest

from jaxgen.data.video import curation
from jaxgen.data.video.curation import ClipFilters, curate
from jaxgen.data.video.shots import CutThresholds
from jaxgen.data.video.video_files import write_video
from jaxgen.data.video.video_folder import open_video_folder
from jaxgen.data.video.video_listing import list_videos
from jaxgen.errors import InputError

RED, BLUE, GREEN = (200, 40, 40), (40, 60, 200), (40, 180, 60)


def shot(color, frames: int, speed: int, y: int = 32, x: int = 48) -> np.ndarray:
    """A bar that moves over a colour."""
    video = np.full((frames, y, x, 3), color, np.uint8)
    for t in range(frames):
        start = (speed * t) % (x - 12)
        video[t, :, start : start + 12] = 255 - np.array(color)
    return video


@pytest.fixture
def folder(tmp_path):
    """Two classes: shots that move, are short, still or small; a damaged file, and a note."""
    root = tmp_path / "videos"
    (root / "run").mkdir(parents=True)
    (root / "walk").mkdir()
    two = np.concatenate([shot(RED, 20, 2), shot(BLUE, 16, 0), shot(GREEN, 4, 2)])
    write_video(root / "run/a.mp4", two, 10)
    write_video(root / "run/b.mp4", shot(BLUE, 18, 3), 20)
    write_video(root / "walk/c.gif", shot(GREEN, 17, 2, 16, 24), 10)
    (root / "walk/d.mp4").write_bytes(b"no video")
    (root / "walk/note.txt").write_text("a note")
    return root


FILTERS = ClipFilters(min_frames=8, min_side=20)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that curation decodes."""
    names: list[str] = []
    plain = curation.decode_frames
    monkeypatch.setattr(
        curation, "decode_frames", lambda path: (names.append(path.name), plain(path))[1]
    )
    return names


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_kept_and_why_the_rest_is_not(folder, tmp_path):
    report = curate(list_videos(folder), tmp_path / "out", filters=FILTERS)
    assert (report.videos, report.shots, report.clips, report.decoded) == (4, 5, 2, 4)
    assert report.left_out == {"too short": 1, "too small": 1, "still": 1}
    assert list(report.unreadable) == ["walk/d.mp4"]
    assert report.seconds == pytest.approx(4.0 + 0.9 + 1.7)
    assert report.kept_seconds == pytest.approx(2.0 + 0.9)
    assert report.other_files == ("walk/note.txt",)
    lines = report.lines()
    assert lines[0] == "4 videos, 1 unreadable; 4 decoded now; left out: walk/note.txt"
    assert lines[1] == "5 shots of 0.002 hours, kept 2 of 0.001 hours"
    assert lines[2] == "left out, too short: 1 shots"
    assert lines[-1].startswith(f"unreadable: {folder}/walk/d.mp4: not a readable video")
    clips = lines_of(tmp_path / "out/clips.jsonl")
    assert [(c["start"], c["frames"], c["fps"], c["class"]) for c in clips] == [
        (0, 20, 10, "run"),
        (0, 18, 20, "run"),
    ]
    assert clips[0]["size"] == [32, 48]
    assert clips[0]["seconds"] == 2
    assert clips[0]["motion"] > 3
    opened = open_video_folder(tmp_path / "out/clips.jsonl", frames=9)
    assert len(opened) == 4
    assert opened[1]["video"].shape == (9, 32, 48, 3)
    assert opened[1]["video"][0, 0, 40, 0] > 150  # red: the first shot
    assert opened.classes == ("run",)


def test_a_killed_run_resumes_to_the_same_files(folder, tmp_path, decoded):
    whole = curate(list_videos(folder), tmp_path / "whole", filters=FILTERS)
    names = list(decoded)
    assert names == ["a.mp4", "b.mp4", "c.gif", "d.mp4"]

    done = []

    def kill(count):
        done.append(count)
        if len(done) == 2:
            raise KeyboardInterrupt

    decoded.clear()
    with pytest.raises(KeyboardInterrupt):
        curate(list_videos(folder), tmp_path / "out", filters=FILTERS, advance=kill)
    assert decoded == names[:2]
    log = tmp_path / "out/files.jsonl"
    assert not (tmp_path / "out/clips.jsonl").exists()
    log.write_bytes(log.read_bytes() + b'{"file": "cut off in wri')
    decoded.clear()
    resumed = curate(list_videos(folder), tmp_path / "out", filters=FILTERS)
    assert decoded == names[2:]
    assert resumed.decoded == 2
    for name in ("files.jsonl", "clips.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert resumed.figures() == whole.figures()


def test_what_has_changed_is_decoded_again(folder, tmp_path, decoded):
    out = tmp_path / "out"
    curate(list_videos(folder), out, filters=FILTERS)
    decoded.clear()
    others = ClipFilters(min_frames=4, min_motion=0)
    assert curate(list_videos(folder), out, filters=others).clips == 5
    assert decoded == []
    write_video(folder / "run/b.mp4", shot(RED, 9, 3), 20)
    os.utime(folder / "walk/c.gif", ns=(1, 1))
    curate(list_videos(folder), out, filters=FILTERS)
    assert decoded == ["b.mp4", "c.gif"]
    assert lines_of(out / "clips.jsonl")[1]["frames"] == 9
    decoded.clear()
    curate(list_videos(folder), out, filters=FILTERS, thresholds=CutThresholds(difference=255))
    assert len(decoded) == 4
    assert lines_of(out / "clips.jsonl")[0]["frames"] == 40


def test_manifests_beside_their_videos_name_them_from_there(folder):
    curate(list_videos(folder), folder, filters=FILTERS)
    assert lines_of(folder / "clips.jsonl")[0]["file"] == "run/a.mp4"
    moved = folder.rename(folder.with_name("moved"))
    assert len(open_video_folder(moved / "clips.jsonl")) == 2


def test_nothing_left_and_damaged_logs_are_errors(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"out: no clip is left \(4 videos, 1 unreadable;.*"):
        curate(list_videos(folder), out, filters=ClipFilters(min_frames=100))
    assert not (out / "clips.jsonl").exists()
    (out / "files.jsonl").write_text('{"file": 1}\n')
    with pytest.raises(InputError, match=r"files\.jsonl: line 1 is damaged, expected a video's"):
        curate(list_videos(folder), out)
    for options, message in (
        ({"min_frames": 0}, "min_frames is 0, expected 1 or more"),
        ({"min_motion": float("nan")}, "min_motion is nan, expected 0 or more"),
        ({"min_seconds": -1}, "min_seconds is -1, expected 0 or more"),
        ({"min_side": 0}, "min_side is 0, expected 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            ClipFilters(**options)
