"""Frames out of video files through PyAV: in order, from a key frame on, or only their time stamps.

The one module that imports PyAV (extra ``jaxgen[data]``), the binding of FFmpeg's libraries.

Frames are shown as the file says they are to be: turned and mirrored by its display matrix
(ISO/IEC 14496-12, section 8.3.2: pixel (x, y) is shown at (a x + c y, b x + d y), plus a shift),
dropped by its edit list, transparent pixels laid over white. Pixels that are not square stay as
they are stored; more than 8 bits are rounded to 8; the brightness of HDR is left as it is coded.
"""

import contextlib
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxgen.data.video.frame_index import FrameIndex, Times, index_of_times
from jaxgen.errors import InputError

Source = str | os.PathLike[str] | BinaryIO
"""A file, or the content of one."""

EXACT = 0x4 | 0x2000 | 0x40000
"""SWS_BICUBIC, SWS_FULL_CHR_H_INT, SWS_ACCURATE_RND: without these, colours lose 1 of 255."""

_FORMATS = "mov,matroska,webm,avi,gif,mpegts,mpeg,asf,flv,ogg"
"""Those that FFmpeg may find in a file: none that names other files, or shows text as pictures."""
_WITH_INDEX = frozenset({"mov", "mp4", "matroska", "webm", "avi"})
"""Formats in which FFmpeg finds a key frame by the file's own index, or one that it makes."""
_ROUNDED = frozenset({"matroska", "webm"})
"""Formats that keep the frame rate beside time stamps, which they round."""


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


def container_frames(
    source: Source, name: str, *, first: Fraction | None = None, threads: bool = True
) -> Iterator[TimedFrame]:
    """The frames of a file's main video stream in the order in which they are shown.

    Args:
      source: The file.
      name: What errors call it.
      first: The time stamp of a key frame, in seconds: decoding begins there, or earlier, and
        frames before it are left out. None for the file's start.
      threads: Whether several threads decode.

    Raises:
      InputError: The file is no video, holds no video stream, is damaged, truncated or encrypted,
        or needs a codec that is not there. Some damage is found only when its place is reached.
    """
    with _opened(source, name) as (container, stream):
        if threads:
            stream.thread_type = "AUTO"
        else:
            stream.codec_context.thread_count = 1
        if first is not None:
            with contextlib.suppress(import_av(name).FFmpegError):  # else it stays at the start
                container.seek(int(first / stream.time_base), stream=stream)
        step = _declared_step(stream)
        with contextlib.closing(container.demux(stream)) as packets:  # left early, it leaks
            for packet in packets:
                for frame in packet.decode():
                    start = None if frame.pts is None else frame.pts * frame.time_base
                    if first is not None and (start is None or start < first):
                        continue
                    if frame.is_corrupt:
                        raise InputError(f"{name}: a damaged or truncated video (frame incomplete)")
                    duration = frame.duration * frame.time_base if frame.duration else step
                    yield TimedFrame(
                        start,
                        duration,
                        lambda frame=frame: _shown(name, frame),  # type: ignore[misc]
                    )
                _check_packet(packet, name)


def container_index(source: Source, name: str) -> FrameIndex:
    """The time stamps of a file's frames: those of its packets, without decoding all.

    Decoded is what the first frame takes: those before it, which refer to others that are not in
    the file, are never shown.

    Raises:
      InputError: As `container_frames`, but damage inside of later packets is not found.
    """
    with _opened(source, name) as (container, stream):
        stream.codec_context.thread_count = 1
        step, tick = _declared_step(stream), stream.time_base
        times: list[Times] = []
        keys: list[bool] = []
        first: list[Any] = []
        for packet in container.demux(stream):
            if not first:
                first += packet.decode()[:1]
            _check_packet(packet, name)
            if packet.size and not packet.is_discard:
                start = None if packet.pts is None else packet.pts * tick
                times.append((start, packet.duration * tick if packet.duration else step))
                keys.append(packet.is_keyframe)
        formats, rate = set(container.format.name.split(",")), stream.average_rate
        shown = first[0].pts * first[0].time_base if first and first[0].pts is not None else None
    if not times or not first:
        raise InputError(f"{name}: has 0 frames, expected 1 or more")
    index = _index_of_packets(times, keys, formats)
    if index.tick is not None and shown is not None:
        index = _from_frame(index, int(np.searchsorted(index.starts, int(shown / index.tick))))
    return _with_rate(index, rate) if rate and formats & _ROUNDED else index


def _index_of_packets(times: list[Times], keys: list[bool], formats: set[str]) -> FrameIndex:
    """The index of packets in the order in which their frames are shown."""
    order = list(range(len(times)))
    if all(start is not None for start, _ in times):
        order.sort(key=lambda n: times[n][0] or Fraction(0))
    starts = [start for start in (times[n][0] for n in order) if start is not None]
    # An avi file has no time stamps: FFmpeg counts packets, which is wrong where frames are stored
    # in another order than they are shown.
    counted = "avi" in formats and order != sorted(order)
    if len(starts) < len(times) or counted or not all(a < b for a, b in itertools.pairwise(starts)):
        return index_of_times(times)
    found_K = np.flatnonzero([keys[n] for n in order])
    keys_K = np.unique([0, *found_K]) if formats & _WITH_INDEX else np.zeros(1, np.int64)
    index = index_of_times([times[n] for n in order], keys_K.astype(np.int64))
    return replace(index, complete="mp4" in formats)


def _from_frame(index: FrameIndex, lost: int) -> FrameIndex:
    """The index without its first frames."""
    if not 0 < lost < len(index):
        return index
    keys_K = np.unique([0, *(index.keys[index.keys > lost] - lost)]).astype(np.int64)
    return replace(index, starts=index.starts[lost:], keys=keys_K)


