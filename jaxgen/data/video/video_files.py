"""Video files: read into arrays, and written so that browsers play them.

The one module that imports PyAV (extra ``jaxgen[data]``), the binding of FFmpeg's libraries;
animated WebP, which these do not decode, goes through Pillow.

Frames are shown as the file says they are to be: turned and mirrored by its display matrix
(ISO/IEC 14496-12, section 8.3.2: pixel (x, y) is shown at (a x + c y, b x + d y), plus a shift),
dropped by its edit list, transparent pixels laid over white. Pixels that are not square stay as
they are stored. The frame rate is the number of frames by the time that they take,

  fps = T / (max_t (start_t + duration_t) - min_t start_t),

also where the time between frames varies. A GIF counts time in ticks of 1/100 s: frame t begins
there at tick round(100 t / fps), so that rounding never adds up (GIF89a, section 23).
"""

import contextlib
import io
import math
import pathlib
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxgen.data.images.resizing import fit_array, import_pillow, to_array, to_grey_or_rgb
from jaxgen.errors import InputError
from jaxgen.files import Path, open_file, replacing

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".avi", ".gif", ".webp"),
    *(".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv"),
)
"""What files of videos are called."""

ENCODER = "libx264"
QUALITY = 14
"""The constant rate factor of H.264: 0 is lossless, 18 can hardly be told from it."""
SLOWEST, FASTEST = 0.01, {".mp4": 1000.0, ".gif": 50.0}
"""Frame rates that can be written. Browsers show GIF frames of under 2 ticks for 10."""

_FORMATS = "mov,matroska,webm,avi,gif,mpegts,mpeg,asf,flv,ogg"
"""Those that FFmpeg may find in a file: none that names other files, or shows text as pictures."""
_EXACT = 0x4 | 0x2000 | 0x40000
"""SWS_BICUBIC, SWS_FULL_CHR_H_INT, SWS_ACCURATE_RND: without these, colours lose 1 of 255."""
_SEGMENT = b"\x18\x53\x80\x67"
_LARGEST_DENOMINATOR = 1001  # as in 30000/1001
_PLAYED_FOR_EVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


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


class TimedFrame(NamedTuple):
    """A decoded frame, whose pixels are converted only when asked for.

    Attributes:
      start: When it is shown first, in seconds; None where the file does not say.
      duration: How long, in seconds; None where the file does not say.
      pixels: Gives uint8 [Y, X, 3].
    """

    start: Fraction | None
    duration: Fraction | None
    pixels: Callable[[], UInt8[np.ndarray, "Y X 3"]]


