"""Frames read at random are those that decoding the whole file gives, byte for byte."""

import os
import pickle
import platform
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from jaxgen.data.video import clip_reading
from jaxgen.data.video.clip_reading import FrameReader, read_frames
from jaxgen.data.video.frame_index import FrameIndex
from jaxgen.data.video.video_files import read_clip, read_video, write_video
from jaxgen.data.video.video_folder import open_video_folder
from jaxgen.data.video.video_sources import decode_frames, index_frames
from jaxgen.errors import InputError


def noise_that_moves(frames: int, y: int, x: int) -> np.ndarray:
    texture = np.random.default_rng(0).integers(0, 256, (y // 4 + 1, x // 4 + frames, 3), np.uint8)
    large = texture.repeat(4, 0).repeat(4, 1)
    return np.stack([large[:y, 3 * t : 3 * t + x] for t in range(frames)])


def write_groups(path, frames, codec, options, times=None, rate=25, container=None):
    """A video with a key frame at least every 8 frames, at the times that are asked for."""
    with av.open(str(path), "w", options=container or {}) as written:
        stream = written.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.gop_size = 8
        stream.codec_context.time_base = Fraction(1, 1000 if times else rate)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = times[index] if times else index
            picture.time_base = stream.codec_context.time_base
            written.mux(stream.encode(picture))
        written.mux(stream.encode(None))
    return path


UNEVEN = np.cumsum(np.random.default_rng(1).integers(20, 300, 40)).tolist()

CASES = {
    # B-frames, whose negative times an edit list removes.
    "b.mp4": ("libx264", {"bf": "3"}, None),
    "open.mp4": ("libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=8"}, None),
    "uneven.mp4": ("libx264", {"bf": "2"}, UNEVEN),
    "a.mkv": ("libx264", {"bf": "3"}, None),
    "uneven.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, UNEVEN),
    "a.avi": ("mpeg4", {}, None),
    "b.avi": ("mpeg4", {"bf": "2"}, None),
    "a.ts": ("libx264", {"bf": "3"}, None),
    "a.mov": ("mpeg4", {"bf": "2"}, None),
}
FROM_THE_START = {"b.avi", "a.ts"}  # no index, or no time stamps that can be relied on


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """One entry for each frame that is decoded in reading clips."""
    count: list[int] = []
    plain = clip_reading.decode_frames

    def counting(path, **options):
        for frame in plain(path, **options):
            count.append(1)
            yield frame

    monkeypatch.setattr(clip_reading, "decode_frames", counting)
    return count


def test_clips_equal_decoding_all_and_decode_little_else(tmp_path, decoded):
    frames = noise_that_moves(40, 32, 48)
    for name, (codec, options, times) in CASES.items():
        path = write_groups(tmp_path / name, frames, codec, options, times)
        whole = [frame.pixels() for frame in decode_frames(path)]
        index = index_frames(path)
        assert len(whole) == len(index) == 40, name
        assert (len(index.keys) >= 5) == (name not in FROM_THE_START), name
        for start in (37, 2, 18, 9, 30, 17):
            before = len(decoded)
            found = read_frames(path, np.arange(start, start + 3), index=index)
            for a, b in zip(found, whole[start : start + 3], strict=True):
                np.testing.assert_array_equal(a, b, f"{name} {start}")
            if name not in FROM_THE_START:
                assert len(decoded) - before <= 8 + 3, name  # the group, up to the clip's end
        twice = read_frames(path, [5, 5, 7], index=index)
        np.testing.assert_array_equal(twice[0], twice[1])
        np.testing.assert_array_equal(twice[2], whole[7])


def test_files_in_which_no_key_frame_can_be_looked_up(tmp_path):
    frames = noise_that_moves(40, 16, 16)
    content = write_groups(tmp_path / "a.mkv", frames, "libx264", {}).read_bytes()
    place = content.index(b"\x18\x53\x80\x67") + 4
    cues = content.rindex(b"\x1c\x53\xbb\x6b")
    live = content[:place] + b"\x01" + b"\xff" * 7 + content[place + 8 : cues]
    (tmp_path / "live.mkv").write_bytes(live)
    pieces = {"movflags": "frag_keyframe+empty_moov"}
    write_groups(tmp_path / "pieces.mp4", frames, "libx264", {"bf": "2"}, container=pieces)
    for name in ("live.mkv", "pieces.mp4"):
        path = tmp_path / name
        whole = [frame.pixels() for frame in decode_frames(path)]
        index = index_frames(path)
        assert (len(index), len(index.keys)) == (40, 5)
        for start in (30, 10, 37):
            found = read_frames(path, np.arange(start, start + 3), index=index)
            np.testing.assert_array_equal(found, whole[start : start + 3], name)


def test_frames_whose_key_frame_is_not_in_the_file_do_not_count(tmp_path):
    path = write_groups(tmp_path / "a.mkv", noise_that_moves(40, 16, 16), "libx264", {})
    with av.open(str(path)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number >= 3:
                packet.stream = stream
                target.mux(packet)
    whole = [frame.pixels() for frame in decode_frames(tmp_path / "cut.mkv")]
    index = index_frames(tmp_path / "cut.mkv")
    assert len(index) == len(whole) == 32
    found = read_frames(tmp_path / "cut.mkv", [20, 21], index=index)
    np.testing.assert_array_equal(found, whole[20:22])


def test_folders_are_sent_to_other_processes(tmp_path):
    write_groups(tmp_path / "a.mp4", noise_that_moves(40, 16, 16), "libx264", {})
    clips = open_video_folder(tmp_path, frames=5)
    sent = pickle.loads(pickle.dumps(clips))
    np.testing.assert_array_equal(sent[3]["video"], clips[3]["video"])


def test_clips_in_order_are_one_pass(tmp_path, decoded):
    write_groups(tmp_path / "a.mp4", noise_that_moves(40, 16, 16), "libx264", {})
    clips = open_video_folder(tmp_path, frames=5)
    for index in range(8):
        clips[index]
    assert len(decoded) == 40


def test_time_stamps_that_are_no_guide(tmp_path):
    path = write_groups(tmp_path / "a.mp4", noise_that_moves(40, 16, 16), "libx264", {})
    whole = [frame.pixels() for frame in decode_frames(path)]
    good = index_frames(path)
    for shift in (1, -1, 100):
        starts = 2 * good.starts + shift
        wrong = FrameIndex(starts, 2 * good.end, good.tick / 2, good.keys)
        found = FrameReader(path, wrong).read(np.arange(20, 24), lambda picture: picture)
        np.testing.assert_array_equal(found, whole[20:24])


def test_time_stamps_out_of_order_are_put_in_order(tmp_path):
    path = write_groups(tmp_path / "b.avi", noise_that_moves(40, 16, 16), "mpeg4", {"bf": "2"})
    for decode in (False, True):
        index = index_frames(path, decode=decode)
        assert index.fps("b") == 25
        assert index.frames_at(25, "b").tolist() == list(range(40))


def test_a_clip_of_a_file_at_any_rate(tmp_path):
    path = write_groups(
        tmp_path / "a.mp4", noise_that_moves(40, 16, 16), "libx264", {"bf": "2"}, UNEVEN
    )
    whole = read_video(path)
    clip = read_clip(path, 30, 6)
    np.testing.assert_array_equal(clip.frames, whole.frames[30:36])
    assert clip.fps == whole.fps
    even = read_video(path, fps=10)
    starts = (np.array(UNEVEN) - UNEVEN[0]) / 1000
    wanted = [np.flatnonzero(starts <= k / 10 + 1e-9)[-1] for k in range(len(even.frames))]
    np.testing.assert_array_equal(even.frames, whole.frames[wanted])
    np.testing.assert_array_equal(read_clip(path, 11, 4, fps=10).frames, even.frames[11:15])
    assert read_clip(path, 0, 1, channels=1, fps=10).frames.shape == (1, 16, 16, 1)
    clips = open_video_folder(tmp_path, frames=4, fps=10, stride=2)
    np.testing.assert_array_equal(clips[1]["video"], even.frames[8:16:2])
    assert len(clips) == (len(even.frames) + 1) // 2 // 4
    for start, frames in ((-1, 2), (38, 3), (0, 0)):
        with pytest.raises(InputError, match=rf"a\.mp4: clip is frames {start} to "):
            read_clip(path, start, frames)
    with pytest.raises(InputError, match="fps is 0, expected more than 0"):
        read_video(path, fps=0)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "mpeg4"), ("a.mp4", "libx265"), ("a.webm", "libvpx-vp9")]
)
def test_damage_is_found_where_it_is_read(tmp_path, name, codec):
    path = write_groups(tmp_path / name, noise_that_moves(40, 48, 64), codec, {})
    write_groups(tmp_path / "b.avi", noise_that_moves(40, 16, 16), "mpeg4", {})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    place, size = places[20]
    content[place + 4 : place + size] = np.random.default_rng(0).bytes(size - 4)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=rf"left out: .*{name}: .*damaged"):
        assert open_video_folder(tmp_path, frames=4).left_out == (name,)
    clips = open_video_folder(tmp_path, frames=4, decode=False)
    assert len(clips) == 20
    assert clips[0]["video"].shape == (4, 48, 64, 3)
    if codec != "libx265":  # there the frame is missing
        with pytest.raises(InputError, match=rf"{name}: .*damaged"):
            clips[5]


