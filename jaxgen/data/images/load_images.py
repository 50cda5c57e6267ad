"""One front door for images: a name or a path in, an `ImageSet` out."""

import os
import pathlib
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from jaxgen.data.archives import Path
from jaxgen.data.images.cifar import is_cifar_folder, read_cifar10
from jaxgen.data.images.idx_files import is_idx_folder, read_mnist
from jaxgen.data.images.image_files import open_image_folder
from jaxgen.data.images.image_set import ImageSet, shuffled_parts
from jaxgen.data.images.resizing import check_size_and_channels, fit_array
from jaxgen.data.images.tfds_images import read_tfds_images
from jaxgen.errors import InputError

ACCEPTED = (
    "'digits', 'mnist', 'cifar10', 'tfds:NAME', or a folder with the files of MNIST or CIFAR-10, or"
    " with images (subfolders are classes)"
)
DATA_VARIABLE = "JAXGEN_DATA"
"""Environment variable that names a folder of data sets, where no argument does."""
LEAST_MAXIMUM = 16
"""Of a set whose brightest pixel is darker than this, something went wrong before it was read."""

_SUBFOLDERS = {
    "mnist": ("", "mnist", "MNIST/raw", "MNIST", "mnist/MNIST/raw"),
    "cifar10": (
        *("", "cifar10", "cifar-10-batches-bin", "cifar-10-batches-py"),
        *("cifar10/cifar-10-batches-bin", "cifar10/cifar-10-batches-py"),
    ),
}
_IS_FOLDER_OF: dict[str, Callable[[pathlib.Path], bool]] = {
    "mnist": is_idx_folder,
    "cifar10": is_cifar_folder,
}


def load_images(
    name: Path = "digits",
    *,
    size: int | None = None,
    channels: int | None = None,
    data_dir: Path | None = None,
    skip_unreadable: bool = False,
) -> ImageSet:
    """Reads a set of images into memory. (Larger folders: `open_image_folder`.)

    Args:
      name: "digits" (`read_digits`, needs no download); "mnist" or "cifar10", looked for in
        `data_dir` and in its usual subfolders; "tfds:NAME" (`jaxgen.data.images.tfds_images`); or a
        folder with the files of MNIST (`jaxgen.data.images.idx_files`), of CIFAR-10
        (`jaxgen.data.images.cifar`), or with images (`open_image_folder`).
      size: Y and X to resize and crop the images to (`jaxgen.data.images.image_files.read_image`).
        None keeps their own size, which must then be the same for all.
      channels: 1 or 3 to convert the images to. None keeps what they have; of a folder with grey
        images and others in colour, all in colour.
      data_dir: Where "mnist" and "cifar10" are looked for, by default the folder that the
        environment variable JAXGEN_DATA names; and where prepared tfds sets lie.
      skip_unreadable: Whether images of a folder that nothing can read are left out and listed
        (`open_image_folder`); otherwise the first one is an error.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: Nothing that is accepted is there, or a file of it is refused; the message names
        the file and the fault.

    Warns:
      UserWarning: All pixels are nearly black, as shares in [0, 1] or classes kept as bytes are; or
        16-bit files lose most of what they say (`read_image`).
    """
    check_size_and_channels(size, channels)
    images = _read(name, size, channels, data_dir, skip_unreadable)
    largest = int(images.images.max())
    if 0 < largest < LEAST_MAXIMUM:
        warnings.warn(
            f"{images.name}: pixels reach {largest} of 255, all nearly black, expected bytes that"
            " use the range 0 to 255",
            stacklevel=2,
        )
    return images


def _read(
    name: Path,
    size: int | None,
    channels: int | None,
    data_dir: Path | None,
    skip_unreadable: bool,
) -> ImageSet:
    if name == "digits":
        images = read_digits()
    elif isinstance(name, str) and name.startswith("tfds:"):
        set_name = name.removeprefix("tfds:")
        return read_tfds_images(set_name, size=size, channels=channels, data_dir=data_dir)
    elif name in _IS_FOLDER_OF:
        images = _read_named(str(name), data_dir)
    elif not os.path.isdir(name):
        fault = "not a folder" if os.path.exists(name) else "no such set or folder"
        raise FileNotFoundError(f"{name}: {fault}; images are {ACCEPTED}")
    elif is_idx_folder(pathlib.Path(name)):
        images = read_mnist(name)
    elif is_cifar_folder(pathlib.Path(name)):
        images = read_cifar10(name)
    else:
        return open_image_folder(
            name, size=size, channels=channels, skip_unreadable=skip_unreadable
        ).read_all()
    return fit_images(images, size, channels)


def read_digits() -> ImageSet:
    """The digits of scikit-learn: 1,797 grey images of 8 x 8, ten classes.

    The test part of the UCI set "optical recognition of handwritten digits" (Alpaydin & Kaynak
    1998), which the package carries. Its values 0..16 become ``round(255 v / 16)``. As the images
    stand in the order of their writers, they are divided by `shuffled_parts`: 1,439 to train, 179
    to validate, 179 to test.

    Raises:
      InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            f"digits: needs the package scikit-learn, extra jaxgen[data] ({error})"
        ) from error
    values, labels = load_digits(return_X_y=True)
    images = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    order, parts = shuffled_parts(len(images))
    classes = tuple(map(str, range(10)))
    return ImageSet("digits", images[order], labels[order].astype(np.int32), classes, parts)


def fit_images(images: ImageSet, size: int | None, channels: int | None) -> ImageSet:
    """A set with every image resized, cropped and converted (`read_image` says how)."""
    if size is None and channels is None:
        return images
    fitted = [fit_array(image, size, channels, images.name) for image in images.images]
    return replace(images, images=np.stack(fitted))


def _read_named(name: str, data_dir: Path | None) -> ImageSet:
    """Finds "mnist" or "cifar10" in a folder of data sets, and reads it."""
    root = os.environ.get(DATA_VARIABLE) if data_dir is None else data_dir
    if not root:
        raise InputError(
            f"{name}: no folder to look in; give data_dir, or set the environment variable"
            f" {DATA_VARIABLE} to a folder with {name} in it"
        )
    for subfolder in _SUBFOLDERS[name]:
        folder = pathlib.Path(root) / subfolder
        if _IS_FOLDER_OF[name](folder):
            images = read_mnist(folder) if name == "mnist" else read_cifar10(folder)
            return replace(images, name=name)
    raise InputError(
        f"{name}: its files are not in {root}, nor in {', '.join(_SUBFOLDERS[name][1:])} in it"
    )