def read_video(path: Path, *, channels: int = 3) -> Video:
    """All frames of a file's main video stream.

    Of several, FFmpeg chooses: by the file's own mark, the frames found in it, and its bit rate.

    Args:
      path: mp4, mov, webm, mkv, avi, gif, animated webp and other formats of FFmpeg's.
      channels: 3 for red, green, blue; 1 for grey (ITU-R 601 luma).

    Raises:
      FileNotFoundError: There is no such file.
      InputError: The file is empty, no video, holds no video stream, is damaged, truncated or
        encrypted, or needs a codec that is not there; or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise InputError(f"channels is {channels}, expected 1 (grey) or 3 (colour)")
    pictures: list[np.ndarray] = []
    times: list[tuple[Fraction | None, Fraction | None]] = []
    for frame in decode_frames(path):
        picture = fit_array(frame.pixels(), None, channels, str(path))
        if pictures and picture.shape != pictures[0].shape:
            raise InputError(
                f"{path}: frame {len(pictures)} is {list(picture.shape)}, expected"
                f" {list(pictures[0].shape)} as frame 0 is"
            )
        pictures.append(picture)
        times.append((frame.start, frame.duration))
    return Video(np.stack(pictures), _frame_rate(path, times), str(path))


def _frame_rate(path: Path, times: Sequence[tuple[Fraction | None, Fraction | None]]) -> float:
    starts = [start for start, _ in times if start is not None]
    durations = [duration for _, duration in times if duration is not None]
    if len(starts) == len(times) == len(durations):
        ends = [start + duration for start, duration in zip(starts, durations, strict=True)]
        return float(len(times) / (max(ends) - min(starts)))
    if len(starts) == len(times) and max(starts) > min(starts):
        return float((len(times) - 1) / (max(starts) - min(starts)))
    if durations:
        return float(len(durations) / sum(durations))
    raise InputError(f"{path}: the time of its frames is missing, expected time stamps")


def decode_frames(path: Path) -> Iterator[TimedFrame]:
    """The frames of a video in the order in which they are shown, one at a time.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: As `read_video`; some damage is found only when its place is reached.
    """
    with open_file(path) as handle:
        head = handle.read(4096)
        size = handle.seek(0, io.SEEK_END)
        handle.seek(max(0, size - 64))
        tail = handle.read()
    if not head:
        raise InputError(f"{path}: the file is empty")
    _check_whole(path, head, tail, size)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    count = 0
    for frame in _webp_frames(path) if is_webp else _av_frames(path):
        yield frame
        count += 1
    if not count:
        raise InputError(f"{path}: has 0 frames, expected 1 or more")


def _check_whole(path: Path, head: bytes, tail: bytes, size: int) -> None:
    """Refuses the truncated files that decoders take for shorter videos."""
    if head.startswith(b"GIF8") and not tail.rstrip(b"\0\r\n").endswith(b";"):
        raise InputError(f"{path}: a truncated file, it does not end as a GIF does")
    place = head.find(_SEGMENT) + len(_SEGMENT)
    if not head.startswith(b"\x1a\x45\xdf\xa3") or not len(_SEGMENT) <= place <= len(head) - 8:
        return
    # Matroska: the segment's size, whose first byte says by its leading zeros how long it is.
    length = 9 - head[place].bit_length()
    ones = (1 << 7 * length) - 1  # all ones stand for an unknown size
    content = int.from_bytes(head[place : place + length], "big") & ones
    if content != ones and place + length + content > size:
        raise InputError(
            f"{path}: a truncated file of {size} bytes, expected {place + length + content}"
        )


def _av_frames(path: Path) -> Iterator[TimedFrame]:
    av = _import_av(str(path))
    with (
        _naming_faults(path, av.FFmpegError),
        av.open(f"file:{path}", options={"format_whitelist": _FORMATS}) as container,
    ):
        stream = _video_stream(path, container)
        stream.thread_type = "AUTO"
        rate = stream.guessed_rate or stream.average_rate
        step = 1 / Fraction(rate) if rate else None
        for packet in container.demux(stream):
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise InputError(f"{path}: a damaged or truncated video (frame incomplete)")
                tick = frame.time_base
                yield TimedFrame(
                    None if frame.pts is None else frame.pts * tick,
                    frame.duration * tick if frame.duration else step,
                    lambda frame=frame: _shown(path, frame),  # type: ignore[misc]
                )
            if packet.is_corrupt:
                raise InputError(f"{path}: a damaged or truncated video (packet incomplete)")


def _video_stream(path: Path, container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None or "attached_pic" in str(stream.disposition):
        kinds = sorted({other.type for other in container.streams})
        raise InputError(
            f"{path}: has no video stream, only {', '.join(kinds) or 'none at all'}, expected one"
        )
    if stream.codec_context is None:
        raise InputError(
            f"{path}: codec {_codec_name(path, stream.index)} is not available in this FFmpeg,"
            " expected a video that it decodes"
        )
    return stream


def _codec_name(path: Path, index: int) -> str:
    """What the file calls the codec of a stream: FFmpeg names only those that it decodes."""
    content = pathlib.Path(path).read_bytes()
    mp4 = re.findall(rb"stsd.{12}([ -~]{4})", content, re.DOTALL)
    names = mp4[index : index + 1] or re.findall(rb"V_[A-Z0-9/_]{3,}", content)
    return names[0].decode() if names else f"of stream {index}"


def _shown(path: Path, frame: Any) -> UInt8[np.ndarray, "Y X 3"]:
    """The pixels of a frame as it is to be shown."""
    if any(component.is_alpha for component in frame.format.components):
        rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
        colors, alpha = rgba[..., :3], rgba[..., 3:]
        picture = ((colors * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    else:
        picture = frame.to_ndarray(format="rgb24", interpolation=_EXACT)
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    return picture if matrix is None else _turned(path, picture, bytes(matrix))


def _turned(
    path: Path, picture_YXC: UInt8[np.ndarray, "Y X C"], matrix: bytes
) -> UInt8[np.ndarray, "Y2 X2 C"]:
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5] / 65536
    if max(abs(b), abs(c)) < 0.01 * min(abs(a), abs(d)):
        return np.ascontiguousarray(picture_YXC[:: int(np.sign(d)), :: int(np.sign(a))])
    if max(abs(a), abs(d)) < 0.01 * min(abs(b), abs(c)):
        turned = picture_YXC.transpose(1, 0, 2)
        return np.ascontiguousarray(turned[:: int(np.sign(b)), :: int(np.sign(c))])
    raise InputError(
        f"{path}: display matrix is [{a:g} {b:g}; {c:g} {d:g}], expected quarter turns and mirrors"
    )


def _webp_frames(path: Path) -> Iterator[TimedFrame]:
    pil = import_pillow(str(path))
    faults = (OSError, SyntaxError, ValueError, EOFError, pil.Image.DecompressionBombError)
    with _naming_faults(path, *faults), pil.Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            times = [image.info.get(name) for name in ("timestamp", "duration")]
            start, duration = (None if time is None else Fraction(time, 1000) for time in times)
            picture = to_array(to_grey_or_rgb(image, 3))
            yield TimedFrame(start, duration or None, lambda picture=picture: picture)  # type: ignore[misc]


@contextlib.contextmanager
def _naming_faults(path: Path, *faults: type[Exception]) -> Iterator[None]:
    """Turns the decoder's errors into one line with the file's name."""
    try:
        yield
    except InputError:
        raise
    except faults as error:
        fault = str(getattr(error, "strerror", None) or error).replace("\n", " ")
        raise InputError(f"{path}: not a readable video, or a damaged one ({fault})") from error


def write_video(
    path: Path, frames: UInt8[np.ndarray, "T Y X C"], fps: float | Fraction, *, scale: int = 1
) -> None:
    """Writes a video, whole or not at all.

    Args:
      path: ``.mp4`` is H.264 that browsers play (4:2:0, the index in front; an odd height or width
        is made even by repeating the last row or column). ``.gif`` is played over and over; grey
        is kept exactly, colours by the 256 best of each frame.
      frames: uint8, C = 1 (grey) or 3.
      fps: Frames a second, rounded to a fraction with a denominator of up to 1001; for ``.gif``
        up to 50.
      scale: Each pixel becomes a square of this many.

    Raises:
      InputError: An argument cannot be used, or the encoder is not there.
    """
    suffix = pathlib.PurePath(path).suffix.lower()
    if suffix not in FASTEST:
        raise InputError(f"{path}: suffix is {suffix!r}, expected .mp4 or .gif")
    _check_frames(frames, scale)
    rate = _check_rate(fps, FASTEST[suffix])
    pictures = (frame.repeat(scale, 0).repeat(scale, 1) for frame in frames)
    with tempfile.TemporaryDirectory() as folder:
        encoded = pathlib.Path(folder) / f"video{suffix}"
        (_encode_mp4 if suffix == ".mp4" else _encode_gif)(encoded, pictures, rate, path)
        with encoded.open("rb") as source, replacing(path) as handle:
            shutil.copyfileobj(source, handle)


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
    if not SLOWEST <= fps <= fastest:
        raise InputError(f"fps is {fps}, expected {SLOWEST} to {fastest:g}")
    return Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)


def _encode_mp4(
    file: pathlib.Path, pictures: Iterator[np.ndarray], rate: Fraction, path: Path
) -> None:
    av = _import_av(str(path))
    try:
        av.codec.Codec(ENCODER, "w")
    except ValueError as error:
        raise InputError(f"{path}: codec {ENCODER} is not available in this FFmpeg") from error
    options = {"movflags": "+faststart"}
    with (
        _naming_faults(path, av.FFmpegError),
        av.open(str(file), "w", format="mp4", options=options) as container,
    ):
        stream = None
        for index, picture in enumerate(pictures):
            even = _even(picture)
            stream = stream or _add_stream(container, rate, *even.shape[:2])
            frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace="ITU709",
                dst_color_range="MPEG",
                interpolation=_EXACT,
            )
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))


def _add_stream(container: Any, rate: Fraction, height: int, width: int) -> Any:
    stream = container.add_stream(ENCODER, rate=rate, options={"crf": str(QUALITY)})
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    # ITU-R 709 (1 in ITU-T H.273, tables 2 to 4), luma from 16 to 235: said, players do not guess.
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    return stream


def _even(picture_YXC: UInt8[np.ndarray, "Y X C"]) -> UInt8[np.ndarray, "Y2 X2 3"]:
    y, x, c = picture_YXC.shape
    padded = np.pad(picture_YXC, ((0, y % 2), (0, x % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded if c == 3 else padded.repeat(3, 2))


def _encode_gif(
    file: pathlib.Path, pictures: Iterator[np.ndarray], rate: Fraction, path: Path
) -> None:
    """One block for each frame, also where two are the same, which Pillow's writer would join."""
    with file.open("wb") as handle:
        for index, picture in enumerate(pictures):
            if not index:
                y, x = picture.shape[:2]
                handle.write(b"GIF89a" + struct.pack("<HHBBB", x, y, 0x70, 0, 0) + _PLAYED_FOR_EVER)
            ticks = round(100 * (index + 1) / rate) - round(100 * index / rate)
            handle.write(b"\x21\xf9\x04" + struct.pack("<BHBB", 4, ticks, 0, 0))
            handle.write(_gif_block(picture, str(path)))
        handle.write(b";")


def _gif_block(picture_YXC: UInt8[np.ndarray, "Y X C"], name: str) -> bytes:
    """A picture's part of a GIF, with its own palette: that of a file of this picture alone."""
    pil = import_pillow(name)
    grey = picture_YXC.shape[-1] == 1
    image = pil.Image.fromarray(picture_YXC[..., 0] if grey else picture_YXC)
    image = image if grey else image.quantize(256, kmeans=1, dither=pil.Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "GIF", interlace=0)
    content = buffer.getvalue()
    size_bits = content[10] & 7
    palette_end = 13 + 3 * 2 ** (size_bits + 1)
    palette, start = content[13:palette_end], palette_end
    while (
        content[start] == 0x21
    ):  # extensions: sub-blocks, each behind its size, up to an empty one
        start += 2
        while content[start]:
            start += 1 + content[start]
        start += 1
    block = content[start : start + 9] + bytes([0x80 | size_bits]) + palette
    return block + content[start + 10 : -1]


def _import_av(what: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{what}: videos need the package av, extra jaxgen[data] ({error})"
        ) from error
    return av
