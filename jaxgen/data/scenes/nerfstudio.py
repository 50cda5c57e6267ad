"""Captures in the format of nerfstudio and instant-ngp: one ``transforms.json``.

``frames`` have a ``file_path`` and a ``transform_matrix``, 4 x 4 from the camera's axes (OpenGL's)
to the world. Intrinsics are in the file or in every frame::

    fl_x fl_y cx cy w h          in pixels; centres default to the middle
    camera_angle_x, _y           in radians, where there is no focal length
    k1 k2 k3 k4 p1 p2            distortion, by OpenCV's formulas
    camera_model                 "OPENCV", "PINHOLE", "OPENCV_FISHEYE", ...

``mask_path`` is black where pixels do not count; ``depth_file_path`` has whole numbers, of
``depth_unit_scale_factor`` (0.001) each, along the camera's axis, 0 where it is not known.
``applied_transform``, 3 x 4, is what took the world of COLMAP to that of the matrices, which have
it already (``x -> applied_scale A x`` where there is ``applied_scale`` too); it stays with the
scene (`Scene.applied`).

``train_filenames``, ``val_filenames`` and ``test_filenames`` are the parts; one whose list is empty
is not there, so that a program that needs tests says so. Without the lists every eighth image is
held out for tests. Of distortion and ``camera_model``, what a frame lacks is the file's, else 0 and
"OPENCV", as nerfstudio has it. A depth image of zeros alone says nothing of its view: all is nan.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.data.archives import Path
from jaxgen.data.images.resizing import check_size_and_channels
from jaxgen.data.scenes.held_out import EVERY, held_out_parts
from jaxgen.data.scenes.intrinsics import Intrinsics, intrinsics_fault, join_intrinsics
from jaxgen.data.scenes.new_folder import check_new_folder, replacing_folder
from jaxgen.data.scenes.photographs import Photograph, read_photographs, refuse_missing
from jaxgen.data.scenes.similarity import IDENTITY, Similarity
from jaxgen.data.scenes.transforms_file import (
    angle_of,
    frames_of,
    image_of,
    matrix_of,
    number_of,
    path_of,
    read_transforms,
    refuse_same_images,
    similarity_of,
)
from jaxgen.data.scenes.views import UNIT_BOX, WIDE_FAR, WIDE_NEAR, Corner, Scene, Views
from jaxgen.data.scenes.written_images import check_view_names, write_images
from jaxgen.errors import InputError

FILE = "transforms.json"
DEPTH_UNIT = 0.001
PART_KEYS = {"train": "train_filenames", "validation": "val_filenames", "test": "test_filenames"}
OF_ALL = "fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "cx", "cy", "w", "h"
"""Intrinsics that all frames have, or none: what some lack would be guessed."""
PERSPECTIVE = {"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"}
FISHEYE = {"OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "FISHEYE", "SIMPLE_FISHEYE"}
OTHERS = {"EQUIRECTANGULAR"}


def read_nerfstudio(
    folder: Path,
    *,
    size: int | None = None,
    every: int = EVERY,
    skip_missing: bool = False,
    near: float = WIDE_NEAR,
    far: float = WIDE_FAR,
    box: tuple[Corner, Corner] = UNIT_BOX,
) -> Scene:
    """Reads a capture into memory, in the units of its file.

    Args:
      folder: Where transforms.json is; or the path of such a file of another name.
      size: What the longer side of images shrinks to; None keeps their own size.
      every: Of the images in the order of their names the first and every n-th are the part "test",
        where the file does not say which; 0: none.
      skip_missing: Whether frames whose image is missing are left out.
      near: See `Scene`; files do not say, nor do they for `far` and `box`.
      far: See `Scene`.
      box: See `Scene`.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: The file is missing, unreadable or not of this format, or images are missing (all
        are named), unreadable or of another size than is stated. The message names file and frame.
    """
    check_size_and_channels(size, None)
    file = pathlib.Path(folder)
    if not file.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    if file.is_dir():
        file = file / FILE
    if not file.is_file():
        raise InputError(f"{folder}: no {FILE}, expected one")
    content = read_transforms(file)
    frames, missing = _with_images(file, frames_of(file, content))
    refuse_missing(str(file), missing, len(frames), skip_missing)
    views = _read_views(file, content, frames, size)
    parts = _parts(file, content, views, frames, missing, every)
    return Scene(str(folder), parts, near, far, box, applied=_applied(file, content))


def _applied(file: pathlib.Path, content: dict[str, Any]) -> Similarity | None:
    """What the file says was applied to an earlier world to give its own."""
    scale = number_of(str(file), content, "applied_scale")
    if scale is not None and scale <= 0:
        raise InputError(f"{file}: applied_scale is {scale}, expected a number > 0")
    scaling = None if scale is None else dataclasses.replace(IDENTITY, scale=scale)
    if content.get("applied_transform") is None:
        return scaling
    turning = similarity_of(str(file), "applied_transform", content["applied_transform"])
    return turning if scaling is None else scaling.after(turning)


_Frames = list[tuple[int, dict[str, Any], str, pathlib.Path]]


def _with_images(file: pathlib.Path, frames: list[dict[str, Any]]) -> tuple[_Frames, list[str]]:
    """Frames (number, object, name, image) that have an image, and the paths of other frames."""
    found: _Frames = []
    missing = []
    for i, frame in enumerate(frames):
        where = f"{file}: frame {i}"
        plain = path_of(where, frame)
        try:
            found.append((i, frame, *image_of(file.parent, where, plain)))
        except InputError:
            missing.append(plain)
    return found, missing


def _read_views(
    file: pathlib.Path, content: dict[str, Any], frames: _Frames, size: int | None
) -> Views:
    for key in OF_ALL:
        own = [frame.get(key) is not None for _, frame, _, _ in frames]
        if any(own) and not all(own):
            i, frame, *_ = frames[own.index(False)]
            raise InputError(
                f"{file}: frame {i} ({frame['file_path']}): no {key}, expected one as other frames"
                " have, or intrinsics of the file alone"
            )
    poses, cameras, photographs, names, places = [], [], [], [], []
    for i, frame, name, image in frames:
        where = f"{file}: frame {i} ({frame['file_path']})"
        places.append(where)
        names.append(name)
        poses.append(matrix_of(where, frame.get("transform_matrix")))
        told = {**content, **frame}
        cameras.append((where, told))
        beside = [
            file.parent / path_of(where, frame, key) if frame.get(key) is not None else None
            for key in ("mask_path", "depth_file_path")
        ]
        photographs.append(Photograph(where, image, _stated_shape(where, told), *beside))
    refuse_same_images(places, names, [i for i, *_ in frames])
    pixels = read_photographs(photographs, size)
    height, width = pixels.images.shape[1:3]
    full = round(height / pixels.scale[1]), round(width / pixels.scale[0])
    intrinsics = join_intrinsics([_camera(*camera, full) for camera in cameras], str(file))
    unit = number_of(str(file), content, "depth_unit_scale_factor")
    if unit is not None and unit <= 0:
        raise InputError(f"{file}: depth_unit_scale_factor is {unit}, expected a number > 0")
    depth = pixels.depth
    return Views(
        tuple(names),
        pixels.images,
        np.stack(poses).astype(np.float32),
        intrinsics.scaled(*pixels.scale),
        depth=None if depth is None else depth * np.float32(DEPTH_UNIT if unit is None else unit),
        masks=pixels.masks,
        depth_along="axis",
    )


def _stated_shape(where: str, told: dict[str, Any]) -> tuple[int, int] | None:
    sides = [number_of(where, told, key) for key in ("h", "w")]
    if None in sides:
        return None
    height, width = (float(side) for side in sides if side is not None)
    if min(height, width) < 1 or height != int(height) or width != int(width):
        raise InputError(f"{where}: w and h are {width:g} and {height:g}, expected whole numbers")
    return int(height), int(width)


def _camera(where: str, told: dict[str, Any], shape: tuple[int, int]) -> Intrinsics:
    """One camera, in pixels of images of a shape (height, width)."""
    height, width = shape
    model = told.get("camera_model")
    if model is None:
        model = "OPENCV_FISHEYE" if told.get("is_fisheye") else "OPENCV"
    if model == "EQUIRECTANGULAR":
        focal = width / (2 * np.pi), height / np.pi
        centre = np.array([[width / 2, height / 2]])
        return Intrinsics(np.array([focal]), centre, np.zeros((1, 0)), model)
    if not isinstance(model, str) or model not in PERSPECTIVE | FISHEYE:
        raise InputError(
            f"{where}: camera_model is {model!r}, expected one of"
            f" {', '.join(sorted(PERSPECTIVE | FISHEYE | OTHERS))}"
        )
    focal_x, focal_y = _focal(where, told, shape)
    middle = {"cx": width / 2, "cy": height / 2}
    found = {key: number_of(where, told, key) for key in middle}
    distortion = {
        key: number_of(where, told, key) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2")
    }
    if model in FISHEYE:
        model = "OPENCV_FISHEYE"
    else:
        model = "FULL_OPENCV" if distortion["k3"] else "OPENCV"
    for key in ("p1", "p2") if model == "OPENCV_FISHEYE" else ("k4",):
        if distortion[key]:
            raise InputError(f"{where}: {key} is {distortion[key]}, expected 0 of {model}")
    if not any(distortion.values()) and model == "OPENCV":
        model = "PINHOLE"
    camera = Intrinsics(
        np.array([[focal_x, focal_y]]),
        np.array([[middle[key] if value is None else value for key, value in found.items()]]),
        np.array([[distortion.get(key, 0.0) for key in CAMERA_MODELS[model].distortion]]),
        model,
    )
    if fault := intrinsics_fault(camera, 0):
        raise InputError(f"{where}: {fault}")
    return camera


def _focal(where: str, told: dict[str, Any], shape: tuple[int, int]) -> tuple[float, float]:
    """fx and fy in pixels; the one that is missing is that of the other axis."""
    found = []
    for axis, side in (("x", shape[1]), ("y", shape[0])):
        focal = number_of(where, told, f"fl_{axis}")
        angle = angle_of(where, told, f"camera_angle_{axis}")
        if focal is None and angle is not None:
            focal = 0.5 * side / float(np.tan(0.5 * angle))
        found.append(focal)
    x, y = found
    if x is None and y is None:
        raise InputError(f"{where}: no focal length, expected fl_x or camera_angle_x")
    return (y if x is None else x), (x if y is None else y)  # type: ignore[return-value]


def _parts(
    file: pathlib.Path,
    content: dict[str, Any],
    views: Views,
    frames: _Frames,
    missing: list[str],
    every: int,
) -> dict[str, Views]:
    """The parts that the file names, or every n-th view held out."""
    if not any(key in content for key in PART_KEYS.values()):
        return held_out_parts(views, every, str(file))
    number = {path_of(str(file), frame): i for i, (_, frame, _, _) in enumerate(frames)}
    parts, part_of = {}, dict[str, str]()
    for part, key in PART_KEYS.items():
        listed = content.get(key, [])
        if not isinstance(listed, list):
            raise InputError(f"{file}: {key} is no list, expected one of paths")
        plain = [path_of(f"{file}: {key}", {"file_path": path}) for path in listed]
        unknown = [path for path in plain if path not in number and path not in missing]
        if unknown:
            raise InputError(f"{file}: {key} has {unknown[0]!r}, expected file_paths of frames")
        for i, path in enumerate(plain):
            if path in plain[:i] or part_of.setdefault(path, part) == "train" != part:
                raise InputError(
                    f"{file}: {key} has {path!r}, which {PART_KEYS[part_of[path]]} has already,"
                    " expected another"
                )
        if found := [number[path] for path in plain if path in number]:
            parts[part] = views.take(found)
    return parts


def write_nerfstudio(folder: Path, scene: Scene) -> None:
    """Writes a scene's images and transforms.json, in the units of its files, whole or not at all.

    `read_nerfstudio` gives the same images, cameras, parts, masks and `Scene.applied` back; where
    some parts have masks, white ones are written for the others. Depth and normals are left out.

    Args:
      folder: Does not exist yet, or is empty.
      scene: Of perspective cameras with OpenCV's distortion or less, or fisheye ones.

    Raises:
      InputError: The folder has files in it, a view's name is no path inside it, or the format has
        no such camera.
    """
    target = check_new_folder(folder)
    check_view_names(scene)
    for part, views in scene.parts.items():
        if views.intrinsics.model not in PERSPECTIVE | FISHEYE | OTHERS:
            raise InputError(
                f"{scene.name}, {part}: cameras of the model {views.intrinsics.model}, expected one"
                f" of {', '.join(sorted(PERSPECTIVE | FISHEYE | OTHERS))}"
            )
    masked = any(views.masks is not None for views in scene.parts.values())
    frames: list[dict[str, Any]] = []
    content: dict[str, Any] = {}
    with replacing_folder(target) as temporary:
        for part, views in scene.parts.items():
            paths = write_images(temporary, views)
            masks = _write_masks(temporary, views) if masked else ()
            content[PART_KEYS[part]] = paths
            poses = scene.to_files.poses(views.camera_to_world.astype(np.float64))
            for i, path in enumerate(paths):
                matrix = [*poses[i].tolist(), [0.0, 0.0, 0.0, 1.0]]
                frame = {"file_path": path, "transform_matrix": matrix, **_written_camera(views, i)}
                frames.append(frame | ({"mask_path": masks[i]} if masks else {}))
        if scene.applied is not None:
            content["applied_transform"] = scene.applied.matrix().tolist()
        content["frames"] = frames
        (temporary / FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _written_camera(views: Views, i: int) -> dict[str, Any]:
    lens, (height, width) = views.intrinsics, views.images.shape[1:3]
    names = ["k1" if name == "k" else name for name in CAMERA_MODELS[lens.model].distortion]
    keys = dict(zip(names, lens.distortion[i].tolist(), strict=True))
    if any(keys.get(key) for key in ("k5", "k6")) or (keys.get("k4") and "FISH" not in lens.model):
        raise InputError(f"camera {i} has k4, k5 or k6 of FULL_OPENCV, expected 0 of the format")
    keys = {key: value for key, value in keys.items() if key not in ("k5", "k6")}
    (fx, fy), (cx, cy) = lens.focal[i].tolist(), lens.centre[i].tolist()
    pixels = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height}
    return {"camera_model": lens.model, **pixels, **keys}


def _write_masks(folder: pathlib.Path, views: Views) -> Sequence[str]:
    names = tuple(f"masks/{name}" for name in views.names)
    masks = np.ones(views.images.shape[:3], bool) if views.masks is None else views.masks
    images = masks[..., None].repeat(3, axis=-1) * np.uint8(255)
    return write_images(folder, Views(names, images, views.camera_to_world, views.intrinsics))
