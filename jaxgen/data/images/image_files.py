"""Image files through Pillow, and folders of them whose subfolders are classes.

The one module that imports Pillow (extra ``jaxgen[data]``).
"""

import contextlib
import pathlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from jaxgen.data.archives import Path
from jaxgen.data.images.image_set import (
    ImageSet,
    check_labels,
    check_parts,
    consecutive_parts,
    make_example,
    part_span,
    shuffled_parts,
)
from jaxgen.data.text.corpus import PARTS, Spans
from jaxgen.data.text.token_files import PART_NAMES
from jaxgen.errors import InputError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"})
REFUSED_MODES = frozenset({"I", "F"})


def check_target(size: int | None, channels: int | None) -> None:
    """Refuses a size or a number of channels that no image can be given.

    Raises:
      InputError: Names the argument.
    """
    if size is not None and size < 1:
        raise InputError(f"size is {size}, expected 1 or more")
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels}, expected 1 (grey) or 3 (colour)")


def read_image(
    path: Path, size: int | None = None, channels: int | None = None
) -> UInt8[np.ndarray, "Y X C"]:
    """One image file as bytes.

    The first frame of an animation, turned as its EXIF orientation says; 16-bit greys keep their
    high byte; transparent pixels are laid over white.

    Args:
      path: The file, in any format that Pillow reads.
      size: Y and X of the result: the image is resized (bicubic, antialiased) until its shorter
        side is this, and the middle of the longer one is kept. None keeps the image's own size.
      channels: 1 for grey (the ITU-R 601 luma of colours), 3 for red, green, blue. None keeps what
        the file has: 1 for grey files, 3 for all others.

    Raises:
      InputError: The file is no image, damaged or truncated, or has 32-bit pixels; or Pillow is not
        installed. The message names the file.
    """
    check_target(size, channels)
    with _opened(path) as opened:
        image = _import_pillow(str(path)).ImageOps.exif_transpose(opened)
        return _to_array(fit_image(_plain(image, channels), size))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file as Pillow opens it: its header is read, its pixels are not.

    Raises:
      InputError: As `read_image`, for faults that the block finds as well.
    """
    pil = _import_pillow(str(path))
    try:
        with pil.Image.open(path) as image:
            if image.mode in REFUSED_MODES:
                raise InputError(
                    f"{path}: pixels of 32 bits (mode {image.mode}), expected 8 or 16 bits"
                )
            yield image
    except InputError:
        raise
    except (
        # Pillow's plug-ins raise all of these for damaged files.
        *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
        *(OverflowError, struct.error, zlib.error, pil.Image.DecompressionBombError),
    ) as error:
        fault = str(error).replace("\n", " ")
        raise InputError(f"{path}: not a readable image, or a truncated one ({fault})") from error


def fit_array(
    image_YXC: UInt8[np.ndarray, "Y X C"], size: int | None, channels: int | None, name: str
) -> UInt8[np.ndarray, "Y2 X2 C2"]:
    """An image that is already an array, in the size and with the channels of `read_image`.

    Args:
      image_YXC: uint8 with 1 or 3 channels.
      size: See `read_image`.
      channels: See `read_image`.
      name: What the image is called in an error.
    """
    y, x, c = image_YXC.shape
    if (size is None or y == x == size) and channels in (None, c):
        return image_YXC
    pil = _import_pillow(name)
    image = pil.Image.fromarray(image_YXC[..., 0] if c == 1 else image_YXC)
    return _to_array(fit_image(_plain(image, channels), size))


def fit_image(image: Any, size: int | None) -> Any:
    """A Pillow image resized and cropped in the middle to size x size (see `read_image`)."""
    if size is None or image.size == (size, size):
        return image
    pil = _import_pillow("resizing")
    return pil.ImageOps.fit(image, (size, size), method=pil.Image.Resampling.BICUBIC)


def _plain(image: Any, channels: int | None) -> Any:
    """The image in mode L or RGB."""
    grey = image.mode in GREY_MODES
    if image.mode.startswith("I;16"):
        pil = _import_pillow("16-bit pixels")
        image = pil.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.mode.upper() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = _import_pillow("transparency").Image.new("RGBA", image.size, (255, 255, 255, 255))
        white.alpha_composite(image)
        image = white.convert("RGB")
    return image.convert("L" if channels == 1 or (channels is None and grey) else "RGB")


def _to_array(image: Any) -> UInt8[np.ndarray, "Y X C"]:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """A folder of images, read one by one: records for `jaxgen.data.pipeline.make_batches`.

    Attributes:
      name: The folder.
      files: The image files, [N].
      labels: int32 [N], indices into `classes`; or None.
      classes: The names of the subfolders; empty where images lie in the folder itself.
      parts: "train" and where there are any "validation" and "test" -> (start, stop) in N.
      size: Y and X of the images, or None for their own.
      channels: 1, 3, or None for what each file has; `open_image_folder` sets 1 or 3.
    """

    name: str
    files: tuple[pathlib.Path, ...]
    labels: Int32[np.ndarray, "N"] | None
    classes: tuple[str, ...]
    parts: Spans
    size: int | None = None
    channels: int | None = None

    def __post_init__(self):
        check_target(self.size, self.channels)
        check_labels(self.name, self.labels, len(self), self.classes)
        check_parts(self.name, self.parts, len(self))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Example `index`: uint8 [Y, X, C], and an int32 label where there are labels.

        Raises:
          InputError: The file is not readable; the message names it.
        """
        image = read_image(self.files[index], self.size, self.channels)
        return make_example(image, None if self.labels is None else self.labels[index])

    def part(self, name: str) -> "ImageFolder":
        """One part as a folder of its own, with that part alone.

        Raises:
          InputError: There is no part of this name.
        """
        start, stop = part_span(self.name, self.parts, name)
        labels = None if self.labels is None else self.labels[start:stop]
        parts = {name: (0, stop - start)}
        return replace(self, files=self.files[start:stop], labels=labels, parts=parts)

    def read_all(self) -> ImageSet:
        """All images in memory.

        Raises:
          InputError: A file is not readable, or has another shape than the first; the message names
            the file and both shapes.
        """
        images = [read_image(file, self.size, self.channels) for file in self.files]
        check_same_shape([str(file) for file in self.files], images)
        return ImageSet(self.name, np.stack(images), self.labels, self.classes, self.parts)


