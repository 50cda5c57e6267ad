"""The files of a folder with the zip archives in it, and their parts and captions.

Files of a zip archive count as lying where the archive lies.
"""

import functools
import pathlib
import warnings
from collections.abc import Sequence

from jaxgen.data.archives import list_members, read_members
from jaxgen.data.captions.caption_files import CAPTION_FILES, FoundCaptions, find_captions
from jaxgen.data.text.token_files import PART_NAMES
from jaxgen.data.video.video_sources import split_archive
from jaxgen.errors import InputError
from jaxgen.files import open_file
from jaxgen.text_rules import has_suffix


def names_with_archives(root: pathlib.Path) -> tuple[list[str], list[str]]:
    """The files of a folder or an archive, those in a folder's archives too, and the hidden ones.

    Args:
      root: The folder or the archive.

    Returns:
      The names; those in an archive have its name before theirs: ``clips.zip/walk/3.mp4``.

    Warns:
      UserWarning: An archive in the folder cannot be read.
    """
    members = list_members(root)
    names, hidden = [], list(members.hidden)
    for name in members.names:
        if not root.is_dir() or not has_suffix(name, ".zip"):
            names.append(name)
            continue
        try:
            inside = list_members(root / name)
        except InputError as error:
            warnings.warn(f"left out: {error}", stacklevel=4)
            names.append(name)
            continue
        names += [f"{name}/{member}" for member in inside.names]
        hidden += [f"{name}/{member}" for member in inside.hidden]
    return names, hidden


def without_archives(root: pathlib.Path, name: str) -> str:
    """A name as if archives were unpacked where they lie."""
    pieces = name.split("/")
    kept = []
    for place, piece in enumerate(pieces):
        if not has_suffix(piece, ".zip") or not root.joinpath(*pieces[: place + 1]).is_file():
            kept.append(piece)
    return "/".join(kept)


def captions_of_files(
    root: pathlib.Path, names: Sequence[str], others: Sequence[str], what: str = "videos"
) -> FoundCaptions | None:
    """The captions of pictures or videos, from files among the others or beside an archive.

    Args:
      root: The folder or the archive.
      names: The pictures or videos in it.
      others: The other files in it.
      what: What errors call the pictures or videos.

    Returns:
      None where there are none.

    Raises:
      InputError: As `find_captions`.
    """
    plain = functools.partial(without_archives, root)
    wanted = (*CAPTION_FILES, ".txt")

    @functools.cache
    def texts_in(archive: pathlib.Path) -> dict[str, bytes]:
        return read_members(archive, lambda name: has_suffix(name, *wanted), "captions")[0]

    def read(name: str) -> bytes:
        archive, member = split_archive(root / name)
        if member is not None:
            return texts_in(archive)[member]
        with open_file(root / name) as handle:
            return handle.read()

    found = find_captions(str(root), names, others, read, plain, what)
    beside = [f"../{name}" for name in CAPTION_FILES if (root.parent / name).is_file()]
    if found is not None or root.is_dir() or not beside:
        return found

    def read_beside(name: str) -> bytes:
        return (root.parent / name.removeprefix("../")).read_bytes()

    return find_captions(
        str(root),
        names,
        beside,
        read_beside,
        lambda name: plain(name.removeprefix("..")),
        what,
        others_too=True,
    )


def parts_of_names(plain: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """The part of each file where all first-level folders are parts; None for each otherwise.

    Args:
      plain: The names, without archives in them.

    Returns:
      The parts, and the names in them.
    """
    split = [name.split("/") for name in plain]
    if not all(len(pieces) > 1 and pieces[0].lower() in PART_NAMES for pieces in split):
        return [None] * len(split), list(plain)
    parts: list[str | None] = [PART_NAMES[pieces[0].lower()] for pieces in split]
    return parts, ["/".join(pieces[1:]) for pieces in split]