GROWTH = """
import ctypes, gc, os, sys
import numpy as np
from jaxgen.data.video.video_folder import open_video_folder


def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what is free and kept for later counts, at its whim
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


clips = open_video_folder(sys.argv[1], decode=False)
assert len(clips) == 1000
size = clips[0]["video"].nbytes
order = np.random.default_rng(0).permutation(1000).tolist()
for number in order[:300]:  # decoders and allocators take what they need
    clips[number]
before = resident()
for number in order[300:]:
    assert clips[number]["video"].nbytes == size
print((resident() - before) / (700 * size))
"""
"""By how much memory grows over 700 clips, as a share of their bytes, in a process of its own: what
other tests leave behind in theirs is freed when it likes."""


@pytest.mark.slow
def test_memory_stays_flat_over_a_thousand_files(tmp_path):
    if platform.libc_ver()[0] != "glibc" or not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc and glibc")
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 1), np.uint8)
    write_video(tmp_path / "0.mp4", frames, 10)
    for number in range(1, 1000):
        os.link(tmp_path / "0.mp4", tmp_path / f"{number}.mp4")
    process = subprocess.run(
        [sys.executable, "-c", GROWTH, tmp_path], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 0.05


def test_real_files_at_random(data_folder):
    def small(picture):
        return picture[::8, ::8].copy()

    generator = np.random.default_rng(0)
    for name in (
        *("media3_iibbibb_editlist_videoonly.mp4", "media3_h265_bframes.mp4", "media3_sample.avi"),
        *("media3_sample_edit_list_only_preroll_sync_sample.mp4", "imageio_newtonscradle.gif"),
        *("media3_sample_android_slow_motion.mp4", "media3_dolbyVision-hdr.MOV"),
        *("torchcodec_h265_video.mp4", "media3_sample_h264.ts", "imageio_realshort.mp4"),
    ):
        path = data_folder / "video_odd" / name
        whole = [small(frame.pixels()) for frame in decode_frames(path)]
        index = index_frames(path)
        assert len(index) == len(whole), name
        for start in generator.integers(0, len(whole), 5).tolist():
            numbers = list(range(start, min(len(whole), start + 3)))
            found = read_frames(path, numbers, small, index=index)
            np.testing.assert_array_equal(found, [whole[n] for n in numbers], name)