def check_same_shape(names: Sequence[str], images: Sequence[UInt8[np.ndarray, "Y X C"]]) -> None:
    """Refuses images of different shapes.

    Raises:
      InputError: Names the first image that differs from image 0, both shapes, and what to give.
    """
    for name, image in zip(names, images, strict=True):
        if image.shape != images[0].shape:
            alike = image.shape[:2] == images[0].shape[:2]
            raise InputError(
                f"{name}: an image of shape {list(image.shape)}, but {names[0]} has"
                f" {list(images[0].shape)}; give {'channels (1 or 3)' if alike else 'size'} to make"
                " them alike"
            )


def open_image_folder(
    folder: Path, *, size: int | None = None, channels: int | None = None
) -> ImageFolder:
    """Finds the images of a folder, without reading their pixels.

    Args:
      folder: Images lie in it, or in its subfolders at any depth; the first-level subfolders are
        the classes, in the order of their names. Are all first-level subfolders called train,
        validation (val, valid, dev) or test, they are the parts, and the same holds inside each.
        Files that are no images by their suffix are left out, and so are files and folders whose
        name begins with a dot.
      size: Y and X to resize and crop the images to (`read_image`), or None.
      channels: 1 or 3 to convert the images to. None looks at the files' headers, up to the first
        in colour: 3 for all if any is, grey images then having three equal channels, else 1.

    Returns:
      The folder; where it has no parts, divided by `shuffled_parts`: a fixed random tenth each for
      validation and for test. Where it has a training part but none for validation, a tenth of it.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: No images are there, some are in classes and others in none, or the parts have
        different classes; or, without `channels`, a file is no image. The message names the
        folder or a file.
    """
    check_target(size, channels)
    root = pathlib.Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    files = _image_files(root)
    if not files:
        raise InputError(f"{folder}: no images in it ({' '.join(sorted(SUFFIXES))})")
    tops = [file.relative_to(root).parts[0] for file in files]
    if {top.lower() for top in tops} <= set(PART_NAMES):
        names = [_class_name(root / top, file) for top, file in zip(tops, files, strict=True)]
        order, parts = _parts_by_name([PART_NAMES[top.lower()] for top in tops])
    else:
        names = [_class_name(root, file) for file in files]
        order, parts = shuffled_parts(len(files))
    labels, classes = _label(str(folder), files, names)
    channels = channels or (1 if all(map(_is_grey, files)) else 3)
    files = tuple(files[i] for i in order)
    labels = None if labels is None else labels[order]
    return ImageFolder(str(folder), files, labels, classes, parts, size, channels)


def _is_grey(path: pathlib.Path) -> bool:
    with _opened(path) as image:
        return image.mode in GREY_MODES


def _parts_by_name(part_of: Sequence[str]) -> tuple[np.ndarray, Spans]:
    """The order of images that lie in folders of parts, and the parts as spans of it.

    Images stand class by class, so a validation part is taken out of training at random.
    """
    places = {part: np.flatnonzero(np.array(part_of) == part) for part in PARTS}
    train = places["train"]
    if not places["validation"].size and train.size:
        order, parts = shuffled_parts(len(train), ["validation"])
        places |= {part: train[order[slice(*span)]] for part, span in parts.items()}
    sizes = {part: len(found) for part, found in places.items()}
    return np.concatenate(list(places.values())), consecutive_parts(sizes)


def _image_files(root: pathlib.Path) -> tuple[pathlib.Path, ...]:
    def is_shown(file: pathlib.Path) -> bool:
        return not any(name.startswith(".") for name in file.relative_to(root).parts)

    found = [file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES]
    return tuple(sorted(file for file in found if is_shown(file) and file.is_file()))


def _class_name(root: pathlib.Path, file: pathlib.Path) -> str | None:
    names = file.relative_to(root).parts
    return names[0] if len(names) > 1 else None


def _label(
    folder: str, files: Sequence[pathlib.Path], names: Sequence[str | None]
) -> tuple[Int32[np.ndarray, "N"] | None, tuple[str, ...]]:
    """Labels by class names, None for files that lie in no class folder."""
    classes = sorted({name for name in names if name is not None})
    if not classes:
        return None, ()
    if None in names:
        raise InputError(
            f"{files[names.index(None)]}: lies in no class, while {folder} has subfolders with"
            f" images ({', '.join(classes[:3])}), expected all images in subfolders, or none"
        )
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[str(name)] for name in names], np.int32), tuple(classes)


def _import_pillow(what: str) -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise InputError(
            f"{what}: reading and resizing images needs the package pillow, extra jaxgen[data]"
            f" ({error})"
        ) from error
    return PIL
