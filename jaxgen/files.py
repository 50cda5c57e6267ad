"""Paths, local or in a bucket; reading files, and writing them whole or not at all."""

import contextlib
import gzip
import os
import pathlib
import re
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from jaxgen.errors import InputError

Path = str | os.PathLike[str]

GZIP_MAGIC = b"\x1f\x8b"
"""The first two bytes of a gzip file."""

LFS_START = b"version https://git-lfs"
LFS_POINTER = "a pointer of Git LFS; fetch the file itself with git lfs pull"
"""How such a file begins, and what errors say of it."""

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.jaxgen\.tmp", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)


def as_path(path: Path) -> pathlib.Path:
    """The path of a file or folder that a run writes: local, or in a bucket.

    Args:
      path: a local path, ``gs://BUCKET/...`` or ``s3://BUCKET/...``.

    Returns:
      A `pathlib.Path`, or for a bucket an `etils.epath.Path`, which has the same methods
      (but ``open`` knows neither the mode "x" nor `errors`).

    Raises:
      InputError: for another scheme, for one without a bucket, for one that `pathlib` has taken
        for a folder's name, and where the package for the scheme is not installed.
    """
    found = _SCHEME.fullmatch(os.fspath(path))
    if found is None:
        return pathlib.Path(path)
    scheme, slashes, rest = found.groups()
    if slashes == "/":
        if scheme in _PACKAGES:
            raise InputError(f"{path}, expected {scheme}://{rest}, a string rather than a Path")
        return pathlib.Path(path)
    if scheme not in _PACKAGES:
        expected = " or ".join(f"{known}://" for known in _PACKAGES)
        raise InputError(f"{path}, expected a local path, {expected}, found {scheme}://")
    if not rest or slashes != "//":
        raise InputError(f"{path}, expected {scheme}://BUCKET/...")
    _check_installed(scheme, str(path))
    from etils import epath

    return cast(pathlib.Path, epath.Path(os.fspath(path)))


def is_remote(path: pathlib.Path) -> bool:
    """Whether a path that `as_path` made is in a bucket."""
    return "://" in os.fspath(path)


def _check_installed(scheme: str, path: str) -> None:
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise InputError(
            f"{path}: {scheme}:// needs the package {_PACKAGES[scheme]}: "
            f"pip install 'jaxgen[{scheme}]'"
        ) from None


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
    as it was and nothing beside it. In a bucket, where objects are written whole and renaming is
    copying, the temporary file is a local one.

    Args:
      path: The file to write, as `as_path` takes it. Its folder must exist.

    Yields:
      The temporary file, open for writing bytes.
    """
    target = as_path(path)
    if is_remote(target):
        with tempfile.TemporaryFile() as handle:
            yield cast(BinaryIO, handle)
            handle.seek(0)
            with target.open("wb") as uploaded:
                shutil.copyfileobj(handle, uploaded)
        return
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.jaxgen.tmp")
    try:
        with _naming(target), temporary.open("xb") as handle:
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


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of `replacing` that killed processes left, in all sub-folders.

    To be called where no other process is writing into the folder; nothing else is touched.
    """
    root = as_path(folder)
    if is_remote(root):
        return  # where there are none
    for found in root.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(found.name) and found.is_file() and not found.is_symlink():
            found.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Names the file where an error in writing does not: a full disk is found without a name, a
    missing folder by the name of the temporary file.
    """
    try:
        yield
    except OSError as error:
        name = pathlib.Path(str(error.filename or "")).name
        if error.errno is not None and (not name or _TEMPORARY.fullmatch(name)):
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
        raise


def append(path: pathlib.Path, data: bytes) -> None:
    """Adds bytes at the end of a file, made if it does not exist.

    An object in a bucket cannot grow: it is read and written again.
    """
    if not is_remote(path):
        with _naming(path), path.open("ab") as handle:
            handle.write(data)
        return
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(before + data)
