"""Images in another size and with other channels.

The one module that imports Pillow (extra ``jaxgen[data]``).
"""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxgen.errors import InputError

GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"})


def check_size_and_channels(size: int | None, channels: int | None) -> None:
    """Refuses a size or a number of channels that no image can be given.

    Raises:
      InputError: Names the argument.
    """
    if size is not None and size < 1:
        raise InputError(f"size is {size}, expected 1 or more")
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels}, expected 1 (grey) or 3 (colour)")


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
    pil = import_pillow(name)
    image = pil.Image.fromarray(image_YXC[..., 0] if c == 1 else image_YXC)
    return to_array(fit_image(to_grey_or_rgb(image, channels), size))


def fit_image(image: Any, size: int | None) -> Any:
    """A Pillow image resized and cropped in the middle to size x size (see `read_image`)."""
    if size is None or image.size == (size, size):
        return image
    pil = import_pillow("resizing")
    return pil.ImageOps.fit(image, (size, size), method=pil.Image.Resampling.BICUBIC)


def to_grey_or_rgb(image: Any, channels: int | None) -> Any:
    """A Pillow image in mode L or RGB, transparent pixels laid over white.

    Args:
      image: the image, of any mode.
      channels: 1 or 3, or None for what the image has.
    """
    grey = image.mode in GREY_MODES
    if image.mode.startswith("I;16"):
        pil = import_pillow("16-bit pixels")
        image = pil.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.mode.upper() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = import_pillow("transparency").Image.new("RGBA", image.size, (255, 255, 255, 255))
        white.alpha_composite(image)
        image = white.convert("RGB")
    return image.convert("L" if channels == 1 or (channels is None and grey) else "RGB")


def to_array(image: Any) -> UInt8[np.ndarray, "Y X C"]:
    """The bytes of a Pillow image in mode L or RGB."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def import_pillow(what: str) -> Any:
    """Pillow, imported when first needed.

    Args:
      what: what it is needed for, or the file.

    Raises:
      InputError: it is not installed.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise InputError(
            f"{what}: reading and resizing images needs the package pillow, extra jaxgen[data]"
            f" ({error})"
        ) from error
    return PIL
