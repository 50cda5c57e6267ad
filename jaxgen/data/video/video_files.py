"""Video files: read into arrays, and written so that browsers play them.

The frame rate is the number of frames by the time that they take,

  fps = T / (max_t (start_t + duration_t) - min_t start_t),

also where the time between frames varies.
"""

import math
import numbers
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from jaxgen.data.images.resizing import fit_array
from jaxgen.data.video.clip_reading import known_index, read_frames
from jaxgen.data.video.frame_index import LARGEST_DENOMINATOR, FrameIndex
from jaxgen.data.video.video_encoders import (
    ENCODINGS,
    encode_container,
    encode_gif,
    encode_pictures,
)
from jaxgen.data.video.video_sources import (
    decode_frames,
    index_frames,
    index_of_decoded,
    version_of,
)
from jaxgen.errors import InputError
from jaxgen.files import Path, as_path, is_remote, replacing

SLOWEST = 0.01
FASTEST = {".mp4": 1000.0, ".webm": 500.0, ".avi": 1000.0, ".gif": 50.0, "": 1000.0}
"""Frame rates that can be written. webm counts time in 1/1000 s; browsers show GIF frames of under
2 ticks of 1/100 s for 10."""


@dataclass(frozen=True, eq=False)
class Video:
    """A video in memory.

    Attributes:
      frames: uint8 [T, Y, X, C], C = 1 (grey) or 3 (red, green, blue).
      fps: Frames a second, > 0; the average where the time between frames varies.
      name: The file.
    """

    frames: UInt8[np.ndarray, "T Y X C"]
    fps: float
    name: str


def read_video(path: Path, *, channels: int = 3, fps: float | Fraction | None = None) -> Video:
    """All frames of a file's main video stream.

    Of several, FFmpeg chooses: by the file's own mark, the frames found in it, and its bit rate.
    Frames are turned as the file says, transparent pixels laid over white, 10 bits rounded to 8.

    Args:
      path: mp4, mov, webm, mkv, avi, gif, animated webp and other formats of FFmpeg's; or a folder
        of numbered pictures, whose frames a second are in its file ``fps.txt``; or either in a zip
        archive, as ``clips.zip/3.mp4``.
      channels: 3 for red, green, blue; 1 for grey (ITU-R 601 luma).
      fps: Frames a second to read, each the one that is shown then (`FrameIndex.frames_at`). None
        reads each frame once.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: The file is empty, no video, holds no video stream, is damaged, truncated or
        encrypted, or needs a codec that is not there; or an argument cannot be used.
    """
    _check_channels(channels)
    if fps is not None:
        index = index_frames(path, decode=True)
        return _read(path, index, index.frames_at(fps, str(path)), channels, float(fps))
    pictures, times = [], []
    for frame in decode_frames(path):
        pictures.append(fit_array(frame.pixels(), None, channels, str(path)))
        times.append((frame.start, frame.duration))
    _check_alike(path, pictures)
    return Video(np.stack(pictures), index_of_decoded(path, times).fps(str(path)), str(path))


def read_clip(
    path: Path, start: int, frames: int, *, channels: int = 3, fps: float | Fraction | None = None
) -> Video:
    """Some consecutive frames of a video, decoded from the key frame before them on.

    Args:
      path: As `read_video`.
      start: The first frame; of the frames at `fps` where that is given.
      frames: How many.
      channels: As `read_video`.
      fps: As `read_video`.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: As `read_video`, of what is read; or the video has no such frames.
    """
    _check_channels(channels)
    index = known_index(str(path), version_of(path))
    number_N = index.kept(fps, 1, str(path))
    if start < 0 or frames < 1 or start + frames > len(number_N):
        raise InputError(
            f"{path}: clip is frames {start} to {start + frames} of {len(number_N)}, expected 1 or"
            " more of those that it has"
        )
    rate = index.fps(str(path)) if fps is None else float(fps)
    return _read(path, index, number_N[start : start + frames], channels, rate)


