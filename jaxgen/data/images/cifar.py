"""CIFAR-10 in its three forms: Python pickles, binary batches, and lossless PNG sheets.

* Pickles (``data_batch_1`` ... ``data_batch_5``, ``test_batch``): a dict with ``data``, uint8
  [N, 3072], a row being the red, the green and the blue plane, and ``labels``.
* Binary (``data_batch_1.bin`` ...): records of one label byte and 3072 bytes in the same order.
* Sheets (``cifar10_batch_0.png`` ... and ``labels.json``): row i of a sheet is image i, its 32 x 32
  pixels row by row; sheet 50 is the beginning of the test batch. ``labels.json`` is
  ``{"classes": [...], "labels": {sheet: [...]}}``.

Source of the first two: Krizhevsky 2009, the CIFAR-10 web page; of the sheets: the ConvNetJS demo.
"""

import io
import json
import pathlib
import pickle
import re
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from jaxgen.data.archives import Path, files_in, read_bytes
from jaxgen.data.images.image_files import read_image
from jaxgen.data.images.image_set import ImageSet, published_parts
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SIDE = 32
BYTES = 3 * SIDE * SIDE
FIRST_TEST_SHEET = 50
LABELS = "labels.json"

_PICKLE_FAULTS = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError),
    *(AttributeError, ImportError, MemoryError, OverflowError),
)
"""What a damaged pickle can raise."""

match_batch = re.compile(r"(?:data_batch_(\d+)|test_batch)(\.bin)?", re.IGNORECASE).fullmatch
match_sheet = re.compile(r"cifar10_batch_(\d+)\.png", re.IGNORECASE).fullmatch

Batch = tuple[UInt8[np.ndarray, "N Y X C"], Integer[np.ndarray, "N"]]


def is_cifar_folder(folder: pathlib.Path) -> bool:
    """Whether a folder holds files named as CIFAR-10's."""
    return folder.is_dir() and any(
        match_batch(name) or match_sheet(name) for name in files_in(folder)
    )


def read_cifar10(folder: Path) -> ImageSet:
    """Reads a folder with CIFAR-10 in one of its three forms; a subset of the batches will do.

    Returns:
      Colour images [N, 32, 32, 3], training batches in the order of their numbers, then the test
      batch where there is one. The last tenth of the training images is for validation.

    Raises:
      InputError: No training batch is there, or a file is damaged, has another shape or labels
        outside 0..9. The message names the file.
    """
    root = pathlib.Path(folder)
    names = files_in(root)
    sheets = sorted(filter(match_sheet, names), key=_number)
    if sheets:
        labels, classes = _sheet_labels(root, sheets)
        batches = {name: _read_sheet(root / name, labels[name]) for name in sheets}
        test = [name for name in sheets if _number(name) >= FIRST_TEST_SHEET]
    else:
        # Where a folder has both forms, the binary one: it needs no unpickling.
        found = [name for name in names if match_batch(name)]
        binary = [name for name in found if has_suffix(name, ".bin")]
        read, classes = (_read_binary if binary else _read_pickle), CLASSES
        batches = {name: read(root / name) for name in sorted(binary or found, key=_number)}
        test = [name for name in batches if name.lower().startswith("test")]
    train = [name for name in batches if name not in test]
    if not train:
        raise InputError(f"{folder}: no training batch of CIFAR-10 (data_batch_1 and others)")
    ordered = [batches[name] for name in train + test]
    sizes = {"train": train, "test": test}
    return ImageSet(
        str(folder),
        np.concatenate([images_NYXC for images_NYXC, _ in ordered]),
        np.concatenate([labels_N for _, labels_N in ordered]).astype(np.int32),
        classes,
        published_parts({k: sum(len(batches[n][1]) for n in v) for k, v in sizes.items()}),
        tuple(name for name in names if name not in batches and name != LABELS),
    )


def _number(name: str) -> int:
    digits = re.findall(r"(?<=batch_)\d+", name.lower())
    return int(digits[0]) if digits else FIRST_TEST_SHEET


