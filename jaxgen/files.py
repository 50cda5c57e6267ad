"""Writing files whole or not at all."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
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
