"""Captures in the format of LLFF (Mildenhall et al. 2019): photographs and ``poses_bounds.npy``.

One row of 17 numbers for each photograph, in the order of the files' names: 3 x 5, the camera's
axes (down, right, back), its place, and height, width and focal length of the full images; then the
nearest and the farthest depth that is seen. The photographs are in ``images``, or n times smaller
in ``images_n``; masks, black where pixels do not count, in ``masks`` or ``masks_n``.
"""

import dataclasses
import io
import pathlib
import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from jaxgen.data.archives import Path, read_bytes
from jaxgen.data.images.image_files import SUFFIXES
from jaxgen.data.images.resizing import check_size_and_channels
from jaxgen.data.scenes.held_out import EVERY, held_out_parts
from jaxgen.data.scenes.intrinsics import intrinsics_fault, pinholes
from jaxgen.data.scenes.photographs import Photograph, read_photographs
from jaxgen.data.scenes.recentring import recentred
from jaxgen.data.scenes.views import Corner, Scene, Views, pose_fault
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

FILE = "poses_bounds.npy"
NEARER = 0.9
"""Rays begin at this share of the nearest depth, as in the original's code."""
SIDE_TOLERANCE = 0.02
"""How far the sides of small images may be from those of the full ones, after scaling."""


def read_llff(
    folder: Path, *, size: int | None = None, every: int = EVERY, images: str | None = None
) -> Scene:
    """Reads a capture into memory, in the units of its file.

    Args:
      folder: Where poses_bounds.npy is.
      size: What the longer side of images shrinks to; None keeps their own size.
      every: The first and every n-th image are the part "test"; 0: none.
      images: The folder in it to read from; None: ``images``, or the largest of ``images_n``.

    Returns:
      The scene; near and far are those of all rows, its box holds all that is seen between them.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: The file is missing or not of this format, or images are missing, unreadable, or
        not as many as its rows.
    """
    check_size_and_channels(size, None)
    root = pathlib.Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    poses_N35, bounds_N2 = _read_rows(root / FILE)
    chosen = _images_folder(root, images)
    files = _images_in(chosen)
    if len(files) != len(poses_N35):
        raise InputError(
            f"{root / FILE}: {len(poses_N35)} rows, expected {len(files)}, one for each image in"
            f" {chosen}"
        )
    masks: list[pathlib.Path] | list[None] = _masks_for(chosen, files) or [None] * len(files)
    where = [f"{root / FILE}: row {i}" for i in range(len(files))]
    photographs = [
        Photograph(row, file, mask=mask)
        for row, file, mask in zip(where, files, masks, strict=True)
    ]
    pixels = read_photographs(photographs, size)
    height, width = pixels.images.shape[1:3]
    down, right, back, place = (poses_N35[:, :, i] for i in range(4))
    poses = np.stack([right, -down, back, place], axis=-1)
    full_height, full_width, focal = poses_N35[0, :, 4]
    for i, pose in enumerate(poses):
        fault = pose_fault(pose)
        if not fault and not np.allclose(poses_N35[i, :, 4], poses_N35[0, :, 4]):
            fault = "height, width and focal are not those of row 0, expected one camera"
        if fault:
            raise InputError(f"{where[i]}: {fault}")
    shares = height / full_height, width / full_width
    files_height, files_width = round(height / pixels.scale[1]), round(width / pixels.scale[0])
    if abs(files_height / full_height / (files_width / full_width) - 1) > SIDE_TOLERANCE:
        raise InputError(
            f"{root / FILE}: full images have {full_height:g} x {full_width:g} pixels, expected the"
            f" proportions of those in {chosen}, {files_height} x {files_width}"
        )
    lens = pinholes(len(files), (focal * shares[1], focal * shares[0]), (width / 2, height / 2))
    if fault := intrinsics_fault(lens, 0):
        raise InputError(f"{where[0]}: {fault}")
    views = Views(
        tuple(file.stem for file in files),
        pixels.images,
        poses.astype(np.float32),
        lens,
        masks=pixels.masks,
    )
    near, far = NEARER * float(bounds_N2.min()), float(bounds_N2.max())
    box = seen_box([views], near, far)
    return Scene(str(folder), held_out_parts(views, every, str(root / FILE)), near, far, box)


