"""Scenes in the format of NeRF's Blender renderings (Mildenhall et al. 2020).

``transforms_train.json``, ``transforms_val.json`` and ``transforms_test.json`` each hold
``camera_angle_x``, the horizontal angle of view, and ``frames``: a ``file_path`` (without a suffix
a PNG's) and a ``transform_matrix``, the 4 x 4 matrix from the camera's axes (`jaxgen.data.scenes
.views`) to the world. With W the width of the images,

    focal = .5 W / tan(.5 camera_angle_x),    centre = (W / 2, H / 2).

The images have straight alpha; the published scenes lie within 1.5 of the origin, and are seen from
a distance of 4, which is where the distances 2 and 6 come from.
"""

import contextlib
import json
import math
import os
import pathlib
import posixpath
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from jaxgen.data.archives import Path, decode_text, read_bytes
from jaxgen.data.images.image_files import SUFFIXES
from jaxgen.data.images.resizing import check_size_and_channels, import_pillow
from jaxgen.data.scenes.alpha_images import read_with_alpha, shrink
from jaxgen.data.scenes.views import Corner, Scene, Views, pose_fault
from jaxgen.errors import InputError
from jaxgen.files import as_path, is_remote
from jaxgen.text_rules import has_suffix

FILES = {
    "train": "transforms_train.json",
    "validation": "transforms_val.json",
    "test": "transforms_test.json",
}
NEAR, FAR = 2.0, 6.0
BOX: tuple[Corner, Corner] = ((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5))
MATRIX_TOLERANCE = 1e-6
"""How far the last row of a matrix may be from 0 0 0 1."""


class _Frame(NamedTuple):
    name: str
    file: pathlib.Path
    camera_to_world: Float32[np.ndarray, "3 4"]


def read_blender(
    folder: Path,
    *,
    size: int | None = None,
    parts: Sequence[str] | None = None,
    near: float = NEAR,
    far: float = FAR,
    box: tuple[Corner, Corner] = BOX,
) -> Scene:
    """Reads a scene into memory.

    Images keep their alpha where they have one; greys and palettes become colours, and of 16 bits
    the high byte is kept. Depth files and keys beside those of the format are left alone.

    Args:
      folder: Where transforms_train.json is.
      size: Y and X to shrink the images to, which must be square: the average over each new pixel's
        area, of colours weighted by their alpha. None keeps their own size.
      parts: Which of "train", "validation" and "test" to read. None reads train and test, which
        must be there, and validation where it is.
      near: See `Scene`; files do not say, nor do they for `far` and `box`.
      far: See `Scene`.
      box: See `Scene`.

    Returns:
      A scene named as the folder, its views as their files, without ``./`` and suffix.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: A file that is needed is missing, unreadable or not of this format, or an image
        has another shape than the first of its part. The message names the file, and the frame.
    """
    check_size_and_channels(size, None)
    root = pathlib.Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    if parts is None:
        parts = [part for part in FILES if part != "validation" or (root / FILES[part]).exists()]
    for part in parts:
        if part not in FILES:
            raise InputError(f"parts has {part!r}, expected some of {', '.join(FILES)}")
        if not (root / FILES[part]).exists():
            raise InputError(
                f"{folder}: no {FILES[part]}, expected it for the part {part}; give parts to do"
                " without"
            )
    views = {part: _read_part(root, FILES[part], size) for part in parts}
    return Scene(str(folder), views, near, far, box)


def _read_part(root: pathlib.Path, file_name: str, size: int | None) -> Views:
    file = root / file_name
    content = _read_json(file)
    angle = _read_angle(file, content.get("camera_angle_x"))
    frames = _read_frames(root, file, content.get("frames"))
    images, width = _read_images(file, frames, size)
    height, shown = images.shape[1:3]
    focal = 0.5 * width / math.tan(0.5 * angle) * (shown / width)
    poses = np.stack([frame.camera_to_world for frame in frames])
    names = tuple(frame.name for frame in frames)
    return Views(names, images, poses, (focal, focal), (shown / 2, height / 2))


def _read_angle(file: pathlib.Path, angle: object) -> float:
    if isinstance(angle, float) and 0 < angle < math.pi:
        return angle
    found = "missing" if angle is None else repr(angle)
    raise InputError(f"{file}: camera_angle_x is {found}, expected an angle in (0, pi)")


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        # Whole numbers too large for a float become inf, which is then refused where it stands.
        content = json.loads(decode_text(read_bytes(file), str(file)), parse_int=float)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: JSON of a {type(content).__name__}, expected an object")
    return content


def _read_frames(root: pathlib.Path, file: pathlib.Path, frames: object) -> list[_Frame]:
    if not isinstance(frames, list) or not frames:
        found = "missing" if frames is None else "empty" if frames == [] else "no list"
        raise InputError(f"{file}: frames is {found}, expected a list of 1 or more")
    read: list[_Frame] = []
    seen: dict[str, int] = {}
    for i, frame in enumerate(frames):
        read.append(_read_frame(root, f"{file}: frame {i}", frame))
        first = seen.setdefault(read[-1].name, i)
        if first != i:
            raise InputError(
                f"{file}: frame {i} ({frame['file_path']}): has the image of frame {first},"
                " expected another"
            )
    return read


