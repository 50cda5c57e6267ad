"""The files of COLMAP's reconstructions: cameras, images and points, binary or text.

A model is a folder with ``cameras``, ``images`` and ``points3D``, all ``.bin`` or all ``.txt``;
``rigs`` and ``frames`` of newer versions may be there and are left alone. An image has a quaternion
(w, x, y, z) and a translation from the world to the camera, in axes of OpenCV: with R of the
quaternion,

    camera_to_world = (R^T diag(1, -1, -1), -R^T translation)

in those of OpenGL. Cameras are of any of COLMAP's models (`jaxgen.camera_models`).
"""

import pathlib
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.data.archives import Path, decode_text, read_bytes
from jaxgen.data.scenes.intrinsics import Intrinsics, from_parameters, intrinsics_fault
from jaxgen.data.scenes.views import LARGEST
from jaxgen.errors import InputError

BY_ID = {model.id: name for name, model in CAMERA_MODELS.items() if model.id is not None}
PLACES = "", "sparse/0", "sparse", "colmap/sparse/0"
"""Where in a folder its model may be."""
NORM_TOLERANCE = 1e-3
STATED = r"^# Number of (?:cameras|images|points): (\d+)"
"""The comment in a text file that says how many entries there are."""


class ColmapImage(NamedTuple):
    """An image of a model.

    Attributes:
      name: Its path in the folder of images.
      camera: The number of its camera.
      camera_to_world: In axes of OpenGL.
    """

    name: str
    camera: int
    camera_to_world: Float64[np.ndarray, "3 4"]


class ColmapCamera(NamedTuple):
    """A camera of a model: its intrinsics, and the height and width of its images."""

    intrinsics: Intrinsics
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """A reconstruction.

    Attributes:
      cameras: By number.
      images: In the order of their names.
      points: [P, 3], in the world; none where the file is missing.
      colors: [P, 3], of the points.
    """

    cameras: dict[int, ColmapCamera]
    images: list[ColmapImage]
    points: Float32[np.ndarray, "P 3"]
    colors: UInt8[np.ndarray, "P 3"]


