"""PNG files of 16 bits for each channel, of which Pillow keeps 8: decoded by FFmpeg, and written.

Format: signature, then chunks of length, name, content and CRC-32 (ISO/IEC 15948): IHDR has width,
height, bits and kind of colour; IDAT the rows, compressed; IEND nothing.
"""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt16

from jaxgen.data.video.container_frames import import_av, naming_faults
from jaxgen.errors import InputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BITS_AT = 24
"""Where the bits of a channel are in a file."""
KINDS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> the format's kind of colour."""
CHANNELS = {"gray16be": 1, "ya16be": 2, "rgb48be": 3, "rgba64be": 4}
"""FFmpeg's formats of pixels, as it decodes such files -> channels."""


def is_deep_png(content: bytes) -> bool:
    """Whether a file's content begins as a PNG of 16 bits."""
    return content.startswith(SIGNATURE) and content[BITS_AT : BITS_AT + 1] == b"\x10"


def decode_deep_png(content: bytes, where: str) -> UInt16[np.ndarray, "Y X C"]:
    """The pixels, with 1 to 4 channels: grey, grey and alpha, colours, colours and alpha.

    Args:
      content: of the file, see `is_deep_png`.
      where: what an error begins with.

    Raises:
      InputError: it is damaged or truncated, or PyAV is not installed.
    """
    names = [name for name, _ in _chunks(content, where)]
    if names[-1:] != [b"IEND"]:
        raise InputError(f"{where}: not a readable image, or a truncated one (it has no end)")
    av = import_av(where)
    with (
        naming_faults(where, av.FFmpegError, StopIteration, said="not a readable image"),
        av.open(io.BytesIO(content), format="png_pipe") as container,
    ):
        frame = next(container.decode(video=0))
    if frame.format.name not in CHANNELS:
        raise InputError(
            f"{where}: pixels are {frame.format.name}, expected {' or '.join(CHANNELS)}"
        )
    channels, plane = CHANNELS[frame.format.name], frame.planes[0]
    rows_YN = np.frombuffer(plane, ">u2").reshape(frame.height, plane.line_size // 2)
    pixels_YN = rows_YN[:, : frame.width * channels].astype(np.uint16)
    return pixels_YN.reshape(frame.height, frame.width, channels)


def encode_deep_png(image: UInt16[np.ndarray, "Y X C"]) -> bytes:
    """A file's content with these pixels, C from 1 to 4."""
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 16, KINDS[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    content = SIGNATURE
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        checked = name + data
        content += struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))
    return content


def _chunks(content: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the chunks, up to the end of the file; FFmpeg does not check them."""
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        name, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        found = content[place + 8 + length : place + 12 + length]
        if found != struct.pack(">I", zlib.crc32(name + data)):
            raise InputError(f"{where}: not a readable image, or a truncated one (its checksum)")
        yield name, data
        place += 12 + length
