"""Encoders of videos: H.264 in mp4, VP9 in webm, MPEG-4 in avi through PyAV; GIF; pictures.

Colours are at 4:2:0, with luma from 16 to 235, by ITU-R 709 (1 in ITU-T H.273, tables 2 to 4),
which mp4 and webm say, so that players do not guess; avi cannot say, so by ITU-R 601. A GIF counts
time in ticks of 1/100 s: frame t begins there at tick round(100 t / fps), so that rounding never
adds up (GIF89a, section 23).
"""

import io
import pathlib
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxgen.data.images.resizing import import_pillow
from jaxgen.data.video.container_frames import EXACT, import_av, naming_faults
from jaxgen.data.video.video_sources import RATE_FILE
from jaxgen.errors import InputError


class Encoding(NamedTuple):
    """How a container is written.

    Attributes:
      format: FFmpeg's name of the container.
      codec: FFmpeg's name of the encoder.
      options: Of the encoder.
      container_options: Of the container.
      matrix: From red, green, blue to luma and colours.
    """

    format: str
    codec: str
    options: dict[str, str]
    container_options: dict[str, str]
    matrix: str = "ITU709"


ENCODINGS = {
    # A constant rate factor of 0 is lossless, 18 of H.264 can hardly be told from it.
    ".mp4": Encoding("mp4", "libx264", {"crf": "14"}, {"movflags": "+faststart"}),
    ".webm": Encoding(
        "webm", "libvpx-vp9", {"crf": "12", "b": "0", "deadline": "good", "cpu-used": "4"}, {}
    ),
    ".avi": Encoding("avi", "mpeg4", {"qmin": "1", "qmax": "1"}, {}, "ITU601"),
}

_PLAYED_FOR_EVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


def encode_container(
    file: pathlib.Path, pictures: Iterator[np.ndarray], rate: Fraction, name: str, suffix: str
) -> None:
    """Writes a container of `ENCODINGS`.

    Args:
      file: What is written.
      pictures: The frames, uint8 [Y, X, C].
      rate: Frames a second.
      name: What errors call the file.
      suffix: Of the container.

    Raises:
      InputError: The encoder is not there, or refuses the frames.
    """
    av, encoding = import_av(name), ENCODINGS[suffix]
    try:
        av.codec.Codec(encoding.codec, "w")
    except ValueError as error:
        raise InputError(
            f"{name}: codec {encoding.codec} is not available in this FFmpeg"
        ) from error
    with (
        naming_faults(name, av.FFmpegError, said=f"cannot be written by {encoding.codec}"),
        av.open(
            str(file), "w", format=encoding.format, options=encoding.container_options
        ) as container,
    ):
        stream = None
        for index, picture in enumerate(pictures):
            even = _even(picture)
            stream = stream or _add_stream(container, encoding, rate, *even.shape[:2])
            frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=encoding.matrix,
                dst_color_range="MPEG",
                interpolation=EXACT,
            )
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))


def encode_pictures(
    folder: pathlib.Path, pictures: Iterator[np.ndarray], rate: Fraction, name: str
) -> None:
    """Writes frames as numbered PNG files, and their rate beside them.

    Args:
      folder: An empty folder.
      pictures: The frames, uint8 [Y, X, C].
      rate: Frames a second.
      name: What errors call the folder.
    """
    pil = import_pillow(name)
    for index, picture_YXC in enumerate(pictures):
        grey = picture_YXC.shape[-1] == 1
        image = pil.Image.fromarray(picture_YXC[..., 0] if grey else picture_YXC)
        image.save(folder / f"{index:05}.png")
    (folder / RATE_FILE).write_text(f"{rate}\n")


def _add_stream(container: Any, encoding: Encoding, rate: Fraction, height: int, width: int) -> Any:
    stream = container.add_stream(encoding.codec, rate=rate, options=encoding.options)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    if encoding.matrix == "ITU709":
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    return stream


def _even(picture_YXC: UInt8[np.ndarray, "Y X C"]) -> UInt8[np.ndarray, "Y2 X2 3"]:
    y, x, c = picture_YXC.shape
    padded = np.pad(picture_YXC, ((0, y % 2), (0, x % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded if c == 3 else padded.repeat(3, 2))


def encode_gif(
    file: pathlib.Path, pictures: Iterator[np.ndarray], rate: Fraction, name: str
) -> None:
    """Writes a GIF that is played over and over.

    One block for each frame, also where two are the same, which Pillow's writer would join.

    Args:
      file: What is written.
      pictures: The frames, uint8 [Y, X, C].
      rate: Frames a second.
      name: What errors call the file.
    """
    with file.open("wb") as handle:
        for index, picture in enumerate(pictures):
            if not index:
                y, x = picture.shape[:2]
                handle.write(b"GIF89a" + struct.pack("<HHBBB", x, y, 0x70, 0, 0) + _PLAYED_FOR_EVER)
            ticks = round(100 * (index + 1) / rate) - round(100 * index / rate)
            handle.write(b"\x21\xf9\x04" + struct.pack("<BHBB", 4, ticks, 0, 0))
            handle.write(_gif_block(picture, name))
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