def find_model(folder: Path) -> pathlib.Path | None:
    """The folder of a model in a folder; None where there is none."""
    for place in PLACES:
        path = pathlib.Path(folder) / place
        if any((path / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            return path
    return None


def read_colmap_model(folder: Path) -> ColmapModel:
    """Reads a reconstruction without its photographs.

    Args:
      folder: Where cameras and images are, as ``.bin`` or else as ``.txt``.

    Raises:
      InputError: A file is missing, empty, truncated or not of this format; the message names it.
    """
    root = pathlib.Path(folder)
    suffix = "bin" if (root / "cameras.bin").is_file() else "txt"
    files = {name: root / f"{name}.{suffix}" for name in ("cameras", "images", "points3D")}
    for name in ("cameras", "images"):
        if not files[name].is_file():
            raise InputError(f"{folder}: no {files[name].name}, expected one")
    binary = suffix == "bin"
    numbered = list((_cameras_bin if binary else _cameras_txt)(files["cameras"]))
    images = list((_images_bin if binary else _images_txt)(files["images"]))
    for name, found in (("cameras", numbered), ("images", images)):
        if not found:
            raise InputError(f"{files[name]}: no {name}, expected 1 or more")
    cameras = dict(numbered)
    _refuse_twice(files["cameras"], [f"number {number}" for number, _ in numbered])
    _refuse_twice(files["images"], [f"name {image.name}" for image in images])
    for image in images:
        if image.camera not in cameras:
            raise InputError(
                f"{files['images']}: image {image.name} is of camera {image.camera}, expected one"
                f" of {files['cameras'].name}"
            )
    points = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    if files["points3D"].is_file():
        points = (_points_bin if binary else _points_txt)(files["points3D"])
    return ColmapModel(cameras, sorted(images, key=lambda image: image.name), *points)


def _pose(where: str, quaternion: Sequence[float], translation: Sequence[float]) -> Any:
    """camera_to_world in axes of OpenGL."""
    q, t = np.asarray(quaternion, float), np.asarray(translation, float)
    length = np.linalg.norm(q)
    if not (np.abs(t) <= LARGEST).all() or not abs(length - 1) <= NORM_TOLERANCE:
        raise InputError(
            f"{where}: the quaternion is {q.tolist()} and the translation {t.tolist()}, expected a"
            " quaternion of length 1 and finite numbers"
        )
    w, x, y, z = q / length
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    axes = rotation.T * (1, -1, -1)
    return np.concatenate([axes, (-rotation.T @ t)[:, None]], axis=1)


def _camera(where: str, model: str, shape: tuple[int, int], values: Sequence[float]) -> Any:
    try:
        intrinsics = from_parameters(model, values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if min(shape) < 1:
        raise InputError(f"{where}: images of {shape[0]} x {shape[1]} pixels, expected 1 or more")
    if fault := intrinsics_fault(intrinsics, 0):
        raise InputError(f"{where}: {fault}")
    return ColmapCamera(intrinsics, shape)


def _refuse_twice(file: pathlib.Path, keys: Sequence[str]) -> None:
    """Raises InputError if two entries of a file have the same key."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise InputError(f"{file}: two entries have the {key}, expected different ones")
        seen.add(key)


class _Bytes:
    """A binary file, read from its beginning."""

    def __init__(self, file: pathlib.Path) -> None:
        self.file, self.content, self.place = file, read_bytes(file), 0

    def take(self, form: str) -> tuple[Any, ...]:
        """The next values, by a format of `struct`, little endian."""
        size = struct.calcsize("<" + form)
        self._check(self.place + size)
        values = struct.unpack_from("<" + form, self.content, self.place)
        self.place += size
        return values

    def skip(self, size: int) -> None:
        self._check(self.place + size)
        self.place += size

    def end(self) -> None:
        """Refuses a file with more than was read, whose count is wrong."""
        if self.place < len(self.content):
            raise InputError(
                f"{self.file}: {len(self.content)} bytes, expected {self.place} for as many entries"
                " as it states"
            )

    def text(self) -> str:
        """Up to the next zero."""
        end = self.content.find(b"\0", self.place)
        self._check(len(self.content) + 1 if end < 0 else end)
        text = self.content[self.place : end].decode("utf-8", "replace")
        self.place = end + 1
        return text

    def _check(self, end: int) -> None:
        if end > len(self.content):
            raise InputError(
                f"{self.file}: ends after {len(self.content)} bytes, expected more (truncated, or"
                " no file of COLMAP)"
            )


def _cameras_bin(file: pathlib.Path) -> Iterator[tuple[int, ColmapCamera]]:
    data = _Bytes(file)
    for _ in range(data.take("Q")[0]):
        number, model, width, height = data.take("iiQQ")
        if model not in BY_ID:
            raise InputError(
                f"{file}: camera {number} is of model {model}, expected a number from 0 to"
                f" {max(BY_ID)}"
            )
        values = data.take(f"{CAMERA_MODELS[BY_ID[model]].parameters}d")
        yield number, _camera(f"{file}: camera {number}", BY_ID[model], (height, width), values)
    data.end()


def _images_bin(file: pathlib.Path) -> Iterator[ColmapImage]:
    data = _Bytes(file)
    for _ in range(data.take("Q")[0]):
        number, *pose, camera = data.take("I7dI")
        name = data.text()
        data.skip(24 * data.take("Q")[0])
        yield ColmapImage(
            name, camera, _pose(f"{file}: image {number} ({name})", pose[:4], pose[4:])
        )
    data.end()


def _points_bin(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    data, points, colors = _Bytes(file), [], []
    for _ in range(data.take("Q")[0]):
        _, *place, red, green, blue, _ = data.take("Q3d3Bd")
        data.skip(8 * data.take("Q")[0])
        points.append(place)
        colors.append((red, green, blue))
    data.end()
    return _as_points(points, colors)


def _as_points(points: list[Any], colors: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.reshape(points, (-1, 3)).astype(np.float32), np.reshape(colors, (-1, 3)).astype(
        np.uint8
    )


def _lines(file: pathlib.Path) -> tuple[list[tuple[int, list[str]]], int | None]:
    """Numbers (from 1) and words of lines, and how many entries a comment says there are.

    Comments are left out; blank lines have no words.
    """
    text = decode_text(read_bytes(file), str(file))
    lines = [
        (number, line.split())
        for number, line in enumerate(text.splitlines(), start=1)
        if not line.lstrip().startswith("#")
    ]
    stated = re.search(STATED, text, re.MULTILINE)
    return lines, None if stated is None else int(stated[1])


def _check_count(file: pathlib.Path, found: int, stated: int | None) -> None:
    if stated is not None and found != stated:
        raise InputError(
            f"{file}: {found} entries, expected {stated} as its comment says (truncated?)"
        )


def _numbers(where: str, words: Sequence[str], kind: type = float) -> list[Any]:
    try:
        return [kind(word) for word in words]
    except ValueError as error:
        raise InputError(f"{where}: {' '.join(words)!r}, expected numbers") from error


def _cameras_txt(file: pathlib.Path) -> Iterator[tuple[int, ColmapCamera]]:
    lines, stated = _lines(file)
    _check_count(file, sum(bool(words) for _, words in lines), stated)
    for line, words in lines:
        if not words:
            continue
        where = f"{file}: line {line}"
        if len(words) < 4:
            raise InputError(f"{where}: {len(words)} words, expected a camera's 4 or more")
        number, width, height = _numbers(where, [words[0], *words[2:4]], int)
        values = _numbers(where, words[4:])
        yield number, _camera(where, words[1], (height, width), values)


def _images_txt(file: pathlib.Path) -> Iterator[ColmapImage]:
    every, stated = _lines(file)
    lines, found = iter(every), 0
    for line, words in lines:
        if not words:
            continue
        where = f"{file}: line {line}"
        if len(words) < 10:
            raise InputError(f"{where}: {len(words)} words, expected an image's 10")
        pose, camera = _numbers(where, words[1:8]), _numbers(where, words[8:9], int)[0]
        name = " ".join(words[9:])
        yield ColmapImage(name, camera, _pose(f"{where} ({name})", pose[:4], pose[4:]))
        next(lines, None)  # its points, a line that may be blank
        found += 1
    _check_count(file, found, stated)


def _points_txt(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    points, colors = [], []
    lines, stated = _lines(file)
    for line, words in lines:
        if words:
            where = f"{file}: line {line}"
            if len(words) < 8:
                raise InputError(f"{where}: {len(words)} words, expected a point's 8 or more")
            points.append(_numbers(where, words[1:4]))
            colors.append(_numbers(where, words[4:7], int))
            if not all(0 <= value <= 255 for value in colors[-1]):
                raise InputError(f"{where}: the colour {colors[-1]}, expected bytes")
    _check_count(file, len(points), stated)
    return _as_points(points, colors)
