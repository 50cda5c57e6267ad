"""Folders of video files as sets of clips of one length.

A file of F frames has ceil(F / S) frames at a stride of S, and floor(ceil(F / S) / T) clips of T
frames: consecutive ones that share no frame. The files, not the clips, are divided into parts, so
that no two parts see the same scene.
"""

import functools
import os
import pathlib
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from jaxgen.data.archives import Path, list_members
from jaxgen.data.images.image_set import (
    check_labels,
    check_parts,
    consecutive_parts,
    part_span,
    shuffled_parts,
)
from jaxgen.data.images.resizing import import_pillow, to_array, to_grey_or_rgb
from jaxgen.data.text.corpus import PARTS, Spans
from jaxgen.data.text.token_files import PART_NAMES
from jaxgen.data.video.video_files import VIDEO_SUFFIXES, decode_frames
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

FILES_KEPT = 4
"""Decoded files that stay in memory, in the size of their clips."""

_DECODING = threading.Lock()  # readers in threads want clips of one file, which one of them decodes


@dataclass(frozen=True, eq=False)
class VideoFolder:
    """Clips of video files, decoded when asked for: records for `jaxgen.data.pipeline`.

    The last few files (`FILES_KEPT`) stay decoded, in the size of their clips, so that reading the
    clips in order decodes each file once. Very long files are better cut beforehand.

    Attributes:
      name: The folder.
      files: The video files.
      clips: int32 [N, 2], the file of each clip, and its place in the file in clips.
      labels: int32 [N], indices into `classes`; or None.
      classes: The names of the subfolders; empty where videos lie in the folder itself.
      parts: "train" and where there are any "validation" and "test" -> (start, stop) in N.
      size: Y and X of the clips, or None for the files' own.
      frames: T, or None for clips that are whole files.
      stride: Each how-manieth frame is kept.
      channels: 3 or 1.
      left_out: Names of the files in the folder that are none of `files`.
    """

    name: str
    files: tuple[pathlib.Path, ...]
    clips: Int32[np.ndarray, "N 2"]
    labels: Int32[np.ndarray, "N"] | None
    classes: tuple[str, ...]
    parts: Spans
    size: tuple[int, int] | None = None
    frames: int | None = None
    stride: int = 1
    channels: int = 3
    left_out: tuple[str, ...] = ()

    def __post_init__(self):
        _check_clips(self.size, self.frames, self.stride, self.channels)
        check_labels(self.name, self.labels, len(self), self.classes)
        check_parts(self.name, self.parts, len(self))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Clip `index`: ``"video"``, uint8 [T, Y, X, C], and where there are labels ``"label"``.

        Raises:
          InputError: The file has changed and is not readable any more, or shorter.
        """
        file, place = self.clips[index]
        path = os.fspath(self.files[file])
        with _DECODING:
            decoded = _decode_file(
                path, _version(path), self.size, self.frames, self.stride, self.channels
            )
        length = self.frames or len(decoded)
        video = decoded[place * length : (place + 1) * length].copy()
        if len(video) < length:
            raise InputError(f"{path}: has become shorter, clip {place} is missing")
        return {"video": video} | ({} if self.labels is None else {"label": self.labels[index]})

    def part(self, name: str) -> "VideoFolder":
        """One part as a folder of its own, with that part alone.

        Raises:
          InputError: There is no part of this name.
        """
        start, stop = part_span(self.name, self.parts, name)
        labels = None if self.labels is None else self.labels[start:stop]
        parts = {name: (0, stop - start)}
        return replace(self, clips=self.clips[start:stop], labels=labels, parts=parts)


def _version(path: str) -> tuple[int, int]:
    """What changes when a file does; nothing where it is gone, so that reading it tells."""
    if not os.path.exists(path):
        return 0, 0
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=FILES_KEPT)
def _decode_file(
    path: str,
    version: tuple[int, int],
    size: tuple[int, int] | None,
    frames: int | None,
    stride: int,
    channels: int,
) -> UInt8[np.ndarray, "T Y X C"]:
    """The frames of a file that its clips are made of, converted one by one."""
    kept: list[np.ndarray] = []
    for index, frame in enumerate(decode_frames(path)):
        if index % stride == 0:
            kept.append(_fit(frame.pixels(), size, channels))
        if kept[-1].shape != kept[0].shape:
            raise InputError(
                f"{path}: frame {index} is {list(kept[-1].shape)}, expected {list(kept[0].shape)}"
                " as frame 0 is; give size to make them alike"
            )
    return np.stack(kept[: len(kept) // (frames or 1) * (frames or 1)] or kept)


def _fit(
    picture_YXC: UInt8[np.ndarray, "Y X 3"], size: tuple[int, int] | None, channels: int
) -> UInt8[np.ndarray, "Y2 X2 C2"]:
    """A frame resized until it covers `size`, and cropped in the middle."""
    if channels == 3 and size in (None, picture_YXC.shape[:2]):
        return picture_YXC
    pil = import_pillow("resizing")
    image = to_grey_or_rgb(pil.Image.fromarray(picture_YXC), channels)
    if size is not None and size[::-1] != image.size:
        image = pil.ImageOps.fit(image, size[::-1], method=pil.Image.Resampling.BICUBIC)
    return to_array(image)


def open_video_folder(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    stride: int = 1,
    channels: int = 3,
) -> VideoFolder:
    """Finds the clips of a folder of videos; to count their frames, each file is decoded once.

    (What a file declares is no help: it counts frames that its edit list drops, and stays silent
    of damage.)

    Args:
      path: Videos lie in it, or in its subfolders at any depth; the first-level subfolders are the
        classes, in the order of their names. Are all first-level subfolders called train,
        validation (val, valid, dev) or test, they are the parts, and the same holds inside each.
      size: Y and X: frames are resized (bicubic, antialiased) until they cover it, and their middle
        is kept. None keeps each file's own size.
      frames: T, the frames of a clip. None makes each file one clip, of its own length.
      stride: Keeps each `stride`-th frame of a file, the first one first.
      channels: 3 for red, green, blue; 1 for grey.

    Returns:
      The folder, clips of a file in order, files in the order of their names within a part; where
      it has no parts, its files are divided by `shuffled_parts`: a fixed random tenth each for
      validation and for test. `left_out` names the files that are no videos by their suffix, could
      not be read, or are too short.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: No file gives a clip, or some lie in classes and others in none.

    Warns:
      UserWarning: A file cannot be read, or is shorter than one clip; the message names it.
    """
    _check_clips(size, frames, stride, channels)
    root = pathlib.Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such folder")
    if not root.is_dir():
        raise InputError(f"{path}: a file, where a folder of videos was expected")
    members = list_members(root)
    videos = [name for name in members.names if has_suffix(name, *VIDEO_SUFFIXES)]
    if not videos:
        raise InputError(f"{path}: no videos in it ({' '.join(sorted(VIDEO_SUFFIXES))})")
    counted = {}
    for name in videos:
        counted[name] = _count_clips(root / name, frames, stride)
    names = [name for name in videos if counted[name]]
    if not names:
        raise InputError(f"{path}: has {len(videos)} videos, none of which gives a clip")
    part_of, labels, classes = _read_names(str(path), names)
    order, file_parts = _order(part_of, len(names))
    names = [names[i] for i in order]
    counts = [counted[name] for name in names]
    ends = np.cumsum([0, *counts])
    return VideoFolder(
        name=str(path),
        files=tuple(root / name for name in names),
        clips=np.array([(i, j) for i, n in enumerate(counts) for j in range(n)], np.int32),
        labels=None if labels is None else np.repeat(labels[order], counts),
        classes=classes,
        parts={part: (int(ends[a]), int(ends[b])) for part, (a, b) in file_parts.items()},
        size=None if size is None else (size[0], size[1]),
        frames=frames,
        stride=stride,
        channels=channels,
        left_out=(*sorted(set(members.names) - set(names)), *members.hidden),
    )


def _check_clips(
    size: Sequence[int] | None, frames: int | None, stride: int, channels: int
) -> None:
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise InputError(f"size is {size}, expected (Y, X), both of 1 or more")
    if frames is not None and frames < 1:
        raise InputError(f"frames is {frames}, expected 1 or more")
    if stride < 1:
        raise InputError(f"stride is {stride}, expected 1 or more")
    if channels not in (1, 3):
        raise InputError(f"channels is {channels}, expected 1 (grey) or 3 (colour)")


def _count_clips(file: pathlib.Path, frames: int | None, stride: int) -> int:
    """The clips of a file; 0, with a warning, where there are none."""
    try:
        total = sum(1 for _ in decode_frames(file))
    except (InputError, FileNotFoundError) as error:
        warnings.warn(f"left out: {error}", stacklevel=3)
        return 0
    kept = -(-total // stride)
    if frames is None:
        return 1
    if kept < frames:
        warnings.warn(
            f"left out: {file}: has {kept} frames at stride {stride}, expected {frames} or more",
            stacklevel=3,
        )
    return kept // frames


def _read_names(
    folder: str, names: Sequence[str]
) -> tuple[list[str] | None, Int32[np.ndarray, "N"] | None, tuple[str, ...]]:
    """The part and the label of each file, by the folders in its name; None where it has none."""
    split = [name.split("/") for name in names]
    parts = None
    if all(len(name) > 1 and name[0].lower() in PART_NAMES for name in split):
        parts = [PART_NAMES[name[0].lower()] for name in split]
        split = [name[1:] for name in split]
    classes = sorted({name[0] for name in split if len(name) > 1})
    if not classes:
        return parts, None, ()
    for name, pieces in zip(names, split, strict=True):
        if len(pieces) < 2:
            raise InputError(
                f"{folder}/{name}: lies in no class, while others do ({', '.join(classes[:3])}),"
                " expected all videos in subfolders, or none"
            )
    return parts, np.array([classes.index(p[0]) for p in split], np.int32), tuple(classes)


def _order(part_of: Sequence[str] | None, total: int) -> tuple[np.ndarray, Spans]:
    """The order of the files, and the parts as spans of it."""
    if part_of is None:
        return shuffled_parts(total)
    places = {part: np.flatnonzero(np.array(part_of) == part) for part in PARTS}
    train = places["train"]
    if not places["validation"].size and train.size:
        order, parts = shuffled_parts(len(train), ["validation"])
        places |= {part: train[order[slice(*span)]] for part, span in parts.items()}
    sizes = {part: len(found) for part, found in places.items()}
    return np.concatenate(list(places.values())), consecutive_parts(sizes)