def _read_frame(root: pathlib.Path, where: str, frame: object) -> _Frame:
    if not isinstance(frame, dict):
        raise InputError(f"{where} is a {type(frame).__name__}, expected an object")
    path = frame.get("file_path")
    if not isinstance(path, str) or not path:
        found = "missing" if path is None else repr(path)
        raise InputError(f"{where}: file_path is {found}, expected a path")
    where = f"{where} ({path})"
    plain = posixpath.normpath(path)
    if posixpath.isabs(plain) or plain.split("/")[0] in ("..", ".") or "\0" in plain:
        raise InputError(f"{where}: file_path is {path!r}, expected a path inside the folder")
    camera_to_world = _read_matrix(where, frame.get("transform_matrix"))
    if has_suffix(plain, *SUFFIXES) and (root / plain).is_file():
        return _Frame(posixpath.splitext(plain)[0], root / plain, camera_to_world)
    file = root / f"{plain}.png"
    if not file.is_file():
        tried = root / plain if has_suffix(plain, *SUFFIXES) else file
        raise InputError(f"{where}: no image {tried}, expected a file")
    return _Frame(plain, file, camera_to_world)


def _read_matrix(where: str, matrix: object) -> Float32[np.ndarray, "3 4"]:
    if matrix is None:
        raise InputError(f"{where}: transform_matrix is missing, expected 4 x 4 numbers")
    rows = matrix if isinstance(matrix, list) else []
    if len(rows) != 4 or not all(
        isinstance(row, list) and len(row) == 4 and all(isinstance(value, float) for value in row)
        for row in rows
    ):
        raise InputError(f"{where}: transform_matrix is not 4 x 4 numbers, expected those")
    values_44 = np.array(rows, np.float64)
    fault = pose_fault(values_44[:3])
    if not fault and not np.abs(values_44[3] - [0, 0, 0, 1]).max() <= MATRIX_TOLERANCE:
        fault = f"the matrix's last row is {values_44[3].tolist()}, expected 0 0 0 1"
    if fault:
        raise InputError(f"{where}: {fault}")
    return values_44[:3].astype(np.float32)


def _read_images(
    file: pathlib.Path, frames: Sequence[_Frame], size: int | None
) -> tuple[UInt8[np.ndarray, "N Y X C"], int]:
    """The images of all frames, in their new size, and the width that they had."""
    images: list[np.ndarray] = []
    first: tuple[int, ...] = ()
    for i, frame in enumerate(frames):
        image = read_with_alpha(frame.file, f"{file}: frame {i}")
        first = first or image.shape
        if image.shape != first:
            raise InputError(
                f"{file}: frame {i}: {frame.file} has shape {list(image.shape)}, expected"
                f" {list(first)} as {frames[0].file} has"
            )
        if size is not None and not size <= image.shape[0] == image.shape[1]:
            raise InputError(
                f"{frame.file}: an image of shape {list(image.shape)}, expected a square of"
                f" {size} x {size} or more to shrink"
            )
        images.append(image if size is None else shrink(image, size))
    return np.stack(images), first[1]


def write_blender(folder: Path, scene: Scene) -> None:
    """Writes a scene's images as PNG and the JSON of each part, whole or not at all.

    `read_blender` gives the same images, names and cameras back. The format has no place for
    depth, normals, `near`, `far` and `box`.

    Args:
      folder: Does not exist yet, or is empty.
      scene: Its views' names are where the images go: ``train/r_0`` is ``train/r_0.png``.

    Raises:
      InputError: The folder has files in it, a name is no path inside it, two views of the scene
        have one name, or a camera is none that the format can say: with fx = fy and the centre in
        the middle of the image.
    """
    target = as_path(folder)
    if is_remote(target):
        raise InputError(f"{folder}, expected a local folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{folder}: is there and not empty, expected a new folder or an empty one")
    _check_names(scene)
    for part, views in scene.parts.items():
        _check_camera(f"{scene.name}, {part}", views)
    with _replacing_folder(target) as temporary:
        for part, views in scene.parts.items():
            _write_part(temporary, FILES[part], views)


@contextlib.contextmanager
def _replacing_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that takes the place of `target` when the block ends well, and else vanishes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.jaxgen.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_names(scene: Scene) -> None:
    names = [name for views in scene.parts.values() for name in views.names]
    for i, name in enumerate(names):
        inside = name == posixpath.normpath(name) and name.split("/")[0] not in ("", "..", ".")
        if not inside or "\0" in name or has_suffix(name, *SUFFIXES):
            raise InputError(
                f"{scene.name}: a view is named {name!r}, expected a path inside the folder,"
                " without a suffix"
            )
        if name in names[:i]:
            raise InputError(f"{scene.name}: two views are named {name}, expected different names")


def _check_camera(where: str, views: Views) -> None:
    height, width = views.images.shape[1:3]
    if not math.isclose(*views.focal) or views.centre != (width / 2, height / 2):
        raise InputError(
            f"{where}: focal and centre are {views.focal} and {views.centre}, expected equal focal"
            f" lengths and the middle {(width / 2, height / 2)}, the only camera of the format"
        )


def _write_part(folder: pathlib.Path, file_name: str, views: Views) -> None:
    pil = import_pillow("writing images")
    frames = []
    for name, image, pose in zip(views.names, views.images, views.camera_to_world, strict=True):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pil.Image.fromarray(image).save(file)
        matrix = [*pose.astype(float).tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": f"./{name}", "transform_matrix": matrix})
    angle = 2 * math.atan(0.5 * views.images.shape[2] / views.focal[0])
    content = {"camera_angle_x": angle, "frames": frames}
    (folder / file_name).write_text(json.dumps(content, indent=1), encoding="utf-8")
