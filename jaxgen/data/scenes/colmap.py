"""Captures with cameras by COLMAP: a reconstruction (`jaxgen.data.scenes.colmap_model`) and its
photographs, read into a scene and written.
"""

import pathlib

import numpy as np
from jaxtyping import Float64

from jaxgen.camera_models import CAMERA_MODELS
from jaxgen.data.archives import Path
from jaxgen.data.images.resizing import check_size_and_channels
from jaxgen.data.scenes.colmap_model import find_model, read_colmap_model
from jaxgen.data.scenes.held_out import EVERY, held_out_parts
from jaxgen.data.scenes.intrinsics import join_intrinsics, with_own_focals
from jaxgen.data.scenes.new_folder import check_new_folder, replacing_folder
from jaxgen.data.scenes.photographs import Photograph, read_photographs, refuse_missing
from jaxgen.data.scenes.transforms_file import path_of
from jaxgen.data.scenes.views import UNIT_BOX, WIDE_FAR, WIDE_NEAR, Corner, Scene, Views
from jaxgen.data.scenes.written_images import check_view_names, write_images
from jaxgen.errors import InputError


def read_colmap(
    folder: Path,
    *,
    images: Path | None = None,
    size: int | None = None,
    every: int = EVERY,
    skip_missing: bool = False,
    near: float = WIDE_NEAR,
    far: float = WIDE_FAR,
    box: tuple[Corner, Corner] = UNIT_BOX,
) -> Scene:
    """Reads a reconstruction and its photographs into memory, in the units of its files.

    Args:
      folder: Where the model is, or ``sparse/0`` with it.
      images: The folder of photographs, in the folder or elsewhere; None: ``images`` in it.
      size: What the longer side of images shrinks to; None keeps their own size.
      every: Of the images in the order of their names the first and every n-th are the part "test";
        0: none.
      skip_missing: Whether images whose file is missing are left out.
      near: See `Scene`; files do not say, nor do they for `far` and `box`.
      far: See `Scene`.
      box: See `Scene`.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: As `read_colmap_model`; or photographs are missing (all are named), unreadable, or
        of another size than their camera's.
    """
    check_size_and_channels(size, None)
    root = pathlib.Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    place = find_model(root)
    if place is None:
        raise InputError(f"{folder}: no cameras.bin or cameras.txt, expected a model of COLMAP")
    model = read_colmap_model(place)
    photos = root / ("images" if images is None else images)
    if images is not None and not photos.is_dir():
        photos = pathlib.Path(images)
    if not photos.is_dir():
        raise InputError(f"{photos}: no such folder, expected the one of the photographs")
    for image in model.images:
        path_of(f"{place}: image", {"name": image.name}, "name")
    chosen = [image for image in model.images if (photos / image.name).is_file()]
    missing = [image.name for image in model.images if not (photos / image.name).is_file()]
    refuse_missing(str(place), missing, len(chosen), skip_missing, f" in {photos}")
    cameras = [model.cameras[image.camera] for image in chosen]
    pixels = read_photographs(
        [
            Photograph(f"{place}: image {image.name}", photos / image.name, camera.shape)
            for image, camera in zip(chosen, cameras, strict=True)
        ],
        size,
    )
    views = Views(
        tuple(str(pathlib.PurePosixPath(image.name).with_suffix("")) for image in chosen),
        pixels.images,
        np.stack([image.camera_to_world for image in chosen]).astype(np.float32),
        join_intrinsics([camera.intrinsics for camera in cameras], str(place)).scaled(
            *pixels.scale
        ),
    )
    return Scene(str(folder), held_out_parts(views, every, str(place)), near, far, box)


def write_colmap(folder: Path, scene: Scene) -> None:
    """Writes ``sparse/0`` as text, without points, and ``images``, in units of the scene's files.

    Parts, depth, normals and masks have no place in the format.

    Args:
      folder: Does not exist yet, or is empty.
      scene: Of any cameras that COLMAP has.

    Raises:
      InputError: The folder has files in it, a view's name is no path inside it, or COLMAP has no
        such camera.
    """
    target = check_new_folder(folder)
    check_view_names(scene)
    for part, views in scene.parts.items():
        if CAMERA_MODELS[views.intrinsics.model].id is None:
            raise InputError(
                f"{scene.name}, {part}: {views.intrinsics.model} cameras, expected a model of"
                " COLMAP"
            )
    cameras: dict[str, int] = {}
    images: list[str] = []
    with replacing_folder(target) as temporary:
        for views in scene.parts.values():
            paths = write_images(temporary / "images", views)
            height, width = views.images.shape[1:3]
            lens = with_own_focals(views.intrinsics)
            poses = scene.to_files.poses(views.camera_to_world.astype(np.float64))
            for i, path in enumerate(paths):
                values = " ".join(map(repr, map(float, lens.parameters(i))))
                camera = f"{lens.model} {width} {height} {values}"
                number = cameras.setdefault(camera, len(cameras) + 1)
                axes = poses[i, :, :3] * (1, -1, -1)
                quaternion, translation = _quaternion(axes.T), -axes.T @ poses[i, :, 3]
                pose = " ".join(map(repr, map(float, [*quaternion, *translation])))
                images.append(f"{len(images) + 1} {pose} {number} {path}\n\n")
        model = temporary / "sparse" / "0"
        model.mkdir(parents=True)
        lines = [f"{number} {camera}\n" for camera, number in cameras.items()]
        for name, content in (("cameras", lines), ("images", images), ("points", [])):
            text = "".join([f"# Number of {name}: {len(content)}\n", *content])
            file = "points3D" if name == "points" else name
            (model / f"{file}.txt").write_text(text, encoding="utf-8")


def _quaternion(rotation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "4"]:
    """(w, x, y, z), w at least 0: an eigenvector (Bar-Itzhack 2000), stable for any rotation."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    matrix = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    _, vectors = np.linalg.eigh(matrix)
    found = vectors[:, -1]
    return found if found[0] >= 0 else -found
