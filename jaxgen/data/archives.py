"""Bytes and text out of files, folders and zip archives, with errors that name the file.

`jaxgen.text_rules` says what all formats of text have in common. Of folders and archives, whatever
is not read is named in the `left_out` of what is: also hidden files and folders, and links to
folders, which are not followed. Only what the system puts beside files (`.DS_Store`, `._*`,
`__MACOSX`, `Thumbs.db`, `desktop.ini`) is passed over without a word.
"""

import codecs
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxgen.errors import InputError
from jaxgen.files import LFS_POINTER, LFS_START, decompressed, open_file
from jaxgen.text_rules import MARK, has_suffix, unify_line_ends, without_mark

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip archive begins; the second one is an empty archive's."""

MOST_NAMED = 3
"""Files left out that are called by name; of more, the number is told."""

_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})

Path = str | os.PathLike[str]


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: The path is no regular file or cannot be read, or the file is empty, or a pointer
        of Git LFS in place of it.
    """
    with open_file(path) as handle:
        content = handle.read()
    if not content:
        raise InputError(f"{path}: the file is empty")
    if content.startswith(LFS_START):
        raise InputError(f"{path}: {LFS_POINTER}")
    return content


def is_container(path: Path) -> bool:
    """Whether a path is a folder, or a file that begins as a zip archive does.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: It cannot be read.
    """
    if os.path.isdir(path):
        return True
    with open_file(path) as handle:
        return handle.read(4) in ZIP_MAGICS


@dataclass(frozen=True)
class Members:
    """The files of a folder or a zip archive at any depth, by name with folders.

    Attributes:
      names: Files, sorted.
      hidden: Hidden files and folders, and links to folders (these end with "/"), sorted.
    """

    names: list[str]
    hidden: list[str]


def list_members(path: Path) -> Members:
    """The files of a folder or a zip archive, without those that the system puts there.

    A link to nothing counts as a file, so that reading it tells.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Neither a folder nor a sound zip archive, or a folder that cannot be read.
    """
    if os.path.isdir(path):
        return _list_folder(os.fspath(path))
    with _open_zip(path) as archive:
        found = [info.filename for info in archive.infolist() if not info.is_dir()]
    found = [name for name in found if not any(map(_is_system_file, name.split("/")))]
    hidden = [name for name in found if any(part.startswith(".") for part in name.split("/"))]
    return Members(sorted(set(found) - set(hidden)), sorted(set(hidden)))


def _list_folder(root: str) -> Members:
    names: list[str] = []
    hidden: list[str] = []

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for folder, folders, files in os.walk(root, onerror=fail):
        prefix = pathlib.Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not _is_system_file(name)]
        closed = {
            name
            for name in folders
            if name.startswith(".") or os.path.islink(os.path.join(folder, name))
        }
        hidden += [f"{(prefix / name).as_posix()}/" for name in closed]
        folders[:] = [name for name in folders if name not in closed]
        for name in files:
            if not _is_system_file(name):
                (hidden if name.startswith(".") else names).append((prefix / name).as_posix())
    return Members(sorted(names), sorted(hidden))


def files_in(folder: Path) -> list[str]:
    """Names of the files that lie in a folder itself, sorted; without those of the system.

    Raises:
      InputError: The folder cannot be read.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    is_file = [
        not _is_system_file(name) and not os.path.isdir(os.path.join(folder, name))
        for name in names
    ]
    return sorted(name for name, keep in zip(names, is_file, strict=True) if keep)


def _is_system_file(name: str) -> bool:
    return name in _SYSTEM_FILES or name.startswith("._")


def read_members(
    path: Path, wanted: Callable[[str], object], expected: str
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files with certain names in a folder or a zip archive, at any depth.

    Args:
      path: A folder or a zip archive.
      wanted: Takes a file's `plain_name` (``"ca01"``); true for those to read.
      expected: What is looked for, in words, for the error message.

    Returns:
      Content by name with folders, in the order of the names; and the names of what is left out.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Neither a folder nor a sound zip archive, it holds no wanted file, or one that
        cannot be read.
    """
    members = list_members(path)
    names = [name for name in members.names if wanted(plain_name(name))]
    if not names:
        raise InputError(f"{path}: holds no {expected}")
    left_out = (*sorted(set(members.names) - set(names)), *members.hidden)
    root = pathlib.Path(path)
    if root.is_dir():
        return {name: _read_file(root / name) for name in names}, left_out
    with _open_zip(root) as archive:
        return {name: _read_zip_member(archive, root, name) for name in names}, left_out


def plain_name(name: str) -> str:
    """A member's name without its folders, and without ``.gz`` where it ends so."""
    name = name.rsplit("/", 1)[-1]
    return name[: -len(".gz")] if has_suffix(name, ".gz") else name


def describe_left_out(names: Sequence[str]) -> str:
    """The end of a line that says which files were not read; empty where all were."""
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"; left out: {', '.join(names[:MOST_NAMED])}{more}"


def _read_file(file: pathlib.Path) -> bytes:
    with open_file(file) as handle:
        return handle.read()


def _open_zip(path: Path) -> zipfile.ZipFile:
    with open_file(path) as handle:
        if not handle.read(1):
            raise InputError(f"{path}: the file is empty")
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: not a zip archive, or a truncated one ({error})") from error


def _read_zip_member(archive: zipfile.ZipFile, root: pathlib.Path, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{root}: cannot read {name}, damaged or encrypted ({error})") from error


def decode_text(content: bytes, source: str, encoding: str = "utf-8") -> str:
    """Bytes of a text file as a string, by the rules of `jaxgen.text_rules`.

    Args:
      content: The bytes, compressed with gzip or not.
      source: The file they came from, for the error message.
      encoding: A codec of Python's.

    Returns:
      The text, without a byte-order mark at its beginning, lines ending with ``\\n``.

    Raises:
      InputError: No bytes, a damaged gzip file, the mark of another encoding, a zero byte (binary
        data), bytes that are not in this encoding (the message names the source and the byte's
        offset), or an unknown encoding.
    """
    content = decompressed(content, source)
    if not content:
        raise InputError(f"{source}: the file is empty")
    try:
        if codecs.lookup(encoding).name == "utf-8":
            without_mark(content, source)
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: not {encoding} text: byte 0x{content[error.start]:02x} at offset"
            f" {error.start} ({error.reason})"
        ) from error
    except LookupError as error:
        raise InputError(f"{source}: {error}") from error
    if "\0" in text:
        offset = len(text[: text.index("\0")].encode(encoding))
        raise InputError(f"{source}: binary data, not text: a zero byte at offset {offset}")
    return unify_line_ends(text.removeprefix(MARK))