def _from_planes(file: Path, rows_ND: Any, labels: Any) -> Batch:
    """Rows of three colour planes as images, with labels that were checked."""
    labels_N = np.asarray(labels)
    if rows_ND.dtype != np.uint8 or rows_ND.ndim != 2 or rows_ND.shape[1] != BYTES:
        raise InputError(
            f"{file}: images are {rows_ND.dtype} {list(rows_ND.shape)}, expected uint8 [N, {BYTES}]"
        )
    _check_labels(file, labels_N, len(rows_ND), len(CLASSES))
    images_NCYX = rows_ND.reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(images_NCYX.transpose(0, 2, 3, 1)), labels_N


def _check_labels(file: Path, labels_N: np.ndarray, images: int, classes: int) -> None:
    if labels_N.shape != (images,) or not np.issubdtype(labels_N.dtype, np.integer):
        raise InputError(
            f"{file}: labels are {labels_N.dtype} {list(labels_N.shape)}, expected {images} whole"
            " numbers, one for each image"
        )
    if images and not 0 <= labels_N.min() <= labels_N.max() < classes:
        raise InputError(
            f"{file}: labels from {labels_N.min()} to {labels_N.max()}, expected 0 to {classes - 1}"
        )


def _read_binary(file: pathlib.Path) -> Batch:
    content = read_bytes(file)
    if len(content) % (1 + BYTES):
        raise InputError(
            f"{file}: {len(content):,} bytes, expected a multiple of {1 + BYTES:,}: a label and"
            f" {BYTES:,} bytes of pixels for each image"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + BYTES)
    return _from_planes(file, records[:, 1:], records[:, 0])


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, lists, numbers, strings and numpy arrays, and runs nothing else."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "encode", "_frombuffer"})
    MODULES = frozenset({"numpy", "_codecs", "numpy.core.multiarray", "numpy._core.multiarray"})
    NUMERIC = frozenset({"numpy.core.numeric", "numpy._core.numeric"})

    def find_class(self, module: str, name: str) -> Any:
        if name in self.ALLOWED and module in self.MODULES | self.NUMERIC:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read_pickle(file: pathlib.Path) -> Batch:
    stream = io.BytesIO(read_bytes(file))
    try:
        content = _ArraysOnly(stream, encoding="bytes").load()
    except _PICKLE_FAULTS as error:
        raise InputError(
            f"{file}: not a pickled batch of CIFAR-10, or a truncated one ({error})"
        ) from error
    entries = content if isinstance(content, dict) else {}
    data, labels = (entries.get(key.encode(), entries.get(key)) for key in ("data", "labels"))
    if not isinstance(data, np.ndarray) or labels is None:
        raise InputError(
            f"{file} is no batch, expected a pickled dict with an array 'data' and 'labels'"
        )
    return _from_planes(file, data, labels)


def _sheet_labels(root: pathlib.Path, sheets: list[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sheet -> labels, and the class names, from ``labels.json``."""
    file = root / LABELS
    if not file.exists():
        raise InputError(f"{file}: no such file; the PNG sheets of CIFAR-10 need their labels")
    try:
        content = json.loads(read_bytes(file))
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    labels = content.get("labels") if isinstance(content, dict) else None
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not isinstance(classes, list):
        raise InputError(f"{file} is no object, expected one with 'classes' and 'labels'")
    for name in sheets:
        if name not in labels:
            raise InputError(f"{file}: no labels for {name}")
    for name in labels:
        if name not in sheets:
            raise InputError(f"{root / name}: no such file, but labels.json has labels for it")
    for name in sheets:
        _check_labels(file, np.asarray(labels[name]), len(labels[name]), len(classes))
    return labels, tuple(map(str, classes))


def _read_sheet(file: pathlib.Path, labels: list[int]) -> Batch:
    sheet = read_image(file)
    if sheet.shape != (len(labels), SIDE * SIDE, 3):
        raise InputError(
            f"{file}: a sheet of {list(sheet.shape)}, expected [{len(labels)}, {SIDE * SIDE}, 3]:"
            " a row of pixels for each label"
        )
    return sheet.reshape(-1, SIDE, SIDE, 3), np.asarray(labels)