def _with_rate(index: FrameIndex, rate: Fraction) -> FrameIndex:
    """The index with the rate that the file declares, where its time stamps are those rounded."""
    if index.tick is None:
        return index
    exact_T = [k / (rate * index.tick) for k in range(len(index) + 1)]
    starts_T = (index.starts - index.starts[0]).tolist()
    if any(abs(a - b) > 1 for a, b in zip(exact_T[:-1], starts_T, strict=True)):
        return index
    end = int(index.starts[0]) + round(exact_T[-1])
    return replace(index, end=end, rate=Fraction(rate))


def check_frames(index: FrameIndex, times: Sequence[Times], name: str) -> FrameIndex:
    """The index where the decoded frames are those in it; else one of what was decoded.

    Args:
      index: Of the packets.
      times: Start and duration of the frames that were decoded, in their order.
      name: What errors call the file.

    Raises:
      InputError: Frames are missing that the file has.
    """
    if index.complete and len(times) < len(index):
        raise InputError(
            f"{name}: a damaged video, {len(times)} of its {len(index)} frames can be decoded"
        )
    if index.tick is None or len(index) != len(times):
        return index_of_times(times)
    same = all(
        start == int(tick) * index.tick
        for (start, _), tick in zip(times, index.starts, strict=True)
    )
    return index if same else index_of_times(times)


def _check_packet(packet: Any, name: str) -> None:
    if packet.is_corrupt:
        raise InputError(f"{name}: a damaged or truncated video (packet incomplete)")


def _declared_step(stream: Any) -> Fraction | None:
    rate = stream.guessed_rate or stream.average_rate
    return 1 / Fraction(rate) if rate else None


@contextlib.contextmanager
def _opened(source: Source, name: str) -> Iterator[tuple[Any, Any]]:
    """A container and its main video stream; the decoder's errors as one line with the name.

    Of several streams FFmpeg chooses: by the file's own mark, the frames found in it, and its bit
    rate.
    """
    av = import_av(name)
    opened = f"file:{os.fspath(source)}" if isinstance(source, str | os.PathLike) else source
    with (
        naming_faults(name, av.FFmpegError),
        av.open(
            opened, options={"format_whitelist": _FORMATS}, metadata_errors="replace"
        ) as container,
    ):
        stream = container.streams.best("video")
        if stream is None or "attached_pic" in str(stream.disposition):
            kinds = sorted({other.type for other in container.streams})
            raise InputError(
                f"{name}: has no video stream, only {', '.join(kinds) or 'none at all'}, expected"
                " one"
            )
        if stream.codec_context is None:
            codec = _codec_name(source, stream.index)
            if codec is None:
                raise InputError(
                    f"{name}: a damaged or truncated video (its header names no codec)"
                )
            raise InputError(
                f"{name}: codec {codec} is not available in this FFmpeg, expected a video that it"
                " decodes"
            )
        yield container, stream


def _codec_name(source: Source, index: int) -> str | None:
    """What the file calls the codec of a stream, if anything: FFmpeg names those it decodes."""
    if isinstance(source, str | os.PathLike):
        content = pathlib.Path(source).read_bytes()
    else:
        source.seek(0)
        content = source.read()
    mp4 = re.findall(rb"stsd.{12}([ -~]{4})", content, re.DOTALL)
    names = mp4[index : index + 1] or re.findall(rb"V_[A-Z0-9/_]{3,}", content)
    return names[0].decode() if names else None


def _shown(name: str, frame: Any) -> UInt8[np.ndarray, "Y X 3"]:
    """The pixels of a frame as it is to be shown."""
    if any(component.is_alpha for component in frame.format.components):
        rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
        colors, alpha = rgba[..., :3], rgba[..., 3:]
        picture = ((colors * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    else:
        picture = frame.to_ndarray(format="rgb24", interpolation=EXACT)
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    return picture if matrix is None else _turned(name, picture, bytes(matrix))


def _turned(
    name: str, picture_YXC: UInt8[np.ndarray, "Y X C"], matrix: bytes
) -> UInt8[np.ndarray, "Y2 X2 C"]:
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5] / 65536
    if max(abs(b), abs(c)) < 0.01 * min(abs(a), abs(d)):
        return np.ascontiguousarray(picture_YXC[:: int(np.sign(d)), :: int(np.sign(a))])
    if max(abs(a), abs(d)) < 0.01 * min(abs(b), abs(c)):
        turned = picture_YXC.transpose(1, 0, 2)
        return np.ascontiguousarray(turned[:: int(np.sign(b)), :: int(np.sign(c))])
    raise InputError(
        f"{name}: display matrix is [{a:g} {b:g}; {c:g} {d:g}], expected quarter turns and mirrors"
    )


@contextlib.contextmanager
def naming_faults(
    name: str, *faults: type[Exception], said: str = "not a readable video, or a damaged one"
) -> Iterator[None]:
    """Turns the errors of a decoder or an encoder into one line with the file's name.

    Args:
      name: The file.
      faults: What it raises.
      said: What the line says of the file.

    Raises:
      InputError: The block raised one of `faults`.
    """
    try:
        yield
    except InputError:
        raise
    except faults as error:
        fault = str(getattr(error, "strerror", None) or error).replace("\n", " ")
        raise InputError(f"{name}: {said} ({fault})") from error


def import_av(what: str) -> Any:
    """PyAV, imported when first needed.

    Args:
      what: The file that it is needed for.

    Raises:
      InputError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{what}: videos and PNG files of 16 bits need the package av, extra jaxgen[data]"
            f" ({error})"
        ) from error
    return av
