"""Where the frames of a video lie: a file, a folder of pictures, or either in a zip archive.

A video in an archive has the archive's path before its name: ``clips.zip/walk/3.mp4``. Containers
are decoded through PyAV, animated WebP, which FFmpeg's libraries do not decode, and pictures
through Pillow.
"""

import functools
import hashlib
import io
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from jaxgen.data.archives import files_in, list_members
from jaxgen.data.images.image_files import SUFFIXES, naming_damage
from jaxgen.data.images.resizing import import_pillow, to_array, to_grey_or_rgb
from jaxgen.data.video.container_frames import (
    TimedFrame,
    Times,
    check_frames,
    container_frames,
    container_index,
    naming_faults,
)
from jaxgen.data.video.frame_index import FrameIndex, as_rate, index_of_times
from jaxgen.errors import InputError
from jaxgen.files import Path, open_file
from jaxgen.text_rules import has_suffix

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".avi", ".gif", ".webp"),
    *(".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv"),
)
"""What files of videos are called."""
RATE_FILE = "fps.txt"
"""Beside the pictures of a folder: their frames a second."""

_SEGMENT = b"\x18\x53\x80\x67"
_LAST_NUMBER = re.compile(r"\d+$")


def decode_frames(
    path: Path, *, first: Fraction | None = None, threads: bool = True
) -> Iterator[TimedFrame]:
    """The frames of a video in the order in which they are shown, one at a time.

    Args:
      path: A file, a folder of pictures, or either in a zip archive.
      first: The time stamp of a key frame, in seconds: decoding begins there, where the format can
        begin anywhere but at its start. Frames before it are left out.
      threads: Whether several threads decode.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: As `read_video`; some damage is found only when its place is reached.
    """
    if is_picture_folder(path):
        frames = _pictures(path, first)
    else:
        source, name = _source(path), str(path)
        if _is_webp(source, name):
            frames = _webp_frames(source, name)
        else:
            frames = container_frames(source, name, first=first, threads=threads)
    frame = next(frames, None)
    if frame is not None:
        yield frame
        yield from frames
    elif first is None:
        raise InputError(f"{path}: has 0 frames, expected 1 or more")


def index_frames(path: Path, *, decode: bool = False) -> FrameIndex:
    """The time stamps of a video's frames, without decoding more than the first.

    (Animated WebP is decoded: how many frames it shows is not known before.)

    Args:
      path: As `decode_frames`.
      decode: Whether to decode all of it, so that damage is found, and to keep the time stamps of
        what was decoded where a file's packets differ from its frames.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: As `read_video`; without `decode`, damage inside of frames is not found.
    """
    if is_picture_folder(path):
        return _index_pictures(path, decode)
    source, name = _source(path), str(path)
    if _is_webp(source, name):
        return index_of_times(_times(decode_frames(path)))
    if decode:
        return index_of_decoded(path, _times(decode_frames(path)))
    return container_index(source, name)


def index_of_decoded(path: Path, times: Sequence[Times]) -> FrameIndex:
    """The index of a video all of whose frames have been decoded.

    Args:
      path: As `decode_frames`.
      times: Start and duration of each frame, as `TimedFrame` has them.
    """
    if is_picture_folder(path):
        return _index_pictures(path, False)
    source = _source(path)
    if _is_webp(source, str(path)):
        return index_of_times(times)
    return check_frames(container_index(source, str(path)), times, str(path))


def _times(frames: Iterator[TimedFrame]) -> list[Times]:
    return [(frame.start, frame.duration) for frame in frames]


def _index_pictures(path: Path, decode: bool) -> FrameIndex:
    rate = picture_rate(path)
    count = len(picture_names(path))
    if decode:
        for frame in decode_frames(path):
            frame.pixels()
    tick = None if rate is None else 1 / rate
    keys_K = np.arange(1 if rate is None else count, dtype=np.int64)
    return FrameIndex(np.arange(count, dtype=np.int64), count, tick, keys_K, rate)


def version_of(path: Path) -> tuple[int, int]:
    """What changes when a file does; nothing where it is gone, so that reading it tells."""
    file, _ = split_archive(path)
    if not file.exists():
        return 0, 0
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def split_archive(path: Path) -> tuple[pathlib.Path, str | None]:
    """The file of a path, and, where that is a zip archive, the name in it."""
    file = pathlib.Path(path)
    for parent in file.parents:
        if has_suffix(parent.name, ".zip") and parent.is_file():
            return parent, file.relative_to(parent).as_posix()
    return file, None


def open_source(path: Path) -> BinaryIO:
    """A file, or the content of one in a zip archive, for reading bytes.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: It cannot be read.
    """
    archive, name = split_archive(path)
    if name is None:
        return open_file(path)
    try:
        with zipfile.ZipFile(archive) as opened:
            return io.BytesIO(opened.read(name))
    except KeyError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read, damaged or encrypted ({error})") from error


def content_digest(path: Path) -> str:
    """The SHA-256 of a video's bytes: of a file, one in an archive, or all pictures of a folder.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: It cannot be read.
    """
    state = hashlib.sha256()
    if not is_picture_folder(path):
        with open_source(path) as handle:
            while block := handle.read(1 << 20):
                state.update(block)
        return state.hexdigest()
    for name in picture_names(path):
        state.update(f"{name} {content_digest(pathlib.Path(path) / name)} ".encode())
    return state.hexdigest()


