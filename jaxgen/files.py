"""Writing files whole or not at all, and reading compressed ones."""

import contextlib
import gzip
import os
import pathlib
import secrets
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from jaxgen.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
"""The first two bytes of a gzip file."""

Path = str | os.PathLike[str]


def open_file(path: Path) -> BinaryIO:
    """Opens a file for reading bytes.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: It is a folder, a link to nothing, something else that is no regular file, or it
        cannot be read.
    """
    if os.path.isdir(path):
        raise InputError(f"{path}: a folder, where a file was expected")
    if not os.path.exists(path):
        if os.path.islink(path):
            raise InputError(f"{path}: a link to {os.readlink(path)}, which is not there")
        raise FileNotFoundError(f"{path}: no such file")
    if not os.path.isfile(path):
        raise InputError(f"{path}: not a regular file")
    try:
        return pathlib.Path(path).open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` and renames it over `path` when the block ends well.

    A reader sees the old file or the new one, never a part; a block that raises leaves the old file
    as it was and nothing beside it.

    Args:
      path: The file to write. Its folder must exist.

    Yields:
      The temporary file, open for writing bytes.
    """
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as handle:
            yield handle
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def decompressed(content: bytes, source: str) -> bytes:
    """The content of a file, decompressed if it begins as gzip does.

    Raises:
      InputError: It is a damaged or truncated gzip file; the message names the source.
    """
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{source}: a damaged or truncated gzip file ({error})") from error
