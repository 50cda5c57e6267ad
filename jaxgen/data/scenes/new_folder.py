"""Folders that are written whole or not at all."""

import contextlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from jaxgen.data.archives import Path
from jaxgen.errors import InputError
from jaxgen.files import as_path, is_remote


def check_new_folder(folder: Path) -> pathlib.Path:
    """A local folder that is not there yet, or empty.

    Raises:
      InputError: It is remote, no folder, or has files in it.
    """
    target = as_path(folder)
    if is_remote(target):
        raise InputError(f"{folder}, expected a local folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{folder}: is there and not empty, expected a new folder or an empty one")
    return target


@contextlib.contextmanager
def replacing_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that takes the place of `target` when the block ends well, and else vanishes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.jaxgen.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