def _read(
    path: Path, index: FrameIndex, number_N: Int64[np.ndarray, "N"], channels: int, fps: float
) -> Video:
    def convert(picture: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "Y X C"]:
        return fit_array(picture, None, channels, str(path))

    pictures = read_frames(path, number_N, convert, index=index)
    _check_alike(path, pictures)
    return Video(np.stack(pictures), fps, str(path))


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise InputError(f"channels is {channels}, expected 1 (grey) or 3 (colour)")


def _check_alike(path: Path, pictures: list[np.ndarray]) -> None:
    for index, picture in enumerate(pictures):
        if picture.shape != pictures[0].shape:
            raise InputError(
                f"{path}: frame {index} is {list(picture.shape)}, expected"
                f" {list(pictures[0].shape)} as frame 0 is"
            )


def write_video(
    path: Path, frames: UInt8[np.ndarray, "T Y X C"], fps: float | Fraction, *, scale: int = 1
) -> None:
    """Writes a video, whole or not at all.

    Args:
      path: ``.mp4`` is H.264 and ``.webm`` is VP9, which browsers play, ``.avi`` MPEG-4 for other
        players (4:2:0; an odd height or width is made even by repeating the last row or column).
        ``.gif`` is played over and over; grey is kept exactly, colours by the 256 best of each
        frame. Without a suffix a new folder of numbered PNG files, with the rate in ``fps.txt``.
      frames: uint8, C = 1 (grey) or 3.
      fps: Frames a second, rounded to a fraction with a denominator of up to 1001; for ``.gif``
        up to 50.
      scale: Each pixel becomes a square of this many.

    Raises:
      FileNotFoundError: There is no such folder to write into.
      InputError: An argument cannot be used, the folder is there already, or the encoder is not.
    """
    suffix = pathlib.PurePath(path).suffix.lower()
    if suffix not in FASTEST:
        raise InputError(
            f"{path}: suffix is {suffix!r}, expected .mp4, .webm, .avi, .gif or none (a folder)"
        )
    _check_frames(frames, scale)
    rate = _check_rate(fps, FASTEST[suffix])
    parent = as_path(path).parent
    if not parent.is_dir() and not is_remote(parent):
        raise FileNotFoundError(f"{parent}: no such folder")
    pictures = (frame.repeat(scale, 0).repeat(scale, 1) for frame in frames)
    if not suffix:
        _write_folder(pathlib.Path(path), pictures, rate)
        return
    with tempfile.TemporaryDirectory() as folder:
        encoded = pathlib.Path(folder) / f"video{suffix}"
        if suffix in ENCODINGS:
            encode_container(encoded, pictures, rate, str(path), suffix)
        else:
            encode_gif(encoded, pictures, rate, str(path))
        with encoded.open("rb") as source, replacing(path) as handle:
            shutil.copyfileobj(source, handle)


def _write_folder(path: pathlib.Path, pictures: Iterator[np.ndarray], rate: Fraction) -> None:
    if path.exists():
        raise InputError(f"{path}: is there already, expected a new folder")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        written = pathlib.Path(temporary) / "frames"
        written.mkdir()
        encode_pictures(written, pictures, rate, str(path))
        os.replace(written, path)


def _check_frames(frames: Any, scale: int) -> None:
    shape: tuple[int, ...] = getattr(frames, "shape", ())
    dtype = getattr(frames, "dtype", type(frames).__name__)
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3) or not math.prod(shape):
        raise InputError(
            f"frames are {dtype} {list(shape)}, expected uint8 [T, Y, X, C] with T, Y and X of 1 or"
            " more and C of 1 or 3"
        )
    if scale < 1 or max(shape[1:3]) * scale > 65535:
        most = 65535 // max(shape[1:3])
        raise InputError(f"scale is {scale}, expected 1 to {most} for frames of {list(shape[1:3])}")


def _check_rate(fps: float | Fraction, fastest: float) -> Fraction:
    if not isinstance(fps, numbers.Real) or not SLOWEST <= fps <= fastest:
        raise InputError(f"fps is {fps!r}, expected {SLOWEST} to {fastest:g}")
    return Fraction(fps).limit_denominator(LARGEST_DENOMINATOR)
