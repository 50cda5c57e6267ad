"""What the JSON files of Blender scenes and of nerfstudio have in common: frames with matrices."""

import json
import math
import pathlib
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxgen.data.archives import decode_text, read_bytes
from jaxgen.data.images.image_files import SUFFIXES
from jaxgen.data.scenes.similarity import Similarity
from jaxgen.data.scenes.views import LARGEST, ROTATION_TOLERANCE, pose_fault
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

MATRIX_TOLERANCE = 1e-6
"""How far the last row of a matrix may be from 0 0 0 1."""


def read_transforms(file: pathlib.Path) -> dict[str, Any]:
    """The file's object; whole numbers are read as floats.

    Raises:
      InputError: It is no JSON, or of something else.
    """
    try:
        # Whole numbers too large for a float become inf, which is then refused where it stands.
        content = json.loads(decode_text(read_bytes(file), str(file)), parse_int=float)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: JSON of a {type(content).__name__}, expected an object")
    return content


def frames_of(file: pathlib.Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """The list ``frames``, of objects.

    Raises:
      InputError: There is none, or it is empty.
    """
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        found = "missing" if frames is None else "empty" if frames == [] else "no list"
        raise InputError(f"{file}: frames is {found}, expected a list of 1 or more")
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise InputError(f"{file}: frame {i} is a {type(frame).__name__}, expected an object")
    return frames


def path_of(where: str, frame: dict[str, Any], key: str = "file_path") -> str:
    """A frame's path, without ``./`` and the like.

    Args:
      where: What errors begin with.
      frame: The frame.
      key: Of the path.

    Raises:
      InputError: There is none, or it leads out of the folder.
    """
    path = frame.get(key)
    if not isinstance(path, str) or not path:
        found = "missing" if path is None else repr(path)
        raise InputError(f"{where}: {key} is {found}, expected a path")
    plain = posixpath.normpath(path)
    if posixpath.isabs(plain) or plain.split("/")[0] in ("..", ".") or "\0" in plain:
        raise InputError(f"{where} ({path}): {key} is {path!r}, expected a path inside the folder")
    return plain


def image_of(root: pathlib.Path, where: str, plain: str) -> tuple[str, pathlib.Path]:
    """A frame's name, without suffix, and its image; without a suffix that of a PNG.

    Args:
      root: The folder.
      where: What errors begin with.
      plain: The path as `path_of` gives it.

    Raises:
      InputError: There is no such file.
    """
    if has_suffix(plain, *SUFFIXES) and (root / plain).is_file():
        return posixpath.splitext(plain)[0], root / plain
    file = root / f"{plain}.png"
    if not file.is_file():
        tried = root / plain if has_suffix(plain, *SUFFIXES) else file
        raise InputError(f"{where}: no image {tried}, expected a file")
    return plain, file


def refuse_same_images(where: Sequence[str], names: Sequence[str], numbers: Sequence[int]) -> None:
    """Raises InputError if two frames have one image.

    Args:
      where: What an error about each frame begins with.
      names: Of their images.
      numbers: Of the frames in the file.
    """
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        first = seen.setdefault(name, i)
        if first != i:
            raise InputError(
                f"{where[i]}: has the image of frame {numbers[first]}, expected another"
            )


def matrix_of(where: str, matrix: object) -> Float64[np.ndarray, "3 4"]:
    """A camera's 4 x 4 matrix from lists, without its last row.

    Args:
      where: What errors begin with.
      matrix: Four lists of four numbers.

    Raises:
      InputError: It is none, or does not turn and move alone.
    """
    if matrix is None:
        raise InputError(f"{where}: transform_matrix is missing, expected 4 x 4 numbers")
    if not _is_matrix(matrix, 4):
        raise InputError(f"{where}: transform_matrix is not 4 x 4 numbers, expected those")
    values_44 = np.array(matrix, np.float64)
    if fault := pose_fault(values_44[:3]) or _last_row_fault(values_44):
        raise InputError(f"{where}: {fault}")
    return values_44[:3]


def similarity_of(where: str, key: str, matrix: object) -> Similarity:
    """A 3 x 4 or 4 x 4 matrix from lists that scales, turns and moves.

    Args:
      where: What errors begin with.
      key: Of the matrix in its file.
      matrix: Three or four lists of four numbers.

    Raises:
      InputError: It is none.
    """
    if not (_is_matrix(matrix, 3) or _is_matrix(matrix, 4)):
        raise InputError(f"{where}: {key} is not 3 x 4 or 4 x 4 numbers, expected those")
    values = np.array(matrix, np.float64)
    if not (np.abs(values) <= LARGEST).all():
        raise InputError(f"{where}: {key} is not finite in float32, expected finite numbers")
    scale = float(np.cbrt(np.linalg.det(values[:3, :3])))
    turn_33 = values[:3, :3] / scale if scale > 0 else values[:3, :3]
    if not scale > 0 or np.abs(turn_33.T @ turn_33 - np.eye(3)).max() > ROTATION_TOLERANCE:
        raise InputError(
            f"{where}: {key} is {values[:3].tolist()}, expected a scale > 0 times a rotation, with"
            " determinant 1, and a translation"
        )
    if fault := _last_row_fault(values):
        raise InputError(f"{where}: {key}: {fault}")
    return Similarity(scale, turn_33, values[:3, 3])


def _is_matrix(matrix: object, rows: int) -> bool:
    return (
        isinstance(matrix, list)
        and len(matrix) == rows
        and all(isinstance(row, list) and len(row) == 4 for row in matrix)
        and all(isinstance(value, float) for row in matrix for value in row)
    )


def _last_row_fault(matrix: Float64[np.ndarray, "R 4"]) -> str:
    if len(matrix) == 3 or np.abs(matrix[3] - [0, 0, 0, 1]).max() <= MATRIX_TOLERANCE:
        return ""
    return f"the matrix's last row is {matrix[3].tolist()}, expected 0 0 0 1"


def number_of(where: str, content: dict[str, Any], key: str) -> float | None:
    """A finite number; None where the key is missing.

    Args:
      where: What errors begin with.
      content: The file's object, or a frame.
      key: Its key.

    Raises:
      InputError: It is something else.
    """
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, float) or not math.isfinite(value):
        raise InputError(f"{where}: {key} is {value!r}, expected a finite number")
    return value


def angle_of(where: str, content: dict[str, Any], key: str) -> float | None:
    """An angle of view in radians; None where the key is missing.

    Raises:
      InputError: It is not in (0, pi).
    """
    angle = content.get(key)
    if angle is None or (isinstance(angle, float) and 0 < angle < math.pi):
        return angle
    raise InputError(f"{where}: {key} is {angle!r}, expected an angle in (0, pi)")
