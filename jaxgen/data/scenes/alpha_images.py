"""Images whose transparency, and 16 bits, are kept: read from files, and shrunk by averaging.

Alpha is straight (colours are not multiplied by it). A mean over pixels i is therefore

    a = mean_i a_i,    c = sum_i a_i c_i / sum_i a_i.
"""

import io

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from jaxgen.data.archives import Path
from jaxgen.data.images.deep_png import decode_deep_png, is_deep_png
from jaxgen.data.images.image_files import REFUSED_MODES, naming_damage
from jaxgen.data.images.resizing import import_pillow, to_grey_or_rgb
from jaxgen.errors import InputError
from jaxgen.files import open_file

Image = UInt8[np.ndarray, "Y X C"] | UInt16[np.ndarray, "Y X C"]


def read_with_alpha(path: Path, where: str = "") -> Image:
    """One image as it is stored (EXIF orientations are ignored, as cameras' poses do).

    Args:
      path: The file, in any format that Pillow reads.
      where: What an error begins with.

    Returns:
      Four channels where the file has transparency (straight alpha), else three; uint8, and of a
      PNG of 16 bits and of greys of 16 bits uint16.

    Raises:
      FileNotFoundError: There is no such file.
      InputError: The file is no image, damaged or truncated, or has 32-bit pixels; or Pillow, or
        for a PNG of 16 bits PyAV, is not installed. The message names the file.
    """
    pil = import_pillow(str(path))
    where = f"{where}: {path}" if where else str(path)
    with open_file(path) as handle:
        content = handle.read()
    if is_deep_png(content):
        return _in_colour(decode_deep_png(content, where))
    with naming_damage(where), pil.Image.open(io.BytesIO(content)) as image:
        if image.mode in REFUSED_MODES:
            raise InputError(f"{where}: pixels of 32 bits (mode {image.mode}), expected 8 or 16")
        if image.mode.startswith("I;16"):
            return _in_colour(np.asarray(image).astype(np.uint16)[..., None])
        clear = "A" in image.mode.upper() or "transparency" in image.info
        return np.array(image.convert("RGBA") if clear else to_grey_or_rgb(image, 3))


def _in_colour(image: UInt16[np.ndarray, "Y X C"]) -> UInt16[np.ndarray, "Y X C2"]:
    """Greys (one channel, or two with alpha) as colours."""
    grey = image.shape[-1] < 3
    return (
        np.concatenate([np.repeat(image[..., :1], 3, axis=-1), image[..., 1:]], -1)
        if grey
        else image
    )


def shrunk_size(height: int, width: int, size: int | None, where: str = "") -> tuple[int, int]:
    """Y and X of an image whose longer side becomes `size`, the other one rounded.

    Args:
      height: Y of the image.
      width: X of the image.
      size: The new longer side. None: as it is.
      where: What an error begins with.

    Raises:
      InputError: The longer side is smaller than that.
    """
    longer = max(height, width)
    if size is None or size == longer:
        return height, width
    if size > longer:
        where = f"{where}: " if where else ""
        raise InputError(
            f"{where}an image of {height} x {width} pixels, expected {size} or more on its longer"
            " side to shrink"
        )
    return max(1, round(height * size / longer)), max(1, round(width * size / longer))


def shrink(
    image_YXC: Image, shape: tuple[int, int]
) -> UInt8[np.ndarray, "Y2 X2 C"] | UInt16[np.ndarray, "Y2 X2 C"]:
    """An image of the same type with fewer pixels, each the mean over its area of the old ones.

    Colours are weighted by their alpha, so what is transparent has no part in them; where all is,
    they are 0.

    Args:
      image_YXC: Red, green, blue, and where C is 4 straight alpha.
      shape: Y2 and X2, at most Y and X. Of pixels that a new one has in part, that part counts.
    """
    if image_YXC.shape[:2] == shape:
        return image_YXC
    if image_YXC.shape[-1] == 3:
        return _rounded(area_means(image_YXC.astype(np.float64), shape), image_YXC.dtype)
    values = image_YXC.astype(np.float64)
    means = area_means(
        np.concatenate([values[..., :3] * values[..., 3:], values[..., 3:]], -1), shape
    )
    alpha = means[..., 3:]
    colors = np.divide(means[..., :3], alpha, where=alpha > 0, out=np.zeros_like(means[..., :3]))
    return _rounded(np.concatenate([colors, alpha], -1), image_YXC.dtype)


def _rounded(values: Float[np.ndarray, "Y X C"], dtype: np.dtype) -> Image:
    return np.clip(np.floor(values + 0.5), 0, np.iinfo(dtype).max).astype(dtype)


def area_means(
    values_YXC: Float[np.ndarray, "Y X C"], shape: tuple[int, int]
) -> Float[np.ndarray, "Y2 X2 C"]:
    """Means over the areas of Y2 x X2 pixels that together cover the image."""
    y, x, channels = values_YXC.shape
    if y % shape[0] == 0 and x % shape[1] == 0:
        parts = values_YXC.reshape(shape[0], y // shape[0], shape[1], x // shape[1], channels)
        return parts.mean((1, 3))
    rows_Y2Y, columns_X2X = _shares(y, shape[0]), _shares(x, shape[1])
    return np.einsum("AY,BX,YXC->ABC", rows_Y2Y, columns_X2X, values_YXC, optimize=True)


def _shares(old: int, new: int) -> Float[np.ndarray, "M N"]:
    """How much each of the old pixels counts in each of the new ones."""
    scale, pixels_N = old / new, np.arange(old)
    low_M1 = np.arange(new)[:, None] * scale
    share_MN = np.minimum(pixels_N + 1, low_M1 + scale) - np.maximum(pixels_N, low_M1)
    return np.clip(share_MN, 0, None) / scale
