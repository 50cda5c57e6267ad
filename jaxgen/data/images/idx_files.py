"""The idx format of MNIST and its relatives.

A file is two zero bytes, a type (8: uint8), the number of dimensions, each size as a big-endian
32-bit number, then the values, last dimension fastest (LeCun, Cortes & Burges, the MNIST data base
of handwritten digits). Files may be compressed with gzip, whatever their name says.
"""

import gzip
import pathlib
import re
import struct
import zlib

import numpy as np
from jaxtyping import UInt8

from jaxgen.data.archives import Path, read_bytes
from jaxgen.data.images.image_set import ImageSet, published_parts
from jaxgen.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
UINT8_TYPE = 8

_PARTS = {"train": "train", "t10k": "test"}
match_idx = re.compile(
    r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?", re.IGNORECASE
).fullmatch
"""Matches ``train-images-idx3-ubyte.gz``: group 1 says which part, group 2 what of it."""


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array of an idx file of bytes.

    Args:
      path: The file, plain or compressed with gzip.
      dimensions: How many dimensions it should have: 3 for images, 1 for labels.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: Not an idx file of so many dimensions of uint8, a damaged gzip file, or one that
        holds fewer or more values than it says.
    """
    content = read_bytes(path)
    if content.startswith(GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path}: a damaged or truncated gzip file ({error})") from error
    magic = bytes([0, 0, UINT8_TYPE, dimensions])
    header = 4 + 4 * dimensions
    if content[:4] != magic:
        raise InputError(
            f"{path}: begins with {content[:4].hex(' ')}, expected {magic.hex(' ')}, the mark of an"
            f" idx file of uint8 with {dimensions} dimension{'s' if dimensions > 1 else ''}"
        )
    if len(content) < header:
        raise InputError(f"{path}: truncated in its header of {header} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = int(np.prod(shape, dtype=object))
    if len(content) - header != expected:
        raise InputError(
            f"{path}: {len(content) - header:,} bytes after the header, expected {expected:,} ="
            f" {' x '.join(map(str, shape))}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def is_idx_folder(folder: pathlib.Path) -> bool:
    """Whether a folder holds files named as MNIST's."""
    return folder.is_dir() and any(match_idx(file.name) for file in folder.iterdir())


def read_mnist(folder: Path) -> ImageSet:
    """Reads a folder with MNIST's four files (MNIST, Fashion-MNIST and others in its form).

    ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
    ``t10k-labels-idx1-ubyte``, plain (taken first where both are there) or with ``.gz``.

    Returns:
      Grey images [N, Y, X, 1], 60,000 and 10,000 of 28 x 28 for MNIST; the last tenth of the
      training files is for validation. Classes are called "0", "1", ... up to the highest label.

    Raises:
      InputError: A file is missing or refused by `read_idx`; images and labels are not as many; or
        the images of the two parts differ in size. The message names the files.
    """
    root = pathlib.Path(folder)
    pieces = {part: _read_part(root, prefix) for prefix, part in _PARTS.items()}
    images = [images_NYX for images_NYX, _ in pieces.values()]
    if images[0].shape[1:] != images[1].shape[1:]:
        sizes = " and ".join("x".join(map(str, piece.shape[1:])) for piece in images)
        raise InputError(f"{folder}: training and test images of {sizes}, expected one size")
    labels = np.concatenate([labels_N for _, labels_N in pieces.values()]).astype(np.int32)
    return ImageSet(
        str(folder),
        np.concatenate(images)[..., None],
        labels,
        tuple(map(str, range(labels.max(initial=0) + 1))),
        published_parts({part: len(labels_N) for part, (_, labels_N) in pieces.items()}),
    )


def _read_part(
    root: pathlib.Path, prefix: str
) -> tuple[UInt8[np.ndarray, "N Y X"], UInt8[np.ndarray, "N"]]:
    files = {what: _find(root, prefix, what) for what in ("images", "labels")}
    images_NYX = read_idx(files["images"], 3)
    labels_N = read_idx(files["labels"], 1)
    if len(images_NYX) != len(labels_N):
        raise InputError(
            f"{files['images']}: {len(images_NYX)} images, but {len(labels_N)} labels in"
            f" {files['labels'].name}, expected as many"
        )
    return images_NYX, labels_N


def _find(root: pathlib.Path, prefix: str, what: str) -> pathlib.Path:
    for file in sorted(root.iterdir()):  # a plain file's name sorts before its .gz
        match = match_idx(file.name)
        if match and (match[1].lower(), match[2].lower()) == (prefix, what):
            return file
    dimensions = 3 if what == "images" else 1
    raise InputError(f"{root}: no file {prefix}-{what}-idx{dimensions}-ubyte, plain or with .gz")
