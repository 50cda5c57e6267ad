"""Folders of videos as sets of clips."""

import json
import shutil
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxgen.data.images.image_set import shuffled_parts
from jaxgen.data.video import clip_reading
from jaxgen.data.video.load_videos import load_videos
from jaxgen.data.video.manifest import ManifestClip, read_manifest, write_manifest
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
    assert "walk/broken.mp4: not a readable video" in told[0]
    assert "run/deep/short.gif: has 2 frames at stride 1, expected 3 or more" in told[1]
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
    plain = clip_reading.decode_frames
    monkeypatch.setattr(
        clip_reading,
        "decode_frames",
        lambda path, **options: (opened.append(path), plain(path, **options))[1],
    )
    assert [first_pixels(clips[i]) for i in range(6)] == [[2 * i, 2 * i + 1] for i in range(6)]
    assert len(opened) == 1
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


def zipped(path, folder) -> None:
    """The files of a folder as a zip archive, and no longer beside it."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    shutil.rmtree(folder)


def test_captions_in_all_their_forms(tmp_path):
    def write(folder):
        for number, name in enumerate(("a.gif", "b.gif")):
            write_clip(tmp_path / folder / name, 4, 100 * number)

    write("json")
    entries = [{"file": f"{name}.gif", "text": f"the {name}", "kind": "x"} for name in "ba"]
    (tmp_path / "json/captions.json").write_text(json.dumps(entries))
    write("object")
    (tmp_path / "object/captions.json").write_text('{"a.gif": "the a", "b.gif": "the b", "c": ""}')
    write("lines/clips")
    lines = [json.dumps({"file_name": f"clips/{name}.gif", "text": f"the {name}"}) for name in "ab"]
    (tmp_path / "lines/metadata.jsonl").write_text("\n".join(lines))
    write("texts")
    for name in "ab":
        (tmp_path / f"texts/{name}.txt").write_text(f"the {name}\n")
    for folder in ("json", "object", "lines", "texts"):
        clips = open_video_folder(tmp_path / folder, frames=2)
        assert [clips[i]["caption"] for i in range(4)] == ["the a", "the a", "the b", "the b"]
        assert clips.left_out == ()
        assert first_pixels(clips[2]) == [100, 101]
    assert open_video_folder(tmp_path / "json", class_field="kind").classes == ("x",)
    (tmp_path / "texts/b.txt").unlink()
    (tmp_path / "json/captions.json").write_text(json.dumps(entries[1:]))
    (tmp_path / "object/captions.json").write_text('{"a.gif": 3}')
    (tmp_path / "lines/metadata.jsonl").write_text('{"text": "whose"}')
    for folder, message in {
        "texts": r"texts: has captions for 1 of 2 videos, none for b\.gif, expected one for each",
        "json": r"json: has captions for 1 of 2 videos, none for b\.gif, expected one for each",
        "object": r"captions\.json: a\.gif is 3, expected a caption",
        "lines": r"metadata\.jsonl: entry 0 names no file, expected file or file_name",
    }.items():
        with pytest.raises(InputError, match=message):
            open_video_folder(tmp_path / folder)


def test_zip_archives_count_as_lying_where_the_archive_lies(tmp_path):
    inside = tmp_path / "inside"
    for number, name in enumerate(("walk/a.gif", "run/b.gif")):
        write_clip(inside / name, 4, 100 * number)
    zipped(tmp_path / "clips.zip", inside)
    for path in (tmp_path, tmp_path / "clips.zip"):
        clips = open_video_folder(path, frames=4)
        assert clips.classes == ("run", "walk")
        assert [int(clips[i]["label"]) for i in range(2)] == [0, 1]
        assert [first_pixels(clips[i])[0] for i in range(2)] == [100, 0]
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    with pytest.warns(UserWarning, match=r"left out: .*bad\.zip: not a zip archive"):
        assert open_video_folder(tmp_path).left_out == ("bad.zip",)


def test_animations_with_captions_beside_their_archive(tmp_path):
    """Equal frames are joined by the format, and repeated at the rate that is asked for."""
    (tmp_path / "inside").mkdir()
    values = [10, 60, 60, 60, 110, 110]
    for name in "ab":
        images = [Image.new("L", (8, 8), value) for value in values]
        images[0].save(
            tmp_path / f"inside/{name}.webp",
            **{"save_all": True, "append_images": images[1:], "duration": 100, "lossless": True},
        )
    zipped(tmp_path / "clips.zip", tmp_path / "inside")
    entries = [
        {"file": "a.webp", "name": "one", "category": "x"},
        {"file": "b.webp", "name": "two", "category": "y"},
    ]
    (tmp_path / "captions.json").write_text(json.dumps(entries))
    for path in (tmp_path, tmp_path / "clips.zip"):
        clips = open_video_folder(path, fps=10)
        assert clips.classes == ("x", "y")
        for index, caption in enumerate(("one", "two")):
            assert clips[index]["caption"] == caption
            assert clips[index]["label"] == index
            assert first_pixels(clips[index]) == values
    assert len(open_video_folder(tmp_path)[0]["video"]) == 3


def test_folders_of_numbered_pictures_are_videos(tmp_path):
    for number, name in enumerate(("walk/a", "run/b")):
        (tmp_path / name).parent.mkdir()
        frames = np.full((5, 4, 6, 3), 50 * number, np.uint8)
        frames[..., 0] += np.arange(5, dtype=np.uint8)[:, None, None]
        write_video(tmp_path / name, frames, 10)
    Image.new("RGB", (4, 4)).save(tmp_path / "run/cover.png")
    clips = open_video_folder(tmp_path, frames=2)
    assert clips.classes == ("run", "walk")
    assert [first_pixels(clips[i]) for i in range(4)] == [[50, 51], [52, 53], [0, 1], [2, 3]]
    assert clips.left_out == ("run/cover.png",)
    slow = open_video_folder(tmp_path, fps=5, channels=3)
    assert first_pixels(slow[0]) == [50, 52, 54]
    alone = open_video_folder(tmp_path / "walk/a")
    assert first_pixels(alone[0]) == [0, 1, 2, 3, 4]


def test_a_manifest_opens_as_a_folder(tmp_path):
    write_clip(tmp_path / "videos/a.gif", 20)
    write_clip(tmp_path / "videos/b.gif", 8, 100)
    shots = [("a.gif", 2, 5), ("a.gif", 10, 9), ("b.gif", 1, 4)]
    lines = [
        ManifestClip(
            f"videos/{name}",
            start,
            count,
            fps=10,
            size=(6, 8),
            seconds=count / 10,
            motion=1.0,
            class_name=name[0],
            caption=f"the {name[0]}",
        )
        for name, start, count in shots
    ]
    write_manifest(tmp_path / "m.jsonl", lines)
    assert read_manifest(tmp_path / "m.jsonl") == lines
    clips = open_video_folder(tmp_path / "m.jsonl", frames=4)
    found = [first_pixels(clips[i]) for i in range(len(clips))]
    assert found == [[2, 3, 4, 5], [10, 11, 12, 13], [14, 15, 16, 17], [101, 102, 103, 104]]
    assert clips.classes == ("a", "b")
    assert [clips[i]["caption"] for i in (0, 3)] == ["the a", "the b"]
    slow = open_video_folder(tmp_path / "m.jsonl", fps=5)
    assert [first_pixels(slow[i]) for i in range(3)] == [
        [2, 4, 6],
        [10, 12, 14, 16, 18],
        [101, 103],
    ]
    (tmp_path / "videos/b.gif").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.gif: no such file"):
        open_video_folder(tmp_path / "m.jsonl", frames=4)[3]
    good = '{"file": "a.gif", "start": 0, "frames": 1}'
    for line, message in {
        "{": "line 2: not JSON",
        "[]": r"line 2: is \[\], expected an object",
        good.replace('"a.gif"', "3"): "line 2: file is 3, expected the path of a video",
        good.replace("0", "-1"): "line 2: start is -1, expected 0 or more",
        good.replace("1}", "1.5}"): r"line 2: frames is 1\.5, expected 1 or more",
        good.replace("}", ', "size": 4}'): r"line 2: size is 4, expected \[Y, X\]",
        good.replace("}", ', "part": "dev"}'): "line 2: part is 'dev', expected train",
        good.replace("}", ', "fps": "x"}'): "line 2: fps, seconds and motion are",
    }.items():
        (tmp_path / "bad.jsonl").write_text(f"{good}\n{line}\n")
        with pytest.raises(InputError, match=message):
            read_manifest(tmp_path / "bad.jsonl")


def test_the_front_door(tmp_path):
    write_clip(tmp_path / "a.gif", 8)
    assert first_pixels(load_videos(tmp_path, frames=4, stride=2, channels=1)[0]) == [0, 2, 4, 6]
    with pytest.raises(InputError, match="tfds:x: fps is 5, expected none"):
        load_videos("tfds:x", fps=5)


def test_all_real_files_at_once(data_folder):
    with pytest.warns(UserWarning, match="left out") as caught:
        clips = open_video_folder(data_folder / "video_odd", size=(16, 16), frames=4)
    told = " ".join(str(warning.message) for warning in caught)
    for name in ("audio_only_15s", "with_invalid_nalu", "encrypted_altref", "issue245"):
        assert name in told
    assert len(caught) == 4
    assert len(clips.files) == 26
    assert clips[0]["video"].shape == (4, 16, 16, 3)


def test_real_animations_with_captions(data_folder):
    clips = open_video_folder(data_folder / "emoji_animated", fps=10, decode=False)
    assert len(clips) == 325
    assert len(clips.classes) == 7
    entries = json.loads((data_folder / "emoji_animated/captions.json").read_text())
    known = {entry["file"]: entry for entry in entries}
    for index in range(0, 325, 9):
        entry = known[clips.files[clips.clips[index, 0]].name]
        record = clips[index]
        assert record["video"].shape == (entry["frames"], 64, 64, 3)
        assert record["caption"] == entry["name"]
        assert clips.classes[record["label"]] == entry["category"]


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
