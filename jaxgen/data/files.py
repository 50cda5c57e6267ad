"""Bytes and text out of files, folders and zip archives, with errors that name the file."""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable

from jaxgen.errors import InputError


def read_bytes(path: str | os.PathLike[str]) -> bytes:
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


def read_members(
    path: str | os.PathLike[str], wanted: Callable[[str], bool], expected: str
) -> dict[str, bytes]:
    """The files with certain names in a folder or a zip archive, at any depth.

    Args:
      path: A folder or a zip archive.
      wanted: Takes a file's last name (``"ca01"``) and says whether to read it.
      expected: What is looked for, in words, for the error message.

    Returns:
      Content by file name, without folders, in the order of the names.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Not a folder or a zip, a damaged zip, no wanted file, or one name found twice.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    pairs = _folder_members(root, wanted) if root.is_dir() else _zip_members(root, wanted)
    if not pairs:
        kind = "folder" if root.is_dir() else "zip archive"
        raise InputError(f"{path}: this {kind} holds no {expected}")
    members: dict[str, bytes] = {}
    for name, content in sorted(pairs, key=lambda pair: pair[0]):
        if name in members:
            raise InputError(f"{path}: holds two files named {name}; expected one of each")
        members[name] = content
    return members


def _folder_members(root: pathlib.Path, wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    return [
        (file.name, file.read_bytes())
        for file in root.rglob("*")
        if file.is_file() and wanted(file.name)
    ]


def _zip_members(root: pathlib.Path, wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    read_bytes(root)  # says "empty" where zipfile would say "not a zip"
    try:
        with zipfile.ZipFile(root) as archive:
            return [
                (name, archive.read(info))
                for info in archive.infolist()
                if not info.is_dir() and wanted(name := info.filename.rsplit("/", 1)[-1])
            ]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{root}: not a zip archive, or a damaged one ({error})") from error


def decode_text(content: bytes, source: str, encoding: str = "utf-8") -> str:
    """Bytes of a text file as a string; a byte-order mark is dropped.

    Args:
      content: The bytes.
      source: The file they came from, for the error message.
      encoding: A codec of Python's.

    Raises:
      InputError: No bytes, a zero byte (binary data), or bytes that are not in this encoding;
        the message names the source and the byte's offset.
    """
    if not content:
        raise InputError(f"{source}: the file is empty")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InputError(
            f"{source}: not {encoding} text: byte 0x{byte:02x} at offset {error.start}"
            f" ({error.reason})"
        ) from error
    if "\0" in text:
        offset = len(text[: text.index("\0")].encode(encoding))
        raise InputError(f"{source}: binary data, not text: a zero byte at offset {offset}")
    return text.removeprefix("\ufeff")
