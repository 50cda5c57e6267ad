"""Videos as sets of clips of one length: those of a folder, or those that a manifest names.

A video of F frames has K = ceil(F / S) frames at a stride of S, or ceil(ceil(D R) / S) of its D
seconds at R frames a second (`FrameIndex.frames_at`), and floor(K / T) clips of T frames:
consecutive ones that share no frame. The files, not the clips, are divided into parts, so that no
two parts see the same scene.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from jaxgen.data.archives import Path
from jaxgen.data.images.image_set import (
    check_labels,
    check_parts,
    one_part,
)
from jaxgen.data.images.resizing import import_pillow, to_array, to_grey_or_rgb
from jaxgen.data.text.corpus import Spans
from jaxgen.data.video.clip_reading import known_index, read_frames
from jaxgen.data.video.folder_files import (
    FolderFile,
    Version,
    check_clip_options,
    count_clips,
    files_of_folder,
    files_of_manifest,
    order_of_files,
)
from jaxgen.data.video.frame_index import FrameIndex, as_rate
from jaxgen.data.video.video_listing import list_videos
from jaxgen.data.video.video_sources import version_of
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

MANIFEST_SUFFIX = ".jsonl"


@dataclass(frozen=True, eq=False)
class VideoFolder:
    """Clips of video files, decoded when asked for: records for `jaxgen.data.pipeline`.

    Of a clip's file no more is decoded than from the key frame before it on; what is decoded is not
    kept, so memory does not grow with the files, nor with their length (but 8 bytes for each
    frame's time stamp). A few files stay open, so that clips in order are decoded in one pass
    (`jaxgen.data.video.clip_reading`).

    Attributes:
      name: The folder.
      files: The videos: files, folders of pictures, or either in zip archives.
      clips: int32 [N, 4], of each clip: its file; the first frame and the number of frames of the
        file, or of a shot in it, that is cut into clips; and the clip's place among these.
      labels: int32 [N], indices into `classes`; or None.
      classes: The names of the classes; empty where there are none.
      parts: "train" and where there are any "validation" and "test" -> (start, stop) in N.
      size: Y and X of the clips, or None for the files' own.
      frames: T, or None for clips that are whole files, or whole shots.
      stride: Each how-manieth frame is kept.
      channels: 3 or 1.
      left_out: Names of the files in the folder that are none of `files`.
      fps: R, or None for the files' own frames.
      captions: Of each file, or None.
      indexes: Of each file its version (`version_of`) and time stamps, or None where they are made
        when it is first read.
    """

    name: str
    files: tuple[pathlib.Path, ...]
    clips: Int32[np.ndarray, "N 4"]
    labels: Int32[np.ndarray, "N"] | None
    classes: tuple[str, ...]
    parts: Spans
    size: tuple[int, int] | None = None
    frames: int | None = None
    stride: int = 1
    channels: int = 3
    left_out: tuple[str, ...] = ()
    fps: Fraction | None = None
    captions: tuple[str, ...] | None = None
    indexes: tuple[tuple[Version, FrameIndex] | None, ...] = ()

    def __post_init__(self):
        check_clip_options(self.size, self.frames, self.stride, self.channels, self.fps)
        check_labels(self.name, self.labels, len(self), self.classes)
        check_parts(self.name, self.parts, len(self))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Clip `index`: ``"video"``, uint8 [T, Y, X, C]; where there are any ``"label"``, int32,
        and ``"caption"``, a string.

        Raises:
          InputError: The file is damaged there, or has changed and is shorter.
        """
        file, first, count, place = self.clips[index].tolist()
        path = str(self.files[file])
        found = self._index(file)
        shot = found.span(first, max(0, min(count, len(found) - first)))
        kept_N = shot.kept(self.fps, self.stride, path) if len(shot) else np.zeros(0, np.int64)
        length = self.frames or len(kept_N)
        number_T = first + kept_N[place * length : (place + 1) * length]
        if len(number_T) < max(length, 1):
            raise InputError(f"{path}: has become shorter, clip {place} is missing")
        pictures = read_frames(path, number_T, self._fit, index=found)
        check_same_size(path, number_T, pictures)
        record: dict[str, Any] = {"video": np.stack(pictures)}
        if self.labels is not None:
            record["label"] = self.labels[index]
        if self.captions is not None:
            record["caption"] = self.captions[file]
        return record

    def _index(self, file: int) -> FrameIndex:
        path = self.files[file]
        version, known = version_of(path), self.indexes[file] if self.indexes else None
        return known[1] if known and known[0] == version else known_index(str(path), version)

    def _fit(self, picture_YXC: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "Y2 X2 C2"]:
        return fit_frame(picture_YXC, self.size, self.channels)

    def part(self, name: str) -> "VideoFolder":
        """One part as a folder of its own, with that part alone.

        Raises:
          InputError: There is no part of this name.
        """
        return one_part(self, name, "clips")


def fit_frame(
    picture_YXC: UInt8[np.ndarray, "Y X 3"], size: tuple[int, int] | None, channels: int
) -> UInt8[np.ndarray, "Y2 X2 C2"]:
    """A frame resized (bicubic, antialiased) until it covers a size, and cropped in the middle.

    Args:
      picture_YXC: The frame.
      size: Y and X, or None for the frame's own.
      channels: 3, or 1 for grey (ITU-R 601 luma).
    """
    if channels == picture_YXC.shape[-1] and size in (None, picture_YXC.shape[:2]):
        return picture_YXC
    pil = import_pillow("resizing")
    grey = picture_YXC.shape[-1] == 1
    image = pil.Image.fromarray(picture_YXC[..., 0] if grey else picture_YXC)
    image = to_grey_or_rgb(image, channels)
    if size is not None and size[::-1] != image.size:
        image = pil.ImageOps.fit(image, size[::-1], method=pil.Image.Resampling.BICUBIC)
    return to_array(image)


def check_same_size(path: str, number_T: Sequence[int], pictures: Sequence[np.ndarray]) -> None:
    """Refuses frames of several sizes in one clip.

    Raises:
      InputError: Names the file, the frame and both sizes.
    """
    for number, picture in zip(number_T, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise InputError(
                f"{path}: frame {number} is {list(picture.shape)}, expected"
                f" {list(pictures[0].shape)} as frame {number_T[0]} is; give size"
            )


def open_video_folder(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    stride: int = 1,
    channels: int = 3,
    fps: float | Fraction | None = None,
    decode: bool = True,
    caption_field: str | None = None,
    class_field: str | None = None,
) -> VideoFolder:
    """Finds the clips of a folder of videos, or of a manifest.

    Args:
      path: A folder or a zip archive; or a manifest (``.jsonl``, `jaxgen.data.video.manifest`),
        whose clips are then what is cut into clips of T frames. In a folder videos lie in it, or in
        its subfolders at any depth, also in zip archives there, and so do subfolders of numbered
        pictures; the first-level subfolders are the classes, in the order of their names. Are all
        first-level subfolders called train, validation (val, valid, dev) or test, they are the
        parts, and the same holds inside each. Captions, and classes of videos without subfolders,
        are read from the files that `jaxgen.data.captions.caption_files` names.
      size: Y and X: frames are resized (bicubic, antialiased) until they cover it, and their middle
        is kept. None keeps each file's own size.
      frames: T, the frames of a clip. None makes each file one clip, of its own length.
      stride: Keeps each `stride`-th frame of a file, the first one first.
      channels: 3 for red, green, blue; 1 for grey.
      fps: R: the frames that are shown at so many times a second, by the files' time stamps. None
        takes each frame once, also of animations that show some longer than others.
      decode: Whether each file is decoded to its end once, so that damaged ones are found now.
        Without it only time stamps are read, which takes far less time; damage inside of
        frames is then found where a clip is read. Files of a manifest are not decoded.
      caption_field: What captions are called in their file; by default caption, text or name.
      class_field: What classes are called there; by default, where there are no subfolders, class,
        label or category.

    Returns:
      The folder, clips of a file in order, files in the order of their names within a part; where
      it has no parts, its files are divided by `shuffled_parts`: a fixed random tenth each for
      validation and for test. `left_out` names the files that are no videos by their suffix, could
      not be read, or are too short.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: No file gives a clip, captions are there for some alone, or some files lie in
        classes and others in none.

    Warns:
      UserWarning: A file cannot be read, or is shorter than one clip; the message names it.
    """
    check_clip_options(size, frames, stride, channels, fps)
    rate = None if fps is None else as_rate(fps)
    if has_suffix(str(path), MANIFEST_SUFFIX) and not pathlib.Path(path).is_dir():
        found, left_out = files_of_manifest(path, rate), tuple[str, ...]()
    else:
        listing = list_videos(path, caption_field=caption_field, class_field=class_field)
        found, left_out = files_of_folder(listing.videos, decode), listing.left_out
    for file in found:
        file.clips = count_clips(file, frames, stride, rate)
    files = [file for file in found if sum(file.clips)]
    if not files:
        raise InputError(f"{path}: has {len(found)} videos, none of which gives a clip")
    order, file_parts = order_of_files([file.video.part for file in files])
    files = [files[i] for i in order]
    missing = {file.video.name for file in found} - {file.video.name for file in files}
    return _assemble(
        VideoFolder(
            name=str(path),
            files=tuple(file.video.path for file in files),
            clips=np.zeros((0, 4), np.int32),
            labels=None,
            classes=(),
            parts={},
            size=None if size is None else (size[0], size[1]),
            frames=frames,
            stride=stride,
            channels=channels,
            left_out=_in_order(missing, left_out),
            fps=rate,
            captions=_captions(files),
            indexes=tuple(file.known for file in files),
        ),
        files,
        file_parts,
    )


def _in_order(missing: set[str], left_out: Sequence[str]) -> tuple[str, ...]:
    """Names of files left out, those that are hidden at the end."""
    hidden = [name for name in left_out if any(p.startswith(".") for p in name.split("/"))]
    return (*sorted(missing | (set(left_out) - set(hidden))), *hidden)


def _assemble(folder: VideoFolder, files: Sequence[FolderFile], file_parts: Spans) -> VideoFolder:
    """The folder with the clips of its files, their labels and their parts."""
    clips = [
        (number, *shot, place)
        for number, file in enumerate(files)
        for shot, count in zip(file.shots, file.clips, strict=True)
        for place in range(count)
    ]
    counts = [sum(file.clips) for file in files]
    ends = np.cumsum([0, *counts])
    classes = sorted({file.video.class_name for file in files if file.video.class_name is not None})
    labels = None
    if classes:
        of_file = [classes.index(file.video.class_name or classes[0]) for file in files]
        labels = np.repeat(np.array(of_file, np.int32), counts)
    return replace(
        folder,
        clips=np.array(clips, np.int32),
        labels=labels,
        classes=tuple(classes),
        parts={part: (int(ends[a]), int(ends[b])) for part, (a, b) in file_parts.items()},
    )


def _captions(files: Sequence[FolderFile]) -> tuple[str, ...] | None:
    captions = [file.video.caption for file in files]
    known = [caption for caption in captions if caption is not None]
    if known and len(known) < len(files):
        name = files[captions.index(None)].video.name
        raise InputError(f"{name}: has no caption, expected one as other videos have")
    return tuple(known) or None
