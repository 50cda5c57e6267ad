"""Bytes and text out of files, folders and zip archives, with errors that name the file."""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable

from jaxgen.errors import InputError

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip archive begins; the second one is an empty archive's."""

Path = str | os.PathLike[str]


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: The path is a folder, or the file is empty.
    """
    file = pathlib.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if file.is_dir():
        raise InputError(f"{path}: a folder, where a file was expected")
    content = file.read_bytes()
    if not content:
        raise InputError(f"{path}: the file is empty")
    return content


def is_container(path: Path) -> bool:
    """Whether a path is a folder, or a file that begins as a zip archive does.

    Raises:
      FileNotFoundError: There is no such path.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if root.is_dir():
        return True
    with root.open("rb") as handle:
        return handle.read(4) in ZIP_MAGICS


def member_names(path: Path) -> list[str]:
    """Names of the files in a folder or a zip archive at any depth, with folders, sorted.

    Left out are the files ``._*`` that macOS puts beside others.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Neither a folder nor a sound zip archive.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if root.is_dir():
        names = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    else:
        with _open_zip(root) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    return sorted(name for name in names if not last_name(name).startswith("._"))


def read_members(path: Path, wanted: Callable[[str], object], expected: str) -> dict[str, bytes]:
    """The files with certain names in a folder or a zip archive, at any depth.

    Args:
      path: A folder or a zip archive.
      wanted: Takes a file's name without folders (``"ca01"``); true for those to read.
      expected: What is looked for, in words, for the error message.

    Returns:
      Content by name with folders, in the order of the names.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Neither a folder nor a sound zip archive, or it holds no wanted file.
    """
    names = [name for name in member_names(path) if wanted(last_name(name))]
    if not names:
        raise InputError(f"{path}: holds no {expected}")
    root = pathlib.Path(path)
    if root.is_dir():
        return {name: (root / name).read_bytes() for name in names}
    with _open_zip(root) as archive:
        return {name: _read_zip_member(archive, root, name) for name in names}


def last_name(name: str) -> str:
    """A member's name without its folders."""
    return name.rsplit("/", 1)[-1]


def _open_zip(root: pathlib.Path) -> zipfile.ZipFile:
    read_bytes(root)  # says "empty" where zipfile would say "not a zip"
    try:
        return zipfile.ZipFile(root)
    except zipfile.BadZipFile as error:
        raise InputError(f"{root}: not a zip archive, or a truncated one ({error})") from error


def _read_zip_member(archive: zipfile.ZipFile, root: pathlib.Path, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{root}: cannot read {name}, damaged or encrypted ({error})") from error


def decode_text(content: bytes, source: str, encoding: str = "utf-8") -> str:
    """Bytes of a text file as a string; a byte-order mark is dropped, line ends become ``\\n``.

    Args:
      content: The bytes.
      source: The file they came from, for the error message.
      encoding: A codec of Python's.

    Raises:
      InputError: No bytes, a zero byte (binary data), bytes that are not in this encoding (the
        message names the source and the byte's offset), or an unknown encoding.
    """
    if not content:
        raise InputError(f"{source}: the file is empty")
    try:
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
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
