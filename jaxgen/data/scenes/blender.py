"""Scenes in the format of NeRF's Blender renderings (Mildenhall et al. 2020).

``transforms_train.json``, ``transforms_val.json`` and ``transforms_test.json`` each hold
``camera_angle_x``, the horizontal angle of view, and ``frames``: a ``file_path`` (without a suffix
a PNG's) and a ``transform_matrix``, the 4 x 4 matrix from the camera's axes (`jaxgen.data.scenes
.views`) to the world. With W the width of the images,

    focal = .5 W / tan(.5 camera_angle_x),    centre = (W / 2, H / 2).

The images have straight alpha; the published scenes lie within 1.5 of the origin, and are seen from
a distance of 4, which is where the distances 2 and 6 come from.
"""

import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxgen.data.archives import Path
from jaxgen.data.images.resizing import check_size_and_channels
from jaxgen.data.scenes.intrinsics import pinholes
from jaxgen.data.scenes.new_folder import check_new_folder, replacing_folder
from jaxgen.data.scenes.photographs import Photograph, read_photographs
from jaxgen.data.scenes.similarity import Similarity
from jaxgen.data.scenes.transforms_file import (
    angle_of,
    frames_of,
    image_of,
    matrix_of,
    path_of,
    read_transforms,
    refuse_same_images,
)
from jaxgen.data.scenes.views import Corner, Scene, Views
from jaxgen.data.scenes.written_images import check_view_names, write_images
from jaxgen.errors import InputError

FILES = {
    "train": "transforms_train.json",
    "validation": "transforms_val.json",
    "test": "transforms_test.json",
}
NEAR, FAR = 2.0, 6.0
BOX: tuple[Corner, Corner] = ((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5))


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

    Images keep their alpha where they have one; greys and palettes become colours, and 16
    bits stay 16. Depth files and keys beside those of the format are left alone.

    Args:
      folder: Where transforms_train.json is.
      size: What the longer side of images shrinks to: the average over each new pixel's area, of
        colours weighted by their alpha. None keeps their own size.
      parts: Which of "train", "validation" and "test" to read. None reads train and test, which
        must be there, and validation where it is.
      near: See `Scene`; files do not say, nor do they for `far` and `box`.
      far: See `Scene`.
      box: See `Scene`.

    Returns:
      A scene named as the folder, its views as their files, without ``./`` and suffix.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: A file that is needed is missing, unreadable or not of this format, an image has
        another shape than the first of its part, or one for training is in another part too. The
        message names the file, and the frame.
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
    _refuse_training_images(root, views)
    return Scene(str(folder), views, near, far, box)


def _refuse_training_images(root: pathlib.Path, parts: dict[str, Views]) -> None:
    trained = set(parts["train"].names) if "train" in parts else set()
    for part, views in parts.items():
        for i, name in enumerate(views.names):
            if part != "train" and name in trained:
                raise InputError(
                    f"{root / FILES[part]}: frame {i} ({name}): {FILES['train']} has this image"
                    " too, expected another"
                )


def _read_part(root: pathlib.Path, file_name: str, size: int | None) -> Views:
    file = root / file_name
    content = read_transforms(file)
    angle = angle_of(str(file), content, "camera_angle_x")
    if angle is None:
        raise InputError(f"{file}: camera_angle_x is missing, expected an angle in (0, pi)")
    where, names, photographs, poses = [], [], [], []
    for i, frame in enumerate(frames_of(file, content)):
        number = f"{file}: frame {i}"
        plain = path_of(number, frame)
        where.append(f"{number} ({frame['file_path']})")
        poses.append(matrix_of(where[-1], frame.get("transform_matrix")))
        name, image = image_of(root, where[-1], plain)
        names.append(name)
        photographs.append(Photograph(number, image))
    refuse_same_images(where, names, range(len(names)))
    pixels = read_photographs(photographs, size)
    height, width = pixels.images.shape[1:3]
    full_width = round(width / pixels.scale[0])
    focal = 0.5 * full_width / math.tan(0.5 * angle)
    middle = full_width / 2, height / pixels.scale[1] / 2
    return Views(
        tuple(names),
        pixels.images,
        np.stack(poses).astype(np.float32),
        pinholes(len(names), focal, middle).scaled(*pixels.scale),
    )


def write_blender(folder: Path, scene: Scene) -> None:
    """Writes images and the JSON of each part, in units of the scene's files, whole or not at all.

    Images are PNG. `read_blender` gives the same images, names and cameras back. The format has no
    place for depth, normals, `near`, `far` and `box`: of a scene that was moved, give those of the
    files' world to `read_blender`.

    Args:
      folder: Does not exist yet, or is empty.
      scene: Its views' names are where the images go: ``train/r_0`` is ``train/r_0.png``.

    Raises:
      InputError: The folder has files in it, a name is no path inside it, two views of the scene
        have one name, or a camera is none that the format can say: with fx = fy and the centre in
        the middle of the image.
    """
    target = check_new_folder(folder)
    check_view_names(scene)
    for part, views in scene.parts.items():
        _check_camera(f"{scene.name}, {part}", views)
    with replacing_folder(target) as temporary:
        for part, views in scene.parts.items():
            _write_part(temporary, FILES[part], views, scene.to_files)


def _check_camera(where: str, views: Views) -> None:
    height, width = views.images.shape[1:3]
    found, middle = views.intrinsics, (width / 2, height / 2)
    equal = np.allclose(found.focal, found.focal[0, 0], rtol=1e-9)
    if found.model not in ("PINHOLE", "SIMPLE_PINHOLE") or not (
        equal and np.allclose(found.centre, middle, rtol=1e-9)
    ):
        raise InputError(
            f"{where}: {found.model} cameras with focal lengths {found.focal[0].tolist()} and the"
            f" centre {found.centre[0].tolist()} of the first, expected pinholes with one focal"
            f" length and the centre in the middle, {middle}, the only camera of the format"
        )


def _write_part(folder: pathlib.Path, file_name: str, views: Views, to_files: Similarity) -> None:
    write_images(folder, views)
    poses = to_files.poses(views.camera_to_world.astype(np.float64))
    frames = [
        {
            "file_path": f"./{name}",
            "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]],
        }
        for name, pose in zip(views.names, poses, strict=True)
    ]
    angle = 2 * math.atan(0.5 * views.images.shape[2] / views.intrinsics.focal[0, 0])
    content = {"camera_angle_x": angle, "frames": frames}
    (folder / file_name).write_text(json.dumps(content, indent=1), encoding="utf-8")