def _source(path: Path) -> str | BinaryIO:
    """What decoders open: the path of a file, or the content of one in an archive."""
    return os.fspath(path) if split_archive(path)[1] is None else open_source(path)


def _is_webp(source: str | BinaryIO, name: str) -> bool:
    """Refuses empty files, and truncated ones that decoders take for shorter videos."""
    with open_file(source) if isinstance(source, str) else io.BytesIO(source.read()) as handle:
        head = handle.read(4096)
        size = handle.seek(0, io.SEEK_END)
        handle.seek(max(0, size - 64))
        tail = handle.read()
    if not isinstance(source, str):
        source.seek(0)
    if not head:
        raise InputError(f"{name}: the file is empty")
    _check_whole(name, head, tail, size)
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _check_whole(name: str, head: bytes, tail: bytes, size: int) -> None:
    if head.startswith(b"GIF8") and not tail.rstrip(b"\0\r\n").endswith(b";"):
        raise InputError(f"{name}: a truncated file, it does not end as a GIF does")
    place = head.find(_SEGMENT) + len(_SEGMENT)
    if not head.startswith(b"\x1a\x45\xdf\xa3") or not len(_SEGMENT) <= place <= len(head) - 8:
        return
    # Matroska: the segment's size, whose first byte says by its leading zeros how long it is.
    length = 9 - head[place].bit_length()
    ones = (1 << 7 * length) - 1  # all ones stand for an unknown size
    content = int.from_bytes(head[place : place + length], "big") & ones
    if content != ones and place + length + content > size:
        raise InputError(
            f"{name}: a truncated file of {size} bytes, expected {place + length + content}"
        )


def _webp_frames(source: str | BinaryIO, name: str) -> Iterator[TimedFrame]:
    pil = import_pillow(name)
    faults = (OSError, SyntaxError, ValueError, EOFError, pil.Image.DecompressionBombError)
    with naming_faults(name, *faults), pil.Image.open(source) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            times = [image.info.get(key) for key in ("timestamp", "duration")]
            start, duration = (None if time is None else Fraction(time, 1000) for time in times)
            picture = to_array(to_grey_or_rgb(image, 3))
            yield TimedFrame(start, duration or None, lambda picture=picture: picture)  # type: ignore[misc]


def is_picture_folder(path: Path) -> bool:
    """Whether a path is a folder, or one in a zip archive, rather than a file."""
    _, name = split_archive(path)
    return os.path.isdir(path) or (
        name is not None and not has_suffix(name, *VIDEO_SUFFIXES, *SUFFIXES)
    )


def are_numbered(names: Sequence[str]) -> bool:
    """Whether files are called as the frames of one video are: alike but for a number at the end.

    Args:
      names: Of pictures in one folder, without folders.
    """
    stems = [pathlib.PurePath(name).stem for name in names]
    return len(names) > 1 and len({_LAST_NUMBER.sub("", stem) for stem in stems}) == 1


def picture_names(path: Path) -> list[str]:
    """The pictures of a folder, in the order of the numbers in their names.

    Raises:
      InputError: There are none, or they are not called as frames of one video are.
    """
    archive, folder = split_archive(path)
    if folder is None:
        found = files_in(path)
    else:
        members = [name.rpartition("/") for name in list_members(archive).names]
        found = [name for parent, _, name in members if parent == folder]
    names = [name for name in found if has_suffix(name, *SUFFIXES)]
    if not names:
        raise InputError(f"{path}: has no pictures, expected the frames of a video")
    if len(names) > 1 and not are_numbered(names):
        raise InputError(
            f"{path}: pictures are {names[0]}, {names[1]}, ..., expected numbered ones"
        )
    return sorted(names, key=_number)


def _number(name: str) -> tuple[int, str]:
    found = _LAST_NUMBER.search(pathlib.PurePath(name).stem)
    return (int(found[0]) if found else 0, name)


def _pictures(path: Path, first: Fraction | None) -> Iterator[TimedFrame]:
    """The pictures of a folder as frames, from the one that is shown at `first` seconds on."""
    names, rate = picture_names(path), picture_rate(path)
    begin = 0 if first is None or rate is None else int(first * rate)
    for number, name in enumerate(names[begin:], begin):
        start, duration = (None, None) if rate is None else (number / rate, 1 / rate)
        yield TimedFrame(start, duration, functools.partial(_picture, pathlib.Path(path) / name))


def _picture(path: pathlib.Path) -> UInt8[np.ndarray, "Y X 3"]:
    pil = import_pillow(str(path))
    with open_source(path) as handle, naming_damage(str(path)), pil.Image.open(handle) as image:
        return to_array(to_grey_or_rgb(pil.ImageOps.exif_transpose(image), 3))


def picture_rate(path: Path) -> Fraction | None:
    """The frames a second of a folder of pictures, which its `RATE_FILE` says; or None.

    Raises:
      InputError: It says something else.
    """
    file = pathlib.Path(path) / RATE_FILE
    try:
        with open_source(file) as handle:
            text = handle.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    try:
        return as_rate(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{file}: is {text[:20]!r}, expected a rate as 30000/1001") from error
