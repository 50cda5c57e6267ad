"""The Efficient U-Net of super-resolvers, as settings (Saharia et al. 2022, appendix B.1; Imagen).

Three changes to the U-Net of Dhariwal & Nichol: most residual blocks are at low resolutions, where
they cost little; a level lowers the resolution before its blocks, with a strided convolution, and
raises it after them with a convolution that comes before the enlargement; and sums are divided by
sqrt(2) (as in Song et al. 2021, whom the paper refers to). So at the full resolution there is one
convolution on the way down, and one residual block on the way up.

Texts are read at the lowest resolution: beside the pixels' own keys, or, where pixels do not attend
to each other, alone. Without attention over pixels a network takes images of any size, those that
are larger than what it was trained on among them.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxgen.errors import InputError
from jaxgen.unet.unet import UNetConfig

IMAGEN: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], bool]] = {
    "64 to 256": ((128, 256, 512, 1024), (2, 4, 8, 8), True),
    "256 to 1024": ((128, 256, 512, 1024), (2, 4, 8, 8), False),
}
"""Channels and blocks of the levels of the paper's super-resolvers, and whether pixels attend to
each other."""


def efficient_unet(
    channels: tuple[int, ...], blocks: tuple[int, ...], *, pixels: bool = True, **changes: Any
) -> UNetConfig:
    """An Efficient U-Net.

    Args:
      channels: of each level below the full resolution, which has as many as the first of them.
      blocks: residual blocks of each of those levels.
      pixels: whether at the lowest one pixels attend to each other, or to the text alone.
      **changes: other fields of `UNetConfig`.

    Raises:
      InputError: for another number of blocks than of channels, none of them, or fields that do not
        fit each other.
    """
    if not channels or len(blocks) != len(channels):
        raise InputError(f"blocks are {blocks}, expected one for each of channels {channels}")
    reading = {"text_attention": "beside" if pixels else "alone"}
    lowest = (len(channels),)
    attended = lowest if pixels or changes.get("text_width") else ()
    return UNetConfig(
        **{
            "channels": (channels[0], *channels),
            "blocks": (0, *blocks),
            "downsampling": "conv",
            "upsampling": "conv_first",
            "skip_divisor": math.sqrt(2),
            "attention_levels": attended,
            "middle_attention": bool(attended),
            **(reading if changes.get("text_width") else {}),
            **changes,
        }
    )


def imagen_resolver(name: str, **changes: Any) -> UNetConfig:
    """A network of the size of one of Imagen's super-resolvers, with a small image beside z.

    Args:
      name: "64 to 256" or "256 to 1024".
      **changes: fields that differ from it: ``text_width`` and ``pooled_width``, for T5-XXL 4096.

    Raises:
      InputError: for any other name.
    """
    if name not in IMAGEN:
        raise InputError(f"name is {name!r}, expected one of {', '.join(IMAGEN)}")
    channels, blocks, pixels = IMAGEN[name]
    return efficient_unet(
        channels, blocks, pixels=pixels, **{"in_channels": 7, "head_size": 64, **changes}
    )
