"""Folders of videos as sets of clips."""

import threading

import numpy as np
import pytest

from jaxgen.data.images.image_set import shuffled_parts
from jaxgen.data.video import video_folder
from jaxgen.data.video.video_files import read_video, write_video
from jaxgen.data.video.video_folder import open_video_folder
from jaxgen.errors import InputError


def write_clip(path, count: int, first: int = 0, y: int = 6, x: int = 8) -> None:
    """Frame t is grey of value first + t, which a GIF keeps exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(first, first + count, dtype=np.uint8)
    write_video(path, np.broadcast_to(values[:, None, None, None], (count, y, x, 1)), 10)


def first_pixels(example) -> list[int]:
    return example["video"][:, 0, 0, 0].tolist()


def test_clips_are_consecutive_windows(tmp_path):
    write_clip(tmp_path / "b.gif", 11, 100)
    write_clip(tmp_path / "a.gif", 7)
    cases = {
        (3, 1): [[0, 1, 2], [3, 4, 5], [100, 101, 102], [103, 104, 105], [106, 107, 108]],
        (3, 2): [[0, 2, 4], [100, 102, 104], [106, 108, 110]],
        (4, 2): [[0, 2, 4, 6], [100, 102, 104, 106]],
        (None, 5): [[0, 5], [100, 105, 110]],
    }
    for (frames, stride), expected in cases.items():
        clips = open_video_folder(tmp_path, frames=frames, stride=stride)
        assert [first_pixels(clips[i]) for i in range(len(clips))] == expected
        assert clips.parts == {"train": (0, len(expected))}
        assert clips.labels is None
        assert set(clips[0]) == {"video"}
        assert clips[0]["video"].shape[1:] == (6, 8, 3)
    grey = open_video_folder(tmp_path, frames=3, channels=1)
    assert grey[0]["video"].shape == (3, 6, 8, 1)
    assert grey[-1]["video"][-1, 0, 0, 0] == 108


def test_classes_labels_and_what_is_left_out(tmp_path):
    write_clip(tmp_path / "run/a.gif", 4)
    write_clip(tmp_path / "run/deep/short.gif", 2)
    write_clip(tmp_path / "walk/b.gif", 6, 50)
    (tmp_path / "walk/broken.mp4").write_bytes(b"no video at all")
    (tmp_path / "walk/notes.txt").write_text("words")
    (tmp_path / ".hidden").write_text("")
    with pytest.warns(UserWarning, match="left out") as caught:
        clips = open_video_folder(tmp_path, frames=3)
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert "run/deep/short.gif: has 2 frames at stride 1, expected 3 or more" in told[0]
    assert "walk/broken.mp4: not a readable video" in told[1]
    expected = ("run/deep/short.gif", "walk/broken.mp4", "walk/notes.txt", ".hidden")
    assert clips.left_out == expected
    assert clips.classes == ("run", "walk")
    assert [int(clips[i]["label"]) for i in range(len(clips))] == [0, 1, 1]
    assert clips[0]["label"].dtype == np.int32
    assert [first_pixels(clips[i])[0] for i in range(3)] == [0, 50, 53]


def test_files_are_divided_not_clips(tmp_path):
    counts = [3 * (1 + i % 3) for i in range(20)]
    for i, count in enumerate(counts):
        write_clip(tmp_path / f"{i:02}.gif", count, 10 * i, 2, 2)
    clips = open_video_folder(tmp_path, frames=3)
    order, spans = shuffled_parts(20)
    assert set(clips.parts) == {"train", "validation", "test"}
    for part, (start, stop) in spans.items():
        found = clips.part(part)
        files = {first_pixels(found[i])[0] // 10 for i in range(len(found))}
        assert files == set(order[start:stop].tolist())
        assert len(found) == sum(counts[i] // 3 for i in order[start:stop])
        assert found.parts == {part: (0, len(found))}
    with pytest.raises(InputError, match="no part 'dev'"):
        clips.part("dev")


def test_folders_of_parts(tmp_path):
    write_clip(tmp_path / "train/run/a.gif", 4)
    write_clip(tmp_path / "train/walk/b.gif", 4, 20)
    write_clip(tmp_path / "Test/walk/c.gif", 8, 40)
    clips = open_video_folder(tmp_path, frames=4)
    assert clips.parts == {"train": (0, 2), "test": (2, 4)}
    assert clips.labels.tolist() == [0, 1, 1, 1]
    assert first_pixels(clips.part("test")[1]) == [44, 45, 46, 47]


def test_size_covers_and_crops(tmp_path):
    frames = np.zeros((3, 8, 32, 1), np.uint8)
    frames[:, :, 8:24] = 200  # the middle half
    write_video(tmp_path / "a.gif", frames, 10)
    clips = open_video_folder(tmp_path, size=(4, 8))
    video = clips[0]["video"]
    assert video.shape == (3, 4, 8, 3)
    np.testing.assert_allclose(video[:, :, 1:-1].astype(int), 200, atol=6)
    np.testing.assert_array_equal(
        open_video_folder(tmp_path, size=(8, 32))[0]["video"], frames.repeat(3, 3)
    )


def test_a_file_is_decoded_once_for_its_clips_and_again_when_it_changes(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.gif", 12)
    clips = open_video_folder(tmp_path, frames=2)
    opened = []
    plain = video_folder.decode_frames
    monkeypatch.setattr(
        video_folder, "decode_frames", lambda path: (opened.append(path), plain(path))[1]
    )
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: first_pixels(clips[i])}))
        for i in range(len(clips))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(6)] == [[2 * i, 2 * i + 1] for i in range(6)]
    assert len(opened) == 1
    clips[0]["video"][:] = 0  # a caller's own copy
    assert first_pixels(clips[0]) == [0, 1]
    assert first_pixels(clips[1]) == [2, 3]
    write_clip(tmp_path / "a.gif", 5, 70)
    assert first_pixels(clips[1]) == [72, 73]
    with pytest.raises(InputError, match=r"a\.gif: has become shorter, clip 5 is missing"):
        clips[5]
    (tmp_path / "a.gif").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.gif: no such file"):
        clips[0]


def test_bad_folders_and_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        open_video_folder(tmp_path / "none")
    with pytest.raises(InputError, match="no videos in it"):
        open_video_folder(tmp_path)
    write_clip(tmp_path / "in/a.gif", 3)
    for options, message in (
        ({"size": (0, 4)}, r"size is \(0, 4\), expected \(Y, X\)"),
        ({"frames": 0}, "frames is 0, expected 1 or more"),
        ({"stride": 0}, "stride is 0, expected 1 or more"),
        ({"channels": 2}, "channels is 2, expected 1"),
    ):
        with pytest.raises(InputError, match=message):
            open_video_folder(tmp_path, **options)
    with pytest.raises(InputError, match="a file, where a folder"):
        open_video_folder(tmp_path / "in/a.gif")
    with (
        pytest.warns(UserWarning, match="has 3 frames"),
        pytest.raises(InputError, match="has 1 videos, none of which gives a clip"),
    ):
        open_video_folder(tmp_path, frames=4)
    write_clip(tmp_path / "b.gif", 3)
    with pytest.raises(InputError, match=r"b\.gif: lies in no class, while others do \(in\)"):
        open_video_folder(tmp_path)


def test_real_clips(data_folder):
    folder = data_folder / "video/clips"
    with pytest.warns(UserWarning, match=r"mmaction2_part_0\.mp4: has 8 frames at stride 4"):
        clips = open_video_folder(folder, size=(32, 48), frames=16, stride=4)
    assert clips.left_out == ("mmaction2_part_0.mp4",)
    counts = [80, 91, 72, 280, 32, 164, 186, 292]
    assert len(clips) == sum(-(-n // 4) // 16 for n in counts)
    for index in (0, len(clips) - 1):
        video = clips[index]["video"]
        assert video.shape == (16, 32, 48, 3)
        assert video.std() > 10
    plain = read_video(folder / "car-turn.mp4").frames[:64:4].mean((1, 2, 3))
    np.testing.assert_allclose(clips[0]["video"].mean((1, 2, 3)), plain, atol=25)
