"""Folders and zip archives of pictures or clips with captions, read into memory.

Captions are found as `jaxgen.data.captions.caption_files` says, for pictures and for clips. Every
file needs one, and every caption a file.
"""

import pathlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxgen.data.archives import Path, read_members
from jaxgen.data.captions.caption_files import (
    CAPTION_FILES,
    Entry,
    fewest_words,
    most_words,
    name_some,
)
from jaxgen.data.captions.captioned_set import Attributes, CaptionedSet
from jaxgen.data.captions.class_captions import CLASS
from jaxgen.data.captions.file_listing import (
    captions_of_files,
    names_with_archives,
    parts_of_names,
    without_archives,
)
from jaxgen.data.images.image_files import SUFFIXES, check_same_shape, read_image
from jaxgen.data.video.folder_files import order_of_files
from jaxgen.data.video.video_folder import open_video_folder
from jaxgen.data.video.video_listing import list_videos
from jaxgen.data.video.video_sources import split_archive
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

EXPECTED = f"expected NAME.txt beside each, or one of {', '.join(CAPTION_FILES)}"


def read_captioned_images(
    path: Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    caption_field: str | None = None,
    fields: Sequence[str] = (),
) -> CaptionedSet:
    """Reads the pictures of a folder or a zip archive with their captions.

    Args:
      path: Pictures lie in it at any depth, also in zip archives in it. Are all first-level
        subfolders called train, validation (val, valid, dev) or test, they are the parts.
      size: Y and X to resize and crop them to (`read_image`), or None.
      channels: 1 or 3 to convert them to. None keeps them grey where all are.
      caption_field: What captions are called in their file; by default caption, captions, text or
        name. Of several captions of a picture the one with fewest words is the short one, that with
        most the descriptive one.
      fields: Other fields of the entries: texts, or lists of texts. They become attributes, and
        their texts follow the descriptive caption, after commas.

    Returns:
      The set; where the folder has no parts, divided by `shuffled_parts`: a fixed random tenth
      each for validation and for test.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: There are no pictures; pictures without captions, captions without pictures or
        empty ones (says how many, and names the first); a file of captions or a picture is damaged;
        or pictures differ in shape.
    """
    root = pathlib.Path(path)
    names, hidden = names_with_archives(root)
    files = [name for name in names if has_suffix(name, *SUFFIXES)]
    others = [name for name in names if not has_suffix(name, *SUFFIXES)]
    if not files:
        raise InputError(f"{path}: no pictures in it ({' '.join(sorted(SUFFIXES))})")
    found = captions_of_files(root, files, others, "pictures")
    if found is None:
        raise InputError(f"{path}: no captions of its {len(files)} pictures, {EXPECTED}")
    _check_all_matched(str(path), found.unmatched, len(files), "pictures")
    captions = found.captions(caption_field)
    if not captions:
        raise InputError(f"{path}: entries without captions, give caption_field")
    order, parts = order_of_files(
        parts_of_names([without_archives(root, name) for name in files])[0]
    )
    files = [files[i] for i in order]
    entries = [found.entries[name] for name in files]
    details = {field: _texts_of(entries, field, files) for field in fields}
    descriptive = [
        ", ".join((most_words(captions[name]), *of_file))
        for name, *of_file in zip(files, *details.values(), strict=True)
    ]
    return CaptionedSet(
        str(path),
        _read_pictures(root, files, size, channels),
        tuple(fewest_words(captions[name]) for name in files),
        tuple(descriptive),
        _attributes(details),
        parts,
        (*sorted(set(others) - found.files), *hidden),
    )


