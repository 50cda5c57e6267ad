"""Image files through Pillow, and folders of them whose subfolders are classes."""

import contextlib
import io
import pathlib
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from jaxgen.data.archives import Path, list_members
from jaxgen.data.images.image_set import (
    ImageSet,
    check_labels,
    check_parts,
    make_example,
    one_part,
    parts_by_name,
    shuffled_parts,
)
from jaxgen.data.images.resizing import (
    GREY_MODES,
    check_size_and_channels,
    fit_image,
    import_pillow,
    to_array,
    to_grey_or_rgb,
)
from jaxgen.data.text.corpus import Spans
from jaxgen.data.text.token_files import PART_NAMES
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    *(".gif", ".tif", ".tiff", ".ppm", ".pgm"),
)
LEAST_HIGH_BYTE = 16
"""Where the high bytes of 16-bit pixels all stay under this, most of what they say is lost."""
REFUSED_MODES = frozenset({"I", "F"})


def read_image(
    path: Path,
    size: int | None = None,
    channels: int | None = None,
    content: bytes | None = None,
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
      content: The file's bytes, where they have been read, as out of an archive.

    Raises:
      InputError: The file is no image, damaged or truncated, or has 32-bit pixels; or Pillow is not
        installed. The message names the file.

    Warns:
      UserWarning: 16-bit pixels use so little of their range (8 to 12 bits) that their high bytes
        say next to nothing.
    """
    check_size_and_channels(size, channels)
    with _opened(path, content) as opened:
        if _has_16_bits(opened):
            _warn_of_small_values(path, opened)
        image = import_pillow(str(path)).ImageOps.exif_transpose(opened)
        return to_array(fit_image(to_grey_or_rgb(image, channels), size))


def _has_16_bits(image: Any) -> bool:
    """Whether a file has channels of 16 bits, also where Pillow gives their high bytes."""
    if image.mode.startswith("I;16"):
        return True
    tiles = [tile.args for tile in getattr(image, "tile", ())]
    arguments = [part for args in tiles for part in (args if isinstance(args, tuple) else (args,))]
    # "RGB;16B" is how the file keeps its pixels; "BGR;16" are three channels in 16 bits.
    return any(
        isinstance(part, str) and ";16" in part and not part.startswith("BGR") for part in arguments
    )


def _warn_of_small_values(path: Path, image: Any) -> None:
    if image.mode.startswith("I;16"):
        largest = int(np.asarray(image).max())
        if not largest:
            return  # black loses nothing
        high = largest >> 8
    else:
        bands = image.getbands()
        ranges = image.getextrema() if len(bands) > 1 else (image.getextrema(),)
        high = max(top for band, (_, top) in zip(bands, ranges, strict=True) if band != "A")
    if high < LEAST_HIGH_BYTE:
        warnings.warn(
            f"{path}: 16-bit pixels of small values: their high bytes, which are kept, reach {high}"
            " of 255; stretch the values over 16 bits before reading",
            stacklevel=3,
        )


@contextlib.contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[Any]:
    """A file as Pillow opens it: its header is read, its pixels are not.

    Raises:
      InputError: As `read_image`, for faults that the block finds as well.
    """
    pil = import_pillow(str(path))
    source = path if content is None else io.BytesIO(content)
    with naming_damage(str(path)), pil.Image.open(source) as image:
        if image.mode in REFUSED_MODES:
            raise InputError(
                f"{path}: pixels of 32 bits (mode {image.mode}), expected 8 or 16 bits"
            )
        yield image


@contextlib.contextmanager
def naming_damage(where: str) -> Iterator[None]:
    """Turns what Pillow raises for a damaged file into one line that names the file.

    Args:
      where: What the error begins with.

    Raises:
      InputError: The block found the file damaged; one that it raises itself is left as it is.
    """
    pil = import_pillow(where)
    try:
        yield
    except InputError:
        raise
    except (
        # Pillow's plug-ins raise all of these for damaged files.
        *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
        *(OverflowError, struct.error, zlib.error, pil.Image.DecompressionBombError),
    ) as error:
        # Without the address of what Pillow was given.
        fault = re.sub(r" *<\S+ object at 0x\w+>", "", str(error)).replace("\n", " ")
        raise InputError(f"{where}: not a readable image, or a truncated one ({fault})") from error


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
      left_out: Names of the files in the folder that are none of `files`.
      unreadable: Names of the images that were skipped because nothing could read them.
    """

    name: str
    files: tuple[pathlib.Path, ...]
    labels: Int32[np.ndarray, "N"] | None
    classes: tuple[str, ...]
    parts: Spans
    size: int | None = None
    channels: int | None = None
    left_out: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def __post_init__(self):
        check_size_and_channels(self.size, self.channels)
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
        return one_part(self, name, "files")

    def read_all(self) -> ImageSet:
        """All images in memory.

        Raises:
          InputError: A file is not readable, or has another shape than the first; the message names
            the file and both shapes.
        """
        images = [read_image(file, self.size, self.channels) for file in self.files]
        check_same_shape([str(file) for file in self.files], images)
        return ImageSet(
            self.name,
            np.stack(images),
            self.labels,
            self.classes,
            self.parts,
            self.left_out,
            self.unreadable,
        )


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
    folder: Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    skip_unreadable: bool = False,
) -> ImageFolder:
    """Finds the images of a folder, without reading their pixels.

    Args:
      folder: Images lie in it, or in its subfolders at any depth; the first-level subfolders are
        the classes, in the order of their names. Are all first-level subfolders called train,
        validation (val, valid, dev) or test, they are the parts, and the same holds inside each.
        Files that are no images by their suffix are left out, and so are files and folders whose
        name begins with a dot, and links to folders; `left_out` names them.
      size: Y and X to resize and crop the images to (`read_image`), or None.
      channels: 1 or 3 to convert the images to. None looks at the files' headers, up to the first
        in colour: 3 for all if any is, grey images then having three equal channels, else 1.
      skip_unreadable: Whether images that are damaged, truncated or none at all are left out, and
        named in `unreadable`; all images are then read once to see.

    Returns:
      The folder; where it has no parts, divided by `shuffled_parts`: a fixed random tenth each for
      validation and for test. Where it has a training part but none for validation, a tenth of it.

    Raises:
      FileNotFoundError: There is no such folder.
      InputError: No images are there, some are in classes and others in none, or the parts have
        different classes; or, without `channels`, a file is no image. The message names the
        folder or a file.
    """
    check_size_and_channels(size, channels)
    root = pathlib.Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not root.is_dir():
        raise InputError(f"{folder}: a file, where a folder of images was expected")
    files, left_out = _image_files(root)
    if not files:
        raise InputError(f"{folder}: no images in it ({' '.join(sorted(SUFFIXES))})")
    unreadable: tuple[str, ...] = ()
    if skip_unreadable:
        files, unreadable = _readable(root, files)
    tops = [file.relative_to(root).parts[0] for file in files]
    if {top.lower() for top in tops} <= set(PART_NAMES):
        names = [_class_name(root / top, file) for top, file in zip(tops, files, strict=True)]
        order, parts = parts_by_name([PART_NAMES[top.lower()] for top in tops])
    else:
        names = [_class_name(root, file) for file in files]
        order, parts = shuffled_parts(len(files))
    labels, classes = _label(str(folder), files, names)
    channels = channels or (1 if all(map(_is_grey, files)) else 3)
    files = tuple(files[i] for i in order)
    labels = None if labels is None else labels[order]
    return ImageFolder(
        str(folder), files, labels, classes, parts, size, channels, left_out, unreadable
    )


def _readable(
    root: pathlib.Path, files: Sequence[pathlib.Path]
) -> tuple[tuple[pathlib.Path, ...], tuple[str, ...]]:
    """The files that can be read, and the names of the others.

    Raises:
      InputError: None can; the message is that of the first.
    """
    faults: dict[pathlib.Path, InputError] = {}
    for file in files:
        try:
            read_image(file)
        except InputError as error:
            faults[file] = error
    kept = tuple(file for file in files if file not in faults)
    if not kept:
        raise InputError(f"{root}: no image can be read; {next(iter(faults.values()))}")
    return kept, tuple(str(file.relative_to(root)) for file in faults)


def _is_grey(path: pathlib.Path) -> bool:
    with _opened(path) as image:
        return image.mode in GREY_MODES


def _image_files(root: pathlib.Path) -> tuple[tuple[pathlib.Path, ...], tuple[str, ...]]:
    """The images of a folder, and the names of its other files."""
    members = list_members(root)
    files = [root / name for name in members.names if has_suffix(name, *SUFFIXES)]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: a link to nothing, or no regular file")
    others = [name for name in members.names if not has_suffix(name, *SUFFIXES)]
    return tuple(sorted(files)), (*others, *members.hidden)


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
