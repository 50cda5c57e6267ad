"""The files of a folder or of a manifest, and into how many clips each is cut."""

import pathlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from jaxgen.data.archives import Path
from jaxgen.data.images.image_set import parts_by_name, shuffled_parts
from jaxgen.data.text.corpus import Spans
from jaxgen.data.video.frame_index import FrameIndex, as_rate
from jaxgen.data.video.manifest import ManifestClip, path_in_manifest, read_manifest
from jaxgen.data.video.video_listing import ListedVideo
from jaxgen.data.video.video_sources import index_frames, version_of
from jaxgen.errors import InputError

Version = tuple[int, int]
"""See `version_of`."""


@dataclass
class FolderFile:
    """A video, and what is to be cut into clips of it.

    Attributes:
      video: Its name, place, part, class and caption.
      shots: First frame and number of frames of each; a whole video is one.
      known: Its version and time stamps; None where they have not been read.
      clips: How many each shot gives.
    """

    video: ListedVideo
    shots: list[tuple[int, int]]
    known: tuple[Version, FrameIndex] | None = None
    clips: list[int] = field(default_factory=list)


def files_of_folder(videos: Sequence[ListedVideo], decode: bool) -> list[FolderFile]:
    """The videos of a folder with their time stamps; without shots where one cannot be read.

    Args:
      videos: See `list_videos`.
      decode: Whether each is decoded to its end, so that damage is found.

    Warns:
      UserWarning: A file cannot be read.
    """
    files = []
    for video in videos:
        known = _open_index(video.path, decode)
        files.append(FolderFile(video, [(0, len(known[1]))] if known else [], known))
    return files


def files_of_manifest(path: Path, rate: Fraction | None) -> list[FolderFile]:
    """The videos of a manifest, each with its shots; their time stamps are read for a rate alone.

    Args:
      path: The manifest.
      rate: Frames a second, or None for the videos' own frames.

    Raises:
      FileNotFoundError: There is no such manifest.
      InputError: It is damaged, or some files have a class and others none.

    Warns:
      UserWarning: A file cannot be read.
    """
    by_file: dict[str, list[ManifestClip]] = {}
    for clip in read_manifest(path):
        by_file.setdefault(clip.file, []).append(clip)
    files = []
    for name, clips in by_file.items():
        video, first = path_in_manifest(path, name), clips[0]
        shots = sorted((clip.start, clip.frames) for clip in clips)
        known = None if rate is None else _open_index(video, decode=False)
        shots = [] if rate is not None and known is None else shots
        listed = ListedVideo(name, video, first.part, first.class_name, first.caption)
        files.append(FolderFile(listed, shots, known))
    with_class = [file.video.class_name is not None for file in files]
    if any(with_class) and not all(with_class):
        name = files[with_class.index(False)].video.name
        raise InputError(f"{path}: {name} has no class, expected one as other files have")
    return files


def _open_index(path: pathlib.Path, decode: bool) -> tuple[Version, FrameIndex] | None:
    """The version and the time stamps of a file; None, with a warning, where it is unreadable."""
    try:
        return version_of(path), index_frames(path, decode=decode)
    except (InputError, FileNotFoundError) as error:
        warnings.warn(f"left out: {error}", stacklevel=3)
        return None


def check_clip_options(
    size: Sequence[int] | None,
    frames: int | None,
    stride: int,
    channels: int,
    fps: float | Fraction | None,
) -> None:
    """Refuses sizes, lengths, strides, channels and rates that no clips have.

    Raises:
      InputError: Names the argument.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise InputError(f"size is {size}, expected (Y, X), both of 1 or more")
    if frames is not None and frames < 1:
        raise InputError(f"frames is {frames}, expected 1 or more")
    if stride < 1:
        raise InputError(f"stride is {stride}, expected 1 or more")
    if channels not in (1, 3):
        raise InputError(f"channels is {channels}, expected 1 (grey) or 3 (colour)")
    if fps is not None:
        as_rate(fps)


def count_clips(
    file: FolderFile, frames: int | None, stride: int, rate: Fraction | None
) -> list[int]:
    """How many clips each shot of a file gives.

    Args:
      file: The file.
      frames: T, or None for one clip a shot.
      stride: Each how-manieth frame is kept.
      rate: Frames a second, or None for the video's own frames.

    Warns:
      UserWarning: It gives none.
    """
    counts, longest = [], 0
    try:
        for first, count in file.shots:
            kept = -(-count // stride)
            if rate is not None:
                assert file.known is not None
                shot = file.known[1].span(first, count)
                kept = len(shot.kept(rate, stride, str(file.video.path)))
            counts.append(1 if frames is None else kept // frames)
            longest = max(longest, kept)
    except InputError as error:
        warnings.warn(f"left out: {error}", stacklevel=3)
        return [0] * len(file.shots)
    if file.shots and not sum(counts):
        how = "" if rate is None else f" and {float(rate):g} a second"
        warnings.warn(
            f"left out: {file.video.path}: has {longest} frames at stride {stride}{how}, expected"
            f" {frames} or more",
            stacklevel=3,
        )
    return counts


def order_of_files(part_of: Sequence[str | None]) -> tuple[np.ndarray, Spans]:
    """The order of the files, and the parts as spans of it.

    Args:
      part_of: The part of each file; None for those without.
    """
    if None in part_of:
        return shuffled_parts(len(part_of))
    return parts_by_name([part for part in part_of if part])
