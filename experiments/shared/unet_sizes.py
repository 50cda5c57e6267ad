"""U-Nets for images, and for videos of frames, of a given size."""

from typing import Any

from jaxgen.errors import InputError
from jaxgen.unet import UNetConfig

HEAD_SIZE = 32
"""Channels of an attention head."""


def heads_of(width: int, name: str = "width") -> int:
    """Attention heads of `HEAD_SIZE` channels in a width.

    Args:
      width: of tokens.
      name: what it is called in an error.

    Raises:
      InputError: for a width that makes no heads.
    """
    if width < HEAD_SIZE or width % HEAD_SIZE:
        raise InputError(f"{name} is {width}, expected a multiple of {HEAD_SIZE}")
    return width // HEAD_SIZE


def unet_of_size(
    width: int, blocks: int, sides: tuple[int, int], common: dict[str, Any]
) -> UNetConfig:
    """Levels down to 4 to 8 pixels, with attention at the lowest two.

    Args:
      width: channels at the lowest resolutions; half as many at the first.
      blocks: residual blocks of a level.
      sides: Y and X.
      common: further fields: channels of input and output, classes, dtype.

    Raises:
      InputError: for a width that makes no heads.
    """
    levels, side = 1, min(sides)
    while side % 2 == 0 and side > 4 and levels < 4:
        levels, side = levels + 1, side // 2
    if width % (2 * HEAD_SIZE):
        raise InputError(f"width is {width}, expected a multiple of {2 * HEAD_SIZE}")
    channels = tuple(width if i else width // 2 for i in range(levels))
    return UNetConfig(
        **common,
        channels=channels,
        blocks=blocks,
        attention_levels=tuple(range(max(1, levels - 2), levels)),
        head_size=HEAD_SIZE,
        groups=16,
    )
