"""The photographs of a scene's frames, with masks and depth, read in one size.

Means over areas are for colours. A shrunken mask keeps the pixels whose whole area it keeps; a
depth is that of the old pixel at the new one's centre, for a mean over an edge is on neither side.
"""

import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8, UInt16

from jaxgen.data.images.image_files import naming_damage
from jaxgen.data.images.resizing import import_pillow
from jaxgen.data.scenes.alpha_images import area_means, read_with_alpha, shrink, shrunk_size
from jaxgen.errors import InputError
from jaxgen.files import open_file


class Photograph(NamedTuple):
    """A frame's files.

    Attributes:
      where: What errors begin with: the file that names the frame, and its number.
      file: The image.
      shape: Its height and width as they are stated; None: not stated.
      mask: An image that is black where pixels do not count; or None.
      depth: An image of whole numbers, 0 where depth is not known; or None.
    """

    where: str
    file: pathlib.Path
    shape: tuple[int, int] | None = None
    mask: pathlib.Path | None = None
    depth: pathlib.Path | None = None


class Pixels(NamedTuple):
    """What was read.

    Attributes:
      images: [N, Y, X, C], uint16 where one of them is.
      masks: [N, Y, X], or None.
      depth: [N, Y, X] in the files' unit, nan where it is not known; or None.
      scale: of x and y, the new sides over those of the files.
    """

    images: UInt8[np.ndarray, "N Y X C"] | UInt16[np.ndarray, "N Y X C"]
    masks: Bool[np.ndarray, "N Y X"] | None
    depth: Float32[np.ndarray, "N Y X"] | None
    scale: tuple[float, float]


def read_photographs(photographs: Sequence[Photograph], size: int | None) -> Pixels:
    """All frames' pixels.

    Args:
      photographs: 1 or more; masks of all or of none, and so depths.
      size: Pixels of the longer side, to shrink to. None keeps the files' size.

    Raises:
      InputError: A file is missing or unreadable, images have different sizes or another one than
        is stated, or a mask or a depth has another size than its image. The message names it.
    """
    for name in ("mask", "depth"):
        have = [getattr(photograph, name) is not None for photograph in photographs]
        if any(have) and not all(have):
            raise InputError(
                f"{photographs[have.index(False)].where}: no {name}, expected one, as other frames"
                " have"
            )
    first, shape = photographs[0], (0, 0)
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    depths: list[np.ndarray] = []
    original: tuple[int, ...] = ()
    for photograph in photographs:
        image = read_with_alpha(photograph.file, photograph.where)
        if not original:
            original = image.shape
            where = f"{photograph.where}: {photograph.file}"
            shape = shrunk_size(original[0], original[1], size, where)
        _check_shape(photograph, image.shape, original, first.file)
        images.append(shrink(image, shape))
        if photograph.mask is not None:
            mask = _read_plane(photograph.mask, photograph.where, original, "mask") > 0
            whole = area_means(mask[..., None].astype(np.float64), shape)[..., 0] > 1 - 1e-9
            if not whole.any():
                raise InputError(
                    f"{photograph.where}: {photograph.mask} leaves no pixel, expected a mask with"
                    " some that count"
                )
            masks.append(whole)
        if photograph.depth is not None:
            depth = _read_plane(photograph.depth, photograph.where, original, "depth")
            depths.append(_at_centres(np.where(depth > 0, depth, np.nan), shape))
    return Pixels(
        _stacked(images),
        np.stack(masks) if masks else None,
        np.stack(depths).astype(np.float32) if depths else None,
        (shape[1] / original[1], shape[0] / original[0]),
    )


def _stacked(
    images: Sequence[np.ndarray],
) -> UInt8[np.ndarray, "N Y X C"] | UInt16[np.ndarray, "N Y X C"]:
    """Images of one type: bytes beside 16 bits are scaled, 255 to 65535."""
    if len({image.dtype for image in images}) > 1:
        images = [
            image.astype(np.uint16) * np.uint16(257) if image.dtype == np.uint8 else image
            for image in images
        ]
    return np.stack(images)


def refuse_missing(
    where: str, missing: Sequence[str], found: int, skip: bool, place: str = ""
) -> None:
    """Raises InputError, with all their names, if images are missing and are not to be skipped.

    Args:
      where: What the error begins with.
      missing: Images that are not there.
      found: How many are; without any there is nothing left to read.
      skip: Whether missing ones are left out.
      place: Where they were looked for, as " in FOLDER", if that does not follow from `where`.
    """
    if missing and not (skip and found):
        raise InputError(
            f"{where}: {len(missing)} of {len(missing) + found} images are missing{place}, expected"
            f" all of them, or the option to skip those that are: {', '.join(missing)}"
        )


def _check_shape(
    photograph: Photograph, shape: tuple[int, ...], first: tuple[int, ...], first_file: object
) -> None:
    stated = photograph.shape
    if stated is not None and shape[:2] != stated:
        raise InputError(
            f"{photograph.where}: {photograph.file} has {shape[0]} x {shape[1]} pixels, expected"
            f" {stated[0]} x {stated[1]} (height x width) as is stated"
        )
    if shape != first:
        raise InputError(
            f"{photograph.where}: {photograph.file} has shape {list(shape)}, expected"
            f" {list(first)} as {first_file} has"
        )


def _read_plane(
    file: pathlib.Path, where: str, shape: tuple[int, ...], kind: str
) -> Shaped[np.ndarray, "Y X"]:
    """An image of one channel (of colours, the mean), 8 or 16 bits, of a given size."""
    if not file.is_file():
        raise InputError(f"{where}: no {kind} {file}, expected a file")
    where, pil = f"{where}: {file}", import_pillow(str(file))
    with open_file(file) as handle:
        content = handle.read()
    with naming_damage(where), pil.Image.open(io.BytesIO(content)) as image:
        values = np.asarray(image.convert("L") if image.mode in ("1", "P") else image)
    if values.ndim == 3:
        values = values[..., : 3 if values.shape[-1] > 2 else 1].mean(axis=-1)  # not alpha
    if values.shape != shape[:2]:
        raise InputError(
            f"{where}: a {kind} of {' x '.join(map(str, values.shape))} pixels, expected"
            f" {shape[0]} x {shape[1]} as the image has"
        )
    return values


def _at_centres(
    values_YX: Shaped[np.ndarray, "Y X"], shape: tuple[int, int]
) -> Shaped[np.ndarray, "Y2 X2"]:
    """The values of the old pixels that the centres of new ones are in."""
    y, x = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(values_YX.shape, shape, strict=True)
    )
    return values_YX[np.ix_(y, x)]
