"""Some frames of a video, without decoding all of it.

A decoder begins at the last key frame before the first frame that is wanted, so that the frames are
those, byte for byte, that decoding the whole file gives. A few files stay open: clips read in order
are decoded in one pass. Formats that cannot begin at a key frame (`FrameIndex.keys`), and files
that do not keep what their time stamps promise, are decoded from their start.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int, UInt8

from jaxgen.data.video.container_frames import TimedFrame
from jaxgen.data.video.frame_index import FrameIndex
from jaxgen.data.video.video_sources import decode_frames, index_frames, version_of
from jaxgen.errors import InputError
from jaxgen.files import Path

FILES_KEPT = 4
"""Files that stay open for the clips that follow."""
INDEXES_KEPT = 1024
"""Time stamps of files that stay in memory."""

Convert = Callable[[UInt8[np.ndarray, "Y X 3"]], UInt8[np.ndarray, "Y2 X2 C2"]]
"""What is done to a frame's pixels as soon as they are decoded."""


class FrameReader:
    """Reads frames of one video by number; where it can, from the place that it has reached.

    Args:
      path: The video (`decode_frames`).
      index: Its time stamps.
    """

    def __init__(self, path: Path, index: FrameIndex):
        self.path, self.index = path, index
        self._keys: np.ndarray = self.index.keys
        self._frames: Iterator[TimedFrame] = iter(())
        self._next = len(self.index)  # the number of the frame that the decoder gives next
        self._last: TimedFrame | None = None

    def read(self, number_N: Int[np.ndarray, "N"], convert: Convert) -> list[np.ndarray]:
        """The pixels of frames.

        Args:
          number_N: Their numbers, not descending; a frame may be wanted several times.
          convert: Applied to each.

        Raises:
          InputError: The file is damaged there, or has become shorter.
        """
        pictures: list[np.ndarray] = []
        before = -1
        for number in number_N.tolist():
            if number != before:
                pictures.append(convert(self._frame(number).pixels()))
            else:
                pictures.append(pictures[-1])
            before = number
        return pictures

    def _frame(self, number: int) -> TimedFrame:
        key = int(self._keys[np.searchsorted(self._keys, number, side="right") - 1])
        if number < self._next - 1 or self._last is None or key > self._next:
            self._begin(key)
        while self._next <= number:
            if not self._advance():
                self._keys = np.zeros(1, np.int64)  # the time stamps were no guide
                self._begin(0)
        assert self._last is not None
        return self._last

    def _begin(self, key: int) -> None:
        """Begins to decode at a key frame; 0 is the start of the file."""
        index, first = self.index, None
        if key and index.tick is not None:
            first = int(index.starts[key]) * index.tick
        self._frames = decode_frames(self.path, first=first, threads=False)
        self._next, self._last = key, None

    def _advance(self) -> bool:
        """Decodes a frame; false where it is not the one that the index promises there."""
        frame = next(self._frames, None)
        seeking = len(self._keys) > 1
        if frame is None and not seeking:
            raise InputError(f"{self.path}: has become shorter, frame {self._next} is missing")
        index = self.index
        if seeking and (
            frame is None or frame.start != int(index.starts[self._next]) * (index.tick or 1)
        ):
            return False
        self._last, self._next = frame, self._next + 1
        return True


@functools.lru_cache(maxsize=INDEXES_KEPT)
def known_index(path: str, version: tuple[int, int]) -> FrameIndex:
    """`index_frames` of a file, made once for each version (`version_of`) of it."""
    return index_frames(path)


_idle: OrderedDict[tuple[str, tuple[int, int]], FrameReader] = OrderedDict()
_idle_lock = threading.Lock()


def read_frames(
    path: Path,
    number_N: Int[np.ndarray, "N"] | Sequence[int],
    convert: Convert = lambda picture: picture,
    *,
    index: FrameIndex | None = None,
) -> list[np.ndarray]:
    """The pixels of some frames of a video, decoding as few others as its format allows.

    Args:
      path: A file, a folder of pictures, or either in a zip archive.
      number_N: The numbers of the frames, not descending; 0 is the first frame.
      convert: Applied to each frame's uint8 [Y, X, 3] as soon as it is decoded.
      index: The time stamps of the video's frames, where they are known.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: The file is damaged, or has become shorter.
    """
    key = (str(path), version_of(path))
    with _idle_lock:
        reader = _idle.pop(key, None)
    if reader is None:
        reader = FrameReader(path, known_index(*key) if index is None else index)
    pictures = reader.read(np.asarray(number_N), convert)
    with _idle_lock:
        _idle[key] = reader
        while len(_idle) > FILES_KEPT:
            _idle.popitem(last=False)
    return pictures