def read_captioned_clips(
    path: Path,
    *,
    frames: int,
    size: int | None = None,
    channels: int = 3,
    stride: int = 1,
    fps: float | Fraction | None = None,
    caption_field: str | None = None,
) -> CaptionedSet:
    """Reads the clips of a folder or a zip archive of videos with their captions.

    Args:
      path: As `open_video_folder` takes it, but no manifest.
      frames: T, the frames of a clip.
      size: Y and X to resize and crop them to, or None.
      channels: 3 or 1.
      stride: Each how-manieth frame is kept.
      fps: Frames a second, or None for the videos' own frames.
      caption_field: As `read_captioned_images`, also for several captions.

    Returns:
      The set; its attribute "class" is the class of the folder's videos, where they have one.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: As `open_video_folder`; or videos without captions, captions without videos, or
        empty ones; or clips differ in shape.

    Warns:
      UserWarning: A video cannot be read, or is shorter than one clip.
    """
    listing = list_videos(path, caption_field=caption_field)
    short = {video.path: video.short_caption for video in listing.videos}
    if None in short.values():
        raise InputError(f"{path}: no captions of its {len(short)} videos, {EXPECTED}")
    _check_all_matched(str(path), listing.unmatched, len(short), "videos")
    folder = open_video_folder(
        path,
        size=None if size is None else (size, size),
        frames=frames,
        stride=stride,
        channels=channels,
        fps=fps,
        decode=False,
        caption_field=caption_field,
    )
    clips = [folder[i]["video"] for i in range(len(folder))]
    of_clip = folder.clips[:, 0].tolist()
    for clip, file in zip(clips, of_clip, strict=True):
        if clip.shape != clips[0].shape:
            raise InputError(
                f"{folder.files[file]}: clips of {list(clip.shape)}, but {folder.files[of_clip[0]]}"
                f" has {list(clips[0].shape)}, expected one shape; give size"
            )
    assert folder.captions is not None
    labels = folder.labels
    return CaptionedSet(
        str(path),
        np.stack(clips),
        tuple(str(short[folder.files[file]]) for file in of_clip),
        tuple(folder.captions[file] for file in of_clip),
        None if labels is None else Attributes({CLASS: folder.classes}, labels[:, None]),
        folder.parts,
        folder.left_out,
    )


def _check_all_matched(folder: str, unmatched: Sequence[str], total: int, what: str) -> None:
    if unmatched:
        raise InputError(
            f"{folder}: {len(unmatched)} captions without a file beside those of {total} {what},"
            f" for {name_some(unmatched)}, expected a file for each"
        )


def _texts_of(entries: Sequence[Entry], field: str, files: Sequence[str]) -> list[str]:
    """The text of a field in each entry; words of a list in their order."""
    texts = []
    for entry, name in zip(entries, files, strict=True):
        value: Any = entry.get(field)
        words = value if isinstance(value, list) else [value]
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise InputError(f"{name}: {field} is {value!r}, expected a text, or a list of texts")
        texts.append(" ".join(" ".join(words).split()))
    return texts


def _attributes(details: Mapping[str, Sequence[str]]) -> Attributes | None:
    if not details:
        return None
    values = {field: tuple(sorted(set(texts))) for field, texts in details.items()}
    codes = [[values[field].index(text) for text in texts] for field, texts in details.items()]
    return Attributes(values, np.array(codes, np.int32).T)


def _read_pictures(
    root: pathlib.Path, files: Sequence[str], size: int | None, channels: int | None
) -> UInt8[np.ndarray, "N Y X C"]:
    """The pictures of a folder and its archives, each archive opened once."""
    contents: dict[pathlib.Path, Mapping[str, bytes]] = {}
    pictures = []
    for name in files:
        archive, member = split_archive(root / name)
        if member is not None and archive not in contents:
            contents[archive] = read_members(
                archive, lambda last: has_suffix(last, *SUFFIXES), "pictures"
            )[0]
        content = None if member is None else contents[archive][member]
        pictures.append(read_image(root / name, size, channels, content))
    most = max(picture.shape[-1] for picture in pictures)
    pictures = [np.repeat(p, most // p.shape[-1], axis=-1) for p in pictures]
    check_same_shape(files, pictures)
    return np.stack(pictures)