def recentred_capture(scene: Scene) -> Scene:
    """A capture of LLFF in the common place (`recentring`), with near, far and box in its units."""
    moved = recentred(scene, scene.near, scene.far, 1.0)
    near, far = (distance / moved.to_files.scale for distance in (scene.near, scene.far))
    box = seen_box(moved.parts.values(), near, far)
    return dataclasses.replace(moved, near=near, far=far, box=box, bounded=True)


def _read_rows(
    file: pathlib.Path,
) -> tuple[Float[np.ndarray, "N 3 5"], Float[np.ndarray, "N 2"]]:
    if not file.is_file():
        raise InputError(f"{file.parent}: no {FILE}, expected one")
    try:
        rows = np.lib.format.read_array(io.BytesIO(read_bytes(file)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{file}: not a file of numpy ({error})") from error
    if rows.ndim != 2 or rows.shape[1] != 17 or not len(rows) or rows.dtype.kind != "f":
        raise InputError(
            f"{file}: {rows.dtype} {list(rows.shape)}, expected floats [N, 17] with N of 1 or more"
        )
    for i, row in enumerate(rows):
        if not np.isfinite(row).all():
            raise InputError(f"{file}: row {i} is not finite, expected finite numbers")
        if not 0 < row[15] < row[16]:
            raise InputError(
                f"{file}: row {i} has near {row[15]:g} and far {row[16]:g}, expected 0 < near < far"
            )
        if not (row[[4, 9, 14]] > 0).all():
            raise InputError(
                f"{file}: row {i} has height, width and focal {row[[4, 9, 14]].tolist()}, expected"
                " numbers > 0"
            )
    rows = rows.astype(np.float64)
    return rows[:, :15].reshape(-1, 3, 5), rows[:, 15:]


def _images_folder(root: pathlib.Path, name: str | None) -> pathlib.Path:
    if name is not None:
        if not (root / name).is_dir():
            raise InputError(f"{root}: no folder {name}, expected one of images")
        return root / name
    if (root / "images").is_dir():
        return root / "images"
    smaller = {
        int(match[1]): path
        for path in root.iterdir()
        if path.is_dir() and (match := re.fullmatch(r"images_(\d+)", path.name))
    }
    if not smaller:
        raise InputError(f"{root}: no folder images or images_N, expected one of images")
    return smaller[min(smaller)]


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in folder.iterdir() if has_suffix(file.name, *SUFFIXES))


def _masks_for(images: pathlib.Path, files: list[pathlib.Path]) -> list[pathlib.Path] | None:
    """The masks by the images' names, from the folder that is called like theirs; None without."""
    if not images.name.startswith("images"):
        return None
    folder = images.with_name("masks" + images.name.removeprefix("images"))
    if not folder.is_dir():
        return None
    found = {file.stem: file for file in _images_in(folder)}
    return [found.get(file.stem, folder / f"{file.stem}.png") for file in files]


def seen_box(parts: Iterable[Views], near: float, far: float) -> tuple[Corner, Corner]:
    """The corners around all that pinhole cameras see between two depths."""
    found = []
    for views in parts:
        height, width = views.images.shape[1:3]
        (fx, fy), poses = views.intrinsics.focal[0], views.camera_to_world.astype(np.float64)
        x, y = width / 2 / fx, height / 2 / fy
        sides_C3 = np.array([(a * x, b * y, -1.0) for a in (-1, 1) for b in (-1, 1)])
        along_NC3 = np.einsum("nij,cj->nci", poses[:, :, :3], sides_C3)
        found += [poses[:, None, :, 3] + depth * along_NC3 for depth in (near, far)]
    corners = np.concatenate(found).reshape(-1, 3)
    low, high = (tuple(map(float, f(axis=0))) for f in (corners.min, corners.max))
    return low, high  # type: ignore[return-value]
