"""The videos of a folder or a zip archive, with the parts, classes and captions that it gives them.

Files of a zip archive count as lying where the archive lies. A subfolder of numbered pictures is a
video, if no video file lies in it.
"""

import pathlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from jaxgen.data.captions.caption_files import fewest_words, most_words
from jaxgen.data.captions.file_listing import (
    captions_of_files,
    names_with_archives,
    parts_of_names,
    without_archives,
)
from jaxgen.data.images.image_files import SUFFIXES
from jaxgen.data.video.video_sources import VIDEO_SUFFIXES, are_numbered
from jaxgen.errors import InputError
from jaxgen.files import Path
from jaxgen.text_rules import has_suffix


@dataclass(frozen=True)
class ListedVideo:
    """A video of a folder.

    Attributes:
      name: In the folder, with subfolders.
      path: Where it is, as `decode_frames` takes it.
      part: "train", "validation" or "test", or None.
      class_name: Of its class, or None.
      caption: Or None; of several the one with most words.
      short_caption: The one with fewest words, or None.
    """

    name: str
    path: pathlib.Path
    part: str | None = None
    class_name: str | None = None
    caption: str | None = None
    short_caption: str | None = None


@dataclass(frozen=True)
class VideoListing:
    """The videos of a folder.

    Attributes:
      videos: In the order of their names.
      left_out: The names of the other files.
      unmatched: The names of videos that captions are there for, but that are not there.
    """

    videos: tuple[ListedVideo, ...]
    left_out: tuple[str, ...]
    unmatched: tuple[str, ...] = ()


def list_videos(
    path: Path, *, caption_field: str | None = None, class_field: str | None = None
) -> VideoListing:
    """Finds the videos of a folder or a zip archive, without opening them.

    Args:
      path: Videos lie in it, or in its subfolders at any depth; the first-level subfolders are the
        classes. Are all first-level subfolders called train, validation (val, valid, dev) or test,
        they are the parts, and the same holds inside each.
      caption_field: What captions are called in their file (`jaxgen.data.captions.caption_files`).
      class_field: What classes are called there; these then take the place of the subfolders.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: There are no videos, captions for some alone, or some lie in classes and others
        in none.

    Warns:
      UserWarning: A zip archive in the folder cannot be read.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such folder")
    if not root.is_dir() and not has_suffix(root.name, ".zip"):
        raise InputError(f"{path}: a file, where a folder of videos was expected")
    names, hidden = names_with_archives(root)
    videos = [name for name in names if has_suffix(name, *VIDEO_SUFFIXES)]
    pictures = _picture_folders(names, videos)
    videos = sorted([*videos, *pictures])
    if not videos:
        raise InputError(f"{path}: no videos in it ({' '.join(sorted(VIDEO_SUFFIXES))})")
    inside = {picture for found in pictures.values() for picture in found}
    others = [name for name in names if name not in {*videos, *inside}]
    found = captions_of_files(root, videos, others)
    captions = {} if found is None else found.captions(caption_field)
    plain = [without_archives(root, name) for name in videos]
    parts, inside_parts = parts_of_names(plain)
    classes = _classes(str(path), videos, inside_parts)
    if found is not None and (class_field or not any(classes)):
        named = found.classes(class_field)
        classes = [named.get(name) for name in videos]
    used = frozenset() if found is None else found.files
    return VideoListing(
        tuple(
            ListedVideo(name, root / name, part, class_name, *_long_and_short(captions.get(name)))
            for name, part, class_name in zip(videos, parts, classes, strict=True)
        ),
        (*sorted(set(others) - used), *hidden),
        () if found is None else found.unmatched,
    )


def _picture_folders(names: Sequence[str], videos: Sequence[str]) -> dict[str, list[str]]:
    """Folders that are videos, frame by frame, and the files of each."""
    taken = {name.rpartition("/")[0] for name in videos}
    inside: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parent = name.rpartition("/")[0]
        if has_suffix(name, *SUFFIXES) and parent not in taken:
            inside[parent].append(name)
    if len(inside) > 1 or videos:
        inside.pop("", None)  # the folder itself is a video only where it is nothing else
    found = {
        parent: pictures
        for parent, pictures in inside.items()
        if are_numbered([name.rpartition("/")[2] for name in pictures])
    }
    rates = {name for name in names if name.rpartition("/")[2] == "fps.txt"}
    for parent in found:
        found[parent] += rates & {f"{parent}/fps.txt" if parent else "fps.txt"}
    return found


def _classes(folder: str, names: Sequence[str], plain: Sequence[str]) -> list[str | None]:
    """The class of each video, by the first folder in its name."""
    split = [name.split("/") for name in plain]
    classes = [pieces[0] if len(pieces) > 1 else None for pieces in split]
    found = sorted({name for name in classes if name is not None})
    for name, class_name in zip(names, classes, strict=True):
        if found and class_name is None:
            raise InputError(
                f"{folder}/{name}: lies in no class, while others do ({', '.join(found[:3])}),"
                " expected all videos in subfolders, or none"
            )
    return classes


def _long_and_short(captions: Sequence[str] | None) -> tuple[str | None, str | None]:
    if not captions:
        return None, None
    return most_words(captions), fewest_words(captions)
